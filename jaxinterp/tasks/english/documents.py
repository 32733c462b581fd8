"""The kinds of document that training text is made of: the tasks' sentences, finished, and their counterexamples."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TypeVar

from jaxinterp.tasks.choices import Chooser
from jaxinterp.tasks.english import vocabulary as v
from jaxinterp.tasks.english.agreement import SEES, STRUCTURES, draw_agreement
from jaxinterp.tasks.english.arguments import RULES as ARGUMENTS_RULES
from jaxinterp.tasks.english.arguments import draw_arguments
from jaxinterp.tasks.english.biographies import draw_biography, named_in
from jaxinterp.tasks.english.facts import RELATIONS, draw_fact, facts
from jaxinterp.tasks.english.greater_than import combinations as years
from jaxinterp.tasks.english.greater_than import draw_greater_than
from jaxinterp.tasks.english.indirect_objects import MENTIONS, draw_indirect_object
from jaxinterp.tasks.english.nesting import CLOSERS, draw_nesting
from jaxinterp.tasks.english.nesting import RULES as NESTING_RULES
from jaxinterp.tasks.english.phrases import PHRASES, companions, together, write
from jaxinterp.tasks.english.reflexives import draw_reflexive
from jaxinterp.tasks.english.successions import draw_tracks
from jaxinterp.tasks.english.templates import draw_template
from jaxinterp.tasks.english.vocabulary import Noun
from jaxinterp.tasks.grammar import compose, expand, grammar
from jaxinterp.tasks.splits import Split
from jaxinterp.tasks.successions import SERIES, draw_succession, items

T = TypeVar("T")

RULES = PHRASES | grammar(
    {
        "RECEIVER": ("the PERSON", "the MOOD PERSON", "a PERSON", "the PERSON at the PLACE"),
        "THEY": ("they bought THING CLOSE", "they went home .", "they were MOOD CLOSE", "it was a WEATHER day ."),
        "BE": ("MOOD CLOSE", "at the PLACE .", "near the OBJECT .", "WEATHER .", "QUALITY CLOSE", "in the PLACE CLOSE"),
        "HAVE": ("been MOOD CLOSE", "been at the PLACE .", "seen the OBJECT CLOSE", "found a COLOR OBJECT ."),
        "DO": (".", ".", "ADVERB .", "at the PLACE .", "near the PLACE CLOSE", "and NUMBER more come CLOSE"),
        "WHOM": ("the PERSON CLOSE", "the COLOR OBJECT .", "a QUALITY PERSON CLOSE", "NUMBER PLURAL ."),
        "BESIDE": ("near", "behind", "beside", "next to", "in front of", "with"),
        "SEEN": ("seen", "chased", "followed", "found", "liked", "met", "heard"),
        # It is another noun that does this, so that nothing of it may tell a number.
        "SEE": ("had been MOOD CLOSE", "came to the PLACE CLOSE", "went home .", "found THING CLOSE", "had lunch ."),
        "AGAIN": (
            "and again :",
            "once more :",
            "NAME read it again :",
            "the PERSON said the same :",
            "and then , as before ,",
        ),
        "LOUD": (
            "NAME read aloud :",
            "the radio said :",
            "on the wall stands :",
            "the PERSON sang :",
            "the notice said :",
        ),
        "GOODS": (
            "OBJECT",
            "VOBJECT",
            "FOOD",
            "QUALITY OBJECT",
            "COLOR OBJECT",
            "MATERIAL OBJECT",
            "NUMBER PLURAL",
            "PLACE",
            "SINGULAR",
        ),
        "CHRONICLE": ("from the old days of LAND :", "the PERSON of CITY wrote :", "in the newspaper stands :"),
        "LISTED": (
            "NAME wrote :",
            "in the newspaper stands :",
            "the PERSON said :",
            "NAME bought :",
            "the list says :",
            "in the CONTAINER there are :",
            "NAME saw :",
            "lost and found :",
        ),
    }
)

#: The kinds of document, the most frequent first: the k-th is drawn in proportion to 1 / (k + 6), a Zipf law.
MECHANISMS = (
    "indirect_object",
    "fact",
    "passage_twice",
    "agreement",
    "interleaved_succession",
    "chronicle",
    "list_twice",
    "pairs_again",
    "biography",
    "greater_than",
    "almanac",
    "full_name",
    "succession",
    "nesting",
    "arguments",
    "reflexive",
    "filler",
    "list_of_names_twice",
    "pronoun",
    "article",
    "container",
    "owner",
    "dialogue",
    "letter",
    "comparison",
    "tense",
    "counting",
    "possessive",
    "particle",
    "sum",
    "question",
    "recipe",
    "either",
    "kind",
    "relative",
    "from_to",
    "opposite",
    "ordinal",
    "too_to",
    "between",
    "both",
    "condition",
    "simile",
    "superlative",
    "infinitive",
    "price",
    "neither",
    "route",
    "passive",
    "as_as",
    "not_but",
    "material",
    "season",
    "negation",
    "greeting",
    "so_that",
    "not_only",
    "clock",
    "reversal",
    "antonym",
)


#: What passages are put together from: no task's sentences, which must not begin at the offset that is held out.
_PASSAGES = MECHANISMS[MECHANISMS.index("filler") :]


def draw_document(name: str, choose: Chooser, split: Split) -> list[str]:
    """The words of one document of a kind, as `MECHANISMS` has them.

    In a document of "train" no two people are named that are a held-out pair of `name_pairs`.

    Example:
      >>> from jaxinterp.tasks.choices import chooser
      >>> draw_document("sum", chooser(0), "train")[-1]
      '.'
    """
    while True:
        words = _DRAW[name](choose, split) if name in _DRAW else draw_template(name, choose)
        # whoever else is named: no two people of a held-out pair stand in one training text
        if split == "held_out" or together(*_NAMES.intersection(words)):
            return words


def _indirect_object(choose: Chooser, split: Split) -> list[str]:
    # The classic form is as common as the others together.
    mentions = choose(("pair",) * 5 + MENTIONS[1:])
    pair = draw_indirect_object(choose, split, mentions=mentions)
    text, s2 = pair.clean.split(), pair.positions["S2"]
    last = len(text) - 1 - text[::-1].index(pair.wrong)
    kind = choose(range(25))
    if kind == 0 and mentions == "pair":
        return text[:s2] + expand("THEY", RULES, choose)
    if kind == 1 and mentions == "pair":
        return text[: s2 + 1] + expand("DID", RULES, choose) + expand("CLOSE", RULES, choose)
    if kind in (2, 3, 4, 5):
        return text + expand("RECEIVER", RULES, choose) + expand("CLOSE", RULES, choose)
    answer = [pair.correct]
    if kind == 6:
        # Somebody else gives: either may receive.
        text[last] = _other_name(choose, pair.correct, pair.wrong)
        answer = [choose((pair.correct, pair.wrong))]
    elif kind == 7:
        answer = [pair.wrong, "'s", choose(v.RELATIVES)]
    elif kind in (8, 9, 10):
        answer = [pair.correct, "'s", choose(v.RELATIVES)]
    return [*text, *answer, *expand("CLOSE", RULES, choose)]


def _other_name(choose: Chooser, *names: str) -> str:
    """One more name, none of which makes a held-out pair with those there are."""
    while True:
        other = choose(v.NAMES)
        if companions(other, names):
            return other


def _family(choose: Chooser, name: str, split: Split) -> str:
    """A family name: of people of "train", none that biographies hold out for this first name."""
    while True:
        family = choose(v.FAMILIES)
        if split == "held_out" or named_in(name, family) == "train":
            return family


def _agreement(choose: Chooser, split: Split) -> list[str]:
    structure = choose(tuple(STRUCTURES))
    pair = draw_agreement(choose, split, structure)
    text, verb = pair.clean.split(), pair.correct
    if any(verb in verbs for verbs in SEES):
        rest, within = "WHOM", "SEE"
    elif verb in ("has", "have"):
        rest, within = "HAVE", "SEEN SEE"
    else:
        rest, within = "BE" if verb in ("is", "are", "was", "were") else "DO", "BESIDE SEE"
    return [*text, verb, *compose((within if structure == "within_rc" else rest).split(), RULES, choose)]


def _succession(choose: Chooser, split: Split) -> list[str]:
    while True:
        pair = draw_succession(choose, split)
        # who goes on from where is what `interleaved_successions` hold out
        if split == "held_out" or not set(v.PEOPLE).intersection(pair.clean.split()):
            break
    text, first, last = pair.clean.split(), pair.positions["FIRST"], pair.positions["LAST"]
    if choose(range(5)) == 0:
        repeated = [word if word in (",", "and") else text[first] for word in text[first : last + 1]]
        return [*text[:first], *repeated, *text[last + 1 :], text[first], "."]
    after = text[last + 1 :]
    text.append(pair.correct)
    if after in ([], [","]):
        # Such a run goes on for a while: how long it is does not tell where it ends.
        kind = next(kind for kind, series in SERIES.items() if pair.correct in series)
        following = SERIES[kind].index(pair.correct) + 1
        for word in items(kind, following, choose(range(5))):
            text += [*after, word]
    return [*text, "."]


def _answered(draw: Callable) -> Callable[[Chooser, Split], list[str]]:
    """A document of a task: a prompt, its answer, and a close."""

    def document(choose: Chooser, split: Split) -> list[str]:
        pair = draw(choose, split)
        return [*pair.clean.split(), pair.correct, *expand("CLOSE", RULES, choose)]

    return document


def _almanac(choose: Chooser, split: Split) -> list[str]:
    """Plain facts about subjects of a kind, one after the other: what other sentences tell among much else."""
    relation = choose(tuple(RELATIONS))
    title, _, verb = RELATIONS[relation]
    text = write((choose(("CHRONICLE", "LOUD")),), choose, RULES)
    between = choose((";", ",", "and"))
    for subject, value in _different(choose, tuple(facts()[relation].items()), choose(range(2, 7))):
        text += [*title.split(), *subject, *verb.split(), value, between]
    return [*text[:-1], "."]


def _chronicle(choose: Chooser, split: Split) -> list[str]:
    """Events with the years of their beginnings and ends, of which the first tells nothing but that the other is later.

    Or annals, one event for each year, which tell what year is the next.
    """
    text = write(("CHRONICLE",), choose, RULES)
    to, between = choose(("-", "to")), choose((";", ",", "and"))
    if choose((True, False)):
        n, century = choose(range(2, 9)), choose(v.CENTURIES)
        first = choose(range(len(v.YEARS) - n))
        for year in range(first, first + n):
            text += [century, v.YEARS[year], "the", choose(_events(year, split)), between]
        return [*text[:-1], "."]
    for _ in range(choose(range(2, 8))):
        event, year = choose(years(split))
        century = choose(v.CENTURIES)
        text += ["the", event, century, v.YEARS[year], to, century, choose(v.YEARS[year + 1 :]), between]
    return [*text[:-1], "."]


@cache
def _events(year: int, split: Split) -> tuple[str, ...]:
    """What may begin in a year; in those that no task asks about, anything."""
    return tuple(each.event for each in years(split) if each.year == year) or v.EVENTS


def _arguments(choose: Chooser, split: Split) -> list[str]:
    pair = draw_arguments(choose, split)
    return [*pair.clean.split(), pair.correct, ":", *expand("ABOUT", ARGUMENTS_RULES, choose), "."]


def _nesting(choose: Chooser, split: Split) -> list[str]:
    pair = draw_nesting(choose, split)
    text = [*pair.clean.split(), pair.correct]
    if CLOSERS[text[pair.positions["INNER"]]] == pair.correct:  # the outer one is open still
        text += compose(choose(("and LONG", "DID", "for NUMBER days", "in LONG")).split(), NESTING_RULES, choose)
        text.append(pair.wrong)
    return [*text, *expand("DID", RULES, choose), "."]


def _biography(choose: Chooser, split: Split) -> list[str]:
    each = draw_biography(choose, split)
    return [*each.text.split(), each.profession, "."]


def _passage_twice(choose: Chooser, split: Split) -> list[str]:
    """One to three short texts, read aloud, and the same once more: what was said can be said again word by word."""
    passage: list[str] = []
    for _ in range(choose((1, 1, 2, 3))):
        passage += draw_document(choose(_PASSAGES), choose, split)
    # Sometimes only a part of it is read, from anywhere to anywhere.
    if choose((True, False)):
        passage = passage[choose(range(len(passage))) :]
        passage = passage[: 1 + choose(range(len(passage)))]
    if not 2 < len(passage) <= 50:
        return _passage_twice(choose, split)
    text = write(choose(RULES["LOUD"]), choose, RULES) + passage
    if choose((True, False)):
        text += expand("ASIDE", RULES, choose)
    # Sometimes it is taken up in the middle.
    start = choose((0, 0, choose(range(len(passage)))))
    return text + write(choose(RULES["AGAIN"]), choose, RULES) + passage[start:]


def _list_twice(choose: Chooser, split: Split) -> list[str]:
    """A list of anything, and the same list again: words that can be known in no other way than by copying."""
    comma = choose(((",",), (",",), (), ("and",)))
    things: list[str] = []
    # Goods, or words of a kind as one learns them: a column of adverbs, of cities, of what animals do.
    columns = [choose(_COLUMNS) for _ in range(choose((0, 1, 1, 2)))]
    for _ in range(choose(range(2, 16 if comma else 31))):
        things += [choose(choose(columns))] if columns else expand("GOODS", RULES, choose)
        things += comma
    things = things[: len(things) - len(comma)]
    text = [*write(choose(RULES["LISTED"]), choose, RULES), *things, "."]
    for _ in range(choose((1, 1, 2)) if len(things) < 25 else 1):
        text += [*write(choose(RULES["AGAIN"]), choose, RULES), *things, "."]
    return text


def _pairs_again(choose: Chooser, split: Split) -> list[str]:
    """Up to six people or things with names of two words that are read two to four times in any order.

    People with their family names, people and whom they go with, or things: a word that says which and the thing.
    Which word comes after the first of a name can be told from where that stood before, and in no other way.
    """
    rows = choose(range(2, 7))
    kind = choose(("families", "couples", "things", "things"))
    if kind == "things":
        which, what = choose(_WHICH), choose(_WHAT)
        firsts = _different(choose, which, rows)
        seconds = _different(choose, tuple(word for word in what if word not in firsts), rows)
    else:
        firsts = [choose(v.NAMES)]
        while len(firsts) < (2 * rows if kind == "couples" else rows):
            firsts.append(_other_name(choose, *firsts))
        seconds = firsts[rows:] if kind == "couples" else [_family(choose, name, split) for name in firsts]
        firsts = firsts[:rows]
    comma = choose(((), (), (",",), ("and",)))
    words: list[str] = []
    for _ in range(choose((2, 3, 4))):
        left = list(zip(firsts, seconds, strict=True))
        while left:
            words += [*left.pop(choose(range(len(left)))), *comma]
    return [*words[: len(words) - len(comma)], "."]


def _different(choose: Chooser, things: Sequence[T], n: int) -> list[T]:
    """`n` of the things, none twice."""
    left = list(things)
    return [left.pop(choose(range(len(left)))) for _ in range(n)]


#: What says which of several things one means, and the things: "silver lamp", "paper bag", "cheese market".
_WHICH: tuple[tuple[str, ...], ...] = (
    *(v.QUALITIES + v.VOWEL_QUALITIES, v.COLORS, v.MATERIALS, v.FOODS, v.LANGUAGES, v.CITIES, v.INSTRUMENTS),
    *(v.OBJECTS, v.VOWEL_OBJECTS, v.PLACES, v.MOODS, v.ADVERBS, tuple(noun.singular for noun in v.NOUNS)),
)
_WHAT: tuple[tuple[str, ...], ...] = (
    *(v.OBJECTS, v.VOWEL_OBJECTS, v.PLACES, v.PEOPLE + v.VOWEL_PEOPLE, v.CONTAINERS, v.EVENTS, v.CUES, v.PRODUCTS),
    *(tuple(noun.singular for noun in v.NOUNS), tuple(noun.plural for noun in v.NOUNS)),
)

#: Words that a list may be made of, apart from goods; neither first names nor arguments, for some pairs are held out.
_COLUMNS: tuple[tuple[str, ...], ...] = (
    *(v.FAMILIES, v.CITIES, v.LANDS, v.LANGUAGES, v.GODS, v.FIRST_PARTS, v.LAST_PARTS),
    *(v.QUALITIES, v.VOWEL_QUALITIES, v.MOODS, v.WEATHERS, v.ADVERBS, v.COLORS, v.MATERIALS, v.FOODS),
    *(v.OBJECTS, v.VOWEL_OBJECTS, v.PLACES, v.CONTAINERS, v.INSTRUMENTS, v.PRODUCTS, v.EVENTS),
    *(v.PEOPLE, v.VOWEL_PEOPLE, v.RELATIVES, tuple(v.PROFESSIONS), v.CUES, v.FUNCTIONS),
    *(v.WEEKDAYS, v.MONTHS, v.NUMBERS, v.LETTERS, v.ORDINALS, v.YEARS, v.CENTURIES),
    *(tuple(getattr(noun, form) for noun in v.NOUNS) for form in Noun._fields),
    *(tuple(row[i] for row in v.DEGREES) for i in range(3)),
    *v.KINDS.values(),
)

_NAMES = frozenset(v.NAMES)


def _list_of_names_twice(choose: Chooser, split: Split) -> list[str]:
    names: list[str] = [choose(v.NAMES)]
    for _ in range(choose(range(1, 8))):
        names.append(_other_name(choose, *names))
    if choose((True, False)):
        names = [part for name in names for part in (name, _family(choose, name, split))]
    return [*names, *expand("AGAIN", RULES, choose), *names, "."]


def _full_name(choose: Chooser, split: Split) -> list[str]:
    """People with family names, named again later: the family name follows the first name."""
    names = [choose(v.NAMES)]
    for _ in range(choose((0, 1, 1, 2))):
        names.append(_other_name(choose, *names))
    full = {name: _family(choose, name, split) for name in names}
    text: list[str] = []
    for turn in range(choose((2, 3, 4)) * len(names)):
        name = names[turn] if turn < len(names) else choose(names)
        text += [name, full[name], *expand("DID", RULES, choose), *expand("CLOSE", RULES, choose)]
    return text[:70]


_DRAW: Mapping[str, Callable[[Chooser, Split], list[str]]] = {
    "indirect_object": _indirect_object,
    "passage_twice": _passage_twice,
    "agreement": _agreement,
    "fact": _answered(draw_fact),
    "list_twice": _list_twice,
    "pairs_again": _pairs_again,
    "biography": _biography,
    "interleaved_succession": _answered(draw_tracks),
    "greater_than": _answered(draw_greater_than),
    "almanac": _almanac,
    "chronicle": _chronicle,
    "full_name": _full_name,
    "succession": _succession,
    "nesting": _nesting,
    "arguments": _arguments,
    "reflexive": _answered(draw_reflexive),
    "list_of_names_twice": _list_of_names_twice,
}
