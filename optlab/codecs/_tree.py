r"""The dynamic tree map: decades of even steps, twice as many in each as in the one below.

Decade i of E has n = 2^i levels, 2^(i+1) if unsigned, at 10^(i-E+1) (0.1 + 0.9 (j + 1/2) / n). A
level's index k = n + j (one less if unsigned) grows by one from level to level, zero is 0, and one
more index stands for 1.0. Signed codes are 2^E - 1 + k and 2^E - 1 - k; there is no -1.0.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["lookup", "tree_book", "tree_index", "tree_thresholds", "tree_value"]


@functools.cache
def tree_book(decades: int, signed: bool) -> np.ndarray:
    """The values of all codes in rising order, bit by bit those of bitsandbytes and torchao."""
    levels = []
    for i in range(decades):
        edges = _linspace(2 ** (i if signed else i + 1) + 1)
        middles = (edges[:-1] + edges[1:]) / np.float32(2)
        levels += [np.float32(10.0 ** (i - decades + 1)) * middles]
    positive = np.concatenate([*levels, np.ones(1, np.float32)])
    negative = -np.concatenate(levels)[::-1] if signed else []
    return np.concatenate([negative, np.zeros(1), positive]).astype(np.float32)


def _linspace(count: int) -> np.ndarray:
    """torch.linspace(0.1, 1, count) in float32: fused multiply-adds from the nearer end."""
    start, end = np.float32(0.1), np.float32(1)
    step = np.float64(np.float32((end - start) / np.float32(count - 1)))
    i = np.arange(count)
    from_start, from_end = start + step * i, end - step * (count - 1 - i)
    return np.where(i < count // 2, from_start, from_end).astype(np.float32)


@functools.cache
def tree_thresholds(decades: int, signed: bool) -> np.ndarray:
    """For each code the largest float32 that is not nearer to the next; ties stay. Last: inf."""
    book = tree_book(decades, signed).astype(np.float64)
    middle = (book[:-1] + book[1:]) / 2  # exact
    near = middle.astype(np.float32)
    below = np.where(near > middle, np.nextafter(near, np.float32(-np.inf)), near)
    return np.append(below, np.float32(np.inf)).astype(np.float32)


def tree_index(a: jax.Array, decades: int, signed: bool) -> jax.Array:
    """The index k of the level nearest to ``a`` in [0, 1], as a float.

    All but 300 of the 1,065,353,217 floats get the right one; those are within six units in the
    last place of a threshold, and off by one.
    """
    count = 1.0 if signed else 2.0  # of levels in the lowest decade
    low = 10.0 ** (1 - decades)
    levels = jnp.full_like(a, count)
    slope = jnp.full_like(a, count / (0.9 * low))
    for i in range(decades - 1):
        n = count * 2**i
        # Halfway between two decades is one step of the lower one above its end.
        above = a > low * 10**i * (1 + 0.9 / n)
        levels = jnp.where(above, 2 * n, levels)
        slope = jnp.where(above, 2 * n / (0.9 * low * 10 ** (i + 1)), slope)
    step = jnp.clip(jnp.ceil(a * slope - levels * (1 / 9)), 1.0, levels)
    index = levels + step - (1.0 if signed else 2.0)
    last = count * 2 ** (decades - 1)
    index = index + (a > 1 - 0.225 / last)
    return jnp.where(a > 0.5 * low * (0.1 + 0.45 / count), index, 0.0)


def tree_value(index: jax.Array, decades: int, signed: bool) -> jax.Array:
    """The value of index k >= 0, given as a float: to 6e-7 that of :func:`tree_book`."""
    count = 1 if signed else 2
    place = index + (count - 0.5)  # n + j + 1/2
    # Its exponent is the decade's: with the mantissa cleared it is n.
    bits = jax.lax.bitcast_convert_type(place, jnp.uint32)
    levels = jax.lax.bitcast_convert_type(bits & jnp.uint32(0x7F800000), jnp.float32)
    decade = (bits >> 23) - jnp.uint32(126 + count)
    # 10^i / n is 5^i over the count, a product over the bits of i.
    five = jnp.full_like(index, 10.0 ** (1 - decades) / count)
    for bit, power in ((1, 5.0), (2, 25.0), (4, 625.0)):
        five = jnp.where((decade & bit) > 0, five * power, five)
    value = (0.9 * place - 0.8 * levels) * five
    last = 2 * count * 2 ** (decades - 1) - (count - 1)
    return jnp.where(index == last, 1.0, jnp.where(index == 0, 0.0, value))


def lookup(table: np.ndarray, code: jax.Array) -> jax.Array:
    """``table[code]``, sharded as the codes are."""
    spec = jax.typeof(code).sharding.spec
    sharded = any(axis is not None for axis in spec)
    at = jnp.asarray(table).at[code.astype(jnp.int32)]
    return at.get(mode="promise_in_bounds", out_sharding=jax.P(*spec) if sharded else None)
