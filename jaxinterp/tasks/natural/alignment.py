"""One template, filled in twice, as two rows of tokens: aligned token by token, or the reason why they are not.

Nothing here knows a tokenizer's rules: spaces before words, prefix spaces, byte fallback and the grouping of digits
are seen by encoding whole prompts, with and without what is to follow.
"""

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tokenizers import Tokenizer

from jaxinterp.tasks.prompts import unknown_ids
from jaxinterp.tasks.texts import check_tokenizer

#: A token of a field: its first, its last, or the one after it.
Edge = Literal["first", "last", "after"]

#: Why a draft can be left out.
UNKNOWN = "prompts with a word that the tokenizer does not know"
LENGTHS = "pairs of different lengths"
SAME = "pairs whose prompts are the same tokens"
MISPLACED = "pairs whose words are not whole tokens at the same places"
SEVERAL = "pairs with a word of several tokens where one is needed"
ANSWERS = "pairs with an answer that is not one token behind both prompts"


@dataclass(frozen=True)
class Draft:
    """A pair of prompts before anything is known of their tokens.

    Attributes:
      template: text with `{FIELD}`s, each in it once; it ends where the answer follows.
      clean, corrupted: the text of each field; a field with an empty text does not exist.
      correct, wrong: what may follow, literally: with its space, where there is one.
      roles: named positions, as an edge of a field.
      single: fields that must be one token.
    """

    template: str
    clean: Mapping[str, str]
    corrupted: Mapping[str, str]
    correct: tuple[str, ...]
    wrong: tuple[str, ...]
    roles: Mapping[str, tuple[str, Edge]]
    single: tuple[str, ...] = ()


@dataclass(frozen=True)
class TextPair:
    """The texts of a pair.

    Attributes:
      clean, corrupted: the prompts, without special tokens.
      correct, wrong: the answers, as they follow the text: `prompt + answer` is text again.
    """

    clean: str
    corrupted: str
    correct: tuple[str, ...]
    wrong: tuple[str, ...]


@dataclass(frozen=True)
class Encoded:
    """A prompt in tokens.

    Attributes:
      ids, strings: each token.
      spans: where in the text each token is, in characters; `None` for special tokens.
    """

    ids: tuple[int, ...]
    strings: tuple[str, ...]
    spans: tuple[tuple[int, int] | None, ...]


@dataclass(frozen=True)
class AlignedPair:
    """A pair whose tokens align.

    Attributes:
      text: what it says.
      clean, corrupted: as many tokens each; they differ only within the fields that were exchanged.
      roles: named positions, as token indices, the same in both.
      correct, wrong: the answers' token ids.
    """

    text: TextPair
    clean: Encoded
    corrupted: Encoded
    roles: Mapping[str, int]
    correct: tuple[int, ...]
    wrong: tuple[int, ...]


def check_answers_follow(tokenizer: Tokenizer, bos: str | None) -> None:
    """Raises for what cannot tokenise prompts that an answer follows.

    Raises:
      TypeError: not a `tokenizers.Tokenizer`.
      ValueError: one that pads, truncates, draws at random, or adds a token behind the text; an unknown `bos`.
    """
    check_tokenizer(tokenizer, bos)
    encoded = encode(tokenizer, "The", bos)
    if encoded.spans and encoded.spans[-1] is None:
        raise ValueError(
            f"the tokenizer puts {encoded.strings[-1]!r} behind the text, where the answer should follow: give it a "
            "post-processor that does not, or pass bos= to use none"
        )


def encode(tokenizer: Tokenizer, text: str, bos: str | None) -> Encoded:
    """A prompt's tokens.

    Args:
      tokenizer: any.
      text: the prompt.
      bos: `None` adds the special tokens that the tokenizer's post-processor adds; a token adds that one in front and
        no other; "" adds none.
    """
    encoding = tokenizer.encode(text, add_special_tokens=bos is None)
    special = zip(encoding.special_tokens_mask, encoding.offsets, strict=True)
    spans = tuple(None if is_special else span for is_special, span in special)
    if not bos:
        return Encoded(tuple(encoding.ids), tuple(encoding.tokens), spans)
    front = tokenizer.token_to_id(bos)
    assert front is not None  # check_answers_follow has seen it
    return Encoded((front, *encoding.ids), (bos, *encoding.tokens), (None, *spans))


def next_tokens(tokenizer: Tokenizer, prompt: str, continuations: Sequence[str]) -> list[int | None]:
    """The token that each continuation is behind a prompt; `None` where it is not one token there.

    It is one token if prompt and continuation together are the prompt's tokens and one more. Continuations are
    literal (a year goes on without a space), which is how this differs from `jaxinterp.tasks.prompts.answer_token`.

    Example:
      >>> _, _, tokenizer = ji.load("english")
      >>> tokens = next_tokens(tokenizer, "John gave a drink to", [" Mary", " Mary and", " Zanzibar"])
      >>> [token and tokenizer.id_to_token(token) for token in tokens]
      ['Mary', None, None]
    """
    before, unknown = tokenizer.encode(prompt, add_special_tokens=False).ids, unknown_ids(tokenizer)
    found: list[int | None] = []
    for whole in tokenizer.encode_batch_fast([prompt + text for text in continuations], add_special_tokens=False):
        is_next = len(whole.ids) == len(before) + 1 and whole.ids[:-1] == before and whole.ids[-1] not in unknown
        found.append(whole.ids[-1] if is_next else None)
    return found


def render(template: str, values: Mapping[str, str]) -> tuple[str, dict[str, tuple[int, int]]]:
    """A template's text, and where in it each field is, in characters. Empty fields are nowhere.

    Example:
      >>> render("The {NOUN} of {YEAR}{ERA}", {"NOUN": "war", "YEAR": "1732", "ERA": ""})
      ('The war of 1732', {'NOUN': (4, 7), 'YEAR': (11, 15)})
    """
    text, places = "", {}
    for literal, field, _, _ in string.Formatter().parse(template):
        text += literal
        if field and values[field]:
            places[field] = (len(text), len(text) + len(values[field]))
            text += values[field]
    return text, places


def tokens_of(encoded: Encoded, text: str, start: int, end: int) -> tuple[int, int] | None:
    """The first and last token of `text[start:end]`; `None` if a token of it also holds something else than a space."""
    inside = [
        (i, span) for i, span in enumerate(encoded.spans) if span is not None and span[0] < end and span[1] > start
    ]
    if not inside:
        return None
    (first, (begin, _)), (last, (_, stop)) = inside[0], inside[-1]
    return (first, last) if text[begin:stop].strip() == text[start:end] else None


def align(draft: Draft, tokenizer: Tokenizer, bos: str | None) -> AlignedPair | str:
    """A draft in tokens, or why it is left out.

    What holds of every pair that comes back: both prompts have as many tokens, not all the same; every role and every
    exchanged field is whole tokens, at the same places in both; all other tokens are the same; the prompt ends with its
    last token; and each answer is the same one token behind both.
    """
    (clean_text, clean_places), (corrupted_text, corrupted_places) = (
        render(draft.template, values) for values in (draft.clean, draft.corrupted)
    )
    clean, corrupted = (encode(tokenizer, text, bos) for text in (clean_text, corrupted_text))
    unknown = unknown_ids(tokenizer)
    for side in (clean, corrupted):
        if any(i in unknown for i, span in zip(side.ids, side.spans, strict=True) if span is not None):
            return UNKNOWN
    if len(clean.ids) != len(corrupted.ids):
        return LENGTHS
    if clean.ids == corrupted.ids:
        return SAME
    for text, side in ((clean_text, clean), (corrupted_text, corrupted)):
        if side.spans[-1] is None or side.spans[-1][1] != len(text):
            return MISPLACED

    exchanged = {field for field in clean_places if draft.clean[field] != draft.corrupted[field]}
    tokens = {}
    # in one order, for the first reason found is the one that is told
    for field in dict.fromkeys([*(field for field, _ in draft.roles.values()), *sorted(exchanged)]):
        found = tokens_of(clean, clean_text, *clean_places[field])
        if found is None or found != tokens_of(corrupted, corrupted_text, *corrupted_places[field]):
            return MISPLACED
        if field in draft.single and found[0] != found[1]:
            return SEVERAL
        tokens[field] = found
    may_differ = {i for field in exchanged for i in range(tokens[field][0], tokens[field][1] + 1)}
    if any(a != b and i not in may_differ for i, (a, b) in enumerate(zip(clean.ids, corrupted.ids, strict=True))):
        return MISPLACED

    answers = (*draft.correct, *draft.wrong)
    ids = [i for i in next_tokens(tokenizer, clean_text, answers) if i is not None]
    if len(set(ids)) < len(answers) or ids != next_tokens(tokenizer, corrupted_text, answers):
        return ANSWERS
    roles = {
        role: {"first": tokens[field][0], "last": tokens[field][1], "after": tokens[field][1] + 1}[edge]
        for role, (field, edge) in draft.roles.items()
    }
    return AlignedPair(
        TextPair(clean_text, corrupted_text, draft.correct, draft.wrong),
        clean,
        corrupted,
        roles | {"END": len(clean.ids) - 1},
        tuple(ids[: len(draft.correct)]),
        tuple(ids[len(draft.correct) :]),
    )
