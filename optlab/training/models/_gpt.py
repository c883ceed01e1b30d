"""A small decoder-only transformer."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from optlab.training.models._stable_embedding import StableEmbedding
from optlab.training.models._transformer import Transformer, small_init

__all__ = ["GPT"]


class GPT(nnx.Module):
    """A causal language model: a pre-norm transformer on tokens, after GPT-2.

    Weights start as LeCun's normal, those that write to the residual stream divided by
    sqrt(2 ``depth``); embeddings, positions and the head as a normal of 0.02, so that the first
    loss is close to log ``classes``; biases at zero.

    Args:
        shape: of one example, ``(length,)``: the longest input.
        classes: size of the vocabulary.
        width, depth, heads: channels, blocks, and heads a block.
        dropout: rate in [0, 1); needs a key in training unless zero.
        tied: whether the head is the transposed embedding, or has weights of its own.
        stable_embedding: whether embedded tokens pass a LayerNorm: see :class:`StableEmbedding`.
        rngs: of the initial parameters.

    References:
        A. Radford et al., "Language Models are Unsupervised Multitask Learners", OpenAI 2019

    Differs from the paper: the initial values of the blocks; three matrices for query, key and
    value instead of one; no dropout of attention weights; the tie is an option.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        dropout: float = 0.0,
        tied: bool = False,
        stable_embedding: bool = False,
        rngs: nnx.Rngs,
    ):
        (self.length,) = shape
        if stable_embedding:
            self.stable_embedding = StableEmbedding(classes, width, rngs=rngs)
        else:
            self.embedding = nnx.Param(small_init(rngs.params(), (classes, width)))
        self.transformer = Transformer(
            self.length,
            width=width,
            depth=depth,
            heads=heads,
            dropout=dropout,
            causal=True,
            rngs=rngs,
        )
        if not tied:
            self.head = nnx.Linear(
                width, classes, use_bias=False, kernel_init=small_init, rngs=rngs
            )
        self.tied, self.stable = tied, stable_embedding

    def __call__(
        self, tokens: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Maps tokens ``[batch, length]`` to next-token logits ``[batch, length, classes]``.

        Raises:
            ValueError: if the tokens are more than the model has positions for.
        """
        if tokens.shape[1] > self.length:
            raise ValueError(f"tokens must be at most {self.length} long, got {tokens.shape[1]}.")
        if self.stable:
            vectors = self.stable_embedding.embedding[...]
            x = self.stable_embedding(tokens, dtype=vectors.dtype)
        else:  # not nnx.Embed, whose output has the dtype that its embedding was made in
            vectors = self.embedding[...]
            x = jnp.take(vectors, tokens, axis=0)
        x = self.transformer(x, train=train, rngs=rngs)
        return x @ vectors.T if self.tied else self.head(x)
