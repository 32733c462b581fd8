"""Training text: the tasks' sentences, finished, among sentences that ask for something else or for nothing.

Each task has its counterexamples, so that no shortcut is right everywhere: people who gave nothing, receivers
without a name, a third giver; verbs that no opening announces; series that repeat instead of going on.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache

import numpy as np

from jaxinterp.tasks import vocabulary as v
from jaxinterp.tasks.agreement import GRAMMAR as AGREEMENT
from jaxinterp.tasks.agreement import SEES, VERBS, draw_agreement
from jaxinterp.tasks.choices import Chooser, chooser
from jaxinterp.tasks.grammar import expand, fill, grammar, is_symbol, terminals
from jaxinterp.tasks.indirect_objects import GRAMMARS as INDIRECT_OBJECTS
from jaxinterp.tasks.indirect_objects import draw_indirect_object, together
from jaxinterp.tasks.splits import Split
from jaxinterp.tasks.successions import CARRIERS, SERIES, draw_succession, items
from jaxinterp.tasks.successions import GRAMMAR as SUCCESSIONS

#: The kinds of document, each as often as it stands here.
MIXTURE = (
    *("indirect_object",) * 8,
    *("agreement",) * 4,
    *("succession",) * 3,
    *("repetition",) * 3,
    *("filler",) * 2,
)

#: What stands between a list of things and the same list once more.
AGAIN = ("and", "again")

GRAMMAR = grammar(
    {
        "CLOSE": (
            *(".",) * 4,
            "at the PLACE .",
            "after lunch .",
            "on WEEKDAY .",
            "in the end .",
            "and went home .",
        ),
        "RECEIVER": ("the PERSON", "the MOOD PERSON", "a PERSON", "the PERSON at the PLACE"),
        "ALONE": (
            "bought a OBJECT CLOSE",
            "was MOOD CLOSE",
            "went home CLOSE",
            "saw the PERSON CLOSE",
            "lost the OBJECT CLOSE",
            "looked for a COLOR OBJECT CLOSE",
        ),
        "THEY": (
            "they bought a OBJECT CLOSE",
            "they went home .",
            "they were MOOD CLOSE",
            "they saw a OBJECT CLOSE",
            "it was a WEATHER day .",
            "the PERSON was MOOD CLOSE",
        ),
        "BE": (
            "MOOD CLOSE",
            "at the PLACE .",
            "near the OBJECT .",
            "WEATHER .",
            "QUALITY CLOSE",
            "in the PLACE CLOSE",
        ),
        "HAVE": ("been MOOD CLOSE", "been at the PLACE .", "seen the OBJECT CLOSE", "found a COLOR OBJECT ."),
        "DO": (".", ".", "ADVERB .", "at the PLACE .", "near the PLACE CLOSE", "and NUMBER more come CLOSE"),
        "FILLER": (
            "NAME went to the PLACE and bought a OBJECT CLOSE",
            "on WEEKDAY , NAME had a COLOR OBJECT CLOSE",
            "NAME gave a OBJECT to the PERSON CLOSE",
            "NAME likes the COLOR OBJECT more than the COLOR OBJECT .",
            "it was a WEATHER day in MONTH . the PERSON ADVERB went to the PLACE CLOSE",
            "the OBJECT was on the table in the PLACE . NAME needs the OBJECT CLOSE",
            "between MONTH and MONTH , NAME was at the PLACE on WEEKDAY .",
            "last WEEKDAY , NUMBER PLURAL were at the PLACE CLOSE",
            "NAME saw NUMBER PLURAL and one SINGULAR near the PLACE CLOSE",
            "the sign said LETTER NUMBER . the next said LETTER NUMBER .",
            "there is a QUALITY SINGULAR in front of the PLACE .",
            "there are NUMBER QUALITY PLURAL in the PLACE .",
            "ONE said hello . then ONE ALONE",
            "ONE came to the PLACE , and ONE ALONE",
            "when ONE was MOOD , the PERSON gave a OBJECT to ONE CLOSE",
        ),
        "NAME": v.NAMES,
        "PLACE": v.PLACES,
        "OBJECT": v.OBJECTS,
        "COLOR": v.COLORS,
        "QUALITY": v.QUALITIES,
        "MOOD": v.MOODS,
        "WEATHER": v.WEATHERS,
        "ADVERB": v.ADVERBS,
        "WEEKDAY": v.WEEKDAYS,
        "MONTH": v.MONTHS,
        "NUMBER": v.NUMBERS[1:],
        "LETTER": v.LETTERS,
        "PERSON": v.PEOPLE,
        "SINGULAR": tuple(noun.singular for noun in v.NOUNS),
        "PLURAL": tuple(noun.plural for noun in v.NOUNS),
    }
)


@cache
def words() -> tuple[str, ...]:
    """Every word that the corpus and the tasks' prompts can hold, sorted.

    Example:
      >>> "Mary" in words(), "thursday" in words(), "Zanzibar" in words()
      (True, True, False)
    """
    found = terminals(GRAMMAR) | terminals(AGREEMENT) | terminals(SUCCESSIONS)
    found |= terminals(INDIRECT_OBJECTS["ABBA"])
    found |= set(AGAIN) | {word for noun in v.NOUNS for word in noun}
    found |= {word for verbs in (*VERBS.values(), *SEES) for word in verbs}
    found |= {word for series in SERIES.values() for word in series}
    found |= {word for carrier in CARRIERS for part in carrier for word in part.split()}
    return tuple(sorted(word for word in found if not is_symbol(word)))


def documents(seed: int | Sequence[int], *, split: Split = "train", mixture: Sequence[str] = MIXTURE) -> Iterator[str]:
    """An endless seeded stream of short texts.

    Those of "train" hold no combination that the tasks' held-out prompts are made of: no two names of a
    held-out pair, no held-out subject, attractor and verb, no run with a held-out start in its carrier.

    Args:
      seed: decides everything else.
      split: "train" or "held_out".
      mixture: the kinds of document, each as often as it is listed: "indirect_object", "agreement",
        "succession", "repetition" (a list of words, twice) and "filler".

    Raises:
      ValueError: a split that does not exist.
      KeyError: a kind that does not exist.

    Example:
      >>> next(documents(3))
      'between may and july , Max was at the hotel on friday .'
    """
    choose = chooser(seed)
    draw = {
        "indirect_object": _indirect_object,
        "agreement": _agreement,
        "succession": _succession,
        "repetition": _repetition,
        "filler": _filler,
    }
    while True:
        yield " ".join(draw[choose(mixture)](choose, split))


def batch(
    ids: Mapping[str, int],
    step: int,
    *,
    seed: int,
    size: int,
    n_ctx: int,
    split: Split = "train",
    mixture: Sequence[str] = MIXTURE,
) -> np.ndarray:
    """The training batch of one step: `int32[size, n_ctx + 1]`, every row full of documents after `<bos>`.

    Nothing but the arguments decides, so a run that is resumed at a step sees what it would have seen.

    Args:
      ids: token of each word, as `word_tokenizer().get_vocab()` gives it.
      step: which batch.
      seed: which corpus.
      size: rows.
      n_ctx: a row is one longer, so that it holds inputs and next words.
      split: "train" or "held_out".
      mixture: the kinds of document, as in `documents`.

    Raises:
      KeyError: `ids` lack a word of the corpus, or a kind does not exist.

    Example:
      >>> ids = {word: index for index, word in enumerate(("<bos>", *words()))}
      >>> batch(ids, 0, seed=0, size=2, n_ctx=16).shape
      (2, 17)
    """
    stream = documents((seed, step), split=split, mixture=mixture)
    rows = np.empty((size, n_ctx + 1), np.int32)
    for row in rows:
        tokens: list[int] = []
        while len(tokens) <= n_ctx:
            tokens.append(ids["<bos>"])
            tokens.extend([ids[word] for word in next(stream).split()])
        row[:] = tokens[: n_ctx + 1]
    return rows


def _indirect_object(choose: Chooser, split: Split) -> list[str]:
    pair = draw_indirect_object(choose, split)
    text, s2 = pair.clean.split(), pair.positions["S2"]
    kind = choose(range(20))
    if kind == 0:
        return text[:s2] + expand("THEY", GRAMMAR, choose)
    if kind == 1:
        return text[: s2 + 1] + expand("ALONE", GRAMMAR, choose)
    if kind in (2, 3):
        return text + expand("RECEIVER", GRAMMAR, choose) + expand("CLOSE", GRAMMAR, choose)
    answer = pair.correct
    if kind == 4:
        text[s2] = _other_name(choose, pair.correct, pair.wrong)
        answer = choose((pair.correct, pair.wrong))
    return [*text, answer, *expand("CLOSE", GRAMMAR, choose)]


def _other_name(choose: Chooser, *names: str) -> str:
    """One more name, none of which makes a held-out pair with those there are."""
    while True:
        other = choose(v.NAMES)
        if other not in names and all(together(other, name) for name in names):
            return other


def _agreement(choose: Chooser, split: Split) -> list[str]:
    pair = draw_agreement(choose, split)
    text, verb = pair.clean.split(), pair.correct
    if choose(range(6)) == 0:
        text = text[text.index(",") + 1 :]  # without its opening, any of the subject's verbs may come
    rest = {"is": "BE", "are": "BE", "was": "BE", "were": "BE", "has": "HAVE", "have": "HAVE"}.get(verb, "DO")
    return [*text, verb, *expand(rest, GRAMMAR, choose)]


def _succession(choose: Chooser, split: Split) -> list[str]:
    pair = draw_succession(choose, split)
    text, first, last = pair.clean.split(), pair.positions["FIRST"], pair.positions["LAST"]
    if choose(range(10)) == 0:
        repeated = [word if word in (",", "and") else text[first] for word in text[first : last + 1]]
        return [*text[:first], *repeated, *text[last + 1 :], text[first], "."]
    after = text[last + 1 :]
    text.append(pair.correct)
    if after in ([], [","]):
        # Such a run goes on for a while: how long it is does not tell where it ends.
        kind = next(kind for kind, series in SERIES.items() if pair.correct in series)
        for word in items(kind, SERIES[kind].index(pair.correct) + 1, choose(range(5))):
            text += [*after, word]
    return [*text, "."]


def _repetition(choose: Chooser, split: Split) -> list[str]:
    """A list, and the same list again: words that can be known in no other way than by copying."""
    length = choose((2, 3, 4, 5, 6))
    if choose((True, False)):
        things = [choose(v.OBJECTS) for _ in range(length)]
    else:
        things = [choose(v.NAMES)]
        while len(things) < length:
            things.append(_other_name(choose, *things))
    return [*things, *AGAIN, *things, "."]


def _filler(choose: Chooser, split: Split) -> list[str]:
    return fill(expand("FILLER", GRAMMAR, choose), {"ONE": choose(v.NAMES)}).split()
