"""An embedding whose gradients suit optimizer states of few bits."""

import jax
import jax.numpy as jnp
from flax import linen, nnx

__all__ = ["LinenStableEmbedding", "StableEmbedding"]

_INIT = nnx.initializers.xavier_uniform()


class StableEmbedding(nnx.Module):
    """An embedding in front of a LayerNorm, both in float32 whatever the rest is.

    Vectors start as Xavier's uniform and are normalised when they are looked up, so that none of
    them, and none of their gradients, stands out. Rare tokens get rare and large gradients, which
    is why the paper also keeps the optimizer's state of embeddings in float32: give
    ``where=all_but_embeddings`` (of :mod:`optlab.transforms.quantized`) to the optimizer, and a
    name with ``embed`` in it to this module.

    Args:
        tokens: size of the vocabulary.
        features: length of a vector.
        rngs: of the initial parameters.

    References:
        T. Dettmers, M. Lewis, S. Shleifer, L. Zettlemoyer, "8-bit Optimizers via Block-wise
        Quantization", ICLR 2022, arXiv:2110.02861

    Differs from bitsandbytes: the state in float32 is asked for at the optimizer, which has it.
    """

    def __init__(self, tokens: int, features: int, *, rngs: nnx.Rngs):
        self.embedding = nnx.Param(_INIT(rngs.params(), (tokens, features), jnp.float32))
        self.norm = nnx.LayerNorm(features, epsilon=1e-5, dtype=jnp.float32, rngs=rngs)

    def __call__(self, tokens: jax.Array, *, dtype: jnp.dtype = jnp.float32) -> jax.Array:
        """Maps tokens ``[...]`` to vectors ``[..., features]`` of ``dtype``."""
        vectors = jnp.take(self.embedding[...].astype(jnp.float32), tokens, axis=0)
        return self.norm(vectors).astype(dtype)


class LinenStableEmbedding(linen.Module):
    """:class:`StableEmbedding` for Flax linen.

    Attributes:
        tokens: size of the vocabulary.
        features: length of a vector.
    """

    tokens: int
    features: int

    @linen.compact
    def __call__(self, tokens: jax.Array, *, dtype: jnp.dtype = jnp.float32) -> jax.Array:
        """Maps tokens ``[...]`` to vectors ``[..., features]`` of ``dtype``."""
        embedding = self.param("embedding", _INIT, (self.tokens, self.features), jnp.float32)
        vectors = jnp.take(embedding.astype(jnp.float32), tokens, axis=0)
        norm = linen.LayerNorm(epsilon=1e-5, dtype=jnp.float32, name="norm")
        return norm(vectors).astype(dtype)
