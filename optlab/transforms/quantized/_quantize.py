"""Any transform with its state in few bits."""

import functools
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab._checks import check_count
from optlab.base import Codec, PyTree
from optlab.transforms.quantized._boxes import box_like, boxer, unboxed
from optlab.transforms.quantized._record import make_record
from optlab.transforms.quantized._rules import (
    SMALLEST,
    CodecRule,
    Where,
    admits,
    check_rule,
    choose,
    is_encoded,
    path_text,
)
from optlab.transforms.quantized._wrong_input import (
    check_found,
    check_params,
    check_state,
    check_transform,
)

__all__ = [
    "QuantizedState",
    "chosen_codecs",
    "decode_state",
    "encode_like",
    "encode_state",
    "quantize_states",
]


class QuantizedState(NamedTuple):
    """State of :func:`quantize_states`."""

    inner: optax.OptState  # the transform's own; chosen leaves are Encoded: codes and scales
    codecs: jax.Array  # JSON that tells the codec of each encoded leaf; shape=(bytes,), dtype=uint8
    key: Any  # of stochastic rounding: raw key data, dtype=uint32; () if rounding is to the nearest


def quantize_states(
    tx: optax.GradientTransformation,
    codec: CodecRule = "power8",
    *,
    where: Where | None = None,
    min_size: int | None = None,
    shards: int | None = None,
    seed: int | None = None,
    straight_through: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Keeps the states of any transform in few bits.

    .. math::
        (u_t, s_t) = \text{tx}(g_t, D(c_{t-1})), \qquad c_t = E(s_t)

    with E and D the codec's two maps: the update is made from the state before it is coded. A codec
    alone is for the moments, told by the names that optax gives them: ``mu``, ``trace``, ``m``,
    ``m1``, ``m2``, ``ema`` and ``exp_avg`` have signs; ``nu``, ``nu_max``, ``v``,
    ``sum_of_squares`` and ``exp_avg_sq`` have none. Other floats, scalars and small leaves stay as
    they are.

    This ``update`` has the whole state in float32 for a moment. The ``step`` of :func:`fused`, for
    the same states, has not.

    Args:
        tx: any transform.
        codec: a codec of :mod:`optlab.codecs` or its text, which serves moments with signs and,
            with ``signed=False`` where it has that option, those without; or a dict from names of
            fields to codecs, for those fields alone; or a list of pairs of a regular expression and
            a codec (None for none), of which the first that is found in a leaf's path, such as
            ``0/mu/dense/kernel``, decides. A text in a dict or list that leaves ``signed`` open is
            without signs for the moments without. None leaves all as it is.
        where: ``where(path, leaf)`` tells whether a leaf of the state, given by its shape and
            dtype, may be coded: for instance :func:`all_but_embeddings`. Or, for configs, a regular
            expression that must be found in the path, such as ``"^(?!.*embed)"``.
        min_size: entries below which a leaf is left alone; 4096 if it is None.
        shards: devices over which the last axis of the leaves will lie, so that no block straddles
            two of them; an axis that they do not divide counts as whole. None asks the leaves that
            ``init`` meets, which know it unless ``init`` is compiled on automatic mesh axes.
        seed: of stochastic rounding, for the codecs that can; None rounds to the nearest.
        straight_through: keep the state in float32, rounded to what its codes would say, and let
            gradients pass the rounding as if it were the identity. It saves no memory: it is for
            optimizers that are differentiated through.

    Returns:
        A transformation; its updates have the gradients' shapes and dtypes. A NaN or inf in a
        moment spreads over its block.

    Raises:
        ValueError: if an argument is malformed; from ``init``, if a field or an expression of
            ``codec`` is found nowhere in the state, or if the parameters are no real floats; from
            ``update``, if the state is in other codecs, as far as its record can be read.

    >>> tx = quantize_states(optax.scale_by_adam())
    >>> state = tx.init({"w": jnp.ones((64, 256)), "b": jnp.ones(64)})
    >>> state.inner.mu["w"].code.dtype, state.inner.nu["w"].code.dtype, state.inner.mu["b"].dtype
    (dtype('int8'), dtype('uint8'), dtype('float32'))

    References:
        T. Dettmers, M. Lewis, S. Shleifer, L. Zettlemoyer, "8-bit Optimizers via Block-wise
        Quantization", ICLR 2022, arXiv:2110.02861

    Differs from the paper: the default codec compands by roots and never codes a positive second
    moment as zero; the paper's map is ``"dynamic8"``. Blocks are of 256 entries on the last axis,
    not of 2048 in the flattened leaf.
    """
    rule = check_rule(codec)
    check_transform(tx)
    inner = optax.with_extra_args_support(tx)

    def init(params):
        check_params(params)
        state = _owned(inner.init(params), params)
        check_found(rule, state)
        chosen = chosen_codecs(rule, state, where, min_size)
        coded = _through(chosen, state) if straight_through else encode_state(chosen, state, shards)
        return QuantizedState(
            inner=boxer(params)(coded),
            codecs=make_record(chosen),
            key=() if seed is None else jax.random.key_data(jax.random.key(seed)),
        )

    def update(updates, state, params=None, **extra):
        check_state(rule, state)
        key, rest = split_key(state.key)
        if straight_through:
            new_updates, new = inner.update(updates, state.inner, params, **extra)
            new = _through(chosen_codecs(rule, new, where, min_size), new, key)
        else:
            old = unboxed(state.inner)
            new_updates, new = inner.update(updates, decode_state(rule, old), params, **extra)
            new = box_like(encode_like(rule, new, old, key), state.inner)
        new_updates = jax.tree.map(lambda u, g: u.astype(g.dtype), new_updates, updates)
        return new_updates, QuantizedState(new, state.codecs, rest)

    return optax.GradientTransformationExtraArgs(init, update)


def decode_state(rule: CodecRule, state: PyTree) -> PyTree:
    """Gives a state in float32."""

    def leaf(path, node):
        return choose(rule, state, path).decode(node) if is_encoded(node) else node

    return jax.tree.map_with_path(leaf, state, is_leaf=is_encoded)


def encode_like(rule: CodecRule, new: PyTree, old: PyTree, key: jax.Array | None = None) -> PyTree:
    """Codes the leaves of ``new`` that are coded in ``old``, in the same blocks."""
    leaves, structure = jax.tree.flatten_with_path(old, is_leaf=is_encoded)
    coded = []
    for i, ((path, node), x) in enumerate(zip(leaves, structure.flatten_up_to(new), strict=True)):
        if is_encoded(node):
            codec = choose(rule, old, path).refit(node, x.shape)
            x = codec.encode(x, key=_fold(key, i))
        coded.append(x)
    return structure.unflatten(coded)


def encode_state(chosen: dict[str, Codec], state: PyTree, shards: int | None) -> PyTree:
    """Codes the chosen leaves, in blocks that suit their shapes."""

    def leaf(path, x):
        codec = chosen.get(path_text(path))
        if codec is None:
            return x
        # Without the barrier XLA codes the zeros of a compiled init while it compiles: 14 s at 4M.
        return codec.fit(x.shape, _shards(x, shards)).encode(jax.lax.optimization_barrier(x))

    return jax.tree.map_with_path(leaf, state)


def chosen_codecs(rule, state, where, min_size) -> dict[str, Codec]:
    """The codecs of the leaves of a state that are to be coded, by path."""
    found = {}
    smallest = SMALLEST if min_size is None else _static("min_size", min_size, 0)
    for path, x in jax.tree.leaves_with_path(state):
        codec = choose(rule, state, path)
        if codec is None or x.ndim == 0 or x.size == 0 or not jnp.issubdtype(x.dtype, jnp.floating):
            continue
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        wanted = x.size >= smallest and admits(where, path_text(path), shape)
        if wanted and _keeps_shape(codec, x.shape[-1]):
            found[path_text(path)] = codec
    return found


@functools.cache
def _keeps_shape(codec, n) -> bool:
    """Whether codes tell the shape of their array: where two share a byte, n must be even."""
    code = jax.eval_shape(codec.fit((1, n)).encode, jax.ShapeDtypeStruct((1, n), jnp.float32)).code
    return n in (code.shape[-1], 2 * code.shape[-1])


def _owned(state, params):
    """Copies leaves that are the parameters themselves, which could not be donated with them.

    ``optax.contrib.prodigy`` keeps such.
    """
    given = {id(leaf) for leaf in jax.tree.leaves(params)}
    return jax.tree.map(lambda x: jnp.copy(x) if id(x) in given else x, state)


def _static(name, value, low) -> int:
    """An integer of at least ``low`` that shapes depend on."""
    try:
        number = operator.index(value)
    except TypeError as error:
        raise ValueError(
            f"{name} must be a Python integer where init is traced: under inject_hyperparams name "
            "it in static_args."
        ) from error
    check_count(name, number, low)
    return number


def _shards(x, shards) -> int:
    """On how many devices the last axis of x lies."""
    n = x.shape[-1]
    if shards is not None:
        wish = _static("shards", shards, 1)
        return wish if n % wish == 0 else 1
    sharding = jax.typeof(x).sharding if isinstance(x, jax.core.Tracer) else x.sharding
    return n // max(sharding.shard_shape(x.shape)[-1], 1)


def _through(chosen, state, key=None):
    """Rounds the chosen leaves to what their codes would say; for gradients, the identity."""
    leaves, structure = jax.tree.flatten_with_path(state)
    rounded = []
    for i, (path, x) in enumerate(leaves):
        if codec := chosen.get(path_text(path)):
            fixed = jax.lax.stop_gradient(x)
            coded = codec.fit(x.shape).encode(fixed, key=_fold(key, i))
            x = codec.decode(coded).astype(x.dtype) + (x - fixed)
        rounded.append(x)
    return structure.unflatten(rounded)


def _fold(key, index):
    return None if key is None else jax.random.fold_in(key, index)


def split_key(data: Any) -> tuple[jax.Array | None, Any]:
    """Gives the key of a step and the raw data of the next ones; none of either for ``()``."""
    if isinstance(data, tuple):
        return None, ()
    step, rest = jax.random.split(jax.random.wrap_key_data(data))
    return step, jax.random.key_data(rest)
