"""The n-gram models against a definition in dictionaries."""

from collections import Counter

import numpy as np
import pytest

from jaxinterp.tasks.ngrams import fit_ngrams, ngram_losses

D_VOCAB = 6


def naive_probability(rows, n, gram):
    """Interpolated Kneser-Ney, term by term."""
    counts = Counter(g for row in rows for g in _grams_of(row, n))
    probability = 1 / D_VOCAB
    orders = [counts]
    for _ in range(n - 1):
        orders.insert(0, Counter(g[1:] for g in orders[0]))
    for order, seen in enumerate(orders, start=1):
        once, twice = (sum(count == k for count in seen.values()) for k in (1, 2))
        discount = once / (once + 2 * twice) if once and twice else 0.5
        context = gram[len(gram) - order : -1]
        after = {g: count for g, count in seen.items() if g[:-1] == context}
        if after:
            own = max(after.get(gram[len(gram) - order :], 0) - discount, 0)
            probability = (own + discount * len(after) * probability) / sum(after.values())
    return probability


def _grams_of(row, n):
    padded = [row[0]] * max(0, n - 2) + row
    return [tuple(padded[end - n : end]) for end in range(len(padded) - len(row) + 2, len(padded) + 1)]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_losses_are_those_of_the_definition(n):
    rng = np.random.default_rng(n)
    rows = np.concatenate([np.zeros((4, 1), int), rng.integers(1, D_VOCAB - 1, size=(4, 15))], axis=1)
    new = np.concatenate([np.zeros((5, 1), int), rng.integers(1, D_VOCAB, size=(5, 8))], axis=1)
    model = fit_ngrams(rows, np.ones((4, 15), bool), n=n, d_vocab=D_VOCAB)
    losses = ngram_losses(model, new)
    for row, found in zip(new.tolist(), losses, strict=True):
        expected = [-np.log(naive_probability(rows.tolist(), n, gram)) for gram in _grams_of(row, n)]
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_probabilities_add_up_to_one(n):
    rng = np.random.default_rng(7)
    rows = rng.integers(D_VOCAB, size=(3, 20))
    model = fit_ngrams(rows, np.ones((3, 19), bool), n=n, d_vocab=D_VOCAB)
    for context in rng.integers(D_VOCAB, size=(10, 4)):
        rows = np.concatenate([np.tile(context, (D_VOCAB, 1)), np.arange(D_VOCAB)[:, None]], axis=1)
        np.testing.assert_allclose(np.exp(-ngram_losses(model, rows)[:, -1]).sum(), 1)


def test_only_real_tokens_are_learnt_from():
    rows = np.array([[0, 1, 2, 1, 0, 0], [0, 2, 1, 2, 3, 0]])
    real = rows[:, 1:] > 0
    model = fit_ngrams(rows, real, n=2, d_vocab=4)
    assert 0 not in model.orders[1].grams % 4
    assert model.orders[1].counts.sum() == real.sum()


def test_wrong_input_is_refused():
    rows = np.array([[0, 1, 2]])
    real = np.ones((1, 2), bool)
    with pytest.raises(ValueError, match="tokens run from 0 to 2, expected 0 to 1"):
        fit_ngrams(rows, real, n=2, d_vocab=2)
    with pytest.raises(ValueError, match="no tokens to learn from"):
        fit_ngrams(rows, ~real, n=2, d_vocab=3)
    with pytest.raises(ValueError, match="cannot number the 9-grams"):
        fit_ngrams(rows, real, n=9, d_vocab=4096)
    with pytest.raises(ValueError, match="tokens run from 0 to 3"):
        ngram_losses(fit_ngrams(rows, real, n=2, d_vocab=3), np.array([[0, 3]]))
