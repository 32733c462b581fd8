"""Rules that the sentences of every mechanism share: people, things, places, and how a sentence closes."""

from collections.abc import Iterable, MutableMapping
from functools import cache

from jaxinterp.tasks.choices import Chooser
from jaxinterp.tasks.english import vocabulary as v
from jaxinterp.tasks.grammar import Grammar, compose, fill, grammar
from jaxinterp.tasks.splits import split_of

PHRASES = grammar(
    {
        "NAME": v.NAMES,
        "WOMAN": v.WOMEN,
        "MAN": v.MEN,
        "FAMILY": v.FAMILIES,
        "PLACE": v.PLACES,
        "OBJECT": v.OBJECTS,
        "VOBJECT": v.VOWEL_OBJECTS,
        "THING": (
            "a OBJECT",
            "a OBJECT",
            "a OBJECT",
            "an VOBJECT",
            "a COLOR OBJECT",
            "a QUALITY OBJECT",
            "an VQUALITY OBJECT",
        ),
        "ITEM": (*v.OBJECTS, *v.VOWEL_OBJECTS),
        "FOOD": v.FOODS,
        "COLOR": tuple(color for color in v.COLORS if color != "orange"),
        "MATERIAL": v.MATERIALS,
        "QUALITY": v.QUALITIES,
        "VQUALITY": v.VOWEL_QUALITIES,
        "MOOD": v.MOODS,
        "WEATHER": v.WEATHERS,
        "ADVERB": v.ADVERBS,
        "WEEKDAY": v.WEEKDAYS,
        "MONTH": v.MONTHS,
        "NUMBER": v.NUMBERS[1:],
        "LETTER": v.LETTERS,
        "PERSON": v.PEOPLE,
        "VPERSON": v.VOWEL_PEOPLE,
        "SINGULAR": tuple(noun.singular for noun in v.NOUNS),
        "PLURAL": tuple(noun.plural for noun in v.NOUNS),
        "RELATIVE": v.RELATIVES,
        "CONTAINER": v.CONTAINERS,
        "CITY": v.CITIES,
        "LAND": v.LANDS,
        "CENTURY": v.CENTURIES,
        "TIME": (
            "yesterday",
            "on WEEKDAY",
            "last WEEKDAY",
            "in MONTH",
            "last MONTH",
            "one day",
            "early in the morning",
            "late at night",
            "some time ago",
        ),
        "CLOSE": (
            *(".",) * 5,
            "at the PLACE .",
            "after lunch .",
            "on WEEKDAY .",
            "in the end .",
            "and went home .",
            "before dinner .",
        ),
        # What people did, after a name and before CLOSE; nothing in it asks for a name.
        "DID": (
            "bought THING",
            "was MOOD",
            "went home",
            "saw the PERSON",
            "lost the OBJECT",
            "looked for a COLOR OBJECT",
            "found THING near the PLACE",
            "waited for NUMBER days",
            "read about the PERSON",
            "cooked some FOOD",
            "painted the OBJECT COLOR",
            "ADVERB opened the CONTAINER",
        ),
        # What may stand before anything: as long as it likes, so that no place in a text is the same in all of them.
        "LEAD": (
            "",
            "TIME ,",
            "ASIDE",
            "ASIDE",
            "ASIDE ASIDE",
            "ASIDE ASIDE ASIDE",
            "the PERSON DID .",
            "ASIDE the PERSON DID .",
        ),
        # A sentence that says nothing about anybody who is named elsewhere.
        "ASIDE": (
            "it was a WEATHER day .",
            "the PERSON was MOOD .",
            "the OBJECT was on the table .",
            "the PLACE was QUALITY .",
            "there was some FOOD in the kitchen .",
            "the weather was WEATHER in MONTH .",
            "the PERSON had THING .",
            "nobody saw the PERSON at the PLACE .",
            "nobody saw the PLURAL in the PLACE .",
            "there was a SINGULAR near the PLACE .",
        ),
    }
)


def together(*names: str) -> bool:
    """Whether names may stand in one training text: no two of them are a held-out pair.

    Example:
      >>> together("Mary", "John")
      True
    """
    return all(_split_of_two(a, b) == "train" for a in names for b in names if a < b)


_split_of_two = cache(split_of)


def companions(name: str, others: Iterable[str]) -> bool:
    """Whether a word differs from others and, if they are first names, may stand in one text with them.

    Example:
      >>> companions("Mary", ["John"]), companions("Mary", ["Mary"])
      (True, False)
    """
    return all(name != other and together(name, other) for other in others)


def write(
    text: Iterable[str], choose: Chooser, rules: Grammar = PHRASES, roles: MutableMapping[str, str] | None = None
) -> list[str]:
    """The words of a template: its symbols expanded, its pronouns of the gender of the name they are numbered after.

    Example:
      >>> from jaxinterp.tasks.choices import chooser
      >>> " ".join(write("NAME1 lost HIS1 OBJECT1 .".split(), chooser(3)))
      'Audrey lost her jacket .'
    """
    roles = {} if roles is None else roles
    words = compose(text, rules, choose, roles, companions)
    return fill(words, {role: word for name in list(roles) for role, word in _pronouns(name, roles[name])}).split()


def _pronouns(role: str, name: str) -> list[tuple[str, str]]:
    """What HE1, HIM1, ... are, where the role is NAME1."""
    number = role.removeprefix("NAME")
    if number == role:
        return []
    words = ("she", "her", "her", "herself") if name in v.WOMEN else ("he", "him", "his", "himself")
    return [(f"{symbol}{number}", word) for symbol, word in zip(("HE", "HIM", "HIS", "HIMSELF"), words, strict=True)]
