"""Seeded choices, the one source of chance in the generators."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np

T = TypeVar("T")


class Chooser(Protocol):
    """Picks one of several options, each equally likely."""

    def __call__(self, options: Sequence[T], /) -> T:
        """One of the options; the chooser's random state advances."""


def chooser(seed: int | Sequence[int]) -> Chooser:
    """A seeded source of choices: the one way in which the generators draw.

    Example:
      >>> choose = chooser(0)
      >>> [choose("abc") for _ in range(5)]
      ['b', 'b', 'c', 'c', 'a']
    """
    rng = np.random.default_rng(seed)
    # Numbers are drawn in blocks: one call of a numpy generator costs more than the rest of a choice.
    block: list[float] = []

    def choose(options: Sequence[T], /) -> T:
        if not block:
            block.extend(rng.random(256).tolist())
        return options[int(block.pop() * len(options))]

    return choose
