"""Successions among repetitions: one person goes on in a series, another repeats one item of it, and one is next."""

from collections.abc import Mapping

from jaxinterp.tasks.choices import Chooser
from jaxinterp.tasks.english import vocabulary as v
from jaxinterp.tasks.english.phrases import PHRASES
from jaxinterp.tasks.grammar import compose, fill, grammar
from jaxinterp.tasks.pairs import PromptPair, draw_pairs
from jaxinterp.tasks.splits import Split, cell_split
from jaxinterp.tasks.successions import SERIES, items, starts

#: What two people do, each on their own series or on one item of it again and again: kind -> how it is said.
TRACKS: Mapping[Split, Mapping[str, tuple[str, ...]]] = {
    "train": {
        "weekday": (
            "came on",
            "went to the PLACE1 on",
            "left on",
            "had lunch at the PLACE1 on",
            "cooked some FOOD1 on",
            "is MOOD1 on",
            "looked for a OBJECT1 on",
            "works in the PLACE1 every",
        ),
        "month": (
            "travels in",
            "is at the PLACE1 in",
            "works in CITY1 in",
            "lost the OBJECT1 in",
            "paints the PLACE1 in",
            "was MOOD1 in",
            "sold FOOD1 in",
            "came from LAND1 in",
        ),
        "number": (
            "counted",
            "bought PLURAL1 and paid",
            "said",
            "saw PLURAL1 and counted",
            "asked for",
            "has a OBJECT1 and needs",
            "sold the OBJECT1 for",
            "found",
        ),
        "letter": (
            "wrote",
            "painted the letter",
            "said the letter",
            "has the letter",
            "saw a OBJECT1 with the letter",
            "likes",
            "asked for",
            "draws",
        ),
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

TRACK_RULES = PHRASES | grammar(
    {
        "GAP": (*("",) * 6, "ASIDE", "TIME the PERSON DID ."),
        # Before the question of a held-out prompt, so that no item stands at one distance from the end in many.
        "PAUSE": (
            *("", "ASIDE", "ASIDE ASIDE", "TIME the PERSON DID .", "the PERSON DID .", "ASIDE the PERSON DID ."),
            *("TIME the PERSON DID . ASIDE", "ASIDE TIME the PERSON DID ."),
        ),
    }
)


def draw_tracks(choose: Chooser, split: Split = "train") -> PromptPair:
    """One pair of `interleaved_successions`, drawn from a seeded chooser.

    Example:
      >>> from jaxinterp.tasks.choices import chooser
      >>> draw_tracks(chooser(0)).positions["END"] > 10
      True
    """
    kind = choose(tuple(SERIES))
    rounds = choose((2, 2, 2, 3)) if kind in ("number", "letter") else 2
    people = choose(v.PEOPLE), choose(v.PEOPLE)
    start = choose(starts(kind, rounds))

    def fits(person: str, start: int) -> bool:
        # The last two items of a run ask what the run of two that begins with them asks, and those before are read.
        *read, asked = [cell_split(v.PEOPLE.index(person), start + turn) for turn in range(rounds - 1)]
        return asked == split and (split == "held_out" or "held_out" not in read)

    while people[0] == people[1] or not fits(people[0], start):
        people, start = (choose(v.PEOPLE), choose(v.PEOPLE)), choose(starts(kind, rounds))
    run = items(kind, start, rounds + 1)
    # Whoever repeats might as well have gone on, for all that these two words tell.
    apart = [i for i in starts(kind, rounds) if fits(people[1], i) and not set(items(kind, i, rounds + 1)) & set(run)]
    if not apart:
        return draw_tracks(choose, split)
    *before, same, after_same = items(kind, choose(apart), rounds + 1)
    advancing, repeating = choose((("ONE", "TWO"), ("TWO", "ONE")))
    asked = choose((advancing, repeating))

    says = choose(TRACKS[split][kind])

    def some(role: str, least: int, most: int) -> list[str]:
        return [role] * choose(range(least, most + 1))

    told = []
    for turn in range(rounds):
        for who in ("ONE", "TWO"):
            told += ["the", who, says, f"{who}AT{turn}", ".", "GAP"]
    # Items are named besides. In training text the last of the run and the repeated one as often as each other, and so
    # are those that come before them: what is named besides does not tell who repeats. In held-out prompts as often as
    # each other in all, with what the two do, so that which words there are, and how often, does not tell either. There
    # they more often stand in front, for the first that is told of the two may be the repeated one, never the last.
    held_out = split == "held_out"
    more = rounds - 1 if held_out else 0
    named = [*some("REPEATED", 0, 3), *some("LAST", more, more + 3)]
    for turn in range(rounds - 1):
        named += [*some(f"RUN{turn}", 0, 1), *some(f"BEFORE{turn}", held_out, held_out + 1)]
    besides: list[str] = []
    while named:
        few = [named.pop(choose(range(len(named)))) for _ in range(min(len(named), choose((1, 2, 2, 3))))]
        besides += ["nobody", "else", says, *" or ".join(few).split(), ".", "GAP"]
    in_front = choose((True, True, True, False) if held_out else (True, False))
    text = ["LEAD", *(besides + told if in_front else told + besides)]
    if held_out:
        text.append("PAUSE")
    text += ["now", "the", asked, says]
    words = compose(" ".join(text).split(), TRACK_RULES, choose)
    roles = dict(zip((advancing, repeating), people, strict=True))
    roles |= {f"{advancing}AT{turn}": run[turn] for turn in range(rounds)}
    roles |= {f"{repeating}AT{turn}": same for turn in range(rounds)} | {"LAST": run[rounds - 1], "REPEATED": same}
    for turn, item in enumerate(before):
        roles |= {f"RUN{turn}": run[turn], f"BEFORE{turn}": item}
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
      TypeError, ValueError: an `n`, a seed or a split that is none.

    Example:
      >>> pair = interleaved_successions(1, seed=0)[0]
      >>> pair.correct != pair.wrong
      True
    """
    return draw_pairs(n, seed, split, lambda choose: draw_tracks(choose, split))
