"""Which token comes next: the most likely one, or a draw."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp.model.where import is_concrete


def next_token(logits: jax.Array, key: jax.Array | None, temperature: Any, top_k: int | None, top_p: Any) -> jax.Array:
    """int[batch]: one token for each row of logits [batch, vocab].

    Args:
      key: for the draw; None for the most likely token (of equals, the first).
      temperature: what logits are divided by before anything else; at 0 the most likely token.
      top_k: only the k largest logits are drawn from, and any that equal the last of them.
      top_p: only the most likely tokens are drawn from: as few as together have this probability (of what `top_k`
        leaves), and any that equal the last of them.
    """
    greedy = jnp.argmax(logits, axis=-1)
    if key is None:
        return greedy
    temperature = jnp.asarray(temperature, logits.dtype)
    scaled = logits / jnp.where(temperature > 0, temperature, 1)
    if top_k is not None:
        scaled = _at_least(scaled, jax.lax.top_k(scaled, top_k)[0][:, -1:])
    if top_p is not None:
        ordered = jnp.sort(scaled, axis=-1, descending=True)
        probabilities = jax.nn.softmax(ordered, axis=-1)
        before = jnp.cumsum(probabilities, axis=-1) - probabilities
        kept = (before < jnp.asarray(top_p, logits.dtype)).at[:, 0].set(True)
        scaled = _at_least(scaled, jnp.min(jnp.where(kept, ordered, jnp.inf), axis=-1, keepdims=True))
    return jnp.where(temperature > 0, jax.random.categorical(key, scaled), greedy)


def _at_least(logits: jax.Array, lowest: jax.Array) -> jax.Array:
    return jnp.where(logits < lowest, -jnp.inf, logits)


def check_sampling(key: Any, temperature: Any, top_k: Any, top_p: Any, n_vocab: int | None) -> tuple[Any, Any, Any]:
    """(key, temperature, top_p) as the program takes them."""
    for name, value in (("temperature", temperature), ("top_p", top_p)):
        if value is None or not is_concrete(value):
            continue
        number = np.asarray(value)
        if number.ndim or number.dtype == bool or not np.issubdtype(number.dtype, np.number):
            raise TypeError(f"{name} must be a number, got {value!r}")
        low_enough = number <= 1 if name == "top_p" else np.isfinite(number)
        if not low_enough or not (number > 0 or (number == 0 and name == "temperature")):
            raise ValueError(f"{name} must be {'in (0, 1]' if name == 'top_p' else 'at least 0'}, got {value!r}")
    if top_k is not None:
        if isinstance(top_k, bool) or not isinstance(top_k, (int, np.integer)):
            raise TypeError(f"top_k must be a plain int (it fixes shapes), got {top_k!r}")
        if not 1 <= top_k <= (n_vocab or top_k):
            raise ValueError(f"top_k must be 1 to {n_vocab or 'the vocabulary'}, got {top_k}")
    if key is None:
        cold = temperature is None or (is_concrete(temperature) and temperature == 0)
        for name, asked in (("temperature", not cold), ("top_k", top_k is not None), ("top_p", top_p is not None)):
            if asked:
                raise ValueError(f"{name}= is for draws, which need key=; without a key decoding is greedy")
        return None, None, None
    check_key(key)
    temperature = 1.0 if temperature is None else temperature
    return key, *(np.asarray(v, float) if v is not None and is_concrete(v) else v for v in (temperature, top_p))


def check_key(key: Any) -> None:
    """Raises for what is not one random key."""
    dtype = getattr(key, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not typed and dtype != np.uint32:
        raise TypeError(f"key= expects a key from jax.random.key, got {key!r}")
    if key.ndim != (0 if typed else 1):
        raise ValueError(f"key= expects one key, got shape {key.shape}: use jax.vmap over several")
