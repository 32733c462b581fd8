"""What holds of every task of `english`: alignment, answers, positions, seeds, splits; and what each alone promises."""

from collections import Counter
from itertools import islice, product

import numpy as np
import pytest

import jaxinterp as ji
from jaxinterp.cards.english import EVALUATIONS, FITTED, NOUNS
from jaxinterp.cards.shortcuts import gate
from jaxinterp.tasks.english import (
    agreement,
    arguments,
    biographies,
    facts_about,
    greater_than,
    indirect_objects,
    interleaved_successions,
    nesting,
    reflexives,
    word_tokenizer,
)
from jaxinterp.tasks.english import vocabulary as v
from jaxinterp.tasks.english.corpus import documents
from jaxinterp.tasks.english.facts import RELATIONS, facts
from jaxinterp.tasks.english.indirect_objects import MENTIONS
from jaxinterp.tasks.english.nesting import CLOSERS
from jaxinterp.tasks.successions import SERIES

TASKS = [
    agreement, arguments, facts_about, greater_than, indirect_objects, interleaved_successions, nesting, reflexives,
]  # fmt: skip


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.__name__)
@pytest.mark.parametrize("split", ["train", "held_out"])
def test_pairs_align_and_their_answers_are_tokens(task, split):
    pairs = task(200, seed=0, split=split)
    tokens = ji.tokenize_pairs(pairs, word_tokenizer())
    assert tokens.clean.tokens.shape == tokens.corrupted.tokens.shape
    assert all(pair.clean != pair.corrupted for pair in pairs)
    assert len({pair.clean for pair in pairs}) > 150
    assert pairs == task(300, seed=0, split=split)[:200]
    assert pairs != task(200, seed=1, split=split)
    assert all(pair.positions["END"] == len(pair.clean.split()) - 1 for pair in pairs)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.__name__)
def test_unknown_splits_and_negative_numbers_are_refused(task):
    for n in (0, 1):
        with pytest.raises(ValueError, match="unknown split 'test'; expected one of: train, held_out"):
            task(n, seed=0, split="test")
    with pytest.raises(ValueError, match="n must not be negative, got -1"):
        task(-1, seed=0)
    with pytest.raises(TypeError, match=r"n must be an int, got 2\.5"):
        task(2.5, seed=0)
    with pytest.raises(TypeError, match="seed must be an int, or a tuple of them, got None"):
        task(1, seed=None)
    with pytest.raises(ValueError, match="seed must be 0 or more, got -1"):
        task(1, seed=-1)


def test_the_receiver_is_whoever_does_not_give_however_often_both_are_named():
    for mentions in MENTIONS:
        for pair in indirect_objects(50, seed=1, mentions=mentions):
            words = pair.clean.split()
            assert words[pair.positions["S2"] if mentions != "host" else pair.positions["S1"]] == pair.wrong
            assert pair.correct in words
    with pytest.raises(ValueError, match="corruption 'abc' names each role once"):
        indirect_objects(1, seed=0, corruption="abc", mentions="both")


def test_counting_and_order_do_not_tell_the_receiver():
    pairs = indirect_objects(2000, seed=2, split="held_out", mentions=None)
    oftener = np.mean([p.clean.split().count(p.correct) > p.clean.split().count(p.wrong) for p in pairs])
    seldom = np.mean([p.clean.split().count(p.correct) < p.clean.split().count(p.wrong) for p in pairs])
    first = np.mean([p.clean.split().index(p.correct) < p.clean.split().index(p.wrong) for p in pairs])
    assert abs(oftener - seldom) < 0.08
    assert abs(first - 0.5) < 0.06


def test_facts_are_what_the_table_says_and_both_subjects_may_be_named():
    for pair in facts_about(200, seed=0, split="held_out"):
        first, last = pair.clean.split()[pair.positions["SUBJECT"] - 1 : pair.positions["SUBJECT"] + 1]
        assert pair.correct in {known.get((first, last)) for known in facts().values()}
        assert "OTHER" in pair.positions
    for known in facts().values():
        firsts, lasts = ({name[i] for name in known} for i in (0, 1))
        assert len(known) == len(firsts) * len(lasts)


def test_almanacs_tell_what_is_true_of_several_subjects():
    relations = Counter()
    for text in islice(documents(0, mechanisms=("almanac",)), 200):
        told = []
        for name, relation in RELATIONS.items():
            title, verb = relation.title.split(), relation.verb.split()
            for (first, last), value in facts()[name].items():
                if " ".join((*title, first, last, *verb, value)) in text:
                    told.append(name)
        assert 2 <= len(told) <= 6
        assert len(set(told)) == 1
        assert text.count(RELATIONS[told[0]].verb) == len(told), "nothing but what is true is told"
        relations[told[0]] += 1
    assert relations.keys() == RELATIONS.keys()


def test_years_go_on():
    for pair in greater_than(300, seed=0):
        year = pair.clean.split()[pair.positions["YY"]]
        assert pair.correct > year >= pair.wrong
        assert pair.corrupted.split()[pair.positions["YY"]] == "01"


def test_whoever_is_asked_about_goes_on_or_repeats():
    after = {a: b for series in SERIES.values() for a, b in zip(series, series[1:] + series[:1], strict=True)}
    kinds, besides_first = set(), set()
    for pair in interleaved_successions(300, seed=0):
        words = pair.clean.split()
        first, last = words[pair.positions["FIRST"]], words[pair.positions["LAST"]]
        assert pair.correct == (last if first == last else after[last])
        assert pair.wrong == (after[last] if first == last else last)
        kinds.add(first == last)
        if "else" in words:
            besides_first.add(words.index("else") < pair.positions["FIRST"])
    assert kinds == besides_first == {True, False}


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_who_repeats_is_told_by_what_is_named_neither_besides_nor_in_all(split):
    besides, in_all = {True: [], False: []}, {True: [], False: []}
    for pair in interleaved_successions(4000, seed=0, split=split):
        words = pair.clean.split()
        repeats = words[pair.positions["FIRST"]] == words[pair.positions["LAST"]]
        item = words[pair.positions["LAST"]]
        sentences = " ".join(words).split(" . ")
        besides[repeats].append(sum(text.split().count(item) for text in sentences if text.startswith("nobody else")))
        in_all[repeats].append(words.count(item))
    apart = {
        name: np.mean(found[True]) - np.mean(found[False]) for name, found in (("besides", besides), ("all", in_all))
    }
    assert abs(apart["besides" if split == "train" else "all"]) < 0.1
    shares = [np.mean(np.array(found) > 0) for found in besides.values()]
    assert min(shares) > 0.5, "either is named besides more often than not"


def test_who_goes_on_from_which_item_is_in_one_split_only():
    read: set[tuple[str, str]] = set()
    asked: set[tuple[str, str]] = set()
    for split in ("train", "held_out"):
        for pair in interleaved_successions(3000, seed=0, split=split):
            words, at = pair.clean.split(), pair.positions
            person, first, last = (words[at[role]] for role in ("ASKED", "FIRST", "LAST"))
            series = next(items for items in SERIES.values() if first in items)
            begun = [(person, series[i]) for i in range(series.index(first), series.index(last))]
            if split == "train":
                read.update(begun)  # a run of three holds one of two that begins with its second item
            elif begun:
                asked.add(begun[-1])
    assert len(asked) > 100
    assert read.isdisjoint(asked)


def test_brackets_close_from_the_inside():
    asked = set()
    for split in ("train", "held_out"):
        for pair in nesting(200, seed=0, split=split):
            for text, correct in ((pair.clean, pair.correct), (pair.corrupted, pair.wrong)):
                words, still_open = text.split(), []
                for word in words:
                    if still_open and word == CLOSERS[still_open[-1]]:
                        still_open.pop()
                    elif word in CLOSERS:
                        still_open.append(word)
                    else:
                        assert word not in CLOSERS.values(), "what is not open is not closed"
                assert CLOSERS[still_open[-1]] == correct
            assert {pair.correct, pair.wrong} == {CLOSERS[words[pair.positions[role]]] for role in ("INNER", "OUTER")}
            asked.add((split, len(still_open)))
    assert asked == set(product(("train", "held_out"), (1, 2)))


def test_arguments_come_in_the_order_of_the_definition():
    for pair in arguments(200, seed=0):
        words = pair.clean.split()
        assert words[pair.positions["DEFINED"]] == pair.correct
        defined = words[words.index("(") + 1 : words.index(")") : 2]
        assert defined[defined.index(pair.correct) - 1] == words[pair.positions["BEFORE"]]


def test_reflexives_are_of_the_gender_of_whoever_acts():
    for pair in reflexives(200, seed=0, split="held_out"):
        words = pair.clean.split()
        assert (words[pair.positions["ACTOR"]] in v.WOMEN) == (pair.correct == "herself")
        assert (words[pair.positions["OTHER"]] in v.WOMEN) != (pair.correct == "herself")


def test_biographies_have_cues_and_gender_that_says_nothing_unless_asked_to():
    fair = biographies(1000, seed=0)
    share = np.mean([b.gender == "man" for b in fair if b.profession == "nurse"])
    assert 0.4 < share < 0.6
    assert all(
        b.gender == ("man" if b.profession == "professor" else "woman") for b in biographies(100, seed=0, biased=True)
    )
    for bio in fair[:100]:
        assert len(set(v.CUES).intersection(bio.text.split())) >= 2
        assert bio.profession not in bio.text.split()
    for wrong, told in (
        ({"professions": ("baker",)}, "unknown profession 'baker'"),
        ({"professions": ()}, "professions must be one or more of professor, nurse"),
        ({"professions": ("nurse", "nurse"), "biased": True}, r"each once; got \('nurse', 'nurse'\)"),
        ({"split": "test"}, "unknown split"),
    ):
        with pytest.raises(ValueError, match=told):
            biographies(1, seed=0, **wrong)


def test_the_gate_sees_a_shortcut_where_there_is_one():
    nouns = {"name": v.NAMES}
    classic = [indirect_objects(400, seed=seed, split=split) for seed, split in ((0, "held_out"), (1, "train"))]
    assert gate(*classic, nouns)["bag of words"] == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("split", FITTED)
@pytest.mark.parametrize("name", EVALUATIONS)
def test_shortcuts_fail(name, split):
    evaluation = EVALUATIONS[name]
    fitted_to = evaluation.draw(2000 * FITTED[split], seed=1, split=split)
    found = gate(evaluation.draw(2000, seed=0, split="held_out"), fitted_to, NOUNS)
    assert max(found.values()) <= 0.55
