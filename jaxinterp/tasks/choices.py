"""Seeded choices, the one source of chance in the generators."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np

T = TypeVar("T")


class Chooser(Protocol):
    """Picks one of several options, each equally likely."""

    def __call__(self, options: Sequence[T], /) -> T:
        """One of the options; the chooser's random state advances."""


def check_seed(seed: int | Sequence[int]) -> None:
    """Raises for what is no seed, or one that is drawn anew each time.

    Raises:
      TypeError: neither an int nor a sequence of ints. ValueError: one below 0.

    Example:
      >>> check_seed(-1)
      Traceback (most recent call last):
      ValueError: seed must be 0 or more, got -1
    """
    parts = seed if isinstance(seed, tuple | list) and seed else (seed,)
    if not all(isinstance(part, int | np.integer) and not isinstance(part, bool) for part in parts):
        raise TypeError(f"seed must be an int, or a tuple of them, got {seed!r}")
    if any(part < 0 for part in parts):
        raise ValueError(f"seed must be 0 or more, got {seed!r}")


def check_count(n: int, at_least: int = 0) -> None:
    """Raises for what is no number of things to draw.

    Raises:
      TypeError: not an int. ValueError: too small.

    Example:
      >>> check_count(2.5)
      Traceback (most recent call last):
      TypeError: n must be an int, got 2.5
    """
    if not isinstance(n, int | np.integer) or isinstance(n, bool):
        raise TypeError(f"n must be an int, got {n!r}")
    if n < at_least:
        raise ValueError(f"n must {f'be at least {at_least}' if at_least else 'not be negative'}, got {n}")


def chooser(seed: int | Sequence[int]) -> Chooser:
    """A seeded source of choices: the one way in which the generators draw.

    Raises:
      TypeError, ValueError: as `check_seed`.

    Example:
      >>> choose = chooser(0)
      >>> [choose("abc") for _ in range(5)]
      ['b', 'b', 'c', 'c', 'a']
    """
    check_seed(seed)
    rng = np.random.default_rng(seed)
    # Numbers are drawn in blocks: one call of a numpy generator costs more than the rest of a choice.
    block: list[float] = []

    def choose(options: Sequence[T], /) -> T:
        if not block:
            block.extend(rng.random(256).tolist())
        return options[int(block.pop() * len(options))]

    return choose
