"""Which combinations are for training and which are held out: one in ten, by a hash of the words or by places."""

import hashlib
from collections.abc import Callable, Hashable, Iterable
from typing import Literal, TypeVar, get_args

Split = Literal["train", "held_out"]
C = TypeVar("C", bound=Hashable)


def check_split(split: str) -> None:
    """Raises a ValueError for a split that does not exist.

    Example:
      >>> check_split("test")
      Traceback (most recent call last):
      ValueError: unknown split 'test'; expected one of: train, held_out
    """
    if split not in get_args(Split):
        raise ValueError(f"unknown split {split!r}; expected one of: {', '.join(get_args(Split))}")


def split_of(*parts: str) -> Split:
    """The split that a combination of words belongs to: one in ten is held out, decided by its hash.

    A hash and not a draw, so that the answer depends on nothing but the words: neither on a seed nor on what
    other combinations there are.

    Example:
      >>> split_of("Mary", "John"), split_of("Emma", "Mark")
      ('train', 'train')
    """
    digest = hashlib.blake2b(" ".join(parts).encode(), digest_size=8).digest()
    return "held_out" if int.from_bytes(digest, "big") % 10 == 0 else "train"


def cell_split(row: int, column: int) -> Split:
    """The split that a cell of a table belongs to, such that each row and each column has one in ten held out.

    Where a word may be the answer in one row and not in another, a hash would hold it out more often than others, and
    how often it answers in training would tell (the wrong way round) where it answers when it is held out.

    Example:
      >>> [column for column in range(20) if cell_split(5, column) == "held_out"]
      [2, 12]
    """
    return "held_out" if (row - column) % 10 == 3 else "train"


def in_split(combinations: Iterable[C], split: Split, key: Callable[[C], Iterable[str]]) -> tuple[C, ...]:
    """The combinations of one split, in their order; `key` gives the words that decide.

    Raises:
      ValueError: a split that does not exist.

    Example:
      >>> pairs = [(a, b) for a in "abcd" for b in "wxyz"]
      >>> in_split(pairs, "held_out", key=lambda pair: pair)
      (('d', 'x'),)
    """
    check_split(split)
    return tuple(each for each in combinations if split_of(*key(each)) == split)
