"""Subject-verb agreement: "today , the dogs near the boy" -> are.

The verb agrees with its subject and not with the noun that stands nearest (Linzen et al. 2016, arXiv
1611.01368). The opening decides which verb it is, so that there is one right next word.
"""

from functools import cache
from itertools import product
from typing import NamedTuple

from jaxinterp.tasks import vocabulary as v
from jaxinterp.tasks.choices import Chooser
from jaxinterp.tasks.grammar import expand, fill, grammar
from jaxinterp.tasks.pairs import PromptPair, draw_pairs
from jaxinterp.tasks.splits import Split, in_split
from jaxinterp.tasks.vocabulary import Noun

#: Which opening announces which verb, in both numbers; "does" stands for what the subject itself does.
VERBS = {"NOW": ("is", "are"), "THEN": ("was", "were"), "SINCE": ("has", "have"), "OFTEN": ("does", "do")}

# Only what says nothing about the subject's number may stand between it and the verb: a relative clause about
# the subject is in the past tense, one with a subject of its own agrees with that.
GRAMMAR = grammar(
    {
        "NOW": ("today", "now", "right now", "at the moment", "this week"),
        "THEN": ("yesterday", "last week", "last night", "last WEEKDAY", "a long time ago"),
        "SINCE": ("since yesterday", "since WEEKDAY", "since MONTH", "for a long time", "for many days"),
        "OFTEN": ("every day", "every WEEKDAY", "every week", "most of the time", "every MONTH"),
        "WHERE": (*(",",) * 3, "in the PLACE ,", "near the PLACE ,", "at the PLACE ,"),
        # At the end of a prompt the verb is the likeliest next word, and seldom the only possible one.
        "PHRASE": ("the SUBJECT ASIDE", "the QUALITY SUBJECT ASIDE"),
        "PHRASE1": (
            *("the SUBJECT NEAR the ATTRACTOR",) * 3,
            "the QUALITY SUBJECT NEAR the ATTRACTOR",
            "the SUBJECT NEAR the QUALITY ATTRACTOR",
            "the SUBJECT NEAR the ATTRACTOR ASIDE",
            *("the SUBJECT that CHASED the ATTRACTOR",) * 3,
            "the SUBJECT that CHASED the QUALITY ATTRACTOR",
            "the SUBJECT that CHASED the ATTRACTOR ASIDE",
            "the SUBJECT that the ATTRACTOR SEES",
            "the QUALITY SUBJECT that the ATTRACTOR SEES",
        ),
        "PHRASE2": (
            "the SUBJECT NEAR the INNER NEAR the ATTRACTOR",
            "the SUBJECT that CHASED the INNER NEAR the ATTRACTOR",
            "the SUBJECT that the INNER NEAR the ATTRACTOR saw",
        ),
        "NEAR": ("near", "behind", "beside", "next to", "in front of", "with", "across from"),
        "CHASED": ("saw", "chased", "followed", "knew", "found", "liked"),
        "ASIDE": (", of course ,", ", as the PERSON said ,", ", it seems ,"),
        "PERSON": v.PEOPLE,
        "PLACE": v.PLACES,
        "QUALITY": v.QUALITIES,
        "WEEKDAY": v.WEEKDAYS,
        "MONTH": v.MONTHS,
    }
)

#: Verbs that agree with the attractor, inside "that the ATTRACTOR SEES".
SEES = (("sees", "see"), ("likes", "like"), ("knows", "know"), ("follows", "follow"), ("needs", "need"))


class Combination(NamedTuple):
    """What a split holds out: a subject beside an attractor, before a kind of verb."""

    subject: Noun
    attractor: Noun | None
    verb: str


@cache
def combinations(split: Split) -> tuple[Combination, ...]:
    """The combinations of a split. Each exists in every number and every phrase.

    Raises:
      ValueError: a split that does not exist.

    Example:
      >>> combinations("train")[0].subject.plural
      'dogs'
    """
    # One prompt in seven is without an attractor: that subject-and-verb combination is listed several times.
    attractors = v.NOUNS + (None,) * (len(v.NOUNS) // 6)
    every = (Combination(*each) for each in product(v.NOUNS, attractors, VERBS) if each[0] is not each[1])

    def key(combination: Combination) -> tuple[str, str, str]:
        subject, attractor, verb = combination
        return subject.singular, attractor.singular if attractor else "", verb

    return in_split(every, split, key)


def draw_agreement(choose: Chooser, split: Split = "train") -> PromptPair:
    """One pair of `agreement`, drawn from a seeded chooser.

    Example:
      >>> from jaxinterp.tasks.choices import chooser
      >>> draw_agreement(chooser(0)).wrong
      'are'
    """
    subject, attractor, verb = choose(combinations(split))
    phrase = choose(("PHRASE1", "PHRASE1", "PHRASE1", "PHRASE2")) if attractor else "PHRASE"
    words = [symbol for part in (verb, "WHERE", phrase) for symbol in expand(part, GRAMMAR, choose)]

    number = choose((0, 1))
    # Two attractors in three are of the other number: those of the same number ask little.
    attractor_number = choose((number, 1 - number, 1 - number))
    roles = {"INNER": choose(v.NOUNS)[choose((0, 1))], "SEES": choose(SEES)[attractor_number]}
    if attractor:
        roles["ATTRACTOR"] = attractor[attractor_number]
    verbs = (subject.does, subject.do) if verb == "OFTEN" else VERBS[verb]
    positions = {role: words.index(role) for role in ("SUBJECT", "ATTRACTOR") if role in words}
    return PromptPair(
        clean=fill(words, roles | {"SUBJECT": subject[number]}),
        corrupted=fill(words, roles | {"SUBJECT": subject[1 - number]}),
        correct=verbs[number],
        wrong=verbs[1 - number],
        positions=positions | {"END": len(words) - 1},
    )


def agreement(n: int, *, seed: int, split: Split = "train") -> list[PromptPair]:
    """Prompts whose next word is a verb that agrees with a subject further back.

    The corrupted prompt has the subject in the other number and is otherwise the same. Positions: `SUBJECT`,
    `ATTRACTOR` (the noun nearest to the verb, where there is a noun after the subject), and `END`.

    Args:
      n: how many.
      seed: decides everything else; a longer list starts with the shorter one of the same seed.
      split: a subject beside this attractor and before this verb (`combinations`) is in one split only.

    Raises:
      ValueError: a split that does not exist, or a negative `n`.

    Example:
      >>> pair = agreement(1, seed=28)[0]
      >>> pair.clean
      'every day , the actor that liked the small cats'
      >>> pair.correct, pair.wrong, pair.corrupted.split()[pair.positions["SUBJECT"]]
      ('sits', 'sit', 'actors')
    """
    return draw_pairs(n, seed, lambda choose: draw_agreement(choose, split))
