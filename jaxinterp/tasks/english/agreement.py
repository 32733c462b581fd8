"""Subject-verb agreement: "today , the dogs near the boy" -> are.

The verb agrees with its subject and not with the nouns that stand between or before (Linzen et al. 2016, arXiv
1611.01368), in the four structures of Marks et al. 2024 (arXiv 2403.19647). The opening decides which verb it is, so
that there is one right next word, and the same ones are asked for in every structure, for else they would tell which.
"""

from collections.abc import Mapping
from functools import cache
from itertools import product
from typing import NamedTuple

from jaxinterp.tasks.choices import Chooser
from jaxinterp.tasks.english import vocabulary as v
from jaxinterp.tasks.english.phrases import PHRASES
from jaxinterp.tasks.english.vocabulary import Noun
from jaxinterp.tasks.grammar import compose, fill, grammar
from jaxinterp.tasks.pairs import PromptPair, draw_pairs
from jaxinterp.tasks.splits import Split, cell_split, check_split

#: Which opening announces which verb, in both numbers; "does" stands for any other.
VERBS = {"NOW": ("is", "are"), "THEN": ("was", "were"), "SINCE": ("has", "have"), "OFTEN": ("does", "do")}

#: Verbs that ask for an object, so that a relative clause can end in them.
SEES = (
    ("sees", "see"),
    ("likes", "like"),
    ("knows", "know"),
    ("follows", "follow"),
    ("needs", "need"),
    ("fears", "fear"),
    ("loves", "love"),
    ("hears", "hear"),
)

#: Structure -> its noun phrases, the verb comes next. A and B are attractors; those of "held_out" are in no training
#: text, and end in something that has no part in it, for the last noun must tell nothing. Only what says nothing about
#: the subject's number may stand between it and its verb: a relative clause about the subject is in the past tense, one
#: with a subject of its own agrees with that.
STRUCTURES: Mapping[str, Mapping[Split, tuple[str, ...]]] = {
    "simple": {
        "train": (
            *("ADJ SUBJECT",) * 2,
            "ADJ SUBJECT ADVERB",
            "ADJ SUBJECT ADDED",
            "ADJ SUBJECT in LAND",
            "ADJ SUBJECT at SPOT",
            "ADJ SUBJECT ADVERB ADDED",
            "ADJ SUBJECT of CITY",
        ),
        "held_out": ("ADJ SUBJECT ADDED of CITY", "ADJ SUBJECT of CITY at SPOT"),
    },
    "across_pp": {
        "train": (
            *("ADJ SUBJECT NEAR ADJ A",) * 4,
            "ADJ SUBJECT NEAR ADJ A ADDED",
            *("ADJ SUBJECT NEAR ADJ A NEAR ADJ B",) * 2,
            "ADJ SUBJECT NEAR ADJ A and ADJ B",
            "ADJ SUBJECT ADDED NEAR ADJ A",
            "ADJ SUBJECT in LAND NEAR ADJ A",
            "ADJ SUBJECT NEAR ADJ A at SPOT",
            "ADJ SUBJECT at SPOT NEAR ADJ A NEAR ADJ B",
            "ADJ SUBJECT NEAR ADJ A and NEAR ADJ B",
            "ADJ SUBJECT NEAR ADJ A that CHASED ADJ B",
            "ADJ SUBJECT NEAR ADJ A of the PERSON",
            "ADJ SUBJECT ADVERB NEAR ADJ A HOME",
            "ADJ SUBJECT NEAR ADJ A HOME",
            "ADJ SUBJECT NEAR ADJ A NEAR ADJ B HOME",
        ),
        "held_out": (
            "ADJ SUBJECT of CITY NEAR ADJ A HOME",
            "ADJ SUBJECT NEAR ADJ A and ADJ B HOME",
            "ADJ SUBJECT NEAR ADJ A ADDED NEAR ADJ B HOME",
        ),
    },
    "across_rc": {
        "train": (
            *("ADJ SUBJECT that ADJ A SEES",) * 2,
            *("ADJ SUBJECT ADJ A SEES",) * 2,
            "ADJ SUBJECT that CHASED ADJ A",
            "ADJ SUBJECT that ADJ A NEAR ADJ B CHASED",
            "ADJ SUBJECT ADJ A NEAR ADJ B CHASED",
            "ADJ SUBJECT that CHASED ADJ A NEAR ADJ B",
            "ADJ SUBJECT that CHASED ADJ A ADDED",
            "ADJ SUBJECT that TIME CHASED ADJ A",
            "ADJ SUBJECT ADDED that ADJ A SEES",
            "ADJ SUBJECT that ADJ A in LAND SEES",
            "ADJ SUBJECT ADJ A at SPOT SEES",
            "ADJ SUBJECT ADJ A ADVERB CHASED",
            "ADJ SUBJECT ADJ A SEES at SPOT",
            "ADJ SUBJECT ADJ A SEES ADDED",
            "ADJ SUBJECT that ADJ A ADVERB SEES",
            "ADJ SUBJECT that CHASED ADJ A at SPOT",
            "ADJ SUBJECT at SPOT ADJ A CHASED",
            "ADJ SUBJECT ADJ A NEAR ADJ B CHASED at SPOT",
            "ADJ SUBJECT that ADJ A and ADJ B CHASED",
            "ADJ SUBJECT NEAR ADJ B that ADJ A SEES",
            "ADJ SUBJECT that CHASED ADJ A that CHASED ADJ B",
            "ADJ SUBJECT that ADJ A SEES at SPOT",
            "ADJ SUBJECT that ADVERB CHASED ADJ A HOME",
            "ADJ SUBJECT ADJ A ADVERB SEES HOME",
            "ADJ SUBJECT that CHASED ADJ A and ADJ B HOME",
        ),
        "held_out": (
            "ADJ SUBJECT of CITY that CHASED ADJ A HOME",
            "ADJ SUBJECT ADJ A in LAND CHASED HOME",
            "ADJ SUBJECT that ADJ A NEAR ADJ B CHASED HOME",
        ),
    },
    "within_rc": {
        "train": (
            *("ADJ A that ADJ SUBJECT",) * 2,
            *("ADJ A ADJ SUBJECT",) * 2,
            "ADJ A that ADJ SUBJECT NEAR ADJ B",
            "ADJ A NEAR ADJ B that ADJ SUBJECT",
            "ADJ A ADJ SUBJECT NEAR ADJ B",
            "ADJ A that ADJ SUBJECT ADDED",
            "ADJ A that ADJ SUBJECT at SPOT",
            "ADJ A ADJ SUBJECT at SPOT",
            "ADJ A at SPOT ADJ SUBJECT",
            "ADJ A near SPOT ADJ SUBJECT",
            "ADJ A ADDED that ADJ SUBJECT",
            "ADJ A and ADJ B that ADJ SUBJECT",
            "ADJ A in LAND that ADJ SUBJECT",
            "ADJ A of the PERSON that ADJ SUBJECT NEAR ADJ B",
            "ADJ A that CHASED ADJ B that ADJ SUBJECT",
            "ADJ A that ADJ SUBJECT HOME",
            "ADJ A that ADJ SUBJECT ADVERB HOME",
            "ADJ A NEAR ADJ B ADJ SUBJECT HOME",
        ),
        "held_out": (
            "ADJ A of CITY that ADJ SUBJECT HOME",
            "ADJ A ADJ SUBJECT ADVERB HOME",
            "ADJ A of CITY that ADJ SUBJECT NEAR ADJ B HOME",
            "ADJ A ADJ SUBJECT ADDED NEAR ADJ B HOME",
        ),
    },
}

RULES = PHRASES | grammar(
    {
        "NOW": ("today", "now", "right now", "at the moment", "this week", "this MONTH"),
        "THEN": ("yesterday", "last week", "last night", "last WEEKDAY", "a long time ago"),
        "SINCE": ("since yesterday", "since WEEKDAY", "since MONTH", "for a long time", "for many days"),
        "OFTEN": ("every day", "every WEEKDAY", "every week", "most of the time", "every MONTH"),
        "WHERE": (*(",",) * 3, "in LAND ,", ", in the opinion of NAME1 ,", ", said NAME1 ,"),
        "BEFORE": ("", "LEAD", "LEAD", "NAME1 DID ."),
        "ADJ": (*("the",) * 5, "the QUALITY", "the VQUALITY", "the COLOR"),
        "NEAR": ("near", "behind", "beside", "next to", "in front of", "with", "across from", "by", "opposite"),
        "CHASED": ("saw", "chased", "followed", "knew", "found", "liked", "met", "heard"),
        "SPOT": ("the PLACE", "the PLACE", "the PLACE of CITY", "the PLACE in LAND", "the PLACE of CITY in LAND"),
        # From two words to fifteen: no place from the end tells the number of what is often there.
        "HOME": (
            "of CITY",
            "in LAND",
            "near the PLACE",
            "of CITY in LAND",
            "of CITY ADDED",
            "at the PLACE of CITY",
            "in LAND ADDED",
            "at the PLACE of CITY in LAND",
            "near the PLACE ADDED",
            "at the PLACE near the PLACE of CITY",
            "of CITY in LAND ADDED",
            "at the PLACE near the PLACE of CITY in LAND",
            "at the PLACE of CITY in LAND ADDED",
            "at the PLACE near the PLACE of CITY ADDED",
            "at the PLACE near the PLACE of CITY in LAND ADDED",
        ),
        "ADDED": (", of course ,", ", as they say ,", ", it seems ,"),
    }
)


#: Which tenths of the nouns a structure holds out. Those that are held out far from their verb are so within relative
#: clauses too: which noun there is must not tell where its verb is.
_COLUMNS = {"simple": (0,), "across_pp": (1,), "across_rc": (2,), "within_rc": (1, 2)}


class Combination(NamedTuple):
    """What a split holds out: a noun in a structure, be it the subject or an attractor."""

    noun: Noun
    structure: str


@cache
def combinations(split: Split) -> tuple[Combination, ...]:
    """The combinations of a split. Each exists in every number and before every kind of verb.

    Raises:
      ValueError: a split that does not exist.

    Example:
      >>> combinations("train")[0].noun.plural
      'dogs'
    """
    check_split(split)
    return tuple(
        Combination(noun, structure)
        for (i, noun), structure in product(enumerate(v.NOUNS), STRUCTURES)
        if ("held_out" in (cell_split(i, column) for column in _COLUMNS[structure])) == (split == "held_out")
    )


def draw_agreement(
    choose: Chooser, split: Split = "train", structure: str | None = None, conflict: bool = False
) -> PromptPair:
    """One pair of `agreement`, drawn from a seeded chooser.

    Example:
      >>> from jaxinterp.tasks.choices import chooser
      >>> pair = draw_agreement(chooser(0), structure="across_pp", conflict=True)
      >>> sorted(pair.positions)
      ['ATTRACTOR', 'END', 'SUBJECT']
    """
    while True:
        subject, of = choose(combinations(split))
        text = choose(STRUCTURES[of][split]).split()
        attractors = [role for role in ("A", "B") if role in text]
        if structure in (None, of) and (attractors or not conflict):
            break
    number, verb = choose((0, 1)), choose(tuple(VERBS))
    # Attractors of the other number are the harder half; where they have to be, the first of them is, and a second in
    # every second text: the subject's number is as often that of most nouns as of fewest, and, if as many subjects
    # stand behind attractors as in front of them, as often as not that of the first noun and of the last one.
    if conflict:
        differ = choose(((1, 1), (1, 0))) if len(attractors) == 2 else (1,)
        numbers = {role: number ^ other for role, other in zip(attractors, differ, strict=True)}
    else:
        numbers = {role: choose((0, 1)) for role in attractors}
    # Attractors are of the same split: were some nouns only ever one or the other, which noun it is would tell.
    others = [noun for noun, their in combinations(split) if their == of and noun is not subject]
    if "SEES" in text and split == "train":  # it is A that sees, a subject within a relative clause
        others = [noun for noun in others if (noun, "within_rc") in combinations(split)]
    roles: dict[str, str] = {}
    for role in attractors:
        noun = choose(others)
        others.remove(noun)
        roles[role] = noun[numbers[role]]
    if "SEES" in text:
        roles["SEES"] = choose(SEES)[numbers["A"]]
    verbs = VERBS[verb]
    if verb == "OFTEN":  # anybody may do it: a verb that one kind of subject has would tell which noun that is
        *_, does, do = choose(v.NOUNS)
        with_object = of == "within_rc" or split == "held_out" or choose((True, False))
        verbs = choose(SEES) if with_object else (does, do)

    kept = {role: role for role in ("SUBJECT", "A", "B", "SEES")}
    words = compose(["BEFORE", verb, "WHERE", *text], RULES, choose, kept)
    positions = {"SUBJECT": words.index("SUBJECT"), "END": len(words) - 1}
    if attractors:
        positions["ATTRACTOR"] = max(words.index(role) for role in attractors)
    return PromptPair(
        clean=fill(words, roles | {"SUBJECT": subject[number]}),
        corrupted=fill(words, roles | {"SUBJECT": subject[1 - number]}),
        correct=verbs[number],
        wrong=verbs[1 - number],
        positions=positions,
    )


def agreement(
    n: int, *, seed: int, split: Split = "train", structure: str | None = None, conflict: bool = False
) -> list[PromptPair]:
    """Prompts whose next word is a verb that agrees with a subject further back.

    The corrupted prompt has the subject in the other number and is otherwise the same. Positions: `SUBJECT`,
    `ATTRACTOR` (the last other noun that has a number, where there is one), and `END`.

    Args:
      n: how many.
      seed: decides everything else; a longer list starts with the shorter one of the same seed.
      split: a noun in this structure (`combinations`) is in one split only, and so is the form of the noun phrase.
      structure: "simple", "across_pp", "across_rc", "within_rc", or `None` for all four.
      conflict: only prompts with at least one attractor of the other number.

    Raises:
      ValueError: an option that does not exist, conflict where there are no attractors, or a negative `n`.

    Example:
      >>> pair = agreement(1, seed=0, structure="across_rc", conflict=True)[0]
      >>> pair.clean.split()[pair.positions["SUBJECT"]] == pair.corrupted.split()[pair.positions["SUBJECT"]]
      False
    """
    if structure not in (None, *STRUCTURES):
        raise ValueError(f"unknown structure {structure!r}; expected one of: {', '.join(STRUCTURES)}, None")
    if conflict and structure == "simple":
        raise ValueError("the structure 'simple' has no attractors: conflict=True asks for one that conflicts")
    return draw_pairs(n, seed, split, lambda choose: draw_agreement(choose, split, structure, conflict))
