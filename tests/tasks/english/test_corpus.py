from collections import Counter
from functools import cache
from itertools import islice, pairwise, permutations, product

import numpy as np
import pytest

from jaxinterp.tasks.choices import chooser
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
from jaxinterp.tasks.english.agreement import RULES as AGREEMENT_RULES
from jaxinterp.tasks.english.agreement import SEES, STRUCTURES, VERBS
from jaxinterp.tasks.english.agreement import combinations as agreement_combinations
from jaxinterp.tasks.english.arguments import MARKS
from jaxinterp.tasks.english.biographies import SENTENCES
from jaxinterp.tasks.english.corpus import EVALUATED, HELD_OUT_OFFSET, batch, documents, words
from jaxinterp.tasks.english.documents import MECHANISMS, RULES
from jaxinterp.tasks.english.facts import RELATIONS, facts
from jaxinterp.tasks.english.facts import RULES as FACTS_RULES
from jaxinterp.tasks.english.facts import TEMPLATES as FACTS
from jaxinterp.tasks.english.greater_than import RULES as YEARS_RULES
from jaxinterp.tasks.english.greater_than import TEMPLATES as YEARS
from jaxinterp.tasks.english.indirect_objects import OPENINGS, name_pairs
from jaxinterp.tasks.english.nesting import CLOSERS
from jaxinterp.tasks.english.nesting import RULES as BRACKETS_RULES
from jaxinterp.tasks.english.nesting import TEMPLATES as BRACKETS
from jaxinterp.tasks.english.reflexives import RULES as REFLEXIVES_RULES
from jaxinterp.tasks.english.reflexives import TEMPLATES as REFLEXIVES
from jaxinterp.tasks.english.successions import TRACKS
from jaxinterp.tasks.english.vocabulary import NAMES
from jaxinterp.tasks.grammar import expand, is_symbol

TASKS = (
    agreement, arguments, facts_about, greater_than, indirect_objects, interleaved_successions, nesting, reflexives,
)  # fmt: skip


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


def test_held_out_prompts_are_of_words_that_training_text_has():
    # verbs are many
    texts = (*islice(documents(6), 30_000), *islice(documents(6, mechanisms=("agreement",)), 10_000))
    seen = set().union(*(text.split() for text in texts))
    for task in TASKS:
        for pair in task(1000, seed=1, split="held_out"):
            assert seen.issuperset([*pair.clean.split(), *pair.corrupted.split(), pair.correct, pair.wrong])
    for biography in biographies(1000, seed=1, split="held_out"):
        assert seen.issuperset(biography.text.split())


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
    """Of each event: a century and a year are given twice, it began in the first; or once, in front of it."""
    words = text.split()
    annals = {(event, year) for year, the, event in zip(words, words[1:], words[2:], strict=False) if the == "the"}
    annals = {(event, year) for event, year in annals if event in v.EVENTS and year in v.YEARS}
    if annals:
        return annals
    events = [word for word in words if word in v.EVENTS]
    numbers = [word for word in words if word.isdecimal()]  # century, year, century; and the answer, in a document
    return set(zip(events, numbers[1 :: 4 if len(numbers) > 3 else 3], strict=True))


def man_and_woman(text):
    words = set(text.split())
    return {(woman, man) for woman in words.intersection(v.WOMEN) for man in words.intersection(v.MEN)}


def first_and_family_names(text):
    return {(first, last) for first, last in pairwise(text.split()) if first in v.NAMES and last in v.FAMILIES}


@pytest.mark.parametrize(
    ("mechanisms", "held_out", "combination"),
    [
        (("greater_than", "chronicle"), greater_than, event_and_year),
        (("biography", "full_name", "pairs_again", "list_of_names_twice"), biographies, first_and_family_names),
    ],
)
def test_combinations_that_are_held_out_are_in_no_training_text(mechanisms, held_out, combination):
    texts = islice(documents(4, mechanisms=mechanisms), 5000 * len(mechanisms))
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


def test_arguments_are_announced_in_held_out_prompts_as_in_no_training_text():
    (mark,) = MARKS["held_out"]
    assert all(pair.clean.endswith(mark) for pair in arguments(50, seed=1, split="held_out"))
    assert not any(mark in text for text in islice(documents(4, mechanisms=("arguments",)), 3000))


def test_reflexives_have_pairs_of_their_own():
    seen = set().union(*(man_and_woman(text) for text in islice(documents(4, mechanisms=("reflexive",)), 3000)))
    asked = {
        tuple(sorted((p.clean.split()[p.positions[role]] for role in ("ACTOR", "OTHER")), key=v.MEN.__contains__))
        for p in reflexives(1000, seed=1, split="held_out")
    }
    assert len(asked) > 50
    assert not seen & asked


def derived(form, rules, roles, words):
    """Whether the words can be drawn from a form; `roles` are the texts that what it asks for may become."""
    rules = rules | {role: tuple(tuple(text.split()) for text in texts) for role, texts in roles.items()}

    @cache
    def ends(symbol, start):
        known = symbol if symbol in rules else symbol.rstrip("0123456789")
        if known not in rules:
            return frozenset({start + 1}) if words[start : start + 1] == (symbol,) else frozenset()
        return frozenset().union(*(ends_of(text, start) for text in rules[known] if starts(text, words[start:])))

    def starts(text, words):
        return not text or (bool(words) and (is_symbol(text[0]) or text[0] == words[0]))

    def ends_of(text, start):
        found = {start}
        for symbol in text:
            found = {end for each in found for end in ends(symbol, each)}
        return found

    return len(words) in ends_of(form.split(), 0)


NOUNS = [word for noun in v.NOUNS for word in noun[:2]]
SUBJECTS = [f"{RELATIONS[kind].title} {' '.join(name)}" for kind, known in facts().items() for name in known]
#: Task -> (training forms, rules, what its roles may be).
GRAMMARS = {
    agreement: (
        [f"BEFORE {o} WHERE {form}" for o, each in product(VERBS, STRUCTURES.values()) for form in set(each["train"])],
        AGREEMENT_RULES,
        {"SUBJECT": NOUNS, "A": NOUNS, "B": NOUNS, "SEES": [verb for verbs in SEES for verb in verbs]},
    ),
    facts_about: (
        FACTS["train"],
        FACTS_RULES,
        {"THIS": SUBJECTS, "THAT": SUBJECTS, "IS": [relation.verb for relation in RELATIONS.values()]},
    ),
    greater_than: (YEARS["train"], YEARS_RULES, {"XX": v.CENTURIES, "YY": v.YEARS}),
    nesting: (
        BRACKETS["train"],
        BRACKETS_RULES,
        {
            "OUTER": list(CLOSERS),
            "INNER": list(CLOSERS),
            "PAIR": [f"{opening} PART {closing}" for opening, closing in CLOSERS.items()],
            "EARLIER": ["", "PAIR", "PAIR PAIR"],
            "LATER": ["", "PAIR LONG", *(f"{c} LONG{more}" for c in CLOSERS.values() for more in ("", " PAIR LONG"))],
        },
    ),
    reflexives: (REFLEXIVES["train"], REFLEXIVES_RULES, {"ACTOR": v.NAMES, "OTHER": v.NAMES}),
}


@pytest.mark.parametrize("task", GRAMMARS, ids=lambda task: task.__name__)
def test_held_out_prompts_can_be_drawn_from_no_form_of_training_text(task):
    forms, rules, roles = GRAMMARS[task]

    def in_training(pair):
        words = tuple(pair.clean.split())
        return any(derived(form, rules, roles, words) for form in dict.fromkeys(forms))

    assert not any(map(in_training, task(60, seed=1, split="held_out")))
    assert all(map(in_training, task(10, seed=1)))


def test_what_comes_after_a_verb_within_a_relative_clause_tells_no_number():
    """The verb of the whole sentence would agree with another noun than the one that was just answered about."""
    tells = {word for verbs in (*VERBS.values(), *SEES) for word in verbs}
    for i in range(200):
        assert tells.isdisjoint(expand("SEE", RULES, chooser(i)))


def test_who_sees_within_a_relative_clause_is_held_out_there_everywhere():
    numbers = {noun.singular: 0 for noun in v.NOUNS} | {noun.plural: 1 for noun in v.NOUNS}
    within = [noun for noun, structure in agreement_combinations("train") if structure == "within_rc"]
    kept = {word for noun in within for word in noun[:2]}
    for pair in agreement(5000, seed=8):
        for noun, verb in pairwise(pair.clean.split()):
            if noun in numbers and any(verb == verbs[numbers[noun]] for verbs in SEES):
                assert noun in kept


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
    runs = list(islice(documents(3, mechanisms=("succession",)), 2000))
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


def test_one_document_in_six_is_read_again_whole_or_from_its_middle():
    ids = word_tokenizer().get_vocab()
    rows = batch(ids, 0, seed=1, size=32, n_ctx=2000)
    found = again = whole = 0
    for row in rows:
        texts = [tuple(row[start:end]) for start, end in pairwise(np.flatnonzero(row == ids["<bos>"]))]
        for i, text in enumerate(texts[1:], 1):
            again += any(each[-len(text) + 1 :] == text[1:] for each in texts[:i])
            whole += text in texts[:i]
            found += 1
    assert found > 2000
    assert 0.14 < again / found < 0.20
    assert 0.5 < whole / again < 0.7


def test_an_incomplete_vocabulary_is_an_error():
    with pytest.raises(KeyError):
        batch({"<bos>": 0, "Mary": 1}, 0, seed=0, size=1, n_ctx=8)


def test_mechanisms_can_be_chosen():
    for text in islice(documents(0, mechanisms=("pairs_again",)), 50):
        words = text.split()
        words = [word for word in words if word not in (",", "and", ".")]
        readings = Counter(zip(words[::2], words[1::2], strict=True))
        assert len(set(readings.values())) == 1, "every pair is read as often"
        assert len({first for first, _ in readings}) == len(readings), "the first word tells the second"
        assert min(readings.values()) >= 2
    with pytest.raises(ValueError, match="must include one that may begin at any offset of a row"):
        batch({}, 0, seed=0, size=1, n_ctx=8, mechanisms=("agreement",))
    with pytest.raises(ValueError, match="unknown mechanism 'poems'"):
        next(documents(0, mechanisms=("poems",)))
    with pytest.raises(ValueError, match="unknown split 'test'"):
        next(documents(0, split="test"))
