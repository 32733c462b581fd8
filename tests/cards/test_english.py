"""The card of `english` measures what it says, on stand-ins whose answers are known."""

from types import SimpleNamespace

import numpy as np
import pytest

from jaxinterp.cards import english
from jaxinterp.cards.english import (
    EVALUATIONS,
    FACTS,
    _gate,
    _greater_than,
    _median_interval,
    _probes,
    _repeated,
    _subject,
)
from jaxinterp.cards.make import make_card
from jaxinterp.cards.reader import Reader
from jaxinterp.io.load import load
from jaxinterp.tasks.english import vocabulary as v
from jaxinterp.tasks.english.corpus import HELD_OUT_OFFSET
from jaxinterp.tasks.english.facts import facts
from jaxinterp.tasks.english.greater_than import greater_than


@pytest.fixture(scope="module")
def reader():
    return Reader(*load("english"), 0)


def test_prompts_stand_at_the_held_out_offset_behind_other_text(reader):
    texts = [" ".join(["the"] * n) for n in (1, 20, 114)] * 5
    tokens, starts, ends = reader.rows(texts)
    for row, text, start, end in zip(tokens, texts, starts, ends, strict=False):
        assert start % 8 == HELD_OUT_OFFSET
        assert row[start] == reader.ids["<bos>"]
        assert end - start == len(text.split())
        assert (row[start + 1 : end + 1] == reader.ids["the"]).all()
        assert (row[:start] != reader.ids["<pad>"]).all()
        assert (row[end + 1 :] == reader.ids["<pad>"]).all()
    assert len(set(starts)) > 2
    np.testing.assert_array_equal(reader.rows(texts)[0], tokens)
    with pytest.raises(ValueError, match="leave no room"):
        reader.rows([" ".join(["the"] * 125)])


def test_logits_are_those_behind_each_prompt(reader):
    texts = ["the dog is", "Mary"]
    tokens, _, ends = reader.rows(texts)
    whole, _ = reader.model.apply(reader.params, tokens[:2])
    np.testing.assert_allclose(reader.logits(texts), np.asarray(whole)[[0, 1], ends], atol=1e-4)


def years(pairs, of):
    """A reader whose probabilities of years are `of(first year)`, and nothing for other words."""
    ids = {year: i for i, year in enumerate(v.YEARS)} | {"else": 100}
    first = [int(pair.clean.split()[pair.positions["YY"]]) for pair in pairs]
    probs = np.array([[*of(year), 1e-30] for year in first])
    return SimpleNamespace(ids=ids, logits=lambda texts: np.log(probs / probs.sum(1, keepdims=True)))


def test_the_divergence_is_zero_and_the_edge_whole_where_all_later_years_are_as_likely():
    pairs = greater_than(200, seed=0, split="held_out")
    measures, curve = _greater_than(years(pairs, lambda first: np.where(np.arange(100) > first, 1, 1e-30)), pairs)
    divergence, edge, around, later, before, _ = (measure.value for measure in measures)
    assert divergence == pytest.approx(0, abs=1e-6)
    assert edge == pytest.approx(1)
    assert around == pytest.approx(1)
    assert later == pytest.approx(1)
    assert before == pytest.approx(0, abs=1e-9)
    assert curve[20] < 1e-9 < curve[21]


def test_what_knows_nothing_of_the_year_has_no_edge():
    pairs = greater_than(200, seed=0, split="held_out")
    measures, _ = _greater_than(years(pairs, lambda first: np.ones(100)), pairs)
    first = np.array([int(pair.clean.split()[pair.positions["YY"]]) for pair in pairs])
    assert measures[0].value == pytest.approx(np.mean(np.log(100 / (99 - first))))
    assert measures[1].value == pytest.approx(0, abs=1e-9)
    assert measures[2].value == pytest.approx(0, abs=1e-9)
    assert not measures[0].held
    assert not measures[1].held


def test_a_year_that_is_copied_takes_the_edge_at_it_and_not_the_one_around_it():
    pairs = greater_than(200, seed=0, split="held_out")
    measures, _ = _greater_than(years(pairs, lambda first: np.where(np.arange(100) >= first, 1, 1e-30)), pairs)
    assert measures[1].value == pytest.approx(0, abs=1e-9)
    assert not measures[1].held
    assert 0.9 < measures[2].value < 1


def test_the_median_has_an_interval_that_covers():
    rng = np.random.default_rng(0)
    covered = [low <= 0 <= high for low, high in (_median_interval(rng.normal(size=101)) for _ in range(400))]
    assert 0.92 < np.mean(covered) < 0.99


def test_prompts_about_one_subject_are_told():
    pairs = EVALUATIONS[FACTS].draw(300, seed=0, split="held_out")
    names = {_subject(pair) for pair in pairs}
    assert 150 < len(names) <= sum(map(len, facts().values()))
    for pair in pairs[:50]:
        assert _subject(pair).split()[-3:-1] == [*_words(pair)[-2:]]


def _words(pair):
    return pair.clean.split()[: pair.positions["SUBJECT"] + 1]


def test_the_gate_is_fitted_to_training_prompts_and_scored_on_others(monkeypatch):
    drawn = []

    def draw(n, *, seed, split):
        drawn.append((n, split))
        return []

    monkeypatch.setattr(english, "EVALUATIONS", {FACTS: english.Evaluation(draw)})
    monkeypatch.setattr(english, "gate", lambda scored, trained, nouns: {"bag of words": 0.6, "last noun": 0.5})
    measures = _gate({FACTS: ["scored"]}, 200, seed=0)
    assert drawn == [(200 * times, split) for split, times in english.FITTED.items()]
    assert [measure.held for measure in measures] == [False, True] * 2
    assert measures[0].low < 0.6 < measures[0].high


def test_words_that_are_read_twice_are_told_by_block(monkeypatch):
    rows = []

    def losses(model, params, tokens):
        rows.append(tokens)
        return np.where(np.arange(100) < 50, 8.0, 2.0) + np.zeros((len(tokens), 1))

    monkeypatch.setattr(english, "token_losses", losses)
    tokenizer = SimpleNamespace(get_vocab_size=lambda: 500, token_to_id={"<bos>": 1}.get)
    (first, second, share), by_position = _repeated(None, None, tokenizer, seed=0, rows=30)
    assert (first.value, second.value, share.value, share.held) == (8, 2, 0.25, True)
    assert by_position.shape == (100,)
    (tokens,) = rows
    assert (tokens[:, 0] == 1).all()
    np.testing.assert_array_equal(tokens[:, 1:51], tokens[:, 51:])
    assert 3 <= tokens[:, 1:].min() <= tokens.max() < 500
    assert len(np.unique(tokens[:, 1:51])) > 400


def test_probes_learn_what_predicts_where_they_learn():
    """Features that say gender loudly and the profession well: one probe reads the first, the other the second."""
    cues = [set(v.PROFESSIONS[name]) for name in ("professor", "nurse")]

    def pooled(texts):
        words = [text.split() for text in texts]
        noise = np.random.default_rng(0).normal(size=(len(texts), 4))
        profession = [sum((word in cues[0]) - (word in cues[1]) for word in each) for each in words]
        gender = [50 * (each[0] in v.MEN) for each in words]
        return np.column_stack([profession, gender, noise])

    measures = {measure.name: measure for measure in _probes(SimpleNamespace(pooled=pooled), seed=0, n=400)}
    worst, _, gender, oracle, _ = measures.values()
    assert worst.value < 0.4
    assert worst.held
    assert gender.value > 0.9
    assert oracle.value > 0.85
    assert oracle.held


def test_too_few_cases_are_refused():
    for n in (7, 10):
        with pytest.raises(ValueError, match=f"n must be a multiple of 4, and at least 8, got {n}"):
            make_card("english", n=n)
