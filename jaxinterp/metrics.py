"""What a run is scored by: functions of a few logits (and captured activations) to one number per prompt.

A metric is a pytree with a static function: new answers, or other prompts of the same shape, do not recompile.
It declares which positions and which columns of the unembedding it reads, so that the others need not exist.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp.model.config import suggest
from jaxinterp.model.interventions import check_finite
from jaxinterp.model.layers import take_columns
from jaxinterp.model.run import check_positions, gather_rows, n_positions_read
from jaxinterp.model.where import Geometry, PerExample, is_concrete


@jax.tree_util.register_pytree_node_class
class Metric:
    """A score for each prompt: `fn(logits[batch, n_positions, n_columns], cache, *data) -> [batch]`.

    Args:
      fn: a pure function; static, so pass the same object to reuse a compilation.
      *data: arrays (pytrees) whose leaves lead with `batch`, or scalars; answers, weights, reference logits.
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
        columns = columns if columns is None or isinstance(columns, jax.Array) else np.asarray(columns)
        self.fn, self.data, self.positions, self.columns = fn, data, positions, columns
        #: Raises, given (positions read, size of the vocabulary), if the data do not fit them; lost by `tree.map`.
        self.fits: Callable[[int, int | None], None] | None = None
        self.capture = dict(capture) if isinstance(capture, Mapping) else dict.fromkeys(capture)

    def tree_flatten(self) -> tuple[Any, Any]:
        """The arrays, and the function."""
        return (self.data, self.positions, self.columns, self.capture), self.fn

    @classmethod
    def tree_unflatten(cls, fn: Any, children: Any) -> "Metric":
        """The inverse of `tree_flatten`."""
        metric = object.__new__(cls)
        metric.fn, metric.fits = fn, None
        metric.data, metric.positions, metric.columns, metric.capture = children
        return metric


def score(metric: Metric, logits: jax.Array, cache: Mapping[str, jax.Array], geometry: Geometry) -> jax.Array:
    """The metric of full logits: [batch, pos, vocab] -> [batch]. The definition that faster paths are held to."""
    return score_read(metric, take_columns(gather_rows(logits, metric.positions, geometry), metric.columns), cache)


def score_read(metric: Metric, logits: jax.Array, cache: Mapping[str, jax.Array]) -> jax.Array:
    """The metric of just the logits it reads: [batch, n_positions, n_columns] -> [batch]."""
    values = metric.fn(logits, {name: cache[name] for name in metric.capture}, *metric.data)
    if not jnp.issubdtype(values.dtype, jnp.floating):
        values = values.astype(logits.dtype)  # counts and hits are averaged like anything else
    if values.shape != logits.shape[:1]:
        raise ValueError(f"a metric must return one number per prompt, {logits.shape[:1]}, got {values.shape}")
    return values


def check_metric(metric: Any, geometry: Geometry, d_vocab: int | None) -> None:
    """Raises for a metric that does not fit the prompts: other batch, positions beyond a prompt, unknown columns."""
    if not isinstance(metric, Metric):
        raise TypeError(f"metric= expects a ji.Metric (ji.logit_diff, ...), got {type(metric).__name__}")
    for leaf in jax.tree.leaves(metric.data):
        if np.ndim(leaf) and np.shape(leaf)[0] != geometry.batch:
            raise ValueError(f"metric data of shape {np.shape(leaf)} must lead with batch = {geometry.batch}")
    columns = metric.columns
    if columns is not None:
        if np.ndim(columns) == 2 and np.shape(columns)[0] != geometry.batch:
            raise ValueError(f"metric columns of shape {np.shape(columns)} must lead with batch = {geometry.batch}")
        if d_vocab is not None and is_concrete(columns) and not 0 <= np.min(columns) <= np.max(columns) < d_vocab:
            raise ValueError(f"metric reads column {int(np.max(columns))}; the logits have {d_vocab} columns")
    check_positions("metric reads position", metric.positions, geometry)
    if metric.fits is not None:
        metric.fits(n_positions_read(metric.positions, geometry), d_vocab)


def _answer_sets(name: str, answers: Any) -> np.ndarray | jax.Array:
    """Answers as int[] (shared by all prompts), or int[batch, n] padded with -1."""
    if isinstance(answers, (list, tuple)) and any(isinstance(a, (list, tuple, set, np.ndarray)) for a in answers):
        sets = [list(np.atleast_1d(np.asarray(sorted(a) if isinstance(a, set) else a))) for a in answers]
        if not all(sets):
            raise ValueError(f"{name} has an empty answer set at prompt {[bool(s) for s in sets].index(False)}")
        longest = max(map(len, sets))
        answers = np.array([s + [-1] * (longest - len(s)) for s in sets])
    answers = answers if isinstance(answers, jax.Array) else np.asarray(answers)
    if not jnp.issubdtype(answers.dtype, jnp.integer):
        raise TypeError(f"{name} must be token ids (a tokenizer turns text into them), got {answers.dtype}")
    if answers.ndim > 2:
        raise ValueError(f"{name} must be an int, int[batch] or int[batch, n], got shape {answers.shape}")
    answers = answers[:, None] if answers.ndim == 1 else answers
    if is_concrete(answers):
        for prompt, ids in enumerate(np.atleast_2d(np.asarray(answers))):
            real = ids[ids != -1]
            if (real < 0).any() or not len(real):
                raise ValueError(
                    f"{name} of prompt {prompt} is {ids.tolist()}: token ids are not negative (-1 pads sets)"
                )
            if len(set(real.tolist())) < len(real):
                raise ValueError(f"{name} of prompt {prompt} names a token twice: {ids.tolist()}")
    return answers


def _in_vocabulary(name: str, ids: Any) -> Callable[[int, int | None], None]:
    """A check that token ids exist."""

    def fits(n_positions: int, d_vocab: int | None) -> None:
        if d_vocab is not None and is_concrete(ids) and np.max(ids) >= d_vocab:
            raise ValueError(f"{name} holds token id {int(np.max(ids))}, out of vocabulary: the logits have {d_vocab}")

    return fits


def _checked(metric: Metric, fits: Callable[[int, int | None], None]) -> Metric:
    metric.fits = fits
    return metric


def _weights(answers: Any) -> Any:
    """Equal weights over each prompt's answers, 0 on padding."""
    there = (answers >= 0).astype(float)
    return there / there.sum(axis=1, keepdims=True)


def _log_sum_difference(logits: jax.Array, cache: Any, weights: jax.Array) -> jax.Array:
    def total(chosen: jax.Array) -> jax.Array:
        return jax.nn.logsumexp(jnp.where(chosen[:, None], logits, -jnp.inf), axis=-1)

    return (total(weights > 0) - total(weights < 0)).mean(axis=1)


def _weighted(logits: jax.Array, cache: Any, weights: jax.Array) -> jax.Array:
    return jnp.sum(logits * weights[:, None].astype(logits.dtype), axis=-1).mean(axis=1)


def _first_minus_second(logits: jax.Array, cache: Any) -> jax.Array:
    return (logits[..., 0] - logits[..., 1]).mean(axis=1)


def logit_diff(correct: Any, wrong: Any, pos: Any = -1, *, over_sets: str = "mean") -> Metric:
    """Mean logit of the correct answers minus mean logit of the wrong ones, in logits (= difference of log-probs).

    Args:
      correct, wrong: a token id, int[batch], int[batch, n], or a list of token sets (one per prompt, any sizes;
        -1 in an array is padding).
      pos: where it is read; -1 is each prompt's last token.
      over_sets: "mean", or "logsumexp" for the log-odds of any correct against any wrong answer.

    Example:
      >>> metric = ji.logit_diff(correct=[3, 5], wrong=[4, 6])  # one pair per prompt
      >>> metric = ji.logit_diff(correct=[[3, 7], [5]], wrong=[[4], [6]])  # sets of answers
    """
    if over_sets not in ("mean", "logsumexp"):
        raise ValueError(f"unknown over_sets {over_sets!r}; {suggest(over_sets, ('mean', 'logsumexp'))}")
    correct, wrong = _answer_sets("correct", correct), _answer_sets("wrong", wrong)
    if correct.ndim == 0 and wrong.ndim == 0:
        shared = Metric(_first_minus_second, positions=pos, columns=np.stack([correct, wrong]))
        return _checked(shared, _in_vocabulary("logit_diff", np.maximum(correct, wrong)))
    batch = max(len(a) for a in (correct, wrong) if a.ndim)
    correct, wrong = (np.full((batch, 1), a) if a.ndim == 0 else a for a in (correct, wrong))
    if len(correct) != len(wrong):
        raise ValueError(f"correct holds answers for {len(correct)} prompts, wrong for {len(wrong)}")
    xp = jnp if isinstance(correct, jax.Array) or isinstance(wrong, jax.Array) else np
    columns = xp.maximum(xp.concatenate([correct, wrong], axis=1), 0)
    weights = xp.concatenate([_weights(correct), -_weights(wrong)], axis=1)
    fn = _weighted if over_sets == "mean" else _log_sum_difference
    return _checked(Metric(fn, weights, positions=pos, columns=columns), _in_vocabulary("logit_diff", columns))


def _by_prompt(tokens: jax.Array, logits: jax.Array) -> jax.Array:
    """int[batch, n] answers; one token for all prompts is repeated."""
    return jnp.broadcast_to(tokens, (logits.shape[0], 1)) if tokens.ndim == 0 else tokens


def _log_prob(logits: jax.Array, cache: Any, tokens: jax.Array) -> jax.Array:
    tokens = _by_prompt(tokens, logits)
    log_probs = take_columns(jax.nn.log_softmax(logits), jnp.maximum(tokens, 0))
    return jax.nn.logsumexp(jnp.where(tokens[:, None] >= 0, log_probs, -jnp.inf), axis=-1).mean(axis=1)


def _prob(logits: jax.Array, cache: Any, tokens: jax.Array) -> jax.Array:
    tokens = _by_prompt(tokens, logits)
    probs = take_columns(jax.nn.softmax(logits), jnp.maximum(tokens, 0))
    return jnp.sum(jnp.where(tokens[:, None] >= 0, probs, 0), axis=-1).mean(axis=1)


def log_prob(token: Any, pos: Any = -1) -> Metric:
    """Log-probability of the answer, in nats; of a set of answers, the log of their total probability.

    Args:
      token: a token id, int[batch], int[batch, n] or a list of token sets, as in `logit_diff`.
      pos: where it is read.

    Example:
      >>> metric = ji.log_prob([3, 5])
    """
    tokens = _answer_sets("token", token)
    return _checked(Metric(_log_prob, tokens, positions=pos), _in_vocabulary("token", tokens))


def prob(token: Any, pos: Any = -1) -> Metric:
    """Probability of the answer (of any of a set of answers). Exponential in what the model adds: prefer `log_prob`.

    Example:
      >>> metric = ji.prob([3, 5])
    """
    tokens = _answer_sets("token", token)
    return _checked(Metric(_prob, tokens, positions=pos), _in_vocabulary("token", tokens))


def _rank(logits: jax.Array, cache: Any, tokens: jax.Array) -> jax.Array:
    own = take_columns(logits, _by_prompt(tokens, logits))
    return jnp.sum(logits > own, axis=-1).astype(logits.dtype).mean(axis=1)


def rank(token: Any, pos: Any = -1) -> Metric:
    """How many tokens have a larger logit than the answer: 0 is the top.

    Example:
      >>> metric = ji.rank([3, 5])
    """
    tokens = _answer_sets("token", token)
    if tokens.ndim == 2 and tokens.shape[1] != 1:
        raise ValueError(f"rank needs one token per prompt, got {tokens.shape[1]}")
    return _checked(Metric(_rank, tokens, positions=pos), _in_vocabulary("token", tokens))


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
    if is_concrete(targets) and targets.size and np.min(targets) < -1:
        raise ValueError(f"targets holds {int(np.min(targets))}: token ids are not negative (-1 leaves a position out)")
    if targets.ndim != 2 or not jnp.issubdtype(targets.dtype, jnp.integer):
        raise ValueError(f"targets must be int[batch, n], got {targets.dtype}{list(targets.shape)}")
    if is_concrete(targets) and not (np.asarray(targets) >= 0).any(axis=1).all():
        raise ValueError("targets has a prompt without any target")

    def fits(n_positions: int, d_vocab: int | None) -> None:
        if targets.shape[1] != n_positions:
            raise ValueError(f"targets hold {targets.shape[1]} tokens per prompt, {n_positions} positions are read")
        _in_vocabulary("targets", targets)(n_positions, d_vocab)

    return _checked(Metric(_cross_entropy, targets, positions=pos), fits)


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
    reference = reference_logits if isinstance(reference_logits, jax.Array) else np.asarray(reference_logits)
    check_finite("reference_logits", reference)
    reference = reference if reference.ndim == 3 else reference[:, None]

    def fits(n_positions: int, d_vocab: int | None) -> None:
        expected = (n_positions, reference.shape[2] if d_vocab is None else d_vocab)
        if reference.shape[1:] != expected:
            raise ValueError(f"reference_logits are {list(reference.shape[1:])} per prompt, {list(expected)} are read")

    return _checked(Metric(_kl, reference, positions=pos), fits)
