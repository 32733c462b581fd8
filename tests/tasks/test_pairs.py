"""What holds for the pairs of every task."""

import pytest

from jaxinterp.tasks import PromptPair, agreement, indirect_objects, successions, word_tokenizer
from jaxinterp.tasks.english.corpus import words

TASKS = (indirect_objects, agreement, successions)
SPLITS = ("train", "held_out")
every_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.__name__)
every_split = pytest.mark.parametrize("split", SPLITS)


@every_task
@every_split
def test_pairs_are_aligned_and_end_at_END(task, split):
    for pair in task(300, seed=0, split=split):
        clean, corrupted = pair.clean.split(), pair.corrupted.split()
        assert len(clean) == len(corrupted) <= 127  # with <bos>, within the model's 128
        assert clean != corrupted
        assert pair.positions["END"] == len(clean) - 1
        assert pair.clean == " ".join(clean)
        assert pair.corrupted == " ".join(corrupted)


@every_task
def test_pairs_depend_on_the_arguments_alone(task):
    assert task(40, seed=7) == task(40, seed=7)
    assert task(40, seed=7)[:15] == task(15, seed=7)
    assert task(40, seed=7) != task(40, seed=8)
    assert task(40, seed=7) != task(40, seed=7, split="held_out")
    assert task(0, seed=7) == []


@every_task
def test_lengths_and_positions_vary(task):
    pairs = task(300, seed=1)
    assert len({len(pair.clean.split()) for pair in pairs}) >= 8
    first = next(iter(pairs[0].positions))
    assert len({pair.positions[first] for pair in pairs}) >= 4
    assert len({pair.correct for pair in pairs}) >= 30


@every_task
@every_split
def test_every_word_is_one_token(task, split):
    tokenizer, known = word_tokenizer(), set(words())
    for pair in task(300, seed=2, split=split):
        for text in (pair.clean, pair.corrupted, pair.correct, pair.wrong):
            assert tokenizer.encode(text).tokens == ["<bos>", *text.split()]
            assert known.issuperset(text.split())


@every_task
def test_held_out_prompts_do_not_occur_in_training(task):
    train, held_out = ({pair.clean for pair in task(3000, seed=3, split=split)} for split in SPLITS)
    assert not train & held_out


@every_task
def test_unknown_options_are_refused(task):
    with pytest.raises(ValueError, match="unknown split 'test'; expected one of: train, held_out"):
        task(1, seed=0, split="test")
    with pytest.raises(ValueError, match="n must not be negative, got -1"):
        task(-1, seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corrupted": "one two three"}, "clean has 2 words and corrupted 3"),
        ({"clean": " ", "corrupted": ""}, "hold no words"),
        ({"correct": "three four"}, "correct must be one word, got 'three four'"),
        ({"wrong": ""}, "wrong must be one word, got ''"),
        ({"wrong": "three"}, "correct and wrong are the same word, 'three'"),
        ({"positions": {"END": 2}}, "position 'END' is word 2 of a prompt of 2 words"),
        ({"positions": {"END": -1}}, "position 'END' is word -1"),
    ],
)
def test_a_pair_that_is_not_one_is_refused(changes, message):
    good = {"clean": "one two", "corrupted": "two three", "correct": "three", "wrong": "four", "positions": {}}
    assert hash(PromptPair(**good)) == hash(PromptPair(**good))
    with pytest.raises(ValueError, match=message):
        PromptPair(**good | changes)
