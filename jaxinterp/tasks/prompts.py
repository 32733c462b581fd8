"""Prompts as arrays: tokens, the mask that tells padding, and named positions."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import struct
from tokenizers import Tokenizer

from jaxinterp.tasks.pairs import PromptPair


@struct.dataclass
class Prompts:
    """A batch of prompts; every technique takes it in place of tokens.

    Attributes:
      tokens: int[batch, pos].
      mask: bool[batch, pos], True at tokens; None if there is no padding.
      roles: named positions, `{name: int[batch]}`, as columns of `tokens`.
      strings: each prompt's token strings, for labels; None if no tokenizer is known.

    Example:
      >>> prompts = ji.Prompts(tokens, roles={"END": np.full(len(tokens), tokens.shape[1] - 1)})
    """

    tokens: Any
    mask: Any = None
    roles: Mapping[str, Any] = struct.field(default_factory=dict)
    strings: tuple[tuple[str, ...], ...] | None = struct.field(pytree_node=False, default=None)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, chosen: Any) -> "Prompts":
        """The chosen prompts (a slice or an index array), padding kept."""
        rows = np.atleast_1d(np.arange(len(self))[chosen])
        part = jax.tree.map(lambda leaf: leaf[rows], self)
        return dataclasses.replace(part, strings=None if self.strings is None else tuple(self.strings[i] for i in rows))


@struct.dataclass
class TokenPairs:
    """Clean and corrupted prompts, token by token aligned, with their answers. Made by `ji.tokenize_pairs`.

    Attributes:
      clean, corrupted: `Prompts` of the same shape and mask.
      correct, wrong: int[batch], the right next token after the clean and after the corrupted prompt; of sets of
        answers int[batch, n], padded with -1, as the metrics take them.
    """

    clean: Prompts
    corrupted: Prompts
    correct: Any
    wrong: Any

    def __len__(self) -> int:
        return len(self.correct)

    def __getitem__(self, chosen: Any) -> "TokenPairs":
        """The chosen pairs (a slice or an index array)."""
        rows = np.atleast_1d(np.arange(len(self))[chosen])
        return TokenPairs(self.clean[rows], self.corrupted[rows], self.correct[rows], self.wrong[rows])


def as_prompts(prompts: Any, mask: Any = None) -> Prompts:
    """`prompts` if it is a `Prompts`, else tokens (and `mask`) wrapped as one; lists of tokens become arrays."""
    if isinstance(prompts, TokenPairs):
        raise TypeError("expected prompts, got pairs of them (ji.TokenPairs): give their clean or corrupted ones")
    if not isinstance(prompts, Prompts):
        prompts = Prompts(prompts, mask)
    elif mask is not None and prompts.mask is not None:
        raise ValueError("mask= is given beside a ji.Prompts that has its own mask")
    mask = prompts.mask if mask is None else mask
    return dataclasses.replace(prompts, tokens=_array(prompts.tokens), mask=None if mask is None else _array(mask))


def _array(rows: Any) -> Any:
    """Rows as an array, unless they are one; raises where they are not equally long."""
    if hasattr(rows, "dtype"):
        return rows
    lengths = {np.size(row) for row in rows}
    if len(lengths) > 1:
        raise ValueError(
            f"prompts have {min(lengths)} to {max(lengths)} tokens: `tokens, mask = ji.tasks.pad(prompts, pad_id=0)` "
            "makes them one array"
        )
    return np.asarray(rows)


def pad(
    sequences: Sequence[Sequence[int]], pad_id: int, *, side: str = "right"
) -> tuple[np.ndarray, np.ndarray | None]:
    """Token lists as int32[batch, pos], padded on one side, and the mask (None if all are equally long).

    Example:
      >>> rows, mask = ji.tasks.pad([[1, 2, 3], [4, 5]], pad_id=0)
      >>> rows.tolist(), mask.tolist()
      ([[1, 2, 3], [4, 5, 0]], [[True, True, True], [True, True, False]])
    """
    lengths = np.array([len(s) for s in sequences])
    if not len(lengths) or not lengths.all():
        raise ValueError(f"empty prompt: {'no prompts at all' if not len(lengths) else f'prompt {lengths.argmin()}'}")
    if side not in ("right", "left"):
        raise ValueError(f"padding side must be 'right' or 'left', got {side!r}")
    mask = np.arange(lengths.max()) < lengths[:, None]
    mask = mask if side == "right" else mask[:, ::-1]
    tokens = np.full(mask.shape, pad_id, np.int32)
    tokens[mask] = np.concatenate([np.asarray(s, np.int32) for s in sequences])
    return tokens, None if mask.all() else mask


def answer_token(tokenizer: Tokenizer, prompt: str, answer: str) -> int:
    """The id of an answer as it stands behind a prompt: with the space before it where the tokenizer keeps that.

    Raises:
      ValueError: it is not one token there; says how it splits, and what to do.
    """
    behind = answer if answer[:1].isspace() else f" {answer}"
    before, whole = (tokenizer.encode(text, add_special_tokens=False) for text in (prompt, prompt + behind))
    pieces = whole.ids[len(before.ids) :]
    if whole.ids[: len(before.ids)] != before.ids or len(pieces) != 1 or pieces[0] in unknown_ids(tokenizer):
        raise ValueError(
            f"the answer {answer!r} is not one token behind {prompt!r}: it splits into "
            f"{whole.tokens[len(before.ids) :] or whole.tokens}; pick a one-token answer, or score several tokens "
            "with ji.cross_entropy"
        )
    return pieces[0]


def unknown_ids(tokenizer: Tokenizer) -> set[int]:
    """The ids that stand for words the tokenizer does not know.

    Example:
      >>> _, _, tokenizer = ji.load("english")
      >>> unknown_ids(tokenizer) == {tokenizer.token_to_id("<unk>")}
      True
    """
    usual = {i for i in map(tokenizer.token_to_id, ("<unk>", "[UNK]", "<UNK>")) if i is not None}
    try:
        pieces = tokenizer.model.tokenize("\U0010fffe")  # no text has this character
    except Exception:  # what a Unigram model without an unknown token says is of no narrower type
        return usual
    return usual | {piece.id for piece in pieces if len(pieces) == 1}


def tokenize_pairs(pairs: Sequence[PromptPair], tokenizer: Tokenizer) -> TokenPairs:
    """Pairs of texts as aligned arrays: padded on the right, named words as token positions (their last token).

    A role that only some pairs have is no role of the batch.

    Raises:
      ValueError: a pair whose texts differ in length, a word the tokenizer does not know, an answer that is not one
        token.

    Example:
      >>> _, _, tokenizer = ji.load("english")
      >>> pairs = ji.tokenize_pairs(ji.tasks.indirect_objects(4, seed=0), tokenizer)
      >>> pairs.clean.tokens.shape == pairs.corrupted.tokens.shape, len(pairs.correct)
      (True, 4)
    """
    if not pairs:
        raise ValueError("empty prompt: no pairs at all")
    pad_id = tokenizer.token_to_id("<pad>") or 0
    encoded = {side: tokenizer.encode_batch([getattr(p, side) for p in pairs]) for side in ("clean", "corrupted")}
    unknown = unknown_ids(tokenizer)
    for number, (clean, corrupted) in enumerate(zip(*encoded.values(), strict=True)):
        for side, encoding in (("clean", clean), ("corrupted", corrupted)):
            each = zip(encoding.ids, encoding.offsets, encoding.special_tokens_mask, strict=True)
            for token, span, is_special in each:
                if token in unknown and not is_special:
                    word = getattr(pairs[number], side)[slice(*span)]
                    raise ValueError(f"pair {number}: the tokenizer does not know {word!r}, in the {side} prompt")
        if len(clean.ids) != len(corrupted.ids):
            raise ValueError(
                f"pair {number}: clean has {len(clean.ids)} tokens, corrupted has {len(corrupted.ids)}; "
                f"they must align token by token\n  clean:     {clean.tokens}\n  corrupted: {corrupted.tokens}"
            )
    names = [name for name in pairs[0].positions if all(name in p.positions for p in pairs)]
    roles = {
        name: np.array(
            [_token_of_word(e, p.clean, p.positions[name]) for e, p in zip(encoded["clean"], pairs, strict=True)]
        )
        for name in names
    }
    sides = {}
    for side, encodings in encoded.items():
        tokens, mask = pad([e.ids for e in encodings], pad_id)
        sides[side] = Prompts(tokens, mask, roles, tuple(tuple(e.tokens) for e in encodings))
    answers = {
        side: np.array([answer_token(tokenizer, p.clean, getattr(p, side)) for p in pairs], np.int32)
        for side in ("correct", "wrong")
    }
    return TokenPairs(sides["clean"], sides["corrupted"], answers["correct"], answers["wrong"])


def _token_of_word(encoding: Any, text: str, word: int) -> int:
    """The last token of a text's `word`-th whitespace-separated word."""
    start, end = [match.span() for match in re.finditer(r"\S+", text)][word]
    inside = [
        i for i, (a, b) in enumerate(encoding.offsets) if not encoding.special_tokens_mask[i] and a < end and b > start
    ]
    return inside[-1]
