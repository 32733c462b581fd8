"""Brackets and quotes: "Tom ( who saw [ near the park ] a dog" -> ")": what was opened last is closed first."""

from collections.abc import Mapping

from jaxinterp.tasks.choices import Chooser
from jaxinterp.tasks.english.phrases import PHRASES
from jaxinterp.tasks.grammar import compose, fill, grammar
from jaxinterp.tasks.pairs import PromptPair, draw_pairs
from jaxinterp.tasks.splits import Split

#: Opening -> closing. A quotation mark is the same on both sides.
CLOSERS = {"(": ")", "[": "]", "{": "}", "<": ">", '"': '"'}

#: OUTER opens first and INNER inside it; the prompt ends where INNER closes.
TEMPLATES: Mapping[Split, tuple[str, ...]] = {
    "train": (
        "BEFORE NAME1 OUTER who DID INNER LONG",
        "BEFORE the OBJECT OUTER a QUALITY one and LONG INNER LONG",
        "BEFORE the PERSON wrote OUTER LONG INNER LONG",
    ),
    # Two leads, so that the outer bracket stands at no place in many.
    "held_out": (
        "BEFORE BEFORE the PERSON OUTER a friend of LONG INNER LONG",
        "BEFORE BEFORE OUTER NAME1 saw LONG INNER LONG",
    ),
}

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
    outer, inner = choose(tuple(CLOSERS)), choose(tuple(CLOSERS))
    while outer == inner:
        inner = choose(tuple(CLOSERS))
    words = compose(choose(TEMPLATES[split]).split(), RULES, choose)
    return PromptPair(
        clean=fill(words, {"OUTER": outer, "INNER": inner}),
        corrupted=fill(words, {"OUTER": inner, "INNER": outer}),
        correct=CLOSERS[inner],
        wrong=CLOSERS[outer],
        positions={"OUTER": words.index("OUTER"), "INNER": words.index("INNER"), "END": len(words) - 1},
    )


def nesting(n: int, *, seed: int, split: Split = "train") -> list[PromptPair]:
    """Prompts with two brackets (or quotes) open, whose next word closes the inner one.

    In the corrupted prompt the two change places. Positions: `OUTER`, `INNER`, the words that open, and `END`.

    Args:
      n: how many.
      seed: decides everything else; a longer list starts with the shorter one of the same seed.
      split: which forms of sentences.

    Raises:
      TypeError, ValueError: an `n`, a seed or a split that is none.

    Example:
      >>> pair = nesting(1, seed=0)[0]
      >>> CLOSERS[pair.clean.split()[pair.positions["INNER"]]] == pair.correct
      True
    """
    return draw_pairs(n, seed, split, lambda choose: draw_nesting(choose, split))
