"""Layers that take hyperparameters as an input, and learn how their weights should answer them."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

__all__ = ["HyperConv", "HyperDense", "HyperLSTMCell", "hyper_dropout"]


class _Hyper(nnx.Module):
    """A linear map whose output features answer hyperparameters one by one.

    Subclasses say what ``_product`` of inputs and a kernel is.
    """

    def __init__(self, kernel_shape, hypers, *, use_bias, magnitude_invariant, rngs):
        *window, features = kernel_shape
        fan_in = 1
        for n in window:
            fan_in *= n

        def uniform(shape):
            bound = fan_in**-0.5
            return nnx.Param(jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound))

        self.kernel, self.hyper_kernel = uniform(kernel_shape), uniform(kernel_shape)
        self.bias = uniform((features,)) if use_bias else None
        self.hyper_bias = uniform((features,)) if use_bias else None
        self.scale = nnx.Param(jnp.ones(()))
        self.magnitude_invariant = magnitude_invariant
        rows, columns = hypers * (1 + magnitude_invariant), features * (1 + use_bias)
        self.gains = nnx.Param(0.01 * jax.random.normal(rngs.params(), (rows, columns)))

    def __call__(self, inputs: jax.Array, hypers: jax.Array | None) -> jax.Array:
        """Maps inputs, at hyperparameters ``[n]``, or ``[batch, n]`` for one set an example.

        None leaves the answer out.
        """
        lead = (None,) * (inputs.ndim - 1)
        outputs = self._product(inputs, self.kernel[...])
        if self.bias is not None:
            outputs = outputs + self.bias[lead]
        outputs = self.scale[...] * outputs
        if hypers is None:
            return outputs
        # [features] or [batch, features], to the rank of the outputs
        gains = self._gains_at(hypers.astype(inputs.dtype))
        ones = (1,) * (inputs.ndim - gains[0].ndim)
        gains = [g.reshape(*g.shape[:-1], *ones, g.shape[-1]) for g in gains]
        outputs = outputs + gains[0] * self._product(inputs, self.hyper_kernel[...])
        if self.bias is not None:
            outputs = outputs + gains[1] * self.hyper_bias[lead]
        return outputs

    def squared_norm(self, hypers: jax.Array | None) -> jax.Array:
        """Gives the squared norm of the kernel at hyperparameters ``[n]``, at no cost in them."""
        own, answer, both = (
            jnp.sum(a * b, axis=tuple(range(a.ndim - 1)))
            for a, b in (
                (self.kernel[...], self.kernel[...]),
                (self.hyper_kernel[...], self.hyper_kernel[...]),
                (self.kernel[...], self.hyper_kernel[...]),
            )
        )
        squares = self.scale[...] ** 2 * own
        if hypers is not None:
            gains = self._gains_at(hypers)[0]
            squares = squares + 2.0 * self.scale[...] * gains * both + gains**2 * answer
        return jnp.sum(squares)

    def _gains_at(self, hypers):
        """What the hyperparameters make of each feature of the kernel, and of the bias."""
        if self.magnitude_invariant:
            angle = 0.5 * jnp.pi * jax.nn.sigmoid(hypers)
            hypers = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
        gains = hypers @ self.gains[...].astype(hypers.dtype)
        return jnp.split(gains, 1 if self.bias is None else 2, axis=-1)

    def _product(self, inputs, kernel):
        raise NotImplementedError


class HyperDense(_Hyper):
    r"""A dense layer whose best weights' answer to hyperparameters h is modelled.

    .. math::
        y = s\,(W x + b) + (A h)_w \odot (W' x) + (A h)_b \odot b'

    Each output feature answers by one number, so that the layer has twice the parameters of a dense
    one, and hardly more. With h = 0 and s = 1, the start of s, it is the dense layer of W and b.
    For linear networks whose Jacobian is regularised, the exact best response scales each hidden
    unit by a sigmoid of h; this is the linear part of that.

    Kernels and biases start uniform in ±1/sqrt(inputs), A as a normal of 0.01.

    Args:
        inputs: features of the input.
        features: of the output.
        hypers: n, hyperparameters; unbounded ones, of order one.
        use_bias: whether there are b and b'.
        magnitude_invariant: whether A takes the cosine and the sine of
            :math:`\tfrac\pi2 \operatorname{sigmoid}(h)` in place of h: twice as many numbers, but
            of a length that does not depend on h, so that neither do the sizes of the answer and of
            its gradients. The answer at h = 0 is then not zero.
        rngs: of the initial parameters.

    References:
        M. MacKay, P. Vicol, J. Lorraine, D. Duvenaud, R. Grosse, "Self-Tuning Networks: Bilevel
        Optimization of Hyperparameters using Structured Best-Response Functions", ICLR 2019,
        arXiv:1903.03088
        J. J. Gonzalez Ortiz, J. Guttag, A. V. Dalca, "Magnitude Invariant Parametrizations Improve
        Hypernetwork Learning", ICLR 2024, arXiv:2304.07645

    Differs from the paper: s, which is from the released code.
    """

    def __init__(
        self,
        inputs: int,
        features: int,
        hypers: int,
        *,
        use_bias: bool = True,
        magnitude_invariant: bool = False,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            (inputs, features),
            hypers,
            use_bias=use_bias,
            magnitude_invariant=magnitude_invariant,
            rngs=rngs,
        )

    def _product(self, inputs, kernel):
        return inputs @ kernel


class HyperConv(_Hyper):
    """A convolution whose channels answer hyperparameters, as the features of :class:`HyperDense`.

    Args:
        inputs: channels of the input, ``[batch, height, width, inputs]``.
        features: channels of the output.
        kernel_size: height and width of the window.
        hypers: number of hyperparameters.
        strides: of the window, one for both axes.
        padding: of the images, "SAME" or "VALID".
        use_bias, magnitude_invariant, rngs: see :class:`HyperDense`.
    """

    def __init__(
        self,
        inputs: int,
        features: int,
        kernel_size: Sequence[int],
        hypers: int,
        *,
        strides: int = 1,
        padding: str = "SAME",
        use_bias: bool = True,
        magnitude_invariant: bool = False,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            (*kernel_size, inputs, features),
            hypers,
            use_bias=use_bias,
            magnitude_invariant=magnitude_invariant,
            rngs=rngs,
        )
        self.strides, self.padding = (strides, strides), padding

    def _product(self, inputs, kernel):
        return jax.lax.conv_general_dilated(
            inputs, kernel, self.strides, self.padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )


class HyperLSTMCell(nnx.Module):
    """A cell of long short-term memory, of two layers :class:`HyperDense`.

    The gates, in this order, are those of input, forgetting, the cell and output.

    Args:
        inputs: features of the input.
        features: of the state and the cell.
        hypers: number of hyperparameters.
        magnitude_invariant, rngs: see :class:`HyperDense`.

    Differs from the released code: one bias, that of the inputs, where both maps have one.
    """

    def __init__(
        self,
        inputs: int,
        features: int,
        hypers: int,
        *,
        magnitude_invariant: bool = False,
        rngs: nnx.Rngs,
    ):
        options = {"magnitude_invariant": magnitude_invariant, "rngs": rngs}
        self.inputs = HyperDense(inputs, 4 * features, hypers, **options)
        self.recurrent = HyperDense(features, 4 * features, hypers, use_bias=False, **options)

    def __call__(
        self, carry: tuple[jax.Array, jax.Array], inputs: jax.Array, hypers: jax.Array | None
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        """Takes one step: (cell, state), inputs ``[batch, inputs]`` -> ((cell, state), state)."""
        cell, state = carry
        gates = self.inputs(inputs, hypers) + self.recurrent(state, hypers)
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        cell = nnx.sigmoid(f) * cell + nnx.sigmoid(i) * nnx.tanh(g)
        state = nnx.sigmoid(o) * nnx.tanh(cell)
        return (cell, state), state


def hyper_dropout(inputs: jax.Array, rate: jax.Array, key: jax.Array) -> jax.Array:
    """Drops features at a rate that may be a hyperparameter, and differ from example to example.

    No derivative in the rate is taken: that of a random mask does not exist. What a rate does to
    the weights is for the answers of the layers to learn.

    Args:
        inputs: shape ``[batch, ...]``.
        rate: in [0, 1), of shape ``[]`` or ``[batch]``.
        key: of the mask.

    Returns:
        Like ``inputs``: each number is zero with probability ``rate``, or else divided by
        ``1 - rate``.

    >>> dropped = hyper_dropout(jnp.ones((2, 4)), jnp.array([0.0, 0.5]), jax.random.key(0))
    >>> dropped[0].tolist(), sorted(set(dropped[1].tolist()))
    ([1.0, 1.0, 1.0, 1.0], [0.0, 2.0])
    """
    rate = jax.lax.stop_gradient(rate)
    rate = rate.reshape(*rate.shape, *(1,) * (inputs.ndim - rate.ndim)).astype(inputs.dtype)
    kept = jax.random.bernoulli(key, 1.0 - rate, inputs.shape)
    return jnp.where(kept, inputs / (1.0 - rate), 0.0)
