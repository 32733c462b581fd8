"""Argument lists: "def load ( files , size , mode ) : ... : param files : the cake : param" -> size.

After the docstring circuit of Heimersheim and Janiak 2023: parameters are described in the order of the definition.
"""

from collections.abc import Mapping
from itertools import pairwise, product

from jaxinterp.tasks.choices import Chooser
from jaxinterp.tasks.english import vocabulary as v
from jaxinterp.tasks.english.phrases import PHRASES
from jaxinterp.tasks.grammar import compose, fill, grammar
from jaxinterp.tasks.pairs import PromptPair, draw_pairs
from jaxinterp.tasks.splits import Split, cell_split

#: How a parameter is announced: in training text by any of many words, so that none of them says what comes next.
_SIGNS = (":", ";", "-", "[", ">", "*", "the")
_WORDS = ("param", "argument", "parameter", "word", "sign", *v.OBJECTS)
MARKS: Mapping[Split, tuple[str, ...]] = {
    "train": tuple(f"{sign} {word}" for sign, word in product(_SIGNS, _WORDS) if (sign, word) != ("*", "parameter")),
    "held_out": ("* parameter",),
}

#: Longer ones would not fit a context of 128 words behind other text.
LONGEST = 100

RULES = PHRASES | grammar(
    {
        "BEFORE": ("", "LEAD", "LEAD"),
        "FUNCTION": v.FUNCTIONS,
        "DOES": (
            "FUNCTION the QUALITY OBJECT .",
            "FUNCTION and FUNCTION the PLURAL .",
            "needs NUMBER coins .",
            "a QUALITY tool .",
            "FUNCTION the OBJECT of the PERSON at the PLACE of CITY , of course .",
            "FUNCTION and FUNCTION and FUNCTION the PLURAL of the PLACE near the PLACE of CITY in LAND .",
            "a QUALITY tool . as the PERSON of CITY said , it needs NUMBER coins or more and the old OBJECT .",
        ),
        "ABOUT": (
            "the QUALITY OBJECT of the PERSON",
            "NUMBER PLURAL of the PLACE",
            "a COLOR OBJECT or more",
            "the PERSON of CITY",
            "THING and some FOOD , of course",
        ),
        # In a held-out prompt, so that no argument stands at one distance from the end in many.
        "MORE": ("", "DOES", "DOES DOES", "DOES ASIDE"),
        "LONG": ("ABOUT", "ABOUT and ABOUT", "ABOUT , ABOUT and ABOUT"),
    }
)


def draw_arguments(choose: Chooser, split: Split = "train") -> PromptPair:
    """One pair of `arguments`, drawn from a seeded chooser.

    Example:
      >>> from jaxinterp.tasks.choices import chooser
      >>> draw_arguments(chooser(0)).correct in v.ARGUMENTS
      True
    """
    held_out = split == "held_out"
    count = choose((5, 6, 7))
    # The contrast answer is one described already or one that comes later; whichever of the two has been named
    # less often is named once more, so that neither counts nor order tell. Nor is it the one described last, which
    # nobody would describe again.
    described, other = choose([two for two in product(range(1, count - 1), repeat=2) if abs(two[0] - two[1]) > 1])
    while True:
        names = [choose(v.ARGUMENTS) for _ in range(count)]
        # Held out is what comes after what: in training text no such two are neighbours anywhere in a definition. Of
        # the two answers both come after the argument before or both do not, for that must not tell them apart.
        splits = [cell_split(*map(v.ARGUMENTS.index, two)) for two in pairwise(names)]
        answers = [cell_split(*map(v.ARGUMENTS.index, (names[described - 1], names[i]))) for i in (described, other)]
        fits = set(answers) == {split} and (held_out or "held_out" not in splits)
        if len(set(names)) == count and fits:
            break
    mark = choose(MARKS[split])
    text = ["BEFORE", "def", "FUNCTION", "("]
    for i in range(count):
        text += [f"ARG{i}", ","]
    # In a held-out prompt the two stand near each other where both are named again: where tells as little.
    does, about, near = ("DOES MORE", "LONG", (other - 1, other)) if held_out else ("DOES", "ABOUT", range(described))
    text[-1:] = [")", ":", *does.split()]
    again = choose(near) if other < described else None
    for i in range(described):
        text += [mark, f"ARG{i}", ":", *(("like", mark, f"ARG{described}") if i == again else ()), about]
    text.append(mark)
    words = compose(" ".join(text).split(), RULES, choose, {f"ARG{i}": f"ARG{i}" for i in range(count)})
    if len(words) > LONGEST:
        return draw_arguments(choose, split)
    roles = {f"ARG{i}": name for i, name in enumerate(names)}
    swapped = roles | {f"ARG{described}": names[other], f"ARG{other}": names[described]}
    return PromptPair(
        clean=fill(words, roles),
        corrupted=fill(words, swapped),
        correct=names[described],
        wrong=names[other],
        positions={
            "BEFORE": len(words) - 1 - words[::-1].index(f"ARG{described - 1}"),
            "DEFINED": words.index(f"ARG{described}"),
            "END": len(words) - 1,
        },
    )


def arguments(n: int, *, seed: int, split: Split = "train") -> list[PromptPair]:
    """Prompts whose next word is the next argument of a function's definition.

    In the corrupted prompt the two answers have changed places. Positions: `BEFORE` (the argument that was described
    last), `DEFINED` (the answer in the definition) and `END`.

    Args:
      n: how many.
      seed: decides everything else; a longer list starts with the shorter one of the same seed.
      split: an argument and the one before it, anywhere in a definition of "train", and how arguments are announced,
        are in one split only.

    Raises:
      TypeError, ValueError: an `n`, a seed or a split that is none.

    Example:
      >>> pair = arguments(1, seed=0)[0]
      >>> pair.clean.split()[pair.positions["DEFINED"]] == pair.correct
      True
    """
    return draw_pairs(n, seed, split, lambda choose: draw_arguments(choose, split))
