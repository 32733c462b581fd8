from itertools import combinations as subsets
from itertools import islice

import numpy as np
import pytest

from jaxinterp.tasks import agreement, indirect_objects, successions, word_tokenizer
from jaxinterp.tasks.corpus import batch, documents, words
from jaxinterp.tasks.indirect_objects import name_pairs
from jaxinterp.tasks.vocabulary import NAMES


@pytest.fixture(scope="module")
def texts():
    return list(islice(documents(0), 10_000))


def test_documents_are_sentences_of_known_words(texts):
    known = set(words())
    assert all(text.endswith(" .") and known.issuperset(text.split()) for text in texts)
    assert max(len(text.split()) for text in texts) < 64
    assert len(set(texts)) > 8000


def test_held_out_names_never_stand_together(texts):
    held_out, names = set(name_pairs("held_out")), set(NAMES)
    for text in texts:
        assert not held_out.intersection(subsets([word for word in text.split() if word in names], 2))


@pytest.mark.parametrize("task", [indirect_objects, agreement, successions], ids=lambda task: task.__name__)
def test_held_out_prompts_are_never_answered_in_training(texts, task):
    def beginnings(text):
        split = text.split()
        return {" ".join(split[:n]) for n in range(1, len(split) + 1)}

    seen = set().union(*map(beginnings, texts))
    for split, occur in (("train", True), ("held_out", False)):
        answered = {f"{pair.clean} {pair.correct}" for pair in task(2000, seed=1, split=split)}
        # Indirect objects are too many for any to be met twice.
        assert bool(seen & answered) == (occur and task is not indirect_objects)


def test_shortcuts_do_not_always_hold(texts):
    """A giver who was not named before, receivers without a name, runs that repeat, verbs without an opening."""
    names = set(NAMES)
    assert any(len(names.intersection(text.split())) == 3 for text in texts)
    assert any(" to the " in text and sum(word in names for word in text.split()) == 3 for text in texts)
    assert any("monday monday" in text for text in texts)
    assert any(text.startswith("the dogs") for text in texts)


def test_batches_are_a_function_of_seed_and_step():
    ids = word_tokenizer().get_vocab()

    def draw(step, seed=0, split="train"):
        return batch(ids, step, seed=seed, size=8, n_ctx=32, split=split)

    rows = draw(3)
    assert rows.shape == (8, 33)
    assert rows.dtype == np.int32
    assert (rows[:, 0] == ids["<bos>"]).all()
    assert not np.isin(rows, [ids["<pad>"], ids["<unk>"]]).any()
    np.testing.assert_array_equal(rows, draw(3))
    for other in (draw(4), draw(3, seed=1), draw(3, split="held_out")):
        assert (rows != other).any()


def test_an_incomplete_vocabulary_is_an_error():
    with pytest.raises(KeyError):
        batch({"<bos>": 0, "Mary": 1}, 0, seed=0, size=1, n_ctx=8)


def test_the_mixture_decides_the_kinds():
    for text in islice(documents(0, mixture=("repetition",)), 50):
        first, again = text.removesuffix(" .").split(" and again ")
        assert first == again
    with pytest.raises(KeyError):
        next(documents(0, mixture=("poems",)))
