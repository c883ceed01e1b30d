"""TrAct: a gradient rule for first layers, as if their activations were trained."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from optlab._arithmetic import wide_dtype
from optlab._checks import check_range

__all__ = ["tract_conv", "tract_dense"]


def _preconditioned(rows: jax.Array, cotangent: jax.Array, damping: float) -> jax.Array:
    """Gives (X^T X / N + damping I)^-1 X^T D by the smaller system: X is (N, in), D is (N, out)."""
    dtype = wide_dtype(rows)
    x, d = rows.astype(dtype), cotangent.astype(dtype)
    n, features = x.shape
    wide = n < features
    with jax.default_matmul_precision("highest"):
        gram = (x @ x.T if wide else x.T @ x) / n + damping * jnp.eye(min(n, features), dtype=dtype)
        if wide:
            return x.T @ jax.scipy.linalg.solve(gram, d, assume_a="pos")
        return jax.scipy.linalg.solve(gram, x.T @ d, assume_a="pos")


def _with_rule(layer: Callable, kernel_gradient: Callable) -> Callable:
    """Gives ``layer(x, kernel)`` with another gradient of its kernel."""
    op = jax.custom_vjp(layer)

    def backward(saved, cotangent):
        x, kernel = saved
        (dx,) = jax.vjp(lambda x: layer(x, kernel), x)[1](cotangent)
        return dx, kernel_gradient(x, kernel, cotangent).astype(kernel.dtype)

    op.defvjp(lambda x, kernel: (layer(x, kernel), (x, kernel)), backward)
    return op


def tract_dense(damping: float = 0.1) -> Callable[..., jax.Array]:
    r"""A ``lax.dot_general`` whose kernel gradient moves the activations as theirs asks.

    .. math::
        \nabla_W \leftarrow \Big(\frac{X^\top X}{N} + \lambda I\Big)^{-1} X^\top \Delta

    where X holds the N inputs as rows, and :math:`\Delta` the gradients of the activations
    :math:`X W`. This is the W of the ridge regression from the inputs to :math:`N\Delta`, over N.
    Inputs of low contrast then count as much as others. Gradients of the inputs and of a bias are
    the usual ones; there is no state, and any optimizer may follow. For a Flax layer::

        nnx.Linear(784, 128, dot_general=tract_dense(), rngs=rngs)

    Args:
        damping: :math:`\lambda`, positive; in units of the squared inputs, so standardise these.

    Returns:
        A function like ``lax.dot_general`` of inputs ``[..., in]`` and a kernel ``[in, out]``. As
        it has a rule for the backward pass, forward-mode differentiation raises TypeError.

    Raises:
        ValueError: if ``damping`` is out of range, or, at trace time, if the dimension numbers do
            not contract the last axis of the inputs with the first of a matrix.

    >>> dense = tract_dense(0.5)
    >>> x, kernel = jnp.array([[1.0], [1.0]]), jnp.array([[2.0]])
    >>> loss = lambda kernel: dense(x, kernel, (((1,), (0,)), ((), ()))).sum()
    >>> round(float(jax.grad(loss)(kernel)[0, 0]), 4)  # 2 / (1 + 0.5)
    1.3333

    References:
        F. Petersen, C. Borgelt, S. Ermon, "TrAct: Making First-layer Pre-Activations Trainable",
        NeurIPS 2024, arXiv:2410.23970

    Differs from the paper: nothing. Differs from the released code: the smaller of the two systems
    is solved by Cholesky; there, with fewer inputs than features, through Woodbury's identity.
    """
    check_range("damping", damping, 0.0, float("inf"), closed="()")

    def kernel_gradient(x, kernel, cotangent):
        features, outputs = kernel.shape
        rows, cotangent = x.reshape(-1, features), cotangent.reshape(-1, outputs)
        return _preconditioned(rows, cotangent, damping)

    def dot_general(x, kernel, dimension_numbers, **options):
        (contracted, batched) = dimension_numbers
        axes = tuple(map(tuple, contracted)), tuple(map(tuple, batched))
        if kernel.ndim != 2 or axes != (((x.ndim - 1,), (0,)), ((), ())):
            raise ValueError(
                "dimension_numbers must contract the last axis of the inputs with the first of a "
                f"matrix, got {dimension_numbers} for a kernel of shape {kernel.shape}."
            )

        def layer(x, kernel):
            return lax.dot_general(x, kernel, dimension_numbers, **options)

        return _with_rule(layer, kernel_gradient)(x, kernel)

    return dot_general


def tract_conv(damping: float = 0.1) -> Callable[..., jax.Array]:
    """A ``lax.conv_general_dilated`` with the kernel gradient of :func:`tract_dense`.

    Its rows X are the patches under the kernel, over all images and positions. For a Flax layer::

        nnx.Conv(3, 64, (7, 7), strides=2, conv_general_dilated=tract_conv(), rngs=rngs)

    Args:
        damping: see :func:`tract_dense`.

    Returns:
        A function like ``lax.conv_general_dilated``, of any layout, stride, padding and dilation.

    Raises:
        ValueError: if ``damping`` is out of range, or, at trace time, if there are groups.

    >>> conv = tract_conv()
    >>> images, kernel = jnp.ones((2, 3, 8, 8)), jnp.ones((5, 3, 3, 3))
    >>> jax.grad(lambda kernel: conv(images, kernel, (2, 2), "SAME").sum())(kernel).shape
    (5, 3, 3, 3)

    References:
        See :func:`tract_dense`.
    """
    check_range("damping", damping, 0.0, float("inf"), closed="()")

    def conv_general_dilated(
        x,
        kernel,
        window_strides,
        padding,
        lhs_dilation=None,
        rhs_dilation=None,
        dimension_numbers=None,
        **options,
    ):
        for name in ("feature_group_count", "batch_group_count"):
            if options.get(name, 1) != 1:
                raise ValueError(f"{name} must be 1 in tract_conv, got {options[name]}.")
        dims = lax.conv_dimension_numbers(x.shape, kernel.shape, dimension_numbers)
        placed = (window_strides, padding, lhs_dilation, rhs_dilation, dims)

        def layer(x, kernel):
            return lax.conv_general_dilated(x, kernel, *placed, **options)

        def rows(y):
            y = jnp.moveaxis(y, dims.out_spec[1], -1)
            return y.reshape(-1, y.shape[-1])

        def kernel_gradient(x, kernel, cotangent):
            out, into, *window = dims.rhs_spec
            shape = [kernel.shape[axis] for axis in (into, *window, out)]
            # The patches are cut out by a convolution, which must not round them.
            patches = lax.conv_general_dilated_patches(
                x, shape[1:-1], *placed, precision=lax.Precision.HIGHEST
            )
            gradient = _preconditioned(rows(patches), rows(cotangent), damping)
            return jnp.moveaxis(gradient.reshape(shape), range(len(shape)), (into, *window, out))

        return _with_rule(layer, kernel_gradient)(x, kernel)

    return conv_general_dilated
