"""Indirect objects: "when Mary and John went to the store , John gave a drink to" -> Mary.

Two people, one of them gives, so the other one receives. The task and the names of its positions follow Wang et al.
2023 (arXiv 2211.00593); sentences are put together from clauses, so that neither the length nor any position is the
same from prompt to prompt.
"""

from collections.abc import Mapping
from functools import cache
from itertools import permutations
from typing import Literal

from jaxinterp.tasks.choices import Chooser
from jaxinterp.tasks.english import vocabulary as v
from jaxinterp.tasks.english.phrases import PHRASES, companions, together
from jaxinterp.tasks.grammar import compose, fill, grammar
from jaxinterp.tasks.pairs import PromptPair, draw_pairs
from jaxinterp.tasks.splits import Split, in_split

Order = Literal["ABBA", "BABA"]
Corruption = Literal["swap", "abc"]

#: The roles that names play: receiver, giver, and the giver again.
ROLES = ("IO", "S1", "S2")


#: How often, and in which order, the two people are named: receiver I, giver S, each mention a letter; the last S
#: stands before the verb, and what follows it stands in a clause about the giver. All but the first are there so that
#: neither the number of mentions nor their order tells who receives: over the six, each person has been named more
#: often, first and last in half of the texts.
#: For each, what stands between the opening and the giver, and what between the giver and the verb.
CLAUSES = {
    "pair": ("", "AFTER"),
    "middle": ("IO WAS , and", "AFTER"),
    "aside": ("", "MET"),
    "both": ("IO WAS , and", "MET"),
    "newcomer": ("IO WAS . then", "AFTER"),
    "host": ("IO came , S1 WAS , and", "MET"),
}
MENTIONS = tuple(CLAUSES)

#: Held-out texts are made of openings that training texts never have.
OPENINGS: Mapping[Split, tuple[str, ...]] = {
    "train": (
        *("BEFORE when PAIR WENT to the PLACE BETWEEN ,",) * 3,
        "BEFORE while PAIR WERE at the PLACE BETWEEN ,",
        "BEFORE PAIR WENT to the PLACE BETWEEN . then",
        "BEFORE PAIR WERE at the PLACE BETWEEN , and",
        "BEFORE PAIR found THING at the PLACE BETWEEN .",
        "BEFORE PAIR had an argument at the PLACE BETWEEN , and afterwards",
        "BEFORE because PAIR WERE at the PLACE BETWEEN ,",
        "BEFORE PAIR DID . ASIDE",
        "BEFORE as soon as PAIR saw the OBJECT ,",
        *("BEFORE IF PAIR EVENT BETWEEN ,",) * 4,
        *("BEFORE PAIR EVENT BETWEEN JOIN",) * 4,
        *("BEFORE SCENE IF PAIR EVENT BETWEEN JOIN",) * 4,
        "BEFORE the PERSON SAW PAIR at the PLACE JOIN",
        "BEFORE TIME , with PAIR at the PLACE BETWEEN ,",
    ),
    "held_out": (
        "BEFORE after PAIR WENT to the PLACE BETWEEN ,",
        "BEFORE the PLACE was QUALITY when PAIR came BETWEEN , but",
        "BEFORE once PAIR found the PERSON at the PLACE ,",
        "BEFORE PAIR waited for NUMBER days BETWEEN . in the end",
    ),
}

RULES = PHRASES | grammar(
    {
        "PAIR": (
            *("FIRST and SECOND",) * 5,
            "FIRST , who was MOOD , and SECOND",
            "FIRST and the PERSON and SECOND",
            "both FIRST and SECOND",
        ),
        "IF": ("when", "while", "because", "before", "since", "as", "as soon as"),
        "JOIN": (". then", ", and", ", but", ", so", ".", ". later", ", and afterwards", ", and there", ". TIME"),
        "SCENE": (
            "it was a WEATHER day",
            "the PERSON was MOOD",
            "the PERSON ADVERB opened the CONTAINER",
            "the OBJECT was on the table",
            "there was some FOOD in the kitchen",
            "nobody was at the PLACE",
            "the PLURAL were near the PLACE",
        ),
        "EVENT": (
            "WENT from the PLACE to the PLACE",
            "WERE in the QUALITY PLACE",
            "found THING",
            "saw the PERSON near the PLACE",
            "had NUMBER PLURAL and some FOOD",
            "had lunch with the PERSON",
            "looked for a COLOR OBJECT",
            "read about the PERSON",
            "lost the OBJECT in CITY",
            "talked about the WEATHER weather",
            "were in LAND",
            "played at the PLACE",
            "came from the PLACE of CITY",
            "had been at the PLACE for NUMBER days",
        ),
        "SAW": ("saw", "met", "found", "heard", "knew", "followed", "asked"),
        "WENT": ("went", "walked", "ran", "drove", "came"),
        "WERE": ("were", "were working", "were waiting", "stayed", "had lunch"),
        "BEFORE": ("", "LEAD", "LEAD", "LEAD", "NAME3 DID ."),
        "BETWEEN": (
            *("",) * 6,
            "with the PERSON",
            "in MONTH",
            "to look for THING",
            "after a WEATHER day",
            "because the PERSON was MOOD",
            "and saw THING near the PLACE",
        ),
        "AFTER": (*("",) * 5, ", who was MOOD ,", "ADVERB", ", with a smile ,"),
        # TAIL stands behind whoever is named last, and has the same length and nouns whoever that is.
        "TAIL": ("ADVERB", "ADVERB at the PLACE", ", from the PLACE ,"),
        "MET": (
            ", who had SEEN IO ,",
            ", who had SEEN IO at the PLACE ,",
            ", who had SEEN IO near the QUALITY PLACE ,",
        ),
        "SEEN": ("met", "seen", "heard from", "waited for", "looked for"),
        "WAS": ("was MOOD", "DID", "was MOOD and WEARY", "said that it was WEATHER"),
        "WEARY": v.MOODS,
        "GIVE": (
            *("GAVE THING",) * 5,
            "decided to give THING",
            "wanted to give THING",
            "said a QUALITY word",
            "told a QUALITY story",
            "sent NUMBER letters",
            "GAVE some of the FOOD",
        ),
        "GAVE": ("gave", "gave", "handed", "passed", "showed", "sent", "threw", "offered", "brought", "sold"),
    }
)


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


def draw_indirect_object(
    choose: Chooser,
    split: Split = "train",
    order: Order | None = None,
    corruption: Corruption = "swap",
    mentions: str | None = "pair",
) -> PromptPair:
    """One pair of `indirect_objects`, drawn from a seeded chooser.

    Example:
      >>> from jaxinterp.tasks.choices import chooser
      >>> draw_indirect_object(chooser(28)).correct
      'Bruno'
    """
    receiver, giver = choose(name_pairs(split))
    classic = mentions == "pair"
    mentions = mentions or choose(MENTIONS)
    first, second = ("IO", "S1") if (order or choose(("ABBA", "BABA"))) == "ABBA" else ("S1", "IO")
    if mentions in ("newcomer", "host"):
        first, second = "IO" if mentions == "newcomer" else "S1", f"the {choose(v.PEOPLE)}"
    middle, after = CLAUSES[mentions]
    if after == "AFTER" and not classic:
        after = "TAIL"
    taken = {"NAME1": receiver, "NAME2": giver, "FIRST": first, "SECOND": second}
    words = compose(f"{choose(OPENINGS[split])} {middle} S2 {after} GIVE to".split(), RULES, choose, taken, companions)
    clean = {"IO": receiver, "S1": giver, "S2": giver}
    if corruption == "abc":
        names = [taken[role] for role in ("NAME1", "NAME2", "NAME3") if role in taken]
        corrupted = dict(zip(ROLES, _fresh_names(choose, split, *names), strict=True))
    elif mentions == "pair":
        corrupted = clean | {"S2": receiver}
    else:
        corrupted = {"IO": giver, "S1": receiver, "S2": receiver}
    positions = {role: words.index(role) for role in ROLES if role in words} | {"END": len(words) - 1}
    if "S1" in positions:
        positions["S1+1"] = positions["S1"] + 1
    return PromptPair(
        clean=fill(words, clean), corrupted=fill(words, corrupted), correct=receiver, wrong=giver, positions=positions
    )


def _fresh_names(choose: Chooser, split: Split, *taken: str) -> tuple[str, str, str]:
    """A pair of the split and a third name, none of them taken.

    In "train" no two of them, or of them and the third that is taken, who stays, are a held-out pair.
    """
    first, second = choose(name_pairs(split))
    third = choose(v.NAMES)
    fits = split == "held_out" or together(first, second, third, *taken[2:])
    if len({first, second, third, *taken}) < 3 + len(taken) or not fits:
        return _fresh_names(choose, split, *taken)
    return first, second, third


def indirect_objects(
    n: int,
    *,
    seed: int,
    split: Split = "train",
    order: Order | None = None,
    corruption: Corruption = "swap",
    mentions: str | None = "pair",
) -> list[PromptPair]:
    """Prompts whose next word is the one of two people who is not giving.

    Positions: `IO`, `S1`, `S1+1` (the word after), `S2`, and `END`, the last word; `IO` and `S1` are the first
    places where the two are named.

    Args:
      n: how many.
      seed: decides everything else; a longer list starts with the shorter one of the same seed.
      split: pairs of names, and openings, of "held_out" never stand in a text of "train".
      order: "ABBA" (receiver named first), "BABA" (giver named first), or `None` for both.
      corruption: "swap" lets the other person give: with `mentions="pair"` the receiver's name is put at S2, one
        word, else the two change names throughout. "abc" puts three fresh names at IO, S1 and S2, so that no
        name is repeated and nothing says who receives; the contrast answer is then the clean prompt's giver.
      mentions: "pair" names the receiver once and the giver twice, as Wang et al. do, so that counting names solves
        it; the other `MENTIONS`, or `None` for all of them, are sentences in which it does not.

    Raises:
      ValueError: an option that does not exist, "abc" where names are mentioned otherwise, or a negative `n`.

    Example:
      >>> pair = indirect_objects(1, seed=28)[0]
      >>> clean, corrupted = pair.clean.split(), pair.corrupted.split()
      >>> [i for i, words in enumerate(zip(clean, corrupted)) if len(set(words)) > 1] == [pair.positions["S2"]]
      True
      >>> clean[pair.positions["S2"]] == pair.wrong, clean[pair.positions["IO"]] == pair.correct
      (True, True)
    """
    if order not in (None, "ABBA", "BABA"):
        raise ValueError(f"unknown order {order!r}; expected one of: ABBA, BABA, None")
    if corruption not in ("swap", "abc"):
        raise ValueError(f"unknown corruption {corruption!r}; expected one of: swap, abc")
    if mentions not in (None, *MENTIONS):
        raise ValueError(f"unknown mentions {mentions!r}; expected one of: {', '.join(MENTIONS)}, None")
    if corruption == "abc" and mentions != "pair":
        raise ValueError(f"corruption 'abc' names each role once: it needs mentions='pair', got {mentions!r}")
    return draw_pairs(n, seed, split, lambda choose: draw_indirect_object(choose, split, order, corruption, mentions))
