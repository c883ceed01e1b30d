"""SST: a matrix trained as its singular triplets, a few of the vectors at a time."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab._arithmetic import cast_like, value_at, wide, wide_dtype
from optlab._checks import check_count, check_range
from optlab._sharding import placed_like, whole
from optlab.linalg import normalize, safe_norm
from optlab.transforms.low_rank._adamw import adam

__all__ = [
    "SparseSpectralState",
    "SpectralFactors",
    "SpectralLayerState",
    "sparse_spectral",
    "spectral_dense",
    "spectral_factors",
    "spectral_matrix",
]


class SpectralFactors(NamedTuple):
    """A matrix [m, n] as :math:`U \\operatorname{diag}(s) V^\\top`, with d = min(m, n) triplets."""

    u: jax.Array  # shape=(m, d), unit columns
    s: jax.Array  # shape=(d,)
    v: jax.Array  # shape=(n, d), unit columns


class SpectralLayerState(NamedTuple):
    """What :func:`sparse_spectral` keeps of one matrix: 2 r (m + n) + 2 d numbers."""

    indices: jax.Array  # shape=(r,), dtype=int32: the triplets whose vectors are trained
    vectors: optax.ScaleByAdamState  # of their vectors ([m, r], [n, r]), dtype=float32 or wider
    values: optax.ScaleByAdamState  # of all values [d], dtype=float32 or wider


class SparseSpectralState(NamedTuple):
    """State of :func:`sparse_spectral`."""

    count: jax.Array  # shape=(), dtype=int32
    layers: tuple[SpectralLayerState, ...]  # one a matrix, shapes and dtypes as there
    fallback: optax.OptState  # of the other leaves, shapes and dtypes as its transformation has


def spectral_factors(matrix: jax.Array) -> SpectralFactors:
    """Takes a matrix apart into its singular triplets.

    Args:
        matrix: shape ``[m, n]``.

    Returns:
        The factors, in the matrix's dtype.

    Raises:
        ValueError: if ``matrix`` has not two axes.

    >>> factors = spectral_factors(jnp.array([[0.0, 2.0], [1.0, 0.0]]))
    >>> factors.s.tolist()
    [2.0, 1.0]
    """
    if matrix.ndim != 2:
        raise ValueError(f"matrix must have two axes, got shape {matrix.shape}.")
    u, s, vt = jnp.linalg.svd(whole(matrix).astype(wide_dtype(matrix)), full_matrices=False)
    return SpectralFactors(*(x.astype(matrix.dtype) for x in (u, s, vt.T)))


def spectral_matrix(factors: SpectralFactors) -> jax.Array:
    """Puts a matrix together again, for inference for instance.

    Args:
        factors: of a matrix ``[m, n]``.

    Returns:
        The matrix, shape ``[m, n]``.

    >>> matrix = jnp.arange(6.0).reshape(2, 3)
    >>> bool(jnp.allclose(spectral_matrix(spectral_factors(matrix)), matrix, atol=1e-5))
    True
    """
    return (factors.u * factors.s[None]) @ whole(factors.v).T


@jax.custom_vjp
def spectral_dense(x: jax.Array, factors: SpectralFactors) -> jax.Array:
    r"""A dense layer whose kernel is given by its factors, with SST's enhanced gradient.

    .. math::
        y = \big((x U) \odot s\big) V^\top, \qquad
        \nabla_U := \nabla_W V, \quad \nabla_V := \nabla_W^\top U, \quad
        \nabla_s = \operatorname{diag}(U^\top \nabla_W V)

    where :math:`\nabla_W` is the gradient by the kernel, which is never formed, nor is the kernel.
    The true gradients of U and V have a factor s more; without it, vectors of small singular values
    are no slower to turn than others. The gradient by x is the usual one. Flax keeps factors as it
    does any param: ``nnx.Param(spectral_factors(kernel))``, or ``self.param(name, init)`` of linen.

    Args:
        x: shape ``[..., m]``.
        factors: of a kernel ``[m, n]``, inputs first.

    Returns:
        ``x`` times the kernel, shape ``[..., n]``.

    >>> factors = spectral_factors(jnp.array([[4.0]]))
    >>> gradient = jax.grad(lambda f: spectral_dense(jnp.ones((1, 1)), f).sum())(factors)
    >>> abs(float(gradient.u[0, 0]))  # not 4
    1.0

    References:
        J. Zhao, Y. Zhang, X. Li, H. Liu, C. V. Cannistraci, "Sparse Spectral Training and Inference
        on Euclidean and Hyperbolic Neural Networks", ICML 2025, arXiv:2405.15481
    """
    return _dense_forward(x, factors)[0]


def _dense_forward(x, factors):
    u, s, v = factors
    h = x @ u
    return h @ (v * s[None]).T, (x, h, factors)


def _dense_backward(saved, gradient):
    x, h, (u, s, v) = saved
    k = gradient @ v

    examples = tuple(range(x.ndim - 1))

    def outer(a, b):
        return jnp.tensordot(a, b, axes=(examples, examples))

    by_s = jnp.sum(h * k, axis=examples)
    return k @ (u * s[None]).T, cast_like(
        SpectralFactors(outer(x, k), by_s, outer(gradient, h)), saved[2]
    )


spectral_dense.defvjp(_dense_forward, _dense_backward)


def _is_factors(x):
    return isinstance(x, SpectralFactors)


def _sample(key, s, rank):
    """Indices drawn in turn without replacement, in proportion to |s|: the Gumbel trick."""
    logits = jnp.log(jnp.abs(s)) + jax.random.gumbel(key, s.shape, jnp.float32)
    return jax.lax.top_k(logits, rank)[1].astype(jnp.int32)


def _decomposed(f):
    """The singular value decomposition of a product, each factor placed as it was."""
    return jax.tree.map(placed_like, spectral_factors(spectral_matrix(f)), f)


def _cleared(state, when):
    """Adam's state as at init, if ``when``."""
    return jax.tree.map(lambda x: jnp.where(when, jnp.zeros_like(x), x), state)


def sparse_spectral(
    learning_rate: optax.ScalarOrSchedule,
    rank: int = 64,
    *,
    sample_interval: int = 200,
    samples_per_round: int | None = None,
    warmup_steps: int = 20,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    fallback: optax.GradientTransformation | None = None,
    seed: int = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""SST: Adam on all singular values, and on the vectors of a few triplets drawn by them.

    Params hold :class:`SpectralFactors` in the place of kernels, see :func:`spectral_dense`. Every
    ``sample_interval`` steps r triplets are drawn without replacement, :math:`P(i) \propto |s_i|`,
    and Adam's moments of vectors begin afresh; then, for these columns of U, and alike of V,

    .. math::
        s \leftarrow s - \eta \big(\text{Adam}(\nabla_s) + \lambda s\big), \qquad
        u_i \leftarrow \frac{u_i - \eta w \, \text{Adam}(\nabla_{u_i})}
        {\|u_i - \eta w \, \text{Adam}(\nabla_{u_i})\|}

    with :math:`w = \min(1, k / \text{warmup})` in the k-th step after the draw. At the end of a
    round of such draws the factors become the singular value decomposition of their product, which
    it leaves as it is, and the moments of s begin afresh.

    A matrix [m, n] with d = min(m, n) costs 2 r (m + n) + 2 d + r + 2 numbers of state; the factors
    themselves are (m + n + 1) d numbers in the place of m n.

    Args:
        learning_rate: step size, or a schedule of the step count.
        rank: r; of a matrix with fewer triplets all are trained.
        sample_interval: steps between draws.
        samples_per_round: draws between decompositions; None means d / r, rounded up.
        warmup_steps: of the vectors, after each draw.
        b1: decay of the first moments, in [0, 1).
        b2: decay of the second moments, in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: :math:`\lambda`, of the singular values, and so of the matrices.
        fallback: transformation of the other leaves, learning rate and all; None means Adam at
            ``learning_rate``.
        seed: of the draws, which otherwise follow from the step and the layer's place.

    Returns:
        A transformation; its ``update`` needs ``params``. NaN and inf propagate.

    Raises:
        ValueError: if an argument is out of range, if ``params`` hold no factors or are missing.

    >>> params = {"kernel": spectral_factors(jnp.eye(3, 5)), "bias": jnp.zeros(5)}
    >>> tx = sparse_spectral(0.1, rank=1)
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> (jnp.abs(updates["kernel"].s) > 0).tolist(), state.layers[0].vectors.mu.u.shape
    ([True, True, True], (3, 1))

    References:
        J. Zhao, Y. Zhang, X. Li, H. Liu, C. V. Cannistraci, "Sparse Spectral Training and Inference
        on Euclidean and Hyperbolic Neural Networks", ICML 2025, arXiv:2405.15481

    Differs from the paper: it was written from the paper's account, with no released code at hand
    to replay. The intervals and the warm-up are defaults as remembered from its appendix. The
    moments of s beginning afresh, decay of s alone, and its absolute value in the draws are ours.
    """
    check_count("rank", rank, 1)
    check_count("sample_interval", sample_interval, 1)
    if samples_per_round is not None:
        check_count("samples_per_round", samples_per_round, 1)
    check_range("warmup_steps", warmup_steps, 0, float("inf"))
    direction = adam(b1, b2, eps, None, as_released=False)
    others = optax.with_extra_args_support(fallback or optax.adam(learning_rate, b1, b2, eps))

    def split(tree):
        leaves, structure = jax.tree.flatten(tree, is_leaf=_is_factors)
        rest = structure.unflatten(None if _is_factors(x) else x for x in leaves)
        return leaves, structure, rest

    def init(params):
        leaves, _, rest = split(params)

        def layer(f):
            f = wide(f)
            vectors = f._replace(u=f.u[:, :rank], v=f.v[:, :rank], s=None)
            indices = jnp.zeros(vectors.u.shape[1], jnp.int32)
            return SpectralLayerState(indices, direction.init(vectors), direction.init(f.s))

        layers = tuple(layer(f) for f in leaves if _is_factors(f))
        if not layers:
            raise ValueError("params hold no SpectralFactors: see spectral_factors.")
        return SparseSpectralState(jnp.zeros((), jnp.int32), layers, others.init(rest))

    def step(g, f, state, count, key):
        """The new factors and state of one matrix."""
        old, g = wide(f), wide(g)
        rank, triplets = state.indices.size, old.s.size
        drawn = count % sample_interval == 0
        key = jax.random.fold_in(key, count)
        i = jnp.where(drawn, _sample(key, old.s, rank), state.indices)

        rate = value_at(learning_rate, count)
        since = (count % sample_interval + 1).astype(old.s.dtype)
        turn_rate = rate * jnp.minimum(1, since / jnp.maximum(warmup_steps, 1))
        chosen = SpectralFactors(g.u[:, i], None, g.v[:, i])
        turns, vectors = direction.update(chosen, _cleared(state.vectors, drawn))

        def turned(x, turn):
            columns = x[:, i] - turn_rate * turn
            return x.at[:, i].set(normalize(columns, safe_norm(columns, axis=0, keepdims=True)))

        move, values = direction.update(g.s, state.values)
        s = old.s - rate * (move + weight_decay * old.s)
        new = SpectralFactors(turned(old.u, turns.u), s, turned(old.v, turns.v))

        period = sample_interval * (samples_per_round or math.ceil(triplets / rank))
        last = (count + 1) % period == 0
        new = jax.lax.cond(last, _decomposed, lambda f: f, new)
        update = cast_like(jax.tree.map(jnp.subtract, new, old), f)
        return update, SpectralLayerState(i, vectors, _cleared(values, last))

    def update(updates, state, params=None, **extra):
        if params is None:
            raise ValueError("params must be given to the update of sparse_spectral.")
        leaves, structure, rest = split(updates)
        current, _, current_rest = split(params)
        plain, fallback_state = others.update(rest, state.fallback, current_rest, **extra)
        leaves_of_rest = iter(jax.tree.leaves(plain))
        states, layers, found = iter(state.layers), [], []
        for g, f in zip(leaves, current, strict=True):
            if _is_factors(f):
                key = jax.random.fold_in(jax.random.key(seed), len(layers))
                moved, layer = step(g, f, next(states), state.count, key)
                layers.append(layer)
                found.append(moved)
            else:
                found.append(next(leaves_of_rest))
        return structure.unflatten(found), SparseSpectralState(
            optax.safe_increment(state.count), tuple(layers), fallback_state
        )

    return optax.GradientTransformationExtraArgs(init, update)
