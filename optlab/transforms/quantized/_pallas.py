"""The kernel of steps in place: a GPU takes each leaf in one pass, written in Pallas.

XLA needs two passes over what is coded, one for the largest entry of each block and one for the
codes. A kernel has whole blocks at hand: it reads parameters, gradients, codes and scales once and
writes all but the gradients over what it has read, 16 bytes a parameter for Adam. What it computes
is what the engine computes, traced again on a tile of blocks.

Of the two languages that Pallas has for GPUs this is Triton's. Mosaic's lacks square roots in jax
0.10.2, and in 0.12 still the maximum of each row, ``ceil``, ``floor`` and ``isfinite``. From jax
0.12 on Pallas warns that it will lose Triton: the engine of XLA then remains.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from optlab.base import Codec, PyTree

__all__ = ["KERNEL_CODECS", "check_codec", "fits", "run"]

# In Triton Pallas has no gathers, no two codes in a byte and no random numbers: these do without.
KERNEL_CODECS = (
    "power8",
    "adaptive_power8",
    "dynamic8",
    "float8",
    "flash8",
    "coat8",
    "bfloat16",
    "float32",
)
_TILE = 1 << 11  # entries of a program, at most
_ENTRIES_A_WARP = 1 << 9  # 16 a thread: 96 registers of an H200 for Adam, none spilled


def check_codec(codec: Codec) -> None:
    """Raises unless a codec can be written in a kernel."""
    if codec.name not in KERNEL_CODECS or getattr(codec, "exact", False):
        kind = "exact dynamic8" if codec.name == "dynamic8" else codec.name
        raise ValueError(
            f"backend must be 'xla' for the codec {kind}: the kernel knows "
            f"{', '.join(KERNEL_CODECS)}."
        )


def fits(work: PyTree, shared: PyTree, rows: int) -> bool:
    """Whether a leaf and what belongs to it can be at work in a kernel, cut into rows.

    The rows must have powers of two as lengths, a tile at most, parameters and gradients be
    float32, what all leaves share be scalars, and indices fit into 32 bits.
    """
    arrays = jax.tree.leaves(work)
    lengths = [x.size // rows for x in arrays]
    return (
        all(x.dtype == jnp.float32 for x in (*work.params, *work.grads))
        and all(x.size == rows * n < 2**31 for x, n in zip(arrays, lengths, strict=True))
        and all(n & (n - 1) == 0 and n <= _TILE for n in lengths)
        and all(jnp.ndim(x) == 0 for x in jax.tree.leaves(shared))
    )


def run(body: Callable[[PyTree, PyTree], PyTree], work: PyTree, shared: PyTree) -> PyTree:
    """Steps a leaf in place.

    Args:
        body: ``body(work, shared)`` gives the new work, its gradients left out, from rows of it.
        work: matrices of as many rows each, in a NamedTuple with fields ``params`` and ``grads``.
        shared: scalars.

    Returns:
        The new work. On a CPU the kernel is interpreted, which takes long.
    """
    # Not above: a jax without the second must still do for the engine.
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    rows, width = work.params[0].shape
    count = _rows_a_program(rows, width)
    warps = min(max(count * width // _ENTRIES_A_WARP, 1), 4)
    scalars, shared_tree = jax.tree.flatten(shared)
    arrays, work_tree = jax.tree.flatten(work)
    written = jax.tree.leaves(work._replace(grads=[]))
    first = len(scalars)

    def kernel(*refs):
        values = [ref[0] for ref in refs[:first]]
        tiles = [ref[...] for ref in refs[first : first + len(arrays)]]
        new = body(work_tree.unflatten(tiles), shared_tree.unflatten(values))
        for ref, x in zip(refs[first + len(arrays) :], jax.tree.leaves(new), strict=True):
            ref[...] = x

    def tile(x):
        return pl.BlockSpec((count, x.shape[-1]), lambda i: (i, 0))

    def call(interpret):
        return pl.pallas_call(
            kernel,
            out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in written],
            grid=(rows // count,),
            in_specs=[pl.BlockSpec((1,), lambda i: (0,))] * first + [tile(x) for x in arrays],
            out_specs=[tile(x) for x in written],
            input_output_aliases={first + i: i for i in range(len(written))},
            compiler_params=triton.CompilerParams(num_warps=warps, num_stages=1),
            interpret=interpret,
            name="step_in_place",
        )

    inputs = [jnp.reshape(x, (1,)) for x in scalars] + arrays
    new = jax.lax.platform_dependent(*inputs, cpu=call(True), default=call(False))
    return jax.tree.structure(work._replace(grads=[])).unflatten(new)


def _rows_a_program(rows: int, width: int) -> int:
    """The largest power of two that divides the rows and keeps a program within its tile."""
    most = max(1, _TILE // width)
    return min(rows & -rows, 1 << (most.bit_length() - 1))
