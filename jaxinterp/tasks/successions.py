"""Successions: "monday tuesday wednesday" -> thursday, for weekdays, months, numbers and letters."""

from functools import cache
from itertools import product
from typing import NamedTuple

from jaxinterp.tasks import vocabulary as v
from jaxinterp.tasks.choices import Chooser
from jaxinterp.tasks.grammar import expand, grammar
from jaxinterp.tasks.pairs import PromptPair, draw_pairs
from jaxinterp.tasks.splits import Split, in_split

#: Weekdays and months begin again after the last one; numbers and letters end.
SERIES = {"weekday": v.WEEKDAYS, "month": v.MONTHS, "number": v.NUMBERS, "letter": v.LETTERS}
CYCLIC = ("weekday", "month")
LENGTHS = (2, 3, 4, 5)

#: What stands before the run, between two items, and after the last one.
CARRIERS = (
    ("", " ", ""),
    ("", " , ", ","),
    ("SPEAKER said", " ", ""),
    ("SPEAKER said :", " , ", ","),
    ("the list was", " , ", "and then"),
    ("SPEAKER counted", " , ", "and"),
    ("first came", " , ", "and after that came"),
    ("after", " and ", "comes"),
    ("on the OBJECT it said", " ", "and then"),
    ("SPEAKER wrote", " ", "and the next was"),
)

GRAMMAR = grammar(
    {
        "OPENING": ("", "", "", "yesterday ,", "last night ,", "at the PLACE ,"),
        "SPEAKER": ("the PERSON", "the MOOD PERSON", "NAME"),
        "PERSON": v.PEOPLE,
        "MOOD": v.MOODS,
        "NAME": v.NAMES,
        "PLACE": v.PLACES,
        "OBJECT": v.OBJECTS,
        **{f"BEFORE{i}": (f"OPENING {before}",) for i, (before, _, _) in enumerate(CARRIERS)},
    }
)


class Combination(NamedTuple):
    """What a split holds out: where a run starts, in a carrier. Its length is free.

    A longer run shows how the shorter ones that start with it go on: to hold out one is to hold out all.
    """

    carrier: int
    kind: str
    start: int


def items(kind: str, start: int, n: int) -> list[str]:
    """The `n` items of a series from an index on; fewer where a series that does not begin again ends.

    Example:
      >>> items("weekday", 6, 2), items("number", 18, 3)
      (['sunday', 'monday'], ['nineteen', 'twenty'])
    """
    series = SERIES[kind] * 2 if kind in CYCLIC else SERIES[kind]
    return list(series[start : start + n])


def starts(kind: str, length: int) -> list[int]:
    """Where a run of this length may start, so that it has a next item.

    Example:
      >>> starts("weekday", 5), starts("number", 17)
      ([0, 1, 2, 3, 4, 5, 6], [0, 1, 2])
    """
    return [i for i in range(len(SERIES[kind])) if len(items(kind, i, length + 1)) > length]


@cache
def combinations(split: Split) -> tuple[Combination, ...]:
    """The combinations of a split.

    Raises:
      ValueError: a split that does not exist.

    Example:
      >>> combinations("train")[0]
      Combination(carrier=0, kind='weekday', start=0)
    """
    every = (
        Combination(carrier, kind, start)
        # Listed several times, so that short series are drawn about as often as long ones.
        for kind, repeats in (("weekday", 3), ("month", 2), ("number", 1), ("letter", 1))
        for carrier, start, _ in product(range(len(CARRIERS)), starts(kind, min(LENGTHS)), range(repeats))
    )
    return in_split(every, split, key=lambda each: (*CARRIERS[each.carrier], SERIES[each.kind][each.start]))


def draw_succession(choose: Chooser, split: Split = "train") -> PromptPair:
    """One pair of `successions`, drawn from a seeded chooser.

    Example:
      >>> from jaxinterp.tasks.choices import chooser
      >>> draw_succession(chooser(0)).correct
      'march'
    """
    carrier, kind, start = choose(combinations(split))
    length = choose([n for n in LENGTHS if start in starts(kind, n)])
    other = choose([i for i in starts(kind, length) if i != start])
    _, joint, after = CARRIERS[carrier]
    before = expand(f"BEFORE{carrier}", GRAMMAR, choose)
    (*run, correct), (*other_run, wrong) = (items(kind, i, length + 1) for i in (start, other))

    words = [*before, *joint.join(run).split(), *after.split()]
    return PromptPair(
        clean=" ".join(words),
        corrupted=" ".join([*before, joint.join(other_run), after]).strip(),
        correct=correct,
        wrong=wrong,
        positions={"FIRST": len(before), "LAST": len(words) - 1 - len(after.split()), "END": len(words) - 1},
    )


def successions(n: int, *, seed: int, split: Split = "train") -> list[PromptPair]:
    """Prompts whose next word is the next item of a series.

    The corrupted prompt holds another run of the same series and length. Positions: `FIRST` and `LAST` item,
    and `END`, the last word.

    Args:
      n: how many.
      seed: decides everything else; a longer list starts with the shorter one of the same seed.
      split: a run's start in its carrier (`combinations`) is in one split only.

    Raises:
      TypeError, ValueError: an `n`, a seed or a split that is none.

    Example:
      >>> pair = successions(1, seed=0)[0]
      >>> pair.clean
      'first came december , january , february and after that came'
      >>> pair.correct, pair.wrong
      ('march', 'december')
    """
    return draw_pairs(n, seed, split, lambda choose: draw_succession(choose, split))
