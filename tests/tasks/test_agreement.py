import pytest

from jaxinterp.tasks import agreement
from jaxinterp.tasks.agreement import VERBS, combinations
from jaxinterp.tasks.vocabulary import NOUNS

NUMBER = {word: number for noun in NOUNS for number, word in enumerate(noun[:2])}
VERB_NUMBER = {verb: number for verbs in VERBS.values() for number, verb in enumerate(verbs)}
VERB_NUMBER |= {verb: number for noun in NOUNS for number, verb in enumerate(noun[2:])}


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


def test_attractors_stand_between_and_mostly_mislead():
    pairs = agreement(600, seed=2)
    attracted = [pair for pair in pairs if "ATTRACTOR" in pair.positions]
    misleading = 0
    for pair in attracted:
        attractor = pair.positions["ATTRACTOR"]
        assert pair.positions["SUBJECT"] < attractor <= pair.positions["END"]
        misleading += NUMBER[pair.clean.split()[attractor]] != VERB_NUMBER[pair.correct]
    assert 0.75 < len(attracted) / len(pairs) < 0.95
    assert 0.5 < misleading / len(attracted) < 0.8


def test_the_opening_decides_the_verb():
    kinds = {"yesterday": "THEN", "today": "NOW", "every": "OFTEN", "most": "OFTEN", "since": "SINCE", "for": "SINCE"}
    for pair in agreement(300, seed=3):
        kind = kinds.get(pair.clean.split()[0])
        if kind == "OFTEN":
            subject = pair.clean.split()[pair.positions["SUBJECT"]]
            assert any(subject in noun[:2] and pair.correct in noun[2:] for noun in NOUNS)
        elif kind is not None:
            assert pair.correct in VERBS[kind]


def test_combinations_are_in_one_split():
    train, held_out = set(combinations("train")), set(combinations("held_out"))
    assert not train & held_out
    assert 0.05 < len(held_out) / len(train) < 0.2
