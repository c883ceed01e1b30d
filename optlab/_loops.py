"""Loops of a traced number of steps that can be differentiated, shared by the layers."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from optlab.base import PyTree

__all__ = ["repeat_up_to"]


def repeat_up_to(
    most: int, count: jax.Array, step: Callable[[jax.Array, PyTree], PyTree], carry: PyTree
) -> PyTree:
    """Gives ``fori_loop(0, count, step, carry)`` a derivative in both modes.

    jax transposes no loop of a traced length. Only where it is differentiated does this one become
    a scan of ``most`` turns, of which those past ``count`` are thrown away: without derivatives no
    turn is taken in vain, under ``vmap`` either.

    Args:
        most: static bound of ``count``.
        count: how many steps to take; shape=(), an integer.
        step: ``(t, carry) -> carry``; may close over traced values.
        carry: what the first step gets.

    Returns:
        The last carry.
    """
    converted, closed_over = jax.closure_convert(step, jnp.zeros((), jnp.int32), carry)

    def turn(t, carry, closed_over):
        # With x64 the loops count in 64 bits.
        return converted(t.astype(jnp.int32), carry, *closed_over)

    @jax.custom_jvp
    def run(count, carry, closed_over):
        return jax.lax.fori_loop(0, count, lambda t, c: turn(t, c, closed_over), carry)

    @run.defjvp
    def run_jvp(primals, tangents):
        count, carry, closed_over = primals

        def scan(carry, closed_over):
            def maybe(t, c):
                def select(new, old):
                    return jax.tree.map(lambda a, b: jnp.where(t < count, a, b), new, old)

                # Not lax.cond: a vmap of its derivative has no transpose. What vain turns divide by
                # zero must not get into derivatives.
                args = (c, closed_over)
                return select(turn(t, *select(args, jax.lax.stop_gradient(args))), c)

            return jax.lax.fori_loop(0, most, maybe, carry)

        return jax.jvp(scan, (carry, closed_over), tuple(tangents[1:]))

    return run(count, carry, closed_over)
