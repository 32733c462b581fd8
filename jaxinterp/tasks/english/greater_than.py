"""Greater-than: "the war lasted from the year 17 32 to the year 17" -> any of 33 ... 99 (Hanna et al. 2023)."""

from collections.abc import Mapping
from functools import cache
from itertools import product
from typing import NamedTuple

from jaxinterp.tasks.choices import Chooser
from jaxinterp.tasks.english import vocabulary as v
from jaxinterp.tasks.english.phrases import PHRASES
from jaxinterp.tasks.grammar import compose, fill, grammar
from jaxinterp.tasks.pairs import PromptPair, draw_pairs
from jaxinterp.tasks.splits import Split, in_split

TEMPLATES: Mapping[Split, tuple[str, ...]] = {
    "train": (
        "BEFORE the EVENT lasted from the year XX YY to the year XX",
        "BEFORE the QUALITY EVENT began in XX YY and ended in XX",
        "BEFORE in XX YY the EVENT began . it was over in XX",
        "BEFORE the EVENT of CITY went on from XX YY to XX",
        "BEFORE after XX YY came the EVENT . it ended in LAND in XX",
        "BEFORE the EVENT that began in XX YY went on to XX",
        "BEFORE the EVENT in CITY , which began in the year XX YY , ended in XX",
        "BEFORE the QUALITY EVENT lasted from XX YY in LAND to XX",
        "BEFORE from the year XX YY the EVENT was in CITY . in LAND it ended in XX",
        "BEFORE the EVENT of the year XX YY ended in the year XX",
        "BEFORE the PERSON read about the EVENT from XX YY to the year XX",
    ),
    "held_out": (
        "BEFORE the EVENT of LAND lasted from XX YY to the year XX",
        "BEFORE the EVENT began in the year XX YY and was over in XX",
    ),
}

RULES = PHRASES | grammar({"BEFORE": ("", "LEAD", "LEAD", "NAME1 DID .", "NAME1 read that"), "EVENT": v.EVENTS})

#: First years that an event can begin in, as indices of `vocabulary.YEARS`: something comes before and after them.
FIRST, LAST = 2, 98


class Combination(NamedTuple):
    """What a split holds out: an event that begins in a year."""

    event: str
    year: int


@cache
def combinations(split: Split) -> tuple[Combination, ...]:
    """The combinations of a split. Each exists in every century.

    Raises:
      ValueError: a split that does not exist.

    Example:
      >>> combinations("train")[0]
      Combination(event='war', year=2)
    """
    every = (Combination(*each) for each in product(v.EVENTS, range(FIRST, LAST + 1)))
    return in_split(every, split, lambda each: (each.event, v.YEARS[each.year]))


def draw_greater_than(choose: Chooser, split: Split = "train") -> PromptPair:
    """One pair of `greater_than`, drawn from a seeded chooser.

    Example:
      >>> from jaxinterp.tasks.choices import chooser
      >>> pair = draw_greater_than(chooser(0))
      >>> pair.correct > pair.clean.split()[pair.positions["YY"]] > pair.wrong
      True
    """
    event, year = choose(combinations(split))
    roles = {"XX": choose(v.CENTURIES), "EVENT": event}
    words = compose(choose(TEMPLATES[split]).split(), RULES, choose, roles)
    return PromptPair(
        clean=fill(words, {"YY": v.YEARS[year]}),
        corrupted=fill(words, {"YY": v.YEARS[1]}),
        correct=choose(v.YEARS[year + 1 :]),
        wrong=choose(v.YEARS[FIRST : year + 1]),
        positions={"YY": words.index("YY"), "END": len(words) - 1},
    )


def greater_than(n: int, *, seed: int, split: Split = "train") -> list[PromptPair]:
    """Prompts whose next word is a year, two digits, after the one in which something began.

    Every later year of the century is as likely in the training text, so the right answer is a uniform distribution
    with a sharp edge: `correct` is a draw from it, `wrong` a draw from 02 to the first year itself. The corrupted
    prompt begins in 01, after which both may come. Positions: `YY`, the first year's last two digits, and `END`.

    Args:
      n: how many.
      seed: decides everything else; a longer list starts with the shorter one of the same seed.
      split: an event that begins in this year, and the form of the sentence, are in one split only.

    Raises:
      TypeError, ValueError: an `n`, a seed or a split that is none.

    Example:
      >>> pair = greater_than(1, seed=0)[0]
      >>> pair.correct > pair.clean.split()[pair.positions["YY"]]
      True
    """
    return draw_pairs(n, seed, split, lambda choose: draw_greater_than(choose, split))
