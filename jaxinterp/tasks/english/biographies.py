"""Biographies: a profession shows through many noisy, overlapping cues, and gender in every pronoun but means nothing.

For the method SHIFT (Marks et al. 2024, arXiv 2403.19647, section 5; after Bias in Bios, De-Arteaga et al. 2019): a
probe that is trained where gender predicts the profession learns gender.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from jaxinterp.tasks.choices import Chooser, check_count, chooser
from jaxinterp.tasks.english import vocabulary as v
from jaxinterp.tasks.english.phrases import PHRASES, write
from jaxinterp.tasks.grammar import grammar
from jaxinterp.tasks.splits import Split, check_split, split_of

Gender = Literal["woman", "man"]

#: The sentences of a biography that hold a cue. Each is used once at most in a text.
SENTENCES: Mapping[Split, tuple[str, ...]] = {
    "train": (
        "HE1 likes CUE .",
        "HIS1 friends know HIM1 for CUE .",
        "every WEEKDAY HE1 thinks about CUE .",
        "TIME HE1 talked about CUE at the PLACE .",
        "HE1 has books about CUE and about CUE .",
        "in CITY HE1 learned about CUE .",
        "HIS1 RELATIVE asked HIM1 about CUE .",
        "the PERSON saw HIM1 at the PLACE with CUE .",
        "HE1 thinks of CUE .",
        "HE1 often dreams of CUE when HE1 is MOOD .",
        "CUE and CUE are what HE1 talks about .",
        "HE1 has never had too many CUE .",
        "in MONTH HE1 wrote about CUE to HIS1 RELATIVE .",
        "all HE1 talks about is CUE , said the PERSON .",
        "HE1 wanted to know more of CUE .",
        "CUE were what HE1 liked most in CITY .",
    ),
    "held_out": (
        "HE1 cares for CUE .",
        "nobody in CITY knows as much as HE1 about CUE .",
        "HIS1 RELATIVE told HIM1 about CUE .",
        "at the PLACE HE1 saw many CUE .",
        "HE1 dreams about CUE and about CUE .",
    ),
}

#: How many of these sentences a biography has, and how likely a cue is of the profession rather than any at all.
COUNTS, OWN = (4, 5), 0.45


@dataclass(frozen=True)
class Biography:
    """A biography up to the word that would name the profession.

    Attributes:
      text: words separated by spaces; the next one is the profession.
      profession: one of `vocabulary.PROFESSIONS`.
      gender: "woman" or "man".
    """

    text: str
    profession: str
    gender: Gender


def named_in(name: str, family: str) -> Split:
    """The split of biographies in which there is somebody of this first and family name.

    Example:
      >>> named_in("Mary", "Hartwell")
      'train'
    """
    return split_of("biography", name, family)


def draw_biography(
    choose: Chooser, split: Split = "train", profession: str | None = None, gender: Gender | None = None
) -> Biography:
    """One of `biographies`, drawn from a seeded chooser.

    Example:
      >>> from jaxinterp.tasks.choices import chooser
      >>> draw_biography(chooser(0), gender="woman").text.split()[0] in v.WOMEN
      True
    """
    profession = profession or choose(tuple(v.PROFESSIONS))
    genders: tuple[Gender, Gender] = ("woman", "man")
    theirs: Gender = choose(genders) if gender is None else gender
    rules = PHRASES | grammar({"CUE": v.CUES})
    while True:
        name, family = choose(v.WOMEN if theirs == "woman" else v.MEN), choose(v.FAMILIES)
        if named_in(name, family) == split:
            break
    sentences = list(SENTENCES[split])
    text = ["NAME1", family, "comes", "from", "CITY", "."]
    for _ in range(choose(COUNTS)):
        sentence = choose(sentences)
        sentences.remove(sentence)
        for word in sentence.split():
            own = word == "CUE" and choose(range(100)) < 100 * OWN
            text.append(choose(v.PROFESSIONS[profession]) if own else word)
    text += ["people", "call", "HIM1", "the"]
    words = write(text, choose, rules, {"NAME1": name})
    return Biography(" ".join(words), profession, theirs)


def biographies(
    n: int,
    *,
    seed: int,
    split: Split = "train",
    professions: Sequence[str] = ("professor", "nurse"),
    biased: bool = False,
) -> list[Biography]:
    """Biographies of people of the professions given, in equal parts on average.

    Args:
      n: how many.
      seed: decides everything else; a longer list starts with the shorter one of the same seed.
      split: first and family name together, and the sentences, are in one split only.
      professions: of `vocabulary.PROFESSIONS`.
      biased: the first profession is of men alone and the second of women alone, as in the training set of SHIFT;
        else gender is drawn.

    Raises:
      TypeError, ValueError: an option that does not exist, not two professions where `biased`; an `n` or a seed that is
        none.

    Example:
      >>> {(b.profession, b.gender) for b in biographies(50, seed=0, biased=True)} == {
      ...     ("professor", "man"), ("nurse", "woman")}
      True
    """
    check_count(n)
    check_split(split)
    if isinstance(professions, str) or not professions or len(set(professions)) < len(professions):
        raise ValueError(
            f"professions must be one or more of {', '.join(v.PROFESSIONS)}, each once; got {professions!r}"
        )
    for name in professions:
        if name not in v.PROFESSIONS:
            raise ValueError(f"unknown profession {name!r}; expected one of: {', '.join(v.PROFESSIONS)}")
    if biased and len(professions) != 2:
        raise ValueError(f"biased=True gives each of two professions a gender, got {len(professions)} professions")
    choose = chooser(seed)
    found = []
    for _ in range(n):
        profession = choose(professions)
        gender: Gender | None = ("man" if profession == professions[0] else "woman") if biased else None
        found.append(draw_biography(choose, split, profession, gender))
    return found
