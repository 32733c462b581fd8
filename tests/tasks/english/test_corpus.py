from collections import Counter
from itertools import islice, pairwise, permutations

import numpy as np
import pytest

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
from jaxinterp.tasks.english.agreement import STRUCTURES
from jaxinterp.tasks.english.arguments import MARKS
from jaxinterp.tasks.english.biographies import SENTENCES
from jaxinterp.tasks.english.corpus import EVALUATED, HELD_OUT_OFFSET, batch, documents, words
from jaxinterp.tasks.english.documents import _KINDS, MECHANISMS
from jaxinterp.tasks.english.facts import TEMPLATES as FACTS
from jaxinterp.tasks.english.greater_than import TEMPLATES as YEARS
from jaxinterp.tasks.english.indirect_objects import OPENINGS, name_pairs
from jaxinterp.tasks.english.nesting import TEMPLATES as BRACKETS
from jaxinterp.tasks.english.reflexives import TEMPLATES as REFLEXIVES
from jaxinterp.tasks.english.successions import TRACKS
from jaxinterp.tasks.english.vocabulary import NAMES


@pytest.fixture(scope="module")
def texts():
    return list(islice(documents(0), 10_000))


def test_documents_are_sentences_of_known_words(texts):
    known = set(words())
    assert all(known.issuperset(text.split()) for text in texts)
    assert len(known) >= 1500
    assert len(set(texts)) > 9000


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_every_mechanism_makes_texts_of_both_splits(mechanism):
    known = set(words())
    for split in ("train", "held_out"):
        for text in islice(documents(1, split=split, mechanisms=(mechanism,)), 20):
            assert known.issuperset(text.split())


def test_kinds_of_words_in_tables_are_of_forty_words_and_more():
    assert min(len(set(kind)) for kind in _KINDS) >= 40


def test_mechanisms_are_many_and_few_are_common():
    assert len(MECHANISMS) >= 50
    assert len(set(MECHANISMS)) == len(MECHANISMS)


def test_people_of_held_out_pairs_stand_together_in_no_text(texts):
    held_out, names = set(name_pairs("held_out")), set(NAMES)
    crowds = islice(documents(2, mechanisms=("list_of_names_twice", "passage_twice", "indirect_object")), 3000)
    for text in (*texts, *crowds):
        assert held_out.isdisjoint(permutations(names.intersection(text.split()), 2))
    for pair in indirect_objects(2000, seed=3, corruption="abc"):
        assert held_out.isdisjoint(permutations(names.intersection(pair.corrupted.split()), 2))


def arguments_that_follow(text):
    words = text.split()
    return set(pairwise(words[words.index("(") + 1 : words.index(")") : 2]))


def event_and_year(text):
    """Of each sentence: it gives a century and a year twice, an event began in the first."""
    words = text.split()
    events = [word for word in words if word in v.EVENTS]
    numbers = [word for word in words if word.isdecimal()]  # century, year, century; and the answer, in a document
    return set(zip(events, numbers[1 :: 4 if len(numbers) > 3 else 3], strict=True))


def man_and_woman(text):
    words = set(text.split())
    return {(woman, man) for woman in words.intersection(v.WOMEN) for man in words.intersection(v.MEN)}


def first_and_family_name(text):
    return {tuple(text.split()[:2])}


@pytest.mark.parametrize(
    ("mechanism", "held_out", "combination"),
    [
        ("greater_than", greater_than, event_and_year),
        ("biography", biographies, first_and_family_name),
    ],
)
def test_combinations_that_are_held_out_are_in_no_training_text(mechanism, held_out, combination):
    texts = islice(documents(4, mechanisms=(mechanism,)), 5000)
    seen = set().union(*map(combination, texts))
    drawn = held_out(1000, seed=1, split="held_out")
    asked = set().union(*(combination(each.clean if hasattr(each, "clean") else each.text) for each in drawn))
    assert len(asked) > 50
    assert not seen & asked


def test_arguments_that_follow_each_other_in_held_out_prompts_do_so_in_no_training_text():
    seen = set().union(*map(arguments_that_follow, islice(documents(4, mechanisms=("arguments",)), 5000)))
    asked = {
        split: {(p.clean.split()[p.positions["BEFORE"]], p.correct) for p in arguments(1000, seed=1, split=split)}
        for split in ("train", "held_out")
    }
    assert len(asked["held_out"]) > 50
    assert not seen & asked["held_out"]
    assert asked["train"] <= seen, "training text has the others"


def test_reflexives_have_pairs_of_their_own():
    seen = set().union(*(man_and_woman(text) for text in islice(documents(4, mechanisms=("reflexive",)), 3000)))
    asked = {
        tuple(sorted((p.clean.split()[p.positions[role]] for role in ("ACTOR", "OTHER")), key=v.MEN.__contains__))
        for p in reflexives(1000, seed=1, split="held_out")
    }
    assert len(asked) > 50
    assert not seen & asked


@pytest.mark.parametrize(
    "task",
    [
        agreement, arguments, facts_about, greater_than, indirect_objects, interleaved_successions, nesting, reflexives,
    ],
    ids=lambda task: task.__name__,
)  # fmt: skip
def test_held_out_prompts_are_never_answered_in_training(texts, task):
    def beginnings(text):
        split = text.split()
        return {" ".join(split[:n]) for n in range(1, len(split) + 1)}

    seen = set().union(*map(beginnings, texts))
    answered = {f"{pair.clean} {pair.correct}" for pair in task(1000, seed=1, split="held_out")}
    assert not seen & answered


FORMS = {
    "agreement": STRUCTURES,
    "arguments": {"": MARKS},
    "biographies": {"": SENTENCES},
    "facts_about": {"": FACTS},
    "greater_than": {"": YEARS},
    "indirect_objects": {"": OPENINGS},
    "interleaved_successions": {
        kind: {split: forms[kind] for split, forms in TRACKS.items()} for kind in TRACKS["train"]
    },
    "nesting": {"": BRACKETS},
    "reflexives": {"": REFLEXIVES},
}


@pytest.mark.parametrize("task", FORMS)
def test_forms_are_in_one_split_and_several(task):
    for forms in FORMS[task].values():
        train, held_out = (set(forms[split]) for split in ("train", "held_out"))
        assert not train & held_out
        assert len(train) >= 3


def test_shortcuts_do_not_always_hold(texts):
    """Givers who were not named before, receivers without a name, runs that repeat."""
    giving = list(islice(documents(3, mechanisms=("indirect_object",)), 1000))
    assert any(" to the " in text for text in giving)
    assert any("'s" in text for text in giving)
    runs = list(islice(documents(3, mechanisms=("succession",)), 300))
    assert any("monday monday" in text for text in runs)


def test_batches_are_a_function_of_seed_and_step():
    ids = word_tokenizer().get_vocab()

    def draw(step, seed=0, split="train"):
        return batch(ids, step, seed=seed, size=16, n_ctx=64, split=split)

    rows = draw(3)
    assert rows.shape == (16, 65)
    assert rows.dtype == np.int32
    begins = (rows[:, 0] == ids["<bos>"]).mean()
    assert 0 < begins < 1, "some rows begin in the middle of a text"
    assert not np.isin(rows, [ids["<pad>"], ids["<unk>"]]).any()
    np.testing.assert_array_equal(rows, draw(3))
    for other in (draw(4), draw(3, seed=1), draw(3, split="held_out")):
        assert (rows != other).any()


def test_tasks_never_begin_at_held_out_offsets():
    ids = word_tokenizer().get_vocab()
    mechanisms = ("indirect_object", "filler", "sum")
    rows = np.concatenate([batch(ids, s, seed=5, size=64, n_ctx=96, mechanisms=mechanisms) for s in range(8)])
    gives = {ids[word] for word in ("gave", "handed", "passed", "showed", "offered", "brought", "sold")}
    found = Counter()
    for row in rows:
        starts = np.flatnonzero(row == ids["<bos>"])
        for start, end in pairwise(starts):
            text = row[start:end].tolist()
            if gives & set(text) and len(text) > 25:  # fillers are shorter
                found[start % 8] += 1
    assert set(mechanisms) & set(EVALUATED) == {"indirect_object"}
    assert not found[HELD_OUT_OFFSET]
    assert min(found[offset] for offset in range(8) if offset != HELD_OUT_OFFSET) > 0


def test_an_incomplete_vocabulary_is_an_error():
    with pytest.raises(KeyError):
        batch({"<bos>": 0, "Mary": 1}, 0, seed=0, size=1, n_ctx=8)


def test_mechanisms_can_be_chosen():
    for text in islice(documents(0, mechanisms=("pairs_again",)), 50):
        words = text.split()
        readings = Counter(zip(words[::2], words[1::2], strict=True))
        assert len(set(readings.values())) == 1, "every pair is read as often"
        assert len({first for first, _ in readings}) == len(readings), "the first word tells the second"
        assert min(readings.values()) >= 2
    with pytest.raises(ValueError, match="unknown mechanism 'poems'"):
        next(documents(0, mechanisms=("poems",)))
    with pytest.raises(ValueError, match="unknown split 'test'"):
        next(documents(0, split="test"))
