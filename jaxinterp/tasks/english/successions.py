"""Successions: "monday tuesday wednesday" -> thursday, for weekdays, months, numbers and letters."""

from collections.abc import Mapping
from functools import cache
from itertools import product
from typing import NamedTuple

from jaxinterp.tasks.choices import Chooser
from jaxinterp.tasks.english import vocabulary as v
from jaxinterp.tasks.english.phrases import PHRASES
from jaxinterp.tasks.grammar import compose, expand, fill, grammar
from jaxinterp.tasks.pairs import PromptPair, draw_pairs
from jaxinterp.tasks.splits import Split, in_split, split_of

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
      ValueError: a split that does not exist, or a negative `n`.

    Example:
      >>> pair = successions(1, seed=0)[0]
      >>> pair.clean
      'first came december , january , february and after that came'
      >>> pair.correct, pair.wrong
      ('march', 'december')
    """
    return draw_pairs(n, seed, lambda choose: draw_succession(choose, split))


#: What two people do, each on their own series or on one item of it again and again: kind -> how it is said.
TRACKS: Mapping[Split, Mapping[str, tuple[str, ...]]] = {
    "train": {
        "weekday": ("came on", "went to the PLACE1 on"),
        "month": ("travels in", "is at the PLACE1 in"),
        "number": ("counted", "bought PLURAL1 and paid"),
        "letter": ("wrote", "painted the letter"),
    },
    "held_out": {
        "weekday": ("was at the PLACE1 on",),
        "month": ("goes to LAND1 in",),
        "number": ("paid",),
        "letter": ("read the letter",),
    },
}

#: Longer ones would not fit a context of 128 words behind other text.
LONGEST = 100

TRACK_RULES = PHRASES | grammar({"GAP": (*("",) * 6, "ASIDE", "TIME the PERSON DID .")})


def draw_tracks(choose: Chooser, split: Split = "train") -> PromptPair:
    """One pair of `interleaved_successions`, drawn from a seeded chooser.

    Example:
      >>> from jaxinterp.tasks.choices import chooser
      >>> draw_tracks(chooser(0)).positions["END"] > 10
      True
    """
    kind = choose(tuple(SERIES))
    rounds = choose((2, 2, 2, 3)) if kind in ("number", "letter") else 2
    series = SERIES[kind]
    people = choose(v.PEOPLE), choose(v.PEOPLE)
    start = choose(starts(kind, rounds))
    while people[0] == people[1] or split_of("tracks", people[0], series[start]) != split:
        people, start = (choose(v.PEOPLE), choose(v.PEOPLE)), choose(starts(kind, rounds))
    run = items(kind, start, rounds + 1)
    apart = [i for i in starts(kind, rounds) if not set(items(kind, i, rounds + 1)) & set(run)]
    if not apart:
        return draw_tracks(choose, split)
    *before, same, after_same = items(kind, choose(apart), rounds + 1)
    advancing, repeating = choose((("ONE", "TWO"), ("TWO", "ONE")))
    asked = choose((advancing, repeating))

    says = choose(TRACKS[split][kind])
    text = ["LEAD"]
    for turn in range(rounds):
        for who in ("ONE", "TWO"):
            text += ["the", who, says, f"{who}AT{turn}", ".", "GAP"]
    # The last item of the run is named as often as the repeated one, and what comes before that as often as what
    # comes before the run's last one: which words there are does not tell who repeats.
    for turn in range(rounds - 1):
        for item in choose((("LAST", f"BEFORE{turn}"), (f"BEFORE{turn}", "LAST"))):
            text += ["nobody", "else", says, item, ".", "GAP"]
    text += ["now", "the", asked, says]
    words = compose(" ".join(text).split(), TRACK_RULES, choose)
    roles = dict(zip((advancing, repeating), people, strict=True))
    roles |= {f"{advancing}AT{turn}": run[turn] for turn in range(rounds)}
    roles |= {f"{repeating}AT{turn}": same for turn in range(rounds)} | {"LAST": run[rounds - 1]}
    roles |= {f"BEFORE{turn}": item for turn, item in enumerate(before)}
    if asked == advancing:
        correct, wrong = run[rounds], run[rounds - 1]
        other = roles | {f"{advancing}AT{turn}": run[rounds - 1] for turn in range(rounds)}
    else:
        correct, wrong = same, after_same
        other = roles | {f"{repeating}AT{turn}": item for turn, item in enumerate(before)}
    if len(words) > LONGEST:
        return draw_tracks(choose, split)
    positions = {
        "FIRST": words.index(f"{asked}AT0"),
        "LAST": words.index(f"{asked}AT{rounds - 1}"),
        "ASKED": len(words) - 1 - words[::-1].index(asked),
        "END": len(words) - 1,
    }
    return PromptPair(fill(words, roles), fill(words, other), correct, wrong, positions)


def interleaved_successions(n: int, *, seed: int, split: Split = "train") -> list[PromptPair]:
    """Prompts in which one person goes on in a series while another repeats one item of it, and one of them is next.

    The right answer is the next item of the run for the one and the same item again for the other; the contrast
    answer is what it would be if they did as the other does, and so it is after the corrupted prompt, in which the
    earlier items of whoever is asked about are changed. Positions: that person's `FIRST` and `LAST` item, `ASKED`
    (the person, at the end) and `END`.

    Args:
      n: how many.
      seed: decides everything else; a longer list starts with the shorter one of the same seed.
      split: who goes on from where, and what people do, are in one split only.

    Raises:
      ValueError: a split that does not exist, or a negative `n`.

    Example:
      >>> pair = interleaved_successions(1, seed=0)[0]
      >>> pair.correct != pair.wrong
      True
    """
    if split not in TRACKS:
        raise ValueError(f"unknown split {split!r}; expected one of: {', '.join(TRACKS)}")
    return draw_pairs(n, seed, lambda choose: draw_tracks(choose, split))
