"""The natural tasks' pairs, drawn until there are enough, with an account of what was left out."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from tokenizers import Tokenizer

from jaxinterp.tasks.choices import Chooser, check_count, check_seed, chooser
from jaxinterp.tasks.natural.alignment import AlignedPair, Draft, TextPair, align, next_tokens
from jaxinterp.tasks.prompts import Prompts, TokenPairs, pad
from jaxinterp.tasks.splits import Split, in_split

#: So many drafts in a row may be left out before it is said that there are no more.
PATIENCE = 2000

#: So many pairs that align are looked at to find the commonest structure.
SAMPLE = 100

#: Why a pair that aligns can be left out.
STRUCTURE = "pairs of another structure"

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class NaturalPairs:
    """Pairs of natural prompts for one tokenizer. Made by the functions of `ji.tasks.natural`.

    Attributes:
      pairs: the prompts, `int32[batch, pos]`, and their answers: `int32[batch]`, or for sets of answers
        `int32[batch, n]` padded with -1, as the metrics take them.
      texts: the same pairs as text, in the same order.
      words_left_out: words that this tokenizer cannot be asked about, by reason.
      pairs_left_out: how many drafts were dropped on the way to these pairs, by reason.
    """

    pairs: TokenPairs
    texts: tuple[TextPair, ...]
    words_left_out: Mapping[str, tuple[str, ...]]
    pairs_left_out: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def left_out(self) -> dict[str, int]:
        """How many words of the lists and how many drafts of pairs were left out, by reason, where there are any."""
        words = {reason: len(words) for reason, words in self.words_left_out.items() if words}
        return words | dict(self.pairs_left_out)


def of_split(options: Sequence[T], split: Split | None, key: Callable[[T], Iterable[str]]) -> tuple[T, ...]:
    """The options of a split, or all of them for `None`; `key` gives the words that decide.

    Raises:
      ValueError: a split that does not exist.
    """
    return tuple(options) if split is None else in_split(options, split, key)


def one_token_words(
    tokenizer: Tokenizer, options: Sequence[T], forms: Callable[[T], Iterable[str]]
) -> tuple[tuple[T, ...], tuple[str, ...]]:
    """The options all of whose forms are one token behind other words; and the forms that are not.

    Example:
      >>> _, _, tokenizer = ji.load("english")
      >>> one_token_words(tokenizer, ["Mary", "Zanzibar", "John"], lambda name: [name])
      (('Mary', 'John'), ('Zanzibar',))
    """
    words = dict.fromkeys(form for option in options for form in forms(option))
    found = next_tokens(tokenizer, "They talked to", [f" {word}" for word in words])
    left_out = tuple(word for word, token in zip(words, found, strict=True) if token is None)
    return tuple(option for option in options if not set(forms(option)) & set(left_out)), left_out


def require(task: str, kind: str, kept: Sequence[Any], at_least: int, left_out: Sequence[str]) -> None:
    """Raises if a tokenizer leaves too few words.

    Raises:
      ValueError: says how many there are, how many are needed, and which are not one token.
    """
    if len(kept) < at_least:
        some = ", ".join(left_out[:10]) + (", ..." if len(left_out) > 10 else "")
        raise ValueError(
            f"{task} needs at least {at_least} {kind} of one token each and this tokenizer leaves {len(kept)}; "
            f"{len(left_out)} words are not one token: {some or 'none'}"
        )


def collect(
    task: str,
    n: int,
    seed: int,
    draw: Callable[[Chooser], Draft],
    tokenizer: Tokenizer,
    *,
    bos: str | None,
    alike: bool,
    words_left_out: Mapping[str, tuple[str, ...]],
    answer_sets: bool = False,
) -> NaturalPairs:
    """The first `n` drafts of a seeded stream that align.

    Args:
      task: what errors speak of.
      n: how many.
      seed: of the stream; a longer list starts with the shorter one.
      draw: makes a draft.
      tokenizer, bos: as in `alignment.encode`.
      alike: only those of one structure (length and roles), the commonest among the first of the stream.
      words_left_out: what the caller left out.
      answer_sets: answers become `int32[batch, n]`.

    Raises:
      TypeError, ValueError: an `n` below 1, no seed; too few drafts align.
    """
    check_count(n, at_least=1)
    check_seed(seed)

    def stream() -> Iterator[AlignedPair | str]:
        choose = chooser(seed)
        while True:
            yield align(draw(choose), tokenizer, bos)

    def structure(pair: AlignedPair) -> Any:
        return len(pair.clean.ids), tuple(pair.roles.items())

    aligned = (pair for pair in islice(stream(), PATIENCE) if isinstance(pair, AlignedPair))
    sample = Counter(map(structure, islice(aligned, SAMPLE if alike else 0)))
    wanted = sample.most_common(1)[0][0] if sample else None
    kept: list[AlignedPair] = []
    dropped: Counter[str] = Counter()
    in_a_row = 0
    for pair in stream():
        if isinstance(pair, str):
            dropped[pair] += 1
        elif alike and structure(pair) != wanted:
            dropped[STRUCTURE] += 1
        else:
            kept.append(pair)
            in_a_row = -1
        in_a_row += 1
        if len(kept) >= n:
            break
        if in_a_row == PATIENCE:
            reasons = "; ".join(f"{count} {reason}" for reason, count in dropped.most_common())
            raise ValueError(
                f"{task} found {len(kept)} of {n} pairs for this tokenizer and then none in {PATIENCE} drafts: "
                f"left out were {reasons}"
            )

    pad_id = tokenizer.token_to_id("<pad>") or 0
    # A role that only some pairs have is no role of the batch.
    names = [name for name in kept[0].roles if all(name in pair.roles for pair in kept)]
    roles = {name: np.array([pair.roles[name] for pair in kept]) for name in names}
    clean, corrupted = (
        Prompts(*pad([side.ids for side in sides], pad_id), roles, tuple(side.strings for side in sides))
        for sides in ([pair.clean for pair in kept], [pair.corrupted for pair in kept])
    )
    correct, wrong = (
        pad_answers(ids) if answer_sets else np.array(ids, np.int32)[:, 0]
        for ids in ([pair.correct for pair in kept], [pair.wrong for pair in kept])
    )
    pairs = TokenPairs(clean, corrupted, correct, wrong)
    return NaturalPairs(pairs, tuple(pair.text for pair in kept), words_left_out, dropped)


def pad_answers(sets: Sequence[Sequence[int]]) -> np.ndarray:
    """Sets of token ids as int32[batch, n], padded with -1.

    Example:
      >>> pad_answers([[3, 5], [4]]).tolist()
      [[3, 5], [4, -1]]
    """
    rows = np.full((len(sets), max(map(len, sets))), -1, np.int32)
    for row, ids in zip(rows, sets, strict=True):
        row[: len(ids)] = ids
    return rows
