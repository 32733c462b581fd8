"""Indirect objects: "when Mary and John went to the store , John gave a drink to" -> Mary.

The name that was mentioned twice is the giver, so the receiver is the other one. The task and the names of
its positions follow Wang et al. 2023 (arXiv 2211.00593); sentences are put together from clauses, so that
neither the length nor any position is the same from prompt to prompt.
"""

from functools import cache
from itertools import permutations
from typing import Literal

from jaxinterp.tasks import vocabulary as v
from jaxinterp.tasks.choices import Chooser
from jaxinterp.tasks.grammar import Grammar, expand, fill, grammar
from jaxinterp.tasks.pairs import PromptPair, draw_pairs
from jaxinterp.tasks.splits import Split, in_split, split_of

Order = Literal["ABBA", "BABA"]
Corruption = Literal["swap", "abc"]

#: The roles that names play: receiver, giver, and the giver again.
ROLES = ("IO", "S1", "S2")


def _grammar(first: str, second: str) -> Grammar:
    return grammar(
        {
            "SENTENCE": (
                "BEFORE when PAIR WENT to the PLACE BETWEEN , S2 AFTER GIVE to",
                "BEFORE after PAIR WENT to the PLACE BETWEEN , S2 AFTER GIVE to",
                "BEFORE while PAIR WERE at the PLACE BETWEEN , S2 AFTER GIVE to",
                "BEFORE PAIR WENT to the PLACE BETWEEN . then S2 AFTER GIVE to",
                "BEFORE PAIR WERE at the PLACE BETWEEN , and S2 AFTER GIVE to",
                "BEFORE PAIR found a OBJECT at the PLACE BETWEEN . S2 AFTER GAVE it to",
                "BEFORE PAIR had an argument at the PLACE BETWEEN , and afterwards S2 AFTER said sorry to",
                "BEFORE the PLACE was quiet when PAIR arrived BETWEEN , but S2 AFTER GIVE to",
            ),
            "PAIR": (
                *(f"{first} and {second}",) * 4,
                f"{first} , who was MOOD , and {second}",
                f"{first} and the PERSON and {second}",
                f"both {first} and {second}",
            ),
            "WENT": ("went", "walked", "ran", "drove", "came"),
            "WERE": ("were", "were working", "were waiting", "stayed", "had lunch"),
            "BEFORE": (
                *("",) * 5,
                "yesterday ,",
                "on WEEKDAY ,",
                "last MONTH ,",
                "it was a WEATHER day .",
                "the PERSON was MOOD .",
                "the OBJECT was on the table .",
            ),
            "BETWEEN": (
                *("",) * 5,
                "with the PERSON",
                "in MONTH",
                "to look for a OBJECT",
                "after a WEATHER day",
                "because the PERSON was MOOD",
                "and saw a OBJECT near the PLACE",
            ),
            "AFTER": (
                *("",) * 5,
                ", who was MOOD ,",
                "ADVERB",
                ", with a smile ,",
                "ADVERB , with a smile ,",
            ),
            "GIVE": (
                *("GAVE THING",) * 4,
                "decided to give THING",
                "wanted to give THING",
                "said hello",
                "said goodbye",
                "waved",
                "talked",
            ),
            "GAVE": (
                "gave",
                "gave",
                "handed",
                "passed",
                "showed",
                "sent",
                "threw",
                "offered",
                "brought",
                "sold",
            ),
            "THING": ("a OBJECT", "a OBJECT", "the OBJECT", "a COLOR OBJECT"),
            "PLACE": v.PLACES,
            "OBJECT": v.OBJECTS,
            "PERSON": v.PEOPLE,
            "COLOR": v.COLORS,
            "MOOD": v.MOODS,
            "WEATHER": v.WEATHERS,
            "ADVERB": v.ADVERBS,
            "WEEKDAY": v.WEEKDAYS,
            "MONTH": v.MONTHS,
        }
    )


#: Which name comes first: ABBA is "IO and S1 ... S2 ... IO".
GRAMMARS = {"ABBA": _grammar("IO", "S1"), "BABA": _grammar("S1", "IO")}


@cache
def name_pairs(split: Split) -> tuple[tuple[str, str], ...]:
    """The ordered pairs of names that occur together in a split; both orders of a pair are in the same one.

    Raises:
      ValueError: a split that does not exist.

    Example:
      >>> ("Mary", "John") in name_pairs("train"), ("John", "Mary") in name_pairs("train")
      (True, True)
    """
    return in_split(permutations(v.NAMES, 2), split, key=sorted)


def together(*names: str) -> bool:
    """Whether names may stand in one training text: no two of them are a held-out pair.

    Example:
      >>> together("Mary", "John")
      True
    """
    return all(split_of(*sorted(pair)) == "train" for pair in permutations(names, 2))


def draw_indirect_object(
    choose: Chooser, split: Split = "train", order: Order | None = None, corruption: Corruption = "swap"
) -> PromptPair:
    """One pair of `indirect_objects`, drawn from a seeded chooser.

    Example:
      >>> from jaxinterp.tasks.choices import chooser
      >>> draw_indirect_object(chooser(28)).correct
      'Bruce'
    """
    words = expand("SENTENCE", GRAMMARS[order or choose(("ABBA", "BABA"))], choose)
    receiver, giver = choose(name_pairs(split))
    clean = {"IO": receiver, "S1": giver, "S2": giver}
    if corruption == "swap":
        corrupted = {"IO": receiver, "S1": giver, "S2": receiver}
    else:
        corrupted = dict(zip(ROLES, _fresh_names(choose, split, receiver, giver), strict=True))
    positions = {role: words.index(role) for role in ROLES}
    return PromptPair(
        clean=fill(words, clean),
        corrupted=fill(words, corrupted),
        correct=receiver,
        wrong=giver,
        positions=positions | {"S1+1": positions["S1"] + 1, "END": len(words) - 1},
    )


def _fresh_names(choose: Chooser, split: Split, *taken: str) -> tuple[str, str, str]:
    """A pair of the split and a third name, none of them taken."""
    first, second = choose(name_pairs(split))
    third = choose(v.NAMES)
    if len({first, second, third, *taken}) < 3 + len(taken):
        return _fresh_names(choose, split, *taken)
    return first, second, third


def indirect_objects(
    n: int,
    *,
    seed: int,
    split: Split = "train",
    order: Order | None = None,
    corruption: Corruption = "swap",
) -> list[PromptPair]:
    """Prompts whose next word is the one of two people who has not been named twice.

    Positions: `IO`, `S1`, `S1+1` (the word after), `S2`, and `END`, the last word.

    Args:
      n: how many.
      seed: decides everything else; a longer list starts with the shorter one of the same seed.
      split: pairs of names of "held_out" never stand together in a text of "train".
      order: "ABBA" (receiver named first), "BABA" (giver named first), or `None` for both.
      corruption: "swap" puts the receiver's name at S2: one word differs and the two answers change places.
        "abc" puts three fresh names at IO, S1 and S2, so that no name is repeated and nothing says who
        receives; the contrast answer is then the clean prompt's giver.

    Raises:
      ValueError: an option that does not exist, or a negative `n`.

    Example:
      >>> pair = indirect_objects(1, seed=28)[0]
      >>> pair.clean
      'while Sophie and Bruce stayed at the factory , Sophie said goodbye to'
      >>> pair.corrupted.split()[pair.positions["S2"]], pair.correct, pair.wrong
      ('Bruce', 'Bruce', 'Sophie')
    """
    if order not in (None, "ABBA", "BABA"):
        raise ValueError(f"unknown order {order!r}; expected one of: ABBA, BABA, None")
    if corruption not in ("swap", "abc"):
        raise ValueError(f"unknown corruption {corruption!r}; expected one of: swap, abc")
    return draw_pairs(n, seed, lambda choose: draw_indirect_object(choose, split, order, corruption))
