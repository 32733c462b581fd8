from collections import Counter

import pytest

from jaxinterp.tasks import indirect_objects
from jaxinterp.tasks.indirect_objects import name_pairs
from jaxinterp.tasks.vocabulary import NAMES


def names(text):
    return [word for word in text.split() if word in NAMES]


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_the_answer_is_the_name_that_occurs_once(split):
    for pair in indirect_objects(300, seed=0, split=split):
        assert Counter(names(pair.clean)) == {pair.correct: 1, pair.wrong: 2}
        assert Counter(names(pair.corrupted)) == {pair.correct: 2, pair.wrong: 1}


def test_positions_name_their_words():
    for pair in indirect_objects(300, seed=1):
        clean, at = pair.clean.split(), pair.positions
        assert set(at) == {"IO", "S1", "S1+1", "S2", "END"}
        assert (clean[at["IO"]], clean[at["S1"]], clean[at["S2"]]) == (pair.correct, pair.wrong, pair.wrong)
        assert at["S1+1"] == at["S1"] + 1
        assert max(at["IO"], at["S1"]) < at["S2"] < at["END"]


def test_swap_changes_the_second_subject_alone():
    for pair in indirect_objects(300, seed=2):
        differ = [i for i, (a, b) in enumerate(zip(pair.clean.split(), pair.corrupted.split(), strict=True)) if a != b]
        assert differ == [pair.positions["S2"]]


def test_abc_repeats_no_name_and_keeps_all_else():
    for pair in indirect_objects(300, seed=3, split="held_out", corruption="abc"):
        fresh = names(pair.corrupted)
        assert len(set(fresh)) == 3
        assert not set(fresh) & set(names(pair.clean))
        differ = {i for i, (a, b) in enumerate(zip(pair.clean.split(), pair.corrupted.split(), strict=True)) if a != b}
        assert differ == {pair.positions[role] for role in ("IO", "S1", "S2")}


def test_both_orders_occur_and_one_can_be_asked_for():
    def first(pair):
        return "ABBA" if pair.positions["IO"] < pair.positions["S1"] else "BABA"

    counts = Counter(map(first, indirect_objects(400, seed=4)))
    assert min(counts["ABBA"], counts["BABA"]) > 150
    for order in ("ABBA", "BABA"):
        assert {first(pair) for pair in indirect_objects(50, seed=4, order=order)} == {order}


def test_a_pair_of_names_is_in_one_split_in_both_orders():
    train, held_out = set(name_pairs("train")), set(name_pairs("held_out"))
    assert not train & held_out
    assert len(train) + len(held_out) == len(NAMES) * (len(NAMES) - 1)
    assert 0.05 < len(held_out) / len(train) < 0.2
    assert all((b, a) in held_out for a, b in held_out)


def test_unknown_options_are_refused():
    with pytest.raises(ValueError, match="unknown order 'ABAB'; expected one of: ABBA, BABA"):
        indirect_objects(1, seed=0, order="ABAB")
    with pytest.raises(ValueError, match="unknown corruption 'zero'; expected one of: swap, abc"):
        indirect_objects(1, seed=0, corruption="zero")
