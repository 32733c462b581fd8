"""Facts about made-up subjects of two words: "the river Kal Grath flows through" -> Brenna.

Each word of a name belongs to many subjects; only both together tell the answer, so it has to be memorised.
"""

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import numpy as np

from jaxinterp.tasks.choices import Chooser
from jaxinterp.tasks.english import vocabulary as v
from jaxinterp.tasks.english.phrases import PHRASES
from jaxinterp.tasks.grammar import compose, fill, grammar
from jaxinterp.tasks.pairs import PromptPair, draw_pairs
from jaxinterp.tasks.splits import Split


class Relation(NamedTuple):
    """What is said of subjects of one kind: their title, what may be true of them, and how it is said."""

    title: str
    values: tuple[str, ...]
    verb: str


RELATIONS: Mapping[str, Relation] = {
    "river": Relation("the river", v.CITIES, "flows through"),
    "mountain": Relation("mount", v.LANDS, "lies in"),
    "poet": Relation("the poet", v.LANGUAGES, "writes in"),
    "musician": Relation("the musician", v.INSTRUMENTS, "plays the"),
    "company": Relation("the company", v.PRODUCTS, "makes"),
    "temple": Relation("the temple of", v.GODS, "honors the god of"),
}

#: How many of the two words of a name each kind of subject uses; every pair of them is a subject.
FIRSTS, LASTS = 6, 7

#: THIS and THAT are two subjects of a kind, `IS` is what is said of it. With two subjects the words in the sentence do
#: not tell which of them is asked about.
TEMPLATES: Mapping[Split, tuple[str, ...]] = {
    "train": (
        *("BEFORE THIS IS",) * 4,
        "BEFORE THIS , ADDED , IS",
        "BEFORE ADDED , THIS IS",
        "BEFORE SOMEBODY KNOWS that THIS IS",
        "BEFORE unlike THAT , THIS ADVERB IS",
        "BEFORE IF SOMEBODY SAW THAT WHERE , THIS IS",
        "BEFORE SOMEBODY SAW THAT WHERE . but THIS IS",
        "BEFORE SOMEBODY KNOWS that , unlike THAT , THIS IS",
        "BEFORE SOMEBODY knows THAT , but not THIS , which IS",
        "BEFORE SOMEBODY SAW THAT before THIS , which WHERE IS",
        "BEFORE THIS , unlike THAT , IS",
        "BEFORE SOMEBODY KNOWS that THIS , unlike THAT , IS",
        "BEFORE THIS , which SOMEBODY likes more than THAT , IS",
        "BEFORE THIS , which SOMEBODY SAW before THAT , IS",
        *("BEFORE THIS , IF SOMEBODY SAW THAT WHERE , IS",) * 4,
        "BEFORE THIS , much DEGREE than THAT , IS",
        "BEFORE THIS with THAT beside it IS",
        *("BEFORE THIS NEXT THAT IS",) * 2,
        "BEFORE THIS , NEXT THAT , IS",
        "BEFORE THIS , ADDED , NEXT THAT , IS",
        "BEFORE NEXT THAT , THIS IS",
        "BEFORE NEXT THAT , ADDED , THIS IS",
        "BEFORE NEXT THAT is THIS , which IS",
        "BEFORE THAT is NEXT THIS , which IS",
        "BEFORE THAT is not THIS , for THIS IS",
        *("BEFORE THAT is much DEGREE than THIS , which ADVERB IS",) * 3,
        "BEFORE SOMEBODY SAW THAT and then THIS , which IS",
        "BEFORE SOMEBODY SAW not THAT but THIS , which , ADDED , IS",
        "BEFORE SOMEBODY KNOWS that THAT is NEXT THIS , which IS",
        "BEFORE SOMEBODY who SAW THAT WHERE KNOWS that THIS IS",
        "BEFORE SOMEBODY went from THAT to THIS , which , ADDED , IS",
        "BEFORE SOMEBODY wrote about THAT , and about THIS , which WHERE IS",
        "BEFORE THIS ( and not only THAT ) IS",
        "BEFORE THIS and never THAT IS",
        "BEFORE THIS , but not THAT , IS",
        "BEFORE THIS , the friend of THAT , IS",
        "BEFORE THIS , about which SOMEBODY KNOWS more than about THAT , IS",
        "BEFORE THIS , as SOMEBODY who SAW THAT WHERE KNOWS , IS",
        "BEFORE THIS ( SOMEBODY SAW THAT , too ) IS",
        "BEFORE not THAT but THIS , ADDED , IS",
        "BEFORE THIS and not THAT , ADDED , IS",
        "BEFORE NAME1 told the PERSON about THAT and about THIS , which , ADDED , IS",
        "BEFORE THIS , whatever NAME1 said about THAT at the PLACE , IS",
    ),
    "held_out": (
        "BEFORE SOMEBODY who SAW THAT WHERE asked about THIS , which , ADDED , IS",
        "BEFORE as with THAT , THIS , ADDED , IS",
        "BEFORE THIS , which SOMEBODY SAW with THAT , too , ADDED , IS",
        "BEFORE THIS , so unlike THAT , ADDED , IS",
    ),
}

RULES = PHRASES | grammar(
    {
        "BEFORE": ("", "LEAD", "LEAD", "NAME2 DID .", "TIME NAME2 learned this :"),
        "SOMEBODY": ("NAME1", "NAME1", "the PERSON", "the RELATIVE of NAME1", "a PERSON from CITY", "nobody"),
        "KNOWS": ("said", "knows", "heard", "wrote", "told the PERSON", "read in the newspaper"),
        "SAW": ("saw", "likes", "talked about", "read about", "heard of", "thinks of", "dreams of", "asked about"),
        "IF": ("if", "when", "because", "while", "as", "since", "before", "after"),
        "WHERE": ("", "", "TIME", "in the PLACE", "on WEEKDAY with the PERSON"),
        "NEXT": ("near", "beside", "behind", "opposite", "next to", "in front of"),
        "DEGREE": ("older", "richer", "stronger", "louder"),
        "ADDED": (
            "as everybody knows",
            "of course",
            "as the PERSON said on WEEKDAY",
            "so the PERSON wrote",
            "if the PERSON is right about it",
        ),
    }
)


@cache
def facts() -> Mapping[str, Mapping[tuple[str, str], str]]:
    """Every fact: relation -> subject (two words) -> value.

    Each value is true of about as many subjects as every other, spread so that no word of a name tells it.

    Example:
      >>> len(facts()), len(facts()["river"])
      (6, 42)
    """
    every = {}
    for number, (name, relation) in enumerate(RELATIONS.items()):
        rng = np.random.default_rng((2026, number))
        firsts, lasts = (rng.permutation(parts) for parts in (v.FIRST_PARTS, v.LAST_PARTS))
        # Along rows and columns of the table of names values differ, as in a Latin square.
        values = rng.permutation(relation.values)
        step = next(k for k in range(LASTS, len(values)) if np.gcd(k, len(values)) == 1)
        every[name] = {
            (str(first), str(last)): str(values[(row * step + column) % len(values)])
            for row, first in enumerate(firsts[:FIRSTS])
            for column, last in enumerate(lasts[:LASTS])
        }
    return every


def draw_fact(choose: Chooser, split: Split = "train", relation: str | None = None) -> PromptPair:
    """One pair of `facts_about`, drawn from a seeded chooser.

    Example:
      >>> from jaxinterp.tasks.choices import chooser
      >>> draw_fact(chooser(0)).correct in v.CITIES + v.LANDS + v.LANGUAGES + v.INSTRUMENTS + v.PRODUCTS + v.GODS
      True
    """
    relation = relation or choose(tuple(RELATIONS))
    known = facts()[relation]
    subjects = tuple(known)
    this, that = choose(subjects), choose(subjects)
    while known[this] == known[that]:
        that = choose(subjects)
    words = compose(choose(TEMPLATES[split]).split(), RULES, choose, {role: role for role in ("THIS", "THAT", "IS")})
    title, _, verb = RELATIONS[relation]

    def text(this: tuple[str, str], that: tuple[str, str]) -> str:
        return fill(words, {"THIS": " ".join((title, *this)), "THAT": " ".join((title, *that)), "IS": verb})

    clean = text(this, that)
    # Where the first of the two words of each subject stands, once both are spelt out.
    spelt = fill(words, {"THIS": f"{title} THIS THIS", "THAT": f"{title} THAT THAT", "IS": verb}).split()
    positions = {"SUBJECT": spelt.index("THIS") + 1, "END": len(spelt) - 1}
    if "THAT" in spelt:
        positions["OTHER"] = spelt.index("THAT") + 1
    return PromptPair(clean, text(that, this), known[this], known[that], positions)


def facts_about(n: int, *, seed: int, split: Split = "train", relation: str | None = None) -> list[PromptPair]:
    """Prompts whose next word is what is true of a made-up subject.

    The corrupted prompt asks about another subject of the kind: where two are named, they change places. Positions:
    `SUBJECT` and, where there is one, `OTHER`: the last word of each name; and `END`. The facts themselves are all in
    the training text, they cannot be known otherwise; the forms of the held-out sentences are not.

    Args:
      n: how many.
      seed: decides everything else; a longer list starts with the shorter one of the same seed.
      split: which forms of sentences.
      relation: one of `RELATIONS`, or `None` for all.

    Raises:
      TypeError, ValueError: an option that does not exist; an `n` or a seed that is none.

    Example:
      >>> pair = facts_about(1, seed=0, relation="river")[0]
      >>> pair.correct in v.CITIES and pair.wrong in v.CITIES
      True
    """
    if relation not in (None, *RELATIONS):
        raise ValueError(f"unknown relation {relation!r}; expected one of: {', '.join(RELATIONS)}, None")
    return draw_pairs(n, seed, split, lambda choose: draw_fact(choose, split, relation))
