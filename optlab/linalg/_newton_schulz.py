"""The orthogonal factor of a matrix, by the Newton-Schulz iteration or by an SVD."""

import jax
import jax.numpy as jnp

from optlab._arithmetic import wide_dtype
from optlab.linalg._norms import normalize, safe_norm

__all__ = ["newton_schulz", "orthogonal_factor"]

# Quintics p(s) = a s + b s^3 + c s^5 applied to every singular value s in [0, 1].
_STEEP = (3.4445, -4.7750, 2.0315)  # Jordan et al.: slope 3.44 at zero, ends within [0.68, 1.21]
_FLAT = (1.875, -1.25, 0.375)  # fixed point 1 with two vanishing derivatives: errors are cubed


def newton_schulz(x: jax.Array, *, steps: int | jax.Array = 5, polish: int = 0) -> jax.Array:
    r"""Pushes the singular values of a matrix towards one by odd polynomials: matrix products only.

    .. math:: X \leftarrow a X + b (X X^\top) X + c (X X^\top)^2 X, \qquad X_0 = x / \|x\|_F

    The first ``steps`` iterations use the steep polynomial of Muon, which lifts singular values
    from :math:`0.0015 \|x\|_F` into [0.68, 1.21] in five steps and leaves them there. Each of the
    ``polish`` iterations then cubes what error is left: three reach float32's rounding. Smaller
    singular values are lifted part of the way, so that the map is continuous and takes zero to
    zero, where an SVD jumps.

    Args:
        x: matrices, shape ``[..., rows, cols]``, float32 or float64; float16 and bfloat16 work, at
            the accuracy of such products with sums in float32.
        steps: iterations with the steep polynomial; an array, as of an injected hyperparameter,
            makes a loop that has no reverse-mode derivative.
        polish: iterations with the flat polynomial.

    Returns:
        An array like ``x``, near :math:`U V^\top` where :math:`x = U S V^\top`. Matrix products run
        at the precision that jax is configured to use.

    Raises:
        ValueError: if ``x`` has fewer than two axes.

    >>> x = newton_schulz(jnp.diag(jnp.array([3.0, 0.5])), polish=3)
    >>> bool(jnp.allclose(x, jnp.eye(2), atol=1e-6))
    True

    References:
        K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024;
        N. Higham, "Functions of Matrices", SIAM 2008, chapter 8

    Differs from the released code: that divides by the Frobenius norm plus 1e-7 and works in
    bfloat16; here the norm is exact at any scale, and the dtype is the input's.
    """
    if x.ndim < 2:
        raise ValueError(f"x must have shape [..., rows, cols], got {x.shape}.")
    tall = x.shape[-2] > x.shape[-1]
    if tall:  # the Gram matrix is then the small one
        x = x.mT
    norm = safe_norm(x, axis=(-2, -1), keepdims=True)
    x = normalize(x, norm)
    if isinstance(steps, int):
        for _ in range(steps):
            x = _iterate(x, _STEEP)
    else:
        x = jax.lax.fori_loop(0, steps, lambda _, x: _iterate(x, _STEEP), x)
    for _ in range(polish):
        x = _iterate(x, _FLAT)
    return x.mT if tall else x


def _iterate(x, coefficients):
    # In 16 bits only what enters a product is rounded, not the coefficients nor the sums.
    a, b, c = coefficients
    wide = wide_dtype(x)

    def product(y, z):
        return jnp.matmul(y.astype(x.dtype), z.astype(x.dtype), preferred_element_type=wide)

    gram = product(x, x.mT)
    return (a * x.astype(wide) + product(b * gram + c * product(gram, gram), x)).astype(x.dtype)


def orthogonal_factor(x: jax.Array) -> jax.Array:
    r"""The factor :math:`U V^\top` of the SVD, over the singular values that are not zero.

    Args:
        x: matrices, shape ``[..., rows, cols]``.

    Returns:
        An array like ``x`` whose singular values are one, or zero where those of ``x`` are within
        rounding of zero.

    >>> orthogonal_factor(jnp.diag(jnp.array([-3.0, 0.0]))).round(3).tolist()
    [[-1.0, 0.0], [0.0, 0.0]]
    """
    scale = safe_norm(x, ord=jnp.inf, axis=(-2, -1), keepdims=True)
    u, s, vt = jnp.linalg.svd(normalize(x, scale), full_matrices=False)
    threshold = max(x.shape[-2:]) * jnp.finfo(x.dtype).eps * s[..., :1]
    return (u * (s > threshold)[..., None, :]) @ vt
