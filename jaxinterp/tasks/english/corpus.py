"""Training text: the tasks' sentences, finished, among many that ask for something else or for nothing.

More than fifty mechanisms, a few of them common and most of them rare, share words and openings; each task has its
counterexamples, so that no shortcut is right everywhere.
"""

from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import accumulate

import numpy as np

from jaxinterp.tasks.choices import Chooser, chooser
from jaxinterp.tasks.english import vocabulary as v
from jaxinterp.tasks.english.agreement import RULES as AGREEMENT_RULES
from jaxinterp.tasks.english.agreement import SEES, STRUCTURES, VERBS
from jaxinterp.tasks.english.arguments import MARKS
from jaxinterp.tasks.english.arguments import RULES as ARGUMENTS_RULES
from jaxinterp.tasks.english.biographies import SENTENCES
from jaxinterp.tasks.english.documents import MECHANISMS, RULES, draw_document
from jaxinterp.tasks.english.facts import RELATIONS
from jaxinterp.tasks.english.facts import RULES as FACTS_RULES
from jaxinterp.tasks.english.facts import TEMPLATES as FACTS_TEMPLATES
from jaxinterp.tasks.english.greater_than import RULES as GREATER_THAN_RULES
from jaxinterp.tasks.english.greater_than import TEMPLATES as GREATER_THAN_TEMPLATES
from jaxinterp.tasks.english.indirect_objects import CLAUSES, OPENINGS
from jaxinterp.tasks.english.indirect_objects import RULES as INDIRECT_OBJECTS_RULES
from jaxinterp.tasks.english.nesting import CLOSERS
from jaxinterp.tasks.english.nesting import RULES as NESTING_RULES
from jaxinterp.tasks.english.nesting import TEMPLATES as NESTING_TEMPLATES
from jaxinterp.tasks.english.reflexives import RULES as REFLEXIVES_RULES
from jaxinterp.tasks.english.reflexives import TEMPLATES as REFLEXIVES_TEMPLATES
from jaxinterp.tasks.english.successions import TRACK_RULES, TRACKS
from jaxinterp.tasks.english.templates import RULES as TEMPLATE_RULES
from jaxinterp.tasks.english.templates import TEMPLATES
from jaxinterp.tasks.grammar import is_symbol, terminals
from jaxinterp.tasks.splits import Split, check_split
from jaxinterp.tasks.successions import CARRIERS, SERIES
from jaxinterp.tasks.successions import GRAMMAR as SUCCESSIONS_GRAMMAR

#: Documents of these never begin at such an offset of a training row: `position % 8 == HELD_OUT_OFFSET`.
EVALUATED = (
    "indirect_object",
    "agreement",
    "fact",
    "interleaved_succession",
    "greater_than",
    "nesting",
    "arguments",
    "reflexive",
)
HELD_OUT_OFFSET = 5


@cache
def words() -> tuple[str, ...]:
    """Every word that the corpus and the tasks' prompts can hold, sorted.

    Example:
      >>> "Mary" in words(), "thursday" in words(), "Zanzibar" in words()
      (True, True, False)
    """
    found: set[str] = set()
    rules = (
        RULES,
        TEMPLATE_RULES,
        INDIRECT_OBJECTS_RULES,
        AGREEMENT_RULES,
        GREATER_THAN_RULES,
        FACTS_RULES,
        NESTING_RULES,
        ARGUMENTS_RULES,
        REFLEXIVES_RULES,
        SUCCESSIONS_GRAMMAR,
        TRACK_RULES,
    )
    for each in rules:
        found |= terminals(each)
    texts: list[str] = [text for forms in TEMPLATES.values() for text in forms]
    for table in (OPENINGS, GREATER_THAN_TEMPLATES, FACTS_TEMPLATES, NESTING_TEMPLATES, REFLEXIVES_TEMPLATES):
        texts += [text for forms in table.values() for text in forms]
    texts += [text for forms in STRUCTURES.values() for split in forms.values() for text in split]
    texts += [text for split in TRACKS.values() for forms in split.values() for text in forms]
    texts += [text for forms in SENTENCES.values() for text in forms]
    texts += [text for forms in MARKS.values() for text in forms]
    texts += [text for pair in CLAUSES.values() for text in pair]
    texts += [part for carrier in CARRIERS for part in carrier]
    texts += [f"{relation.title} {relation.verb}" for relation in RELATIONS.values()]
    texts += [*CLOSERS, *CLOSERS.values(), *v.PROFESSIONS, *v.CUES, *v.ARGUMENTS, *v.FIRST_PARTS, *v.LAST_PARTS]
    texts += [*v.YEARS, *v.CENTURIES, *v.FAMILIES, *v.WOMEN, *v.MEN]
    texts += [word for noun in v.NOUNS for word in noun]
    texts += [word for verbs in (*VERBS.values(), *SEES) for word in verbs]
    texts += [value for relation in RELATIONS.values() for value in relation.values]
    texts += [word for series in SERIES.values() for word in series]
    texts += GLUE
    found |= {word for text in texts for word in text.split() if "." not in word or word == "."}
    return tuple(sorted(word for word in found if not is_symbol(word)))


#: Words that code puts into texts, and nothing else does.
GLUE = ("she", "her", "herself", "he", "him", "his", "himself", "people", "call", "def", "else", "'s")


def documents(
    seed: int | Sequence[int], *, split: Split = "train", mechanisms: Sequence[str] = MECHANISMS
) -> Iterator[str]:
    """An endless seeded stream of short texts.

    No task's sentence in those of "train" has a form, or is about a combination, that the task's held-out prompts have.

    Args:
      seed: decides everything else.
      split: "train" or "held_out".
      mechanisms: the kinds of document, the most frequent first.

    Raises:
      ValueError: a kind or a split that does not exist.

    Example:
      >>> next(documents(3)).split()[-1]
      '.'
    """
    return (" ".join(words) for _, words in _stream(chooser(seed), split, mechanisms))


def _stream(choose: Chooser, split: Split, mechanisms: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Documents with the mechanism that each is of."""
    for name in mechanisms:
        if name not in MECHANISMS:
            raise ValueError(f"unknown mechanism {name!r}; expected some of: {', '.join(MECHANISMS)}")
    check_split(split)
    weights = list(accumulate(1 / (rank + 7) for rank in range(len(mechanisms))))
    ticks = range(1 << 30)
    while True:
        name = mechanisms[bisect(weights, choose(ticks) / len(ticks) * weights[-1])]
        yield name, draw_document(name, choose, split)


def batch(
    ids: Mapping[str, int],
    step: int,
    *,
    seed: int,
    size: int,
    n_ctx: int,
    split: Split = "train",
    mechanisms: Sequence[str] = MECHANISMS,
) -> np.ndarray:
    """The training batch of one step: `int32[size, n_ctx + 1]`, rows full of documents, each after `<bos>`.

    Three rows in four begin in the middle of a document, at a random word; one document in six is one that the row has
    had already, or its end. Nothing but the arguments decides: a run that is resumed at a step sees what it would have.

    Args:
      ids: token of each word, as `word_tokenizer().get_vocab()` gives it.
      step: which batch.
      seed: which corpus.
      size: rows.
      n_ctx: a row is one longer, so that it holds inputs and next words.
      split: "train" or "held_out".
      mechanisms: the kinds of document, as in `documents`.

    Raises:
      ValueError: a kind or a split that does not exist; none but kinds that may not begin everywhere.
      KeyError: `ids` lack a word of the corpus.

    Example:
      >>> ids = {word: index for index, word in enumerate(("<bos>", *words()))}
      >>> batch(ids, 0, seed=0, size=2, n_ctx=16).shape
      (2, 17)
    """
    if set(mechanisms) <= set(EVALUATED):
        raise ValueError(
            f"mechanisms must include one that may begin at any offset of a row, none of {', '.join(EVALUATED)}; got "
            f"{', '.join(mechanisms)}"
        )
    choose = chooser((seed, step, 1))  # numpy takes (seed, 0) for seed: the 1 keeps these apart from other draws
    stream = _stream(choose, split, mechanisms)

    def following(had: Sequence[tuple[str, list[str]]]) -> tuple[str, list[str]]:
        if not had or choose(range(6)):
            return next(stream)
        name, text = choose(had)
        return name, text[choose((0, choose(range(1 + len(text) // 2)))) :]

    rows = np.empty((size, n_ctx + 1), np.int32)
    for row in rows:
        cut = choose((0, *(choose(range(48)) for _ in range(3))))
        tokens: list[int] = []
        had: list[tuple[str, list[str]]] = []
        while len(tokens) < cut + n_ctx + 1:
            name, text = following(had)
            while name in EVALUATED and (len(tokens) - cut) % 8 == HELD_OUT_OFFSET:
                name, text = following(had)
            had.append((name, text))
            tokens.append(ids["<bos>"])
            tokens.extend([ids[word] for word in text])
        row[:] = tokens[cut : cut + n_ctx + 1]
    return rows
