from collections import Counter

import numpy as np
import pytest

from jaxinterp.cards.english import AGREEMENT, EVALUATIONS
from jaxinterp.tasks.english import agreement
from jaxinterp.tasks.english.agreement import SEES, STRUCTURES, VERBS, combinations
from jaxinterp.tasks.english.vocabulary import NOUNS

NUMBER = {word: number for noun in NOUNS for number, word in enumerate(noun[:2])}
VERB_NUMBER = {verb: number for verbs in VERBS.values() for number, verb in enumerate(verbs)}
VERB_NUMBER |= {verb: number for noun in NOUNS for number, verb in enumerate(noun[2:])}
VERB_NUMBER |= {verb: number for verbs in SEES for number, verb in enumerate(verbs)}


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_the_answer_agrees_with_the_subject_in_both_prompts(split):
    for pair in agreement(300, seed=0, split=split):
        for text, verb in ((pair.clean, pair.correct), (pair.corrupted, pair.wrong)):
            assert NUMBER[text.split()[pair.positions["SUBJECT"]]] == VERB_NUMBER[verb]
        assert VERB_NUMBER[pair.correct] != VERB_NUMBER[pair.wrong]


def test_the_corruption_changes_the_number_of_the_subject_alone():
    forms = {frozenset(noun[:2]) for noun in NOUNS}
    for pair in agreement(300, seed=1):
        clean, corrupted = pair.clean.split(), pair.corrupted.split()
        differ = [i for i, (a, b) in enumerate(zip(clean, corrupted, strict=True)) if a != b]
        assert differ == [pair.positions["SUBJECT"]]
        assert {clean[differ[0]], corrupted[differ[0]]} in forms


@pytest.mark.parametrize("split", ["train", "held_out"])
@pytest.mark.parametrize("structure", [name for name in STRUCTURES if name != "simple"])
def test_an_attractor_conflicts_where_it_has_to(structure, split):
    for pair in agreement(200, seed=2, split=split, structure=structure, conflict=True):
        subject = pair.positions["SUBJECT"]
        words = pair.clean.split()
        nouns = [NUMBER[word] for i, word in enumerate(words) if word in NUMBER and i != subject]
        assert 1 - NUMBER[words[subject]] in nouns
        assert (pair.positions["ATTRACTOR"] < subject) <= (structure == "within_rc")


@pytest.mark.parametrize("structure", STRUCTURES)
def test_structures_can_be_asked_for(structure):
    for pair in agreement(20, seed=3, structure=structure):
        assert ("ATTRACTOR" in pair.positions) == (structure != "simple")


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_every_structure_asks_for_the_same_verbs(split):
    """Else the verbs would tell where the subject stands."""

    def kind(verb):
        return next((name for name, verbs in VERBS.items() if verb in verbs), "OFTEN")

    for structure in STRUCTURES:
        pairs = agreement(1000, seed=3, split=split, structure=structure)
        found = Counter(kind(pair.correct) for pair in pairs)
        assert found.keys() == VERBS.keys()
        assert min(found.values()) > 200
        assert {verb for verbs in SEES for verb in verbs} <= {pair.correct for pair in pairs}


def test_unknown_options_are_refused():
    with pytest.raises(ValueError, match="unknown structure 'across'; expected one of: simple, across_pp"):
        agreement(1, seed=0, structure="across")
    with pytest.raises(ValueError, match="the structure 'simple' has no attractors"):
        agreement(1, seed=0, structure="simple", conflict=True)


def test_a_noun_in_a_structure_is_in_one_split():
    train, held_out = set(combinations("train")), set(combinations("held_out"))
    assert not train & held_out
    assert 0.05 < len(held_out) / len(train) < 0.2
    numbers = {word: noun for noun in NOUNS for word in noun[:2]}
    for structure in STRUCTURES:
        for split, others in (("train", held_out), ("held_out", train)):
            for pair in agreement(300, seed=4, split=split, structure=structure):
                subject = numbers[pair.clean.split()[pair.positions["SUBJECT"]]]
                assert (subject, structure) not in others


def test_the_last_noun_tells_nothing_where_an_attractor_conflicts():
    for structure in ("across_pp", "across_rc", "within_rc"):
        for pair in agreement(100, seed=5, split="held_out", structure=structure, conflict=True):
            after = pair.clean.split()[max(pair.positions["SUBJECT"], pair.positions["ATTRACTOR"]) + 1 :]
            assert {"in", "of", "near", "at"} & set(after), "a land, a city or a place stands behind both"
    pairs = EVALUATIONS[AGREEMENT].draw(2000, seed=7, split="held_out")
    nouns = [[NUMBER[word] for word in pair.clean.split() if word in NUMBER] for pair in pairs]
    agree = np.array([[each[0], each[-1]] for each in nouns]) == [[VERB_NUMBER[pair.correct]] for pair in pairs]
    assert (abs(agree.mean(axis=0) - 0.5) < 0.05).all(), "nor does the number of the first noun or of the last one"
    pairs = agreement(2000, seed=6, split="held_out", structure="across_rc", conflict=True)
    counted = [
        [NUMBER[word] for word in pair.clean.split()[pair.positions["SUBJECT"] :] if word in NUMBER] for pair in pairs
    ]
    two = [numbers for numbers in counted if len(numbers) == 3]
    assert len(two) > 500
    margins = np.array([2 * numbers.count(numbers[0]) - 3 for numbers in two])
    assert abs(np.mean(margins > 0) - np.mean(margins < 0)) < 0.1, "nor does the number of most nouns"
