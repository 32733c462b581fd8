"""What a run is scored by: functions of a few logits (and captured activations) to one number per prompt.

A metric is a pytree with a static function: new answers, or other prompts of the same shape, do not recompile.
It declares which positions and which columns of the unembedding it reads, so that the others need not exist.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp.model.run import gather_rows
from jaxinterp.model.where import Geometry, PerExample, is_concrete


@jax.tree_util.register_pytree_node_class
class Metric:
    """A score for each prompt: `fn(logits[batch, n_positions, n_columns], cache, *data) -> [batch]`.

    Args:
      fn: a pure function; static, so pass the same object to reuse a compilation.
      *data: arrays (pytrees) whose leaves lead with `batch`; answers, weights, reference logits.
      positions: which positions' logits `fn` is given: an int or ints (negative from each prompt's end), or
        `ji.per_example` (int[batch] or int[batch, n]); None for all.
      columns: which columns of the unembedding: int[n] shared, or int[batch, n]; None for all. Only these are
        computed where the model allows it.
      capture: sites (or `{site: where}`) that `fn` finds in its cache.

    Example:
      >>> def last_resid_norm(logits, cache):
      ...     return jnp.linalg.norm(cache["resid_final"][:, -1], axis=-1)
      >>> internal = ji.Metric(last_resid_norm, capture=("resid_final",))
    """

    def __init__(
        self,
        fn: Callable[..., jax.Array],
        *data: Any,
        positions: Any = None,
        columns: Any = None,
        capture: Any = (),
    ) -> None:
        if not callable(fn):
            raise TypeError(f"Metric expects a function first, got {type(fn).__name__}")
        if isinstance(capture, str):
            raise TypeError(f"capture must be a tuple of site names, got the string {capture!r}")
        if positions is not None and not isinstance(positions, PerExample):
            positions = positions if isinstance(positions, jax.Array) else np.asarray(positions)
            if not jnp.issubdtype(positions.dtype, jnp.integer) or positions.ndim > 1:
                raise TypeError("positions must be an int, ints, or ji.per_example(int[batch])")
            positions = positions.reshape(-1)
        self.fn, self.data, self.positions, self.columns = fn, data, positions, columns
        self.capture = dict(capture) if isinstance(capture, Mapping) else dict.fromkeys(capture)

    def tree_flatten(self) -> tuple[Any, Any]:
        """The arrays, and the function."""
        return (self.data, self.positions, self.columns, self.capture), self.fn

    @classmethod
    def tree_unflatten(cls, fn: Any, children: Any) -> "Metric":
        """The inverse of `tree_flatten`."""
        metric = object.__new__(cls)
        metric.fn = fn
        metric.data, metric.positions, metric.columns, metric.capture = children
        return metric


def score(metric: Metric, logits: jax.Array, cache: Mapping[str, jax.Array], geometry: Geometry) -> jax.Array:
    """The metric of full logits: [batch, pos, vocab] -> [batch]. The definition that faster paths are held to."""
    return score_read(metric, read_columns(gather_rows(logits, metric.positions, geometry), metric.columns), cache)


def score_read(metric: Metric, logits: jax.Array, cache: Mapping[str, jax.Array]) -> jax.Array:
    """The metric of just the logits it reads: [batch, n_positions, n_columns] -> [batch]."""
    values = metric.fn(logits, {name: cache[name] for name in metric.capture}, *metric.data)
    if values.shape != logits.shape[:1]:
        raise ValueError(f"a metric must return one number per prompt, {logits.shape[:1]}, got {values.shape}")
    return values


def read_columns(logits: jax.Array, columns: Any) -> jax.Array:
    """The columns of [batch, n, vocab] that a metric declares: int[n] shared, int[batch, n], or None for all."""
    if columns is None:
        return logits
    columns = jnp.asarray(columns)
    return jnp.take_along_axis(logits, columns[:, None] if columns.ndim == 2 else columns[None, None], axis=-1)


def check_metric(metric: Any, geometry: Geometry, d_vocab: int | None) -> None:
    """Raises for a metric that does not fit the prompts: other batch, positions beyond a prompt, unknown columns."""
    if not isinstance(metric, Metric):
        raise TypeError(f"metric= expects a ji.Metric (ji.logit_diff, ...), got {type(metric).__name__}")
    for leaf in jax.tree.leaves(metric.data):
        if np.ndim(leaf) == 0 or np.shape(leaf)[0] != geometry.batch:
            raise ValueError(f"metric data of shape {np.shape(leaf)} must lead with batch = {geometry.batch}")
    columns = metric.columns
    if columns is not None:
        if np.ndim(columns) == 2 and np.shape(columns)[0] != geometry.batch:
            raise ValueError(f"metric columns of shape {np.shape(columns)} must lead with batch = {geometry.batch}")
        if d_vocab is not None and is_concrete(columns) and not 0 <= np.min(columns) <= np.max(columns) < d_vocab:
            raise ValueError(f"metric reads column {int(np.max(columns))}; the logits have {d_vocab} columns")
    _check_positions(metric.positions, geometry)


def _check_positions(positions: Any, geometry: Geometry) -> None:
    wanted = positions.index if isinstance(positions, PerExample) else positions
    if wanted is None or not is_concrete(wanted):
        return
    if geometry.mask is not None and not is_concrete(geometry.mask):
        return
    wanted = np.asarray(wanted)
    if isinstance(positions, PerExample):
        if len(wanted) != geometry.batch:
            raise ValueError(f"metric reads positions of {len(wanted)} prompts, the batch has {geometry.batch}")
        wanted = wanted.reshape(geometry.batch, -1)
    else:
        wanted = np.broadcast_to(wanted, (geometry.batch, len(wanted)))
    real = np.ones((geometry.batch, geometry.pos), bool) if geometry.mask is None else np.asarray(geometry.mask)
    ends = geometry.pos - np.argmax(real[:, ::-1], axis=1)[:, None]
    columns = np.where(wanted < 0, wanted + ends, wanted)
    inside = (columns >= 0) & (columns < geometry.pos)
    inside &= np.take_along_axis(real, np.clip(columns, 0, geometry.pos - 1), axis=1)
    if not inside.all():
        row, which = np.argwhere(~inside)[0]
        raise ValueError(
            f"metric reads position {wanted[row, which]} of prompt {row}, which has {real[row].sum()} tokens"
            + ("" if real.all() else f" (columns {np.argmax(real[row])} to {ends[row, 0] - 1})")
        )


def _answer_sets(name: str, answers: Any) -> np.ndarray | jax.Array:
    """Answers as int[] (shared by all prompts), or int[batch, n] padded with -1."""
    if isinstance(answers, (list, tuple)) and any(isinstance(a, (list, tuple, set, np.ndarray)) for a in answers):
        sets = [[int(t) for t in a] if isinstance(a, (list, tuple, set, np.ndarray)) else [int(a)] for a in answers]
        if not all(sets):
            raise ValueError(f"{name} has an empty answer set at prompt {[bool(s) for s in sets].index(False)}")
        answers = np.array([s + [-1] * (max(map(len, sets)) - len(s)) for s in sets])
    answers = answers if isinstance(answers, jax.Array) else np.asarray(answers)
    if not jnp.issubdtype(answers.dtype, jnp.integer):
        raise TypeError(f"{name} must be token ids (a tokenizer turns text into them), got {answers.dtype}")
    if answers.ndim > 2:
        raise ValueError(f"{name} must be an int, int[batch] or int[batch, n], got shape {answers.shape}")
    return answers[:, None] if answers.ndim == 1 else answers


def _weights(answers: Any) -> Any:
    """Equal weights over each prompt's answers, 0 on padding."""
    there = (answers >= 0).astype(float)
    return there / there.sum(axis=1, keepdims=True)


def _weighted(logits: jax.Array, cache: Any, weights: jax.Array) -> jax.Array:
    return jnp.sum(logits * weights[:, None].astype(logits.dtype), axis=-1).mean(axis=1)


def _first_minus_second(logits: jax.Array, cache: Any) -> jax.Array:
    return (logits[..., 0] - logits[..., 1]).mean(axis=1)


def logit_diff(correct: Any, wrong: Any, pos: Any = -1) -> Metric:
    """Mean logit of the correct answers minus mean logit of the wrong ones, in logits (= difference of log-probs).

    Args:
      correct, wrong: a token id, int[batch], int[batch, n], or a list of token sets (one per prompt, any sizes;
        -1 in an array is padding).
      pos: where it is read; -1 is each prompt's last token.

    Example:
      >>> metric = ji.logit_diff(correct=[3, 5], wrong=[4, 6])  # one pair per prompt
      >>> metric = ji.logit_diff(correct=[[3, 7], [5]], wrong=[[4], [6]])  # sets of answers
    """
    correct, wrong = _answer_sets("correct", correct), _answer_sets("wrong", wrong)
    if correct.ndim == 0 and wrong.ndim == 0:
        return Metric(_first_minus_second, positions=pos, columns=np.stack([correct, wrong]))
    batch = max(len(a) for a in (correct, wrong) if a.ndim)
    correct, wrong = (np.full((batch, 1), a) if a.ndim == 0 else a for a in (correct, wrong))
    if len(correct) != len(wrong):
        raise ValueError(f"correct holds answers for {len(correct)} prompts, wrong for {len(wrong)}")
    xp = jnp if isinstance(correct, jax.Array) or isinstance(wrong, jax.Array) else np
    columns = xp.maximum(xp.concatenate([correct, wrong], axis=1), 0)
    weights = xp.concatenate([_weights(correct), -_weights(wrong)], axis=1)
    return Metric(_weighted, weights, positions=pos, columns=columns)


def _log_prob(logits: jax.Array, cache: Any, tokens: jax.Array) -> jax.Array:
    log_probs = read_columns(jax.nn.log_softmax(logits), jnp.maximum(tokens, 0))
    return jax.nn.logsumexp(jnp.where(tokens[:, None] >= 0, log_probs, -jnp.inf), axis=-1).mean(axis=1)


def _prob(logits: jax.Array, cache: Any, tokens: jax.Array) -> jax.Array:
    probs = read_columns(jax.nn.softmax(logits), jnp.maximum(tokens, 0))
    return jnp.sum(jnp.where(tokens[:, None] >= 0, probs, 0), axis=-1).mean(axis=1)


def log_prob(token: Any, pos: Any = -1) -> Metric:
    """Log-probability of the answer, in nats; of a set of answers, the log of their total probability.

    Args:
      token: int[batch], int[batch, n] or a list of token sets, as in `logit_diff`.
      pos: where it is read.

    Example:
      >>> metric = ji.log_prob([3, 5])
    """
    return Metric(_log_prob, _per_prompt("token", token), positions=pos)


def prob(token: Any, pos: Any = -1) -> Metric:
    """Probability of the answer (of any of a set of answers). Exponential in what the model adds: prefer `log_prob`.

    Example:
      >>> metric = ji.prob([3, 5])
    """
    return Metric(_prob, _per_prompt("token", token), positions=pos)


def _rank(logits: jax.Array, cache: Any, tokens: jax.Array) -> jax.Array:
    own = read_columns(logits, tokens)
    return jnp.sum(logits > own, axis=-1).astype(logits.dtype).mean(axis=1)


def rank(token: Any, pos: Any = -1) -> Metric:
    """How many tokens have a larger logit than the answer: 0 is the top.

    Example:
      >>> metric = ji.rank([3, 5])
    """
    tokens = _per_prompt("token", token)
    if tokens.shape[1] != 1:
        raise ValueError(f"rank needs one token per prompt, got {tokens.shape[1]}")
    return Metric(_rank, tokens, positions=pos)


def _per_prompt(name: str, answers: Any) -> Any:
    answers = _answer_sets(name, answers)
    if answers.ndim == 0:
        raise ValueError(f"{name} must hold one answer (or set of answers) per prompt, got a single int")
    return answers


def _cross_entropy(logits: jax.Array, cache: Any, targets: jax.Array) -> jax.Array:
    log_probs = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.maximum(targets, 0)[..., None], axis=-1)[..., 0]
    there = targets >= 0
    return -jnp.sum(jnp.where(there, log_probs, 0), axis=1) / jnp.sum(there, axis=1)


def cross_entropy(targets: Any, pos: Any = None) -> Metric:
    """Mean of -log p(target) over each prompt's targets, in nats: losses, and answers of several tokens.

    Args:
      targets: int[batch, n]: what should follow each position read; -1 leaves a position out.
      pos: the n positions read, shared or `ji.per_example(int[batch, n])`; None for all.

    Example:
      >>> next_token = jnp.pad(tokens[:, 1:], ((0, 0), (0, 1)), constant_values=-1)
      >>> metric = ji.cross_entropy(next_token)
    """
    targets = targets if isinstance(targets, jax.Array) else np.asarray(targets)
    if targets.ndim != 2 or not jnp.issubdtype(targets.dtype, jnp.integer):
        raise ValueError(f"targets must be int[batch, n], got {targets.dtype}{list(targets.shape)}")
    if is_concrete(targets) and not (np.asarray(targets) >= 0).any(axis=1).all():
        raise ValueError("targets has a prompt without any target")
    return Metric(_cross_entropy, targets, positions=pos)


def _kl(logits: jax.Array, cache: Any, reference: jax.Array) -> jax.Array:
    log_p, log_q = jax.nn.log_softmax(reference.astype(logits.dtype)), jax.nn.log_softmax(logits)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1).mean(axis=1)


def kl_divergence(reference_logits: Any, pos: Any = -1) -> Metric:
    """KL(reference || model), in nats, averaged over the positions read.

    Args:
      reference_logits: [batch, n, vocab] at the same positions, or [batch, vocab] for a single one.
      pos: the positions read.

    Example:
      >>> logits, _ = model.apply(params, tokens)
      >>> metric = ji.kl_divergence(logits[:, -1])
    """
    if np.ndim(reference_logits) not in (2, 3):
        raise ValueError(
            f"reference_logits must be [batch, n, vocab] or [batch, vocab], got {np.shape(reference_logits)}"
        )
    reference = reference_logits if np.ndim(reference_logits) == 3 else reference_logits[:, None]
    return Metric(_kl, reference, positions=pos)
