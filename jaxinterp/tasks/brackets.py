"""Brackets: is "(()())" balanced? Strings that are, strings that nearly are, and the features that tell.

A string of at most 40 brackets is 42 tokens: `<start>`, the brackets, `<end>`, and `<pad>` to the end. Read from
the right, it is balanced if no suffix holds more "(" than ")" (the horizon) and the whole holds as many of one as
of the other (the count).
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import struct
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from jaxinterp.tasks.bracket_strings import KINDS, MAX_BRACKETS, MIXTURE, draw_strings, inside
from jaxinterp.tasks.choices import check_count, check_seed
from jaxinterp.tasks.prompts import Prompts
from jaxinterp.tasks.splits import Split, check_split

N_TOKENS = MAX_BRACKETS + 2

#: The tokens; a token's id is its place here.
VOCABULARY = ("<start>", "<pad>", "<end>", "(", ")")
START, PAD, END, OPEN, CLOSE = range(5)

#: Strings are drawn so many at a time, whatever `n` is: that makes a longer list start with the shorter one.
BLOCK = 2048


@struct.dataclass
class Brackets:
    """Strings of brackets as arrays, with their labels. Made by `ji.tasks.brackets`.

    Attributes:
      tokens: int32[batch, pos], always 42 positions.
      mask: bool[batch, pos], False at padding.
      label: int32[batch], 1 if the string is balanced, else 0: the logit that should win.
      kind: int32[batch], a place in `KINDS`.
      lengths: int32[batch], how many brackets.
    """

    tokens: Any
    mask: Any
    label: Any
    kind: Any
    lengths: Any

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, chosen: Any) -> "Brackets":
        """The chosen strings (a slice, an index array or a boolean array)."""
        rows = np.atleast_1d(np.arange(len(self))[chosen])
        return jax.tree.map(lambda leaf: leaf[rows], self)

    @property
    def prompts(self) -> Prompts:
        """Tokens and mask as every technique takes them."""
        return Prompts(self.tokens, self.mask)

    @property
    def strings(self) -> list[str]:
        """The strings themselves."""
        characters = np.array(["", "", "", "(", ")"])
        return ["".join(row) for row in characters[np.asarray(self.tokens)]]


def brackets(n: int, *, seed: int | Sequence[int], split: Split = "train", kinds: Sequence[str] = MIXTURE) -> Brackets:
    """Strings of 1 to 40 brackets, nearly half of them balanced, most of the others almost.

    Lengths are the larger of two uniform draws, so that short strings, of which there are few, seldom repeat.
    Half of the balanced strings, and of those that others are made from, are uniform among all of their length;
    the other half is shallower or deeper than that, by factors of up to 20 in the odds of "(" at each step, read
    from either end.

    Args:
      n: how many.
      seed: decides everything else; a longer list starts with the shorter one of the same seed.
      split: one string in ten is "held_out", by its hash, and never in "train".
      kinds: the kinds of string (`KINDS`), each as often as it is listed.

    Raises:
      TypeError, ValueError: an `n` or a seed that is none; a split or a kind that does not exist, or no kinds.

    Example:
      >>> data = ji.tasks.brackets(1000, seed=0)
      >>> data.tokens.shape, bool(data.label.mean() > 0.4)
      ((1000, 42), True)
      >>> ji.tasks.brackets(2, seed=27, kinds=("dip",)).strings
      [')(()', ')(()(((()())()()))()']
    """
    check_count(n)
    check_seed(seed)
    check_split(split)
    if isinstance(kinds, str) or not kinds:
        raise ValueError(f"kinds must be a sequence of one or more of: {', '.join(KINDS)}; got {kinds!r}")
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise ValueError(f"unknown kind {unknown[0]!r}; expected one of: {', '.join(KINDS)}")
    rng = np.random.default_rng(seed)
    numbers = np.array([list(KINDS).index(kind) for kind in kinds], np.int32)
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    while not parts or sum(len(kind) for _, kind in parts) < n:
        kind = numbers[rng.integers(len(numbers), size=BLOCK)]
        tokens = _tokens(*draw_strings(rng, kind))
        kept = held_out(tokens) == (split == "held_out")
        parts.append((tokens[kept], kind[kept]))
    tokens, kind = (np.concatenate(arrays)[:n] for arrays in zip(*parts, strict=True))
    is_bracket = tokens >= OPEN
    return Brackets(tokens, tokens != PAD, balanced(tokens).astype(np.int32), kind, is_bracket.sum(1, dtype=np.int32))


def tokenize_brackets(strings: Sequence[str]) -> Prompts:
    """Strings of brackets as 42 tokens each, as the `brackets` model reads them.

    Raises:
      ValueError: a string that is empty, has more than 40 characters, or others than "(" and ")".

    Example:
      >>> from jaxinterp.tasks.brackets import tokenize_brackets
      >>> prompts = tokenize_brackets(["(())", ")("])
      >>> prompts.tokens[:, :7].tolist(), prompts.mask.sum(1).tolist()
      ([[0, 3, 3, 4, 4, 2, 1], [0, 4, 3, 2, 1, 1, 1]], [6, 4])
    """
    if isinstance(strings, str):
        raise ValueError(f"strings must be a sequence of strings, got the one string {strings!r}")
    for number, string in enumerate(strings):
        if not 1 <= len(string) <= MAX_BRACKETS:
            raise ValueError(f"string {number} has {len(string)} characters; expected 1 to {MAX_BRACKETS}")
        if other := sorted(set(string) - {"(", ")"}):
            at = string.index(other[0])
            raise ValueError(f"string {number} has {other[0]!r} at {at}; expected '(' and ')' alone")
    lengths = np.array([len(string) for string in strings], np.int32)
    characters = np.array([string.ljust(MAX_BRACKETS) for string in strings], f"U{MAX_BRACKETS}")
    tokens = _tokens(characters.view("U1").reshape(-1, MAX_BRACKETS) == "(", lengths)
    return Prompts(tokens, tokens != PAD, strings=tuple(tuple(VOCABULARY[i] for i in row) for row in tokens))


def bracket_tokenizer() -> Tokenizer:
    """A tokenizer with one token per bracket, between `<start>` and `<end>`; it refuses other characters.

    It does not pad: a string by itself needs no mask, and the model reads the same without its padding.

    Example:
      >>> from jaxinterp.tasks.brackets import bracket_tokenizer
      >>> tokenizer = bracket_tokenizer()
      >>> tokenizer.encode("(())").ids, tokenizer.decode([0, 3, 4, 2])
      ([0, 3, 3, 4, 4, 2], '()')
    """
    ids = {token: number for number, token in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(ids))
    tokenizer.add_special_tokens(list(VOCABULARY[:OPEN]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    ends = [(VOCABULARY[i], i) for i in (START, END)]
    tokenizer.post_processor = processors.TemplateProcessing(single="<start> $A <end>", special_tokens=ends)
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def open_proportion(tokens: Any) -> np.ndarray:
    """`p_i`, the share of "(" among the brackets at position i or to its right: float64[batch, pos].

    Positions are those of `tokens`, so `p_0` and `p_1` are both of the whole string. NaN after the last bracket.

    Raises:
      ValueError: `tokens` are not int[batch, pos].

    Example:
      >>> from jaxinterp.tasks.brackets import open_proportion, tokenize_brackets
      >>> open_proportion(tokenize_brackets(["())"]).tokens)[0, :5].round(2).tolist()
      [0.33, 0.33, 0.0, 0.0, nan]
    """
    tokens = _rows(tokens)
    n_open, n = (np.cumsum(each[:, ::-1], axis=1, dtype=np.int32)[:, ::-1] for each in (tokens == OPEN, tokens >= OPEN))
    return np.divide(n_open, n, out=np.full(tokens.shape, np.nan), where=n > 0)


def _rows(tokens: Any) -> np.ndarray:
    tokens = np.asarray(tokens)
    if tokens.ndim != 2 or not np.issubdtype(tokens.dtype, np.integer):
        raise ValueError(f"tokens must be int[batch, pos], got {tokens.dtype}{list(tokens.shape)}")
    return tokens


def count(tokens: Any) -> np.ndarray:
    """Whether there are as many "(" as ")", `p_0 == 0.5`: bool[batch].

    Example:
      >>> from jaxinterp.tasks.brackets import count, tokenize_brackets
      >>> count(tokenize_brackets(["(())", "))((", "(()"]).tokens).tolist()
      [True, True, False]
    """
    return open_proportion(tokens)[:, 0] == 0.5


def horizon(tokens: Any) -> np.ndarray:
    """Whether no suffix has more "(" than ")", `p_i <= 0.5` wherever there is one: bool[batch].

    Example:
      >>> from jaxinterp.tasks.brackets import horizon, tokenize_brackets
      >>> horizon(tokenize_brackets(["(())", "))((", "())"]).tokens).tolist()
      [True, False, True]
    """
    return np.all(~(open_proportion(tokens) > 0.5), axis=1)


def start_open(tokens: Any) -> np.ndarray:
    """Whether the first bracket is "(": bool[batch].

    Raises:
      ValueError: `tokens` are not int[batch, pos].

    Example:
      >>> from jaxinterp.tasks.brackets import start_open, tokenize_brackets
      >>> start_open(tokenize_brackets(["()", ")("]).tokens).tolist()
      [True, False]
    """
    return _rows(tokens)[:, 1] == OPEN


def balanced(tokens: Any) -> np.ndarray:
    """Whether each string is balanced, `count` and `horizon`: bool[batch].

    Example:
      >>> from jaxinterp.tasks.brackets import balanced, tokenize_brackets
      >>> balanced(tokenize_brackets(["(())()", "())(()"]).tokens).tolist()
      [True, False]
    """
    proportion = open_proportion(tokens)
    return (proportion[:, 0] == 0.5) & np.all(~(proportion > 0.5), axis=1)


def horizon_classes(tokens: Any, proportion: np.ndarray | None = None) -> np.ndarray:
    """What each position tells of the horizon, in five classes: int32[batch, pos].

    0 at padding; at `<end>` 1 if the last bracket is ")", else -1; elsewhere 2 if `p_i <= 0.5`, else -2. The
    horizon is met exactly where no position is negative.

    Args:
      proportion: `p_i`, float[batch, pos], by default `open_proportion(tokens)`.

    Example:
      >>> from jaxinterp.tasks.brackets import horizon_classes, tokenize_brackets
      >>> horizon_classes(tokenize_brackets([")()", "))("]).tokens)[:, :6].tolist()
      [[2, 2, 2, 2, 1, 0], [2, 2, 2, -2, -1, 0]]
    """
    tokens = np.asarray(tokens)
    proportion = open_proportion(tokens) if proportion is None else proportion
    classes = np.where(proportion > 0.5, -2, 2).astype(np.int32)
    after_close = np.roll(tokens, 1, axis=1) == CLOSE
    classes = np.where(tokens == END, np.where(after_close, 1, -1), classes)
    return np.where(tokens == PAD, 0, classes).astype(np.int32)


def held_out(tokens: Any) -> np.ndarray:
    """Whether each string belongs to the held-out split: bool[batch], true of one string in ten.

    Decided by a hash of the string alone. Each is a number of at most 41 bits, a 1 above one bit per bracket,
    scrambled by the finaliser of splitmix64.

    Example:
      >>> from jaxinterp.tasks.brackets import held_out, tokenize_brackets
      >>> held_out(tokenize_brackets(["(())()", "()(())"]).tokens).tolist()
      [False, True]
    """
    tokens = np.asarray(tokens)
    bits: np.ndarray = (tokens[:, 1:] == OPEN) @ (np.uint64(1) << np.arange(tokens.shape[1] - 1, dtype=np.uint64))
    code = bits | (np.uint64(1) << (tokens >= OPEN).sum(axis=1).astype(np.uint64))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        code = (code ^ (code >> np.uint64(shift))) * np.uint64(factor)
    return (code ^ (code >> np.uint64(31))) % np.uint64(10) == 0


def _tokens(is_open: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Brackets, bool[batch, 40] and True at "(", as tokens: int32[batch, 42]."""
    tokens = np.full((len(lengths), N_TOKENS), PAD, np.int32)
    tokens[:, 0] = START
    tokens[:, 1:-1] = np.where(inside(lengths), np.where(is_open, OPEN, CLOSE), PAD)
    tokens[np.arange(len(lengths)), lengths + 1] = END
    return tokens
