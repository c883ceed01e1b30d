"""The train state: step, parameters, optimizer state."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from optlab.base import Params, PyTree
from optlab.transforms.quantized import step

__all__ = ["TrainState", "state_bytes_per_parameter"]


class TrainState(struct.PyTreeNode):
    """Flax's train state for every optimizer: extra arguments reach ``tx.update``.

    It serves Flax linen (``apply_fn=model.apply``), a split nnx model and plain functions alike.
    Unlike flax's own, its step is an int32 array from the start, so that the first and the second
    call of a jitted step share one trace. Other fields change by ``replace``.
    """

    step: jax.Array  # shape=(), dtype=int32: updates done
    params: Params
    opt_state: PyTree  # as tx.init made it
    apply_fn: Callable = struct.field(pytree_node=False)
    tx: optax.GradientTransformation = struct.field(pytree_node=False)

    @classmethod
    def create(
        cls, *, apply_fn: Callable, params: Params, tx: optax.GradientTransformation, **fields: Any
    ) -> "TrainState":
        """Starts at step zero with a fresh optimizer state.

        Args:
            apply_fn: ``apply_fn(params, ...)`` or linen's ``apply_fn(variables, ...)``.
            params: the initial parameters.
            tx: the optimizer.
            **fields: values of the fields that a subclass adds.

        Returns:
            The state.
        """
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=tx.init(params),
            apply_fn=apply_fn,
            tx=tx,
            **fields,
        )

    def apply_gradients(self, *, grads: PyTree, **extra: Any) -> "TrainState":
        """Takes one step, in place where the optimizer can: see :func:`optlab.step`.

        Args:
            grads: like the parameters.
            **extra: goes to ``tx.update``: ``value``, ``value_fn``, ``key``, ...; an optimizer that
                takes none ignores them.

        Returns:
            The next state.

        >>> state = TrainState.create(apply_fn=None, params=jnp.ones(2), tx=optax.polyak_sgd())
        >>> state.apply_gradients(grads=jnp.ones(2), value=1.0).params.tolist()
        [0.5, 0.5]
        """
        params, opt_state = step(self.tx, self.params, grads, self.opt_state, **extra)
        return self.replace(step=self.step + 1, params=params, opt_state=opt_state)


def state_bytes_per_parameter(state: TrainState) -> float:
    """Gives the size of the optimizer state in bytes for each parameter.

    Args:
        state: at any step.

    Returns:
        The bytes of all arrays of its ``opt_state``, divided by the number of its parameters.

    >>> state = TrainState.create(apply_fn=None, params=jnp.ones(100), tx=optax.sgd(0.1, 0.9))
    >>> state_bytes_per_parameter(state)
    4.0
    """
    size = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    return sum(leaf.nbytes for leaf in jax.tree.leaves(state.opt_state)) / size
