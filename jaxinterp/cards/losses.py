"""What each token of a text costs a model, and rows that are run a few at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxinterp.model.params import Params
from jaxinterp.model.transformer import Transformer

#: How many rows are run at once.
CHUNK = 16


def chunks(rows: np.ndarray) -> list[jax.Array]:
    """Rows, `CHUNK` at a time; the last is filled up with its own last row, so that all have one shape.

    Example:
      >>> from jaxinterp.cards.losses import chunks
      >>> [chunk.shape for chunk in chunks(np.zeros((20, 5), int))]
      [(16, 5), (16, 5)]
    """
    filled = np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % CHUNK, axis=0)])
    return [jnp.asarray(chunk) for chunk in np.split(filled, len(filled) // CHUNK)]


def token_losses(model: Transformer, params: Params, rows: np.ndarray) -> np.ndarray:
    """The loss of every token after the first of its row, in nats: float[row, pos - 1].

    Example:
      >>> from jaxinterp.cards.losses import token_losses
      >>> token_losses(model, params, tokens).shape
      (3, 5)
    """

    @jax.jit
    def run(params: Params, rows: jax.Array) -> jax.Array:
        logits, _ = model.apply(params, rows[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, rows[:, 1:])

    return np.concatenate([np.asarray(run(params, chunk)) for chunk in chunks(rows)])[: len(rows)]
