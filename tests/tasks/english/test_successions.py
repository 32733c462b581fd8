import pytest

from jaxinterp.tasks.english import successions
from jaxinterp.tasks.english.successions import CYCLIC, SERIES, combinations


def successor(word):
    kind, series = next((kind, series) for kind, series in SERIES.items() if word in series)
    index = series.index(word) + 1
    return series[index % len(series)] if kind in CYCLIC else series[index]


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_the_answer_follows_the_last_item_in_both_prompts(split):
    for pair in successions(400, seed=0, split=split):
        last = pair.positions["LAST"]
        assert successor(pair.clean.split()[last]) == pair.correct
        assert successor(pair.corrupted.split()[last]) == pair.wrong


def test_a_run_goes_from_FIRST_to_LAST_in_steps_of_one():
    lengths = set()
    for pair in successions(400, seed=1):
        first, last = pair.positions["FIRST"], pair.positions["LAST"]
        for text, answer in ((pair.clean, pair.correct), (pair.corrupted, pair.wrong)):
            run = [word for word in text.split()[first : last + 1] if word not in (",", "and")]
            assert [successor(word) for word in run] == [*run[1:], answer]
        lengths.add(len(run))
    assert lengths == {2, 3, 4, 5}


def test_every_series_occurs_about_as_often():
    answers = [pair.correct for pair in successions(800, seed=2)]
    shares = [sum(word in series for word in answers) / len(answers) for series in SERIES.values()]
    assert sum(shares) == 1
    assert min(shares) > 0.15


def test_the_corruption_keeps_the_carrier():
    for pair in successions(300, seed=3):
        first, last = pair.positions["FIRST"], pair.positions["LAST"]
        clean, corrupted = pair.clean.split(), pair.corrupted.split()
        assert clean[:first] + clean[last + 1 :] == corrupted[:first] + corrupted[last + 1 :]


def test_combinations_are_in_one_split():
    train, held_out = set(combinations("train")), set(combinations("held_out"))
    assert not train & held_out
    assert 0.04 < len(held_out) / len(train) < 0.25
