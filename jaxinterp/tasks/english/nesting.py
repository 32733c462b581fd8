"""Brackets and quotes: "Tom ( who saw [ near the park { or a lake } and a dog" -> "]": they close from within.

What was opened last may be closed already, and then it is the one before.
"""

from collections.abc import Mapping

from jaxinterp.tasks.choices import Chooser
from jaxinterp.tasks.english.phrases import PHRASES
from jaxinterp.tasks.grammar import compose, fill, grammar
from jaxinterp.tasks.pairs import PromptPair, draw_pairs
from jaxinterp.tasks.splits import Split

#: Opening -> closing. A quotation mark is the same on both sides.
CLOSERS = {"(": ")", "[": "]", "{": "}", "<": ">", '"': '"'}

#: OUTER opens first and INNER inside it, which the prompt ends within or has closed LATER. Other pairs open and close
#: EARLIER and LATER.
TEMPLATES: Mapping[Split, tuple[str, ...]] = {
    "train": (
        "BEFORE EARLIER NAME1 OUTER who DID INNER LONG LATER",
        "BEFORE EARLIER the OBJECT OUTER a QUALITY one and LONG INNER LONG LATER",
        "BEFORE EARLIER the PERSON wrote OUTER LONG INNER LONG LATER",
    ),
    # Two leads, so that the outer bracket stands at no place in many.
    "held_out": (
        "BEFORE BEFORE EARLIER the PERSON OUTER a friend of LONG INNER LONG LATER",
        "BEFORE BEFORE EARLIER OUTER NAME1 saw LONG INNER LONG LATER",
    ),
}

#: Longer ones would not fit a context of 128 words behind other text.
LONGEST = 100

RULES = PHRASES | grammar(
    {
        "BEFORE": ("LEAD",),
        # Anything from two words to forty, so that how far back a bracket stands does not tell which it is.
        "LONG": (
            "PART",
            "PART and PART",
            "PART , PART and PART",
            "PART , PART , PART and PART",
            "THING , LONG",
            "PART and LONG",
        ),
        "PART": (
            "the PERSON",
            "the old days of the WEATHER MONTH",
            "the PLACE near the PLACE of CITY",
            "some QUALITY place in LAND",
            "the COLOR OBJECT",
            "the VQUALITY PERSON from the PLACE",
        ),
    }
)


def draw_nesting(choose: Chooser, split: Split = "train") -> PromptPair:
    """One pair of `nesting`, drawn from a seeded chooser.

    Example:
      >>> from jaxinterp.tasks.choices import chooser
      >>> draw_nesting(chooser(0)).correct in CLOSERS.values()
      True
    """
    kinds = list(CLOSERS)
    outer, third, fourth = (kinds.pop(choose(range(len(kinds)))) for _ in range(3))
    inner = choose(kinds)
    closes = choose(("INNER", "OUTER"))
    if split == "held_out":
        # The first and the last bracket that one reads are of other pairs, and what closes INNER has been read, here or
        # in an earlier pair of the same kind: neither which brackets there are nor where they stand tells what closes.
        if inner == '"':  # the same on both sides, so that how often it was read would tell
            outer, inner = inner, outer
        earlier, later = ["THIRD", "SAME"] if closes == "INNER" else ["THIRD"], ["FOURTH"]
    else:
        earlier, later = ([kind for kind in each if choose((True, False))] for each in (("THIRD", "SAME"), ("FOURTH",)))
    before = [f"{kind} PART {kind}CLOSED" for kind in earlier]
    since = [
        *(["INNERCLOSED LONG"] if closes == "OUTER" else []),
        *(f"{kind} PART {kind}CLOSED LONG" for kind in later),
    ]
    words = [""] * (LONGEST + 1)
    while len(words) > LONGEST:
        form = fill(choose(TEMPLATES[split]).split(), {"EARLIER": " ".join(before), "LATER": " ".join(since)})
        words = compose(form.split(), RULES, choose)

    def text(outer: str, inner: str) -> str:
        opening = {"OUTER": outer, "INNER": inner, "SAME": inner, "THIRD": third, "FOURTH": fourth}
        return fill(words, opening | {f"{role}CLOSED": CLOSERS[kind] for role, kind in opening.items()})

    correct, wrong = (inner, outer) if closes == "INNER" else (outer, inner)
    return PromptPair(
        clean=text(outer, inner),
        corrupted=text(inner, outer),
        correct=CLOSERS[correct],
        wrong=CLOSERS[wrong],
        positions={"OUTER": words.index("OUTER"), "INNER": words.index("INNER"), "END": len(words) - 1},
    )


def nesting(n: int, *, seed: int, split: Split = "train") -> list[PromptPair]:
    """Prompts within a bracket (or quote) within another, or behind the inner one, whose next word closes what is open.

    Other pairs have opened and closed before and since. In the corrupted prompt the two change places. Positions:
    `OUTER`, `INNER`, the words that open, and `END`.

    Args:
      n: how many.
      seed: decides everything else; a longer list starts with the shorter one of the same seed.
      split: which forms of sentences.

    Raises:
      TypeError, ValueError: an `n`, a seed or a split that is none.

    Example:
      >>> pair = nesting(1, seed=0)[0]
      >>> opened = [pair.clean.split()[pair.positions[role]] for role in ("INNER", "OUTER")]
      >>> sorted((pair.correct, pair.wrong)) == sorted(CLOSERS[each] for each in opened)
      True
    """
    return draw_pairs(n, seed, split, lambda choose: draw_nesting(choose, split))
