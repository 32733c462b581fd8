"""Training text: the tasks' sentences, finished, among many that ask for something else or for nothing.

More than fifty mechanisms, a few of them common and most of them rare, share words and openings; each task has its
counterexamples, so that no shortcut is right everywhere.
"""

from bisect import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import accumulate

import numpy as np

from jaxinterp.tasks.choices import Chooser, chooser
from jaxinterp.tasks.english import vocabulary as v
from jaxinterp.tasks.english.agreement import RULES as AGREEMENT_RULES
from jaxinterp.tasks.english.agreement import SEES, STRUCTURES, VERBS, draw_agreement
from jaxinterp.tasks.english.arguments import MARKS, draw_arguments
from jaxinterp.tasks.english.arguments import RULES as ARGUMENTS_RULES
from jaxinterp.tasks.english.biographies import SENTENCES, draw_biography
from jaxinterp.tasks.english.facts import RELATIONS, draw_fact
from jaxinterp.tasks.english.facts import RULES as FACTS_RULES
from jaxinterp.tasks.english.facts import TEMPLATES as FACTS_TEMPLATES
from jaxinterp.tasks.english.greater_than import RULES as GREATER_THAN_RULES
from jaxinterp.tasks.english.greater_than import TEMPLATES as GREATER_THAN_TEMPLATES
from jaxinterp.tasks.english.greater_than import draw_greater_than
from jaxinterp.tasks.english.indirect_objects import CLAUSES, MENTIONS, OPENINGS, draw_indirect_object
from jaxinterp.tasks.english.indirect_objects import RULES as INDIRECT_OBJECTS_RULES
from jaxinterp.tasks.english.nesting import CLOSERS, draw_nesting
from jaxinterp.tasks.english.nesting import RULES as NESTING_RULES
from jaxinterp.tasks.english.nesting import TEMPLATES as NESTING_TEMPLATES
from jaxinterp.tasks.english.phrases import PHRASES, companions, write
from jaxinterp.tasks.english.reflexives import RULES as REFLEXIVES_RULES
from jaxinterp.tasks.english.reflexives import TEMPLATES as REFLEXIVES_TEMPLATES
from jaxinterp.tasks.english.reflexives import draw_reflexive
from jaxinterp.tasks.english.successions import TRACK_RULES, TRACKS, draw_tracks
from jaxinterp.tasks.english.templates import RULES as TEMPLATE_RULES
from jaxinterp.tasks.english.templates import TEMPLATES, draw_template
from jaxinterp.tasks.grammar import compose, expand, grammar, is_symbol, terminals
from jaxinterp.tasks.splits import Split
from jaxinterp.tasks.successions import CARRIERS, SERIES, draw_succession, items
from jaxinterp.tasks.successions import GRAMMAR as SUCCESSIONS_GRAMMAR

RULES = PHRASES | grammar(
    {
        "RECEIVER": ("the PERSON", "the MOOD PERSON", "a PERSON", "the PERSON at the PLACE"),
        "THEY": ("they bought THING CLOSE", "they went home .", "they were MOOD CLOSE", "it was a WEATHER day ."),
        "BE": ("MOOD CLOSE", "at the PLACE .", "near the OBJECT .", "WEATHER .", "QUALITY CLOSE", "in the PLACE CLOSE"),
        "HAVE": ("been MOOD CLOSE", "been at the PLACE .", "seen the OBJECT CLOSE", "found a COLOR OBJECT ."),
        "DO": (".", ".", "ADVERB .", "at the PLACE .", "near the PLACE CLOSE", "and NUMBER more come CLOSE"),
        "SEE": ("is MOOD CLOSE", "were MOOD CLOSE", "DID CLOSE"),
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
        "LISTED": (
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
    "list_twice",
    "biography",
    "interleaved_succession",
    "greater_than",
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

#: Documents of these never begin at such an offset of a training row: `position % 8 == HELD_OUT_OFFSET`.
EVALUATED = (
    "indirect_object",
    "agreement",
    "fact",
    "interleaved_succession",
    "greater_than",
    "nesting",
    "arguments",
    "reflexive",
)
HELD_OUT_OFFSET = 5


@cache
def words() -> tuple[str, ...]:
    """Every word that the corpus and the tasks' prompts can hold, sorted.

    Example:
      >>> "Mary" in words(), "thursday" in words(), "Zanzibar" in words()
      (True, True, False)
    """
    found: set[str] = set()
    rules = (
        RULES,
        TEMPLATE_RULES,
        INDIRECT_OBJECTS_RULES,
        AGREEMENT_RULES,
        GREATER_THAN_RULES,
        FACTS_RULES,
        NESTING_RULES,
        ARGUMENTS_RULES,
        REFLEXIVES_RULES,
        SUCCESSIONS_GRAMMAR,
        TRACK_RULES,
    )
    for each in rules:
        found |= terminals(each)
    texts: list[str] = [text for forms in TEMPLATES.values() for text in forms]
    for table in (OPENINGS, GREATER_THAN_TEMPLATES, FACTS_TEMPLATES, NESTING_TEMPLATES, REFLEXIVES_TEMPLATES):
        texts += [text for forms in table.values() for text in forms]
    texts += [text for forms in STRUCTURES.values() for split in forms.values() for text in split]
    texts += [text for split in TRACKS.values() for forms in split.values() for text in forms]
    texts += [text for forms in SENTENCES.values() for text in forms]
    texts += [text for forms in MARKS.values() for text in forms]
    texts += [text for pair in CLAUSES.values() for text in pair]
    texts += [part for carrier in CARRIERS for part in carrier]
    texts += [f"{relation.title} {relation.verb}" for relation in RELATIONS.values()]
    texts += [*CLOSERS, *CLOSERS.values(), *v.PROFESSIONS, *v.CUES, *v.ARGUMENTS, *v.FIRST_PARTS, *v.LAST_PARTS]
    texts += [*v.YEARS, *v.CENTURIES, *v.FAMILIES, *v.WOMEN, *v.MEN]
    texts += [word for noun in v.NOUNS for word in noun]
    texts += [word for verbs in (*VERBS.values(), *SEES) for word in verbs]
    texts += [value for relation in RELATIONS.values() for value in relation.values]
    texts += [word for series in SERIES.values() for word in series]
    texts += GLUE
    found |= {word for text in texts for word in text.split() if "." not in word or word == "."}
    return tuple(sorted(word for word in found if not is_symbol(word)))


#: Words that code puts into texts.
GLUE = [
    "she",
    "her",
    "herself",
    "he",
    "him",
    "his",
    "himself",
    "comes",
    "from",
    "people",
    "call",
    "the",
    "def",
    "(",
    ")",
    ":",
    ",",
    "now",
    "nobody",
    "else",
    "like",
    "of",
    "'s",
    "and",
    ".",
    "then",
    "to",
    "both",
    "said",
    "that",
    "met",
    ",",
    "who",
    "is",
    "as",
    "well",
]


def documents(
    seed: int | Sequence[int], *, split: Split = "train", mechanisms: Sequence[str] = MECHANISMS
) -> Iterator[str]:
    """An endless seeded stream of short texts.

    Those of "train" hold no combination and no form of sentence that the tasks' held-out prompts are made of.

    Args:
      seed: decides everything else.
      split: "train" or "held_out".
      mechanisms: the kinds of document, the most frequent first.

    Raises:
      ValueError: a kind or a split that does not exist.

    Example:
      >>> next(documents(3)).split()[-1]
      '.'
    """
    return (" ".join(words) for _, words in _stream(chooser(seed), split, mechanisms))


def _stream(choose: Chooser, split: Split, mechanisms: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Documents with the mechanism that each is of."""
    for name in mechanisms:
        if name not in TEMPLATES and name not in _DRAW:
            raise ValueError(f"unknown mechanism {name!r}; expected some of: {', '.join(MECHANISMS)}")
    if split not in ("train", "held_out"):
        raise ValueError(f"unknown split {split!r}; expected one of: train, held_out")
    weights = list(accumulate(1 / (rank + 7) for rank in range(len(mechanisms))))
    ticks = range(1 << 30)
    while True:
        name = mechanisms[bisect(weights, choose(ticks) / len(ticks) * weights[-1])]
        yield name, _document(name, choose, split)


def _document(name: str, choose: Chooser, split: Split) -> list[str]:
    return _DRAW[name](choose, split) if name in _DRAW else draw_template(name, choose)


def batch(
    ids: Mapping[str, int],
    step: int,
    *,
    seed: int,
    size: int,
    n_ctx: int,
    split: Split = "train",
    mechanisms: Sequence[str] = MECHANISMS,
) -> np.ndarray:
    """The training batch of one step: `int32[size, n_ctx + 1]`, rows full of documents, each after `<bos>`.

    Three rows in four begin in the middle of a document, at a random word. Nothing but the arguments decides, so a
    run that is resumed at a step sees what it would have seen.

    Args:
      ids: token of each word, as `word_tokenizer().get_vocab()` gives it.
      step: which batch.
      seed: which corpus.
      size: rows.
      n_ctx: a row is one longer, so that it holds inputs and next words.
      split: "train" or "held_out".
      mechanisms: the kinds of document, as in `documents`.

    Raises:
      ValueError: a kind or a split that does not exist.
      KeyError: `ids` lack a word of the corpus.

    Example:
      >>> ids = {word: index for index, word in enumerate(("<bos>", *words()))}
      >>> batch(ids, 0, seed=0, size=2, n_ctx=16).shape
      (2, 17)
    """
    choose = chooser((seed, step))
    stream = _stream(choose, split, mechanisms)
    rows = np.empty((size, n_ctx + 1), np.int32)
    for row in rows:
        cut = choose((0, *(choose(range(48)) for _ in range(3))))
        tokens: list[int] = []
        while len(tokens) < cut + n_ctx + 1:
            name, text = next(stream)
            while name in EVALUATED and (len(tokens) - cut) % 8 == HELD_OUT_OFFSET:
                name, text = next(stream)
            tokens.append(ids["<bos>"])
            tokens.extend([ids[word] for word in text])
        row[:] = tokens[cut : cut + n_ctx + 1]
    return rows


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


def _agreement(choose: Chooser, split: Split) -> list[str]:
    pair = draw_agreement(choose, split)
    text, verb = pair.clean.split(), pair.correct
    rest = {"is": "BE", "are": "BE", "was": "BE", "were": "BE", "has": "HAVE", "have": "HAVE"}.get(verb, "DO")
    if any(verb in verbs for verbs in SEES):
        rest = "SEE"
    return [*text, verb, *expand(rest, RULES, choose)]


def _succession(choose: Chooser, split: Split) -> list[str]:
    pair = draw_succession(choose, split)
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


def _arguments(choose: Chooser, split: Split) -> list[str]:
    pair = draw_arguments(choose, split)
    return [*pair.clean.split(), pair.correct, ":", *expand("ABOUT", ARGUMENTS_RULES, choose), "."]


def _nesting(choose: Chooser, split: Split) -> list[str]:
    pair = draw_nesting(choose, split)
    middle = compose(choose(("and LONG", "DID", "for NUMBER days", "in LONG")).split(), NESTING_RULES, choose)
    return [*pair.clean.split(), pair.correct, *middle, pair.wrong, *expand("DID", RULES, choose), "."]


def _biography(choose: Chooser, split: Split) -> list[str]:
    each = draw_biography(choose, split)
    return [*each.text.split(), each.profession, "."]


def _passage_twice(choose: Chooser, split: Split) -> list[str]:
    """One to three short texts, read aloud, and the same once more: what was said can be said again word by word."""
    passage: list[str] = []
    for _ in range(choose((1, 1, 2, 3))):
        passage += _document(choose(MECHANISMS[13:]), choose, split)
    if len(passage) > 50 or not passage:
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
    for _ in range(choose(range(2, 16))):
        things += [*expand("GOODS", RULES, choose), *comma]
    things = things[: len(things) - len(comma)]
    return [
        *write(choose(RULES["LISTED"]), choose, RULES),
        *things,
        ".",
        *write(choose(RULES["AGAIN"]), choose, RULES),
        *things,
        ".",
    ]


def _pairs_again(choose: Chooser, split: Split) -> list[str]:
    """Up to six pairs of words, read two to four times in any order: not in texts, but to begin with.

    Which word comes after the first of a pair can be told from where the pair stood before, and in no other way.
    """
    firsts: list[str] = [choose(v.NAMES)]
    for _ in range(choose(range(1, 6))):
        firsts.append(_other_name(choose, *firsts))
    if choose((True, False)):  # not people
        firsts = list(dict.fromkeys(choose(_THINGS) for _ in firsts))
    seconds = [choose(v.FAMILIES if firsts[0] in v.NAMES else _THINGS) for _ in firsts]
    words: list[str] = []
    for _ in range(choose((2, 3, 4))):
        left = list(zip(firsts, seconds, strict=True))
        while left:
            words += left.pop(choose(range(len(left))))
    return words


_THINGS = v.OBJECTS + v.PLACES + v.FOODS + v.MOODS + v.COLORS + v.CITIES


def _list_of_names_twice(choose: Chooser, split: Split) -> list[str]:
    names: list[str] = [choose(v.NAMES)]
    for _ in range(choose(range(1, 8))):
        names.append(_other_name(choose, *names))
    if choose((True, False)):
        names = [part for name in names for part in (name, choose(v.FAMILIES))]
    return [*names, *expand("AGAIN", RULES, choose), *names, "."]


def _full_name(choose: Chooser, split: Split) -> list[str]:
    """People with family names, named again later: the family name follows the first name."""
    names = [choose(v.NAMES)]
    for _ in range(choose((0, 1, 1, 2))):
        names.append(_other_name(choose, *names))
    full = {name: choose(v.FAMILIES) for name in names}
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
    "full_name": _full_name,
    "succession": _succession,
    "nesting": _nesting,
    "arguments": _arguments,
    "reflexive": _answered(draw_reflexive),
    "list_of_names_twice": _list_of_names_twice,
}
