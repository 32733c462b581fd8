"""What the card of `induction` measures, against definitions in loops."""

import numpy as np
import optax
import pytest

import jaxinterp as ji
from jaxinterp.cards.induction import card, head_scores, package_mean
from jaxinterp.cards.losses import token_losses
from jaxinterp.tasks.text import byte_pair_tokenizer


def test_head_scores_are_the_attention_to_the_named_places(small):
    model, params, _ = small
    n, draws = 6, 19  # more than a chunk
    scores, losses = head_scores(model, params, n=n, draws=draws, seed=3)
    assert losses.shape == (draws, 2 * n)
    rows = np.random.default_rng(3).random((draws, model.config.d_vocab - 1)).argsort(axis=1)[:, :n] + 1
    rows = np.concatenate([np.zeros((draws, 1), int), rows, rows], axis=1)
    logits, cache = model.apply(params, rows, capture=("pattern",))
    pattern = np.asarray(cache["pattern"])
    places = {"induction": lambda i: i - n + 1, "previous token": lambda i: i - 1, "duplicate token": lambda i: i - n}
    assert scores.keys() == places.keys()
    for name, place in places.items():
        expected = sum(pattern[..., i, place(i)] for i in range(n + 1, 2 * n + 1)) / n
        np.testing.assert_allclose(scores[name], expected.transpose(1, 0, 2), atol=1e-6)
        if name == "duplicate token":
            assert (np.take_along_axis(rows, np.full((draws, 1), n + 2), 1) == rows[:, [place(n + 2)]]).all()
    expected = optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], rows[:, 1:])
    np.testing.assert_allclose(losses, expected, atol=1e-4)


def test_random_tokens_must_fit(small):
    model, params, _ = small
    with pytest.raises(ValueError, match="n must be 2 to 7, got 8"):
        head_scores(model, params, n=8)


def test_losses_do_not_depend_on_how_rows_are_cut(small):
    model, params, _ = small
    rows = np.random.default_rng(0).integers(50, size=(35, 9)).astype(np.int32)
    losses = token_losses(model, params, rows)
    np.testing.assert_allclose(losses[20:], token_losses(model, params, rows[20:]), atol=1e-5)


def test_means_weigh_every_token_alike_and_intervals_cluster():
    rng = np.random.default_rng(1)
    package = np.repeat(np.arange(40), 5)
    values = rng.normal(size=(200, 8)) + rng.normal(size=40)[package][:, None]
    where = rng.random((200, 8)) < 0.7
    value, low, high, n = package_mean(values, where, package)
    np.testing.assert_allclose(value, values[where].mean())
    assert n == 40
    assert low < value < high
    # 40 packages, and not 1,120 tokens, are what the mean is from
    assert 0.5 < (high - low) / (2 * 1.96 / 40**0.5) < 2


def test_means_by_position():
    values = np.tile(np.arange(8.0), (6, 1))
    value, low, high, _ = package_mean(values, np.ones((6, 8), bool), np.array([0, 0, 1, 1, 2, 2]), bins=4)
    for each in (value, low, high):
        np.testing.assert_allclose(each, [0.5, 2.5, 4.5, 6.5])


def test_one_package_has_no_interval():
    with pytest.raises(ValueError, match="at least two packages, got 1"):
        package_mean(np.ones((2, 3)), np.array([[True] * 3, [False] * 3]), np.array([0, 1]))


def test_what_does_not_fit_is_refused(small):
    model, params, _ = small
    texts = {"train": {"a": "one"}, "evaluation": {"b": "two", "c": "three"}, "source": "a test"}
    with pytest.raises(ValueError, match="the tokenizer has 257 tokens, the model 50"):
        card(model, params, byte_pair_tokenizer(["a"], size=257), None, **texts)


def test_the_built_in_model_has_the_heads_of_its_card():
    model, params, tokenizer = ji.load("induction")
    scores, losses = head_scores(model, params, bos=tokenizer.token_to_id("<bos>"), n=50, draws=8)
    assert scores["induction"].mean(0)[1].max() > 0.1
    assert scores["previous token"].mean(0)[0].max() > 0.35
    assert losses[:, 51:].mean() < losses[:, 1:50].mean() - 0.5
