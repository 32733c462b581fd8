"""Bigram and trigram models, what a language model is measured against: interpolated Kneser-Ney smoothing."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Order:
    """The counts of one order n, as sorted arrays; a gram is the number that its tokens write in base `d_vocab`.

    Attributes:
      grams, counts: the n-grams that were seen, and how often.
      contexts, totals, kinds: their first n - 1 tokens, how often these were seen, and before how many tokens.
      discount: what every count is lowered by.
    """

    grams: np.ndarray
    counts: np.ndarray
    contexts: np.ndarray
    totals: np.ndarray
    kinds: np.ndarray
    discount: float


@dataclass(frozen=True)
class NGrams:
    """A smoothed n-gram model; made by `fit_ngrams`.

    Attributes:
      d_vocab: how many tokens there are.
      orders: the counts, of unigrams first.
    """

    d_vocab: int
    orders: tuple[Order, ...]


def fit_ngrams(rows: np.ndarray, real: np.ndarray, *, n: int, d_vocab: int) -> NGrams:
    """An n-gram model by interpolated Kneser-Ney smoothing (Chen and Goodman 1999).

    The highest order has counts c, and `p(w | context) = (max(c - D, 0) + D kinds p_lower(w)) / total`; the
    orders below count in how many contexts a gram was seen in place of how often. The discount D of an order is
    `n1 / (n1 + 2 n2)`, from how many of its grams have the counts 1 and 2.

    Args:
      rows: int[row, pos] tokens; each begins with what stands for the beginning.
      real: bool[row, pos - 1], which of the tokens after the first to learn from.
      n: how many tokens a gram has, 2 for a bigram model.
      d_vocab: how many tokens there are.

    Raises:
      ValueError: nothing to learn from, tokens out of the vocabulary, or too many possible grams to number.

    Example:
      >>> from jaxinterp.tasks.ngrams import fit_ngrams, ngram_losses
      >>> rows = np.array([[0, 1, 2, 1, 2, 1, 3]])
      >>> bigrams = fit_ngrams(rows, rows[:, 1:] > 0, n=2, d_vocab=4)
      >>> likely, unlikely = ngram_losses(bigrams, np.array([[0, 1, 2], [0, 1, 1]]))[:, 1]
      >>> bool(likely < unlikely)
      True
    """
    if n < 1 or d_vocab**n >= 2**63:
        raise ValueError(f"cannot number the {n}-grams of {d_vocab} tokens")
    if not np.any(real):
        raise ValueError("no tokens to learn from")
    grams, counts = np.unique(_grams(rows, n, d_vocab)[real], return_counts=True)
    orders: list[Order] = []
    for order in range(n, 0, -1):
        contexts, which = np.unique(grams // d_vocab, return_inverse=True)
        once, twice = (int((counts == count).sum()) for count in (1, 2))
        discount = once / (once + 2 * twice) if once and twice else 0.5
        totals, kinds = np.bincount(which, counts), np.bincount(which)
        orders.insert(0, Order(grams, counts, contexts, totals, kinds, discount))
        # without its first token, a gram counts once for each token that was seen before it
        grams, counts = np.unique(grams % d_vocab ** (order - 1), return_counts=True)
    return NGrams(d_vocab, tuple(orders))


def ngram_losses(model: NGrams, rows: np.ndarray) -> np.ndarray:
    """The loss of every token after the first of its row, in nats: float64[row, pos - 1].

    A token's context is what stands before it in its row; before the first token it is that token again.

    Raises:
      ValueError: tokens out of the vocabulary.

    Example:
      >>> from jaxinterp.tasks.ngrams import fit_ngrams, ngram_losses
      >>> rows = np.array([[0, 1, 2, 1, 2]])
      >>> model = fit_ngrams(rows, rows[:, 1:] > 0, n=2, d_vocab=3)
      >>> after_one = ngram_losses(model, np.array([[0, 1, 0], [0, 1, 1], [0, 1, 2]]))[:, 1]
      >>> bool(np.isclose(np.exp(-after_one).sum(), 1))
      True
    """
    probability = np.full((len(rows), rows.shape[1] - 1), 1 / model.d_vocab)
    for n, order in enumerate(model.orders, start=1):
        grams = _grams(rows, n, model.d_vocab)
        counts = _look_up(order.grams, order.counts, grams)
        totals = _look_up(order.contexts, order.totals, grams // model.d_vocab)
        kinds = _look_up(order.contexts, order.kinds, grams // model.d_vocab)
        seen = np.maximum(counts - order.discount, 0) + order.discount * kinds * probability
        probability = np.where(totals > 0, seen / np.maximum(totals, 1), probability)
    return -np.log(probability)


def _grams(rows: np.ndarray, n: int, d_vocab: int) -> np.ndarray:
    """The n-gram that ends at each token after the first of its row, int64[row, pos - 1]."""
    rows = np.asarray(rows, np.int64)
    if rows.min() < 0 or rows.max() >= d_vocab:
        raise ValueError(f"tokens run from {rows.min()} to {rows.max()}, expected 0 to {d_vocab - 1}")
    padded = np.concatenate([np.repeat(rows[:, :1], max(0, n - 2), axis=1), rows], axis=1)
    width = rows.shape[1] - 1
    grams = np.zeros((len(rows), width), np.int64)
    for back in range(n - 1, -1, -1):
        end = padded.shape[1] - back
        grams = grams * d_vocab + padded[:, end - width : end]
    return grams


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The values of keys (sorted) where they are wanted; 0 for those that do not exist."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)
