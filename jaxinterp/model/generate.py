"""Generation under interventions: the prompt once, then one token at a time, all of it one compiled program."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxinterp.model.attention import put_rows, take_rows
from jaxinterp.model.continuation import whole_edits, whole_mask
from jaxinterp.model.decode import advance
from jaxinterp.model.interventions import Interventions
from jaxinterp.model.params import check_params
from jaxinterp.model.resume import Edits
from jaxinterp.model.sampling import check_sampling, next_token
from jaxinterp.model.transformer import Transformer, unwrapped
from jaxinterp.model.where import Geometry


@struct.dataclass
class Generation:
    """What `ji.generate` returns. Made by `ji.generate`.

    Attributes:
      tokens: int[batch, new], the new tokens alone; behind a stop token the pad token.
      lengths: int[batch], how many of them there are, a stop token included.
      log_probs: [batch, new], each one's log-probability in nats under the model's own (edited) logits, whatever
        temperature, top_k and top_p; 0 behind a stop token.
      logits: [batch, new, vocab], from which each was chosen; NaN behind a stop token. None unless asked for.
    """

    tokens: jax.Array
    lengths: jax.Array
    log_probs: jax.Array
    logits: jax.Array | None


def generate(
    model: Any,
    params: Any,
    tokens: Any,
    interventions: Interventions | None = None,
    *,
    key: jax.Array | None = None,
    max_new_tokens: int,
    mask: Any = None,
    temperature: Any = None,
    top_k: int | None = None,
    top_p: Any = None,
    stop_token: int | Sequence[int] | None = None,
    pad_token: int | None = None,
    return_logits: bool = False,
) -> Generation:
    """Continues prompts under interventions: the most likely tokens without a key, draws with one.

    Each new token is what `model.apply(params, tokens_so_far, interventions)` gives for the last position; keys and
    values of earlier positions are kept, so that a step computes one row. Works under `jit`, and under `vmap` over
    edits and keys; other prompts of the same shape, and other values of the edits, reuse the compiled program.

    **Coordinates** run over the whole sequence, `pos + max_new_tokens` columns. `ji.at(pos=3)` is a column of the
    prompt, `tokens.shape[1] + i` the i-th new token's, `pos=slice(tokens.shape[1], None)` all new ones'; an edit
    without `pos` acts everywhere. Negative positions count from the end of each *prompt*, which does not move: -1 is
    its last token. A new token's column is the one after its own prompt's last token, so where prompts are padded on
    the right, new columns differ: `ji.per_example(mask.sum(1)[:, None] + np.arange(max_new_tokens))`, and that slice
    raises. The last new token is not read by anything, and edits at its column have no effect.

    A value's `pos` axis is 1, the whole sequence, or the prompt, as a cache of the prompt has it: then the edit is of
    the prompt alone (but an axis of 1 is 1 for every position, after a prompt of one token too).

    **A position is computed once**, from what stands before it. So `ji.apply_fn` sees the prompt's positions
    together, and then each new one by itself: a function that mixes positions, or an edit of `pattern` at keys that
    are yet to come, does not see there what it would in `apply` on the whole sequence.

    Args:
      model: a causal `Transformer`; any other model takes the plain way, a whole forward for each token, and is taken
        to be causal (no position may see a later one).
      tokens: int[batch, pos].
      interventions: `{site: one, or a tuple applied in order}`; at prompt positions, at new ones, or both.
      key: for draws, consumed: the i-th new tokens are drawn by `jax.random.fold_in(key, i)`. None decodes greedily.
      max_new_tokens: how many tokens each prompt gets at most; fixes the shapes.
      mask: bool[batch, pos], False at padding, on either side.
      temperature: logits are divided by it, 1 if not given; 0 is greedy.
      top_k: draws come from the k largest logits. top_p: from as few of the most likely tokens as have this
        probability together (after temperature and top_k).
      stop_token: after it, or any of several, a prompt is finished; the program ends when all are.
      pad_token: what fills the rest of a finished row; goes with `stop_token`.
      return_logits: keep the logits of each step, [batch, new, vocab].

    Returns:
      A `ji.Generation`: `tokens` int[batch, max_new_tokens] without the prompt, `lengths`, `log_probs`, `logits`.

    Raises:
      TypeError, ValueError: before anything is compiled, for a model that is not causal, prompts that outgrow
        `n_ctx`, sampling arguments without a key, edits that cannot be meant.

    Example:
      >>> new = ji.generate(model, params, tokens, max_new_tokens=4)
      >>> new.tokens.shape
      (3, 4)
      >>> steer = jnp.ones((1, 1, 1, model.config.d_model))
      >>> at_new = ji.at(layer=1, pos=slice(tokens.shape[1], None))
      >>> steered = ji.generate(model, params, tokens, {"resid_post": ji.add(steer, at_new)}, max_new_tokens=4)
      >>> bool((steered.tokens[:, 0] == new.tokens[:, 0]).all())  # chosen before the first edited position
      True
      >>> drawn = ji.generate(model, params, tokens, key=jax.random.key(0), temperature=0.7, max_new_tokens=4)
    """
    if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, (int, np.integer)) or max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be an int of at least 1 (it fixes shapes), got {max_new_tokens!r}")
    new = int(max_new_tokens)
    tokens, mask, n_vocab = _check_model(model, params, tokens, mask, new)
    batch, prompt = tokens.shape
    mask = whole_mask(mask, new)
    edits = whole_edits(model.sites, interventions, Geometry(batch, prompt + new, mask), new)
    key, temperature, top_p = check_sampling(key, temperature, top_k, top_p, n_vocab)
    if (stop_token is None) != (pad_token is None):
        given, lacking = ("pad_token", "stop_token") if stop_token is None else ("stop_token", "pad_token")
        raise ValueError(f"{given}= is given without {lacking}=: the pad token fills rows behind a stop token")
    stop = None if stop_token is None else _token_ids("stop_token", stop_token, n_vocab)
    pad = None if pad_token is None else _token_ids("pad_token", pad_token, n_vocab)[0]
    return _generate(
        model, params, tokens, mask, edits, key, temperature, top_p, stop, pad,
        new=new, top_k=None if top_k is None else int(top_k), return_logits=bool(return_logits),
    )  # fmt: skip


def _check_model(model: Any, params: Any, tokens: Any, mask: Any, new: int) -> tuple[jax.Array, Any, int | None]:
    """(tokens, mask, how many tokens there are to choose from, if that is known)."""
    tokens, mask = unwrapped(tokens, mask)
    if hasattr(model, "check_prompt"):
        tokens, mask = model.check_prompt(tokens, mask)
    elif np.ndim(tokens) != 2 or 0 in np.shape(tokens):
        raise ValueError(f"tokens must be int[batch, pos], got shape {np.shape(tokens)}")
    logits = model.sites.get("logits")
    n_vocab = None if logits is None else logits.sizes[-1]
    config = getattr(model, "config", None)
    if not getattr(config, "causal", True):
        raise ValueError("attention is bidirectional: earlier positions would see each new token, so nothing follows")
    if isinstance(model, Transformer):
        config = model.config
        check_params(config, params)
        if config.d_vocab_out != config.d_vocab:
            raise ValueError(f"the model's {config.d_vocab_out} outputs are not its {config.d_vocab} tokens")
        columns = tokens.shape[1] + new - 1
        if config.positions in ("learned", "qk") and columns > config.n_ctx:
            raise ValueError(
                f"prompts of {tokens.shape[1]} positions and max_new_tokens={new} take {columns} positions (the last "
                f"token is not read), the model has n_ctx = {config.n_ctx}"
            )
    return tokens, mask, n_vocab


def _token_ids(name: str, value: Any, n_vocab: int | None) -> np.ndarray:
    ids = np.atleast_1d(np.asarray(value))
    if (
        ids.ndim > 1
        or not ids.size
        or not np.issubdtype(ids.dtype, np.integer)
        or (name == "pad_token" and np.ndim(value))
    ):
        raise TypeError(f"{name} must be a token id{'' if name == 'pad_token' else ' or several'}, got {value!r}")
    if ids.min() < 0 or (n_vocab is not None and ids.max() >= n_vocab):
        raise ValueError(
            f"{name}={value} is out of vocabulary: ids run from 0 to {'...' if n_vocab is None else n_vocab - 1}"
        )
    return ids


@functools.partial(jax.jit, static_argnames=("model", "new", "top_k", "return_logits"))
def _generate(
    model: Any,
    params: Any,
    tokens: jax.Array,
    mask: jax.Array | None,
    edits: Edits,
    key: jax.Array | None,
    temperature: Any,
    top_p: Any,
    stop: jax.Array | None,
    pad: jax.Array | None,
    *,
    new: int,
    top_k: int | None,
    return_logits: bool,
) -> Generation:
    batch, prompt = tokens.shape
    geometry = Geometry(batch, prompt + new, mask)
    # the column of each prompt's first new token: one for all, or int[batch, 1]
    ends = jnp.array([prompt]) if geometry.ends is None else geometry.ends - new
    cached = isinstance(model, Transformer)

    def whole(sequence: jax.Array, read: jax.Array) -> jax.Array:
        """Logits of one column of each sequence, by the plain forward."""
        return take_rows(model.apply(params, sequence, edits, mask=mask)[0], read)

    def after_prompt() -> tuple[jax.Array, Any]:
        if cached:
            rows = geometry._replace(rows=jnp.arange(prompt))
            return advance(model, params, edits, tokens, rows, None, ends - 1)
        sequence = jnp.pad(tokens, ((0, 0), (0, new)))
        return whole(sequence, ends - 1), sequence

    def after_token(past: Any, token: jax.Array, column: jax.Array) -> tuple[jax.Array, Any]:
        if cached:
            return advance(model, params, edits, token[:, None], geometry._replace(rows=column), past)
        sequence = put_rows(past, token[:, None], column)
        return whole(sequence, column), sequence

    def choose(
        out: Generation, done: jax.Array, number: Any, logits: jax.Array
    ) -> tuple[Generation, jax.Array, jax.Array]:
        """(what has been generated, with token `number`; which prompts are finished; that token)."""
        logits = logits[:, 0]
        own_key = None if key is None else jax.random.fold_in(key, number)
        token = next_token(logits, own_key, temperature, top_k, top_p)
        log_prob = jnp.take_along_axis(jax.nn.log_softmax(logits), token[:, None], axis=-1)[:, 0]
        if stop is not None and pad is not None:
            token, log_prob = jnp.where(done, pad, token), jnp.where(done, 0, log_prob)
            logits = jnp.where(done[:, None], jnp.nan, logits)
        token = token.astype(tokens.dtype)
        out = Generation(
            out.tokens.at[:, number].set(token),
            out.lengths + ~done,
            out.log_probs.at[:, number].set(log_prob),
            None if out.logits is None else out.logits.at[:, number].set(logits),
        )
        return out, done if stop is None else done | jnp.isin(token, stop), token

    def step(state: Any) -> Any:
        number, past, token, done, out = state
        logits, past = after_token(past, token, ends + number - 1)
        out, done, token = choose(out, done, number, logits)
        return number + 1, past, token, done, out

    logits, past = after_prompt()
    out = Generation(
        jnp.full((batch, new), 0 if pad is None else pad, tokens.dtype),
        jnp.zeros(batch, int),
        jnp.zeros((batch, new), logits.dtype),
        jnp.full((batch, new, logits.shape[-1]), jnp.nan, logits.dtype) if return_logits else None,
    )
    out, done, token = choose(out, jnp.zeros(batch, bool), 0, logits)
    state = (jnp.asarray(1), past, token, done, out)
    if stop is None:
        state = jax.lax.fori_loop(1, new, lambda _, state: step(state), state)  # a scan: it has a reverse mode
    else:
        state = jax.lax.while_loop(lambda state: (state[0] < new) & ~state[3].all(), step, state)
    out = state[-1]
    return out
