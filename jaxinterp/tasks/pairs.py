"""What every task emits: clean and corrupted prompts, aligned word by word, with answers and named positions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from jaxinterp.tasks.choices import Chooser, check_count, chooser
from jaxinterp.tasks.splits import Split, check_split


@dataclass(frozen=True)
class PromptPair:
    """Two texts of equally many words that differ in what decides the next word.

    Attributes:
      clean: words separated by spaces.
      corrupted: the same number of words, so that a word index means the same place in both.
      correct: the right next word after `clean`.
      wrong: the contrast answer: the right next word after `corrupted`, where there is one.
      positions: named word indices, counted from 0 and valid in both texts.

    Raises:
      ValueError: texts of different length or without words, answers that are not one word each or are the
        same, a position outside the texts.

    Example:
      >>> pair = PromptPair("one two", "two three", "three", "four", {"LAST": 1})
      >>> pair.clean.split()[pair.positions["LAST"]]
      'two'
    """

    clean: str
    corrupted: str
    correct: str
    wrong: str
    positions: Mapping[str, int] = field(hash=False)

    def __post_init__(self) -> None:
        length, other = len(self.clean.split()), len(self.corrupted.split())
        if length != other:
            raise ValueError(f"clean has {length} words and corrupted {other}: {self.clean!r} | {self.corrupted!r}")
        if not length:
            raise ValueError("clean and corrupted hold no words")
        for name in ("correct", "wrong"):
            if len(getattr(self, name).split()) != 1:
                raise ValueError(f"{name} must be one word, got {getattr(self, name)!r}")
        if self.correct == self.wrong:
            raise ValueError(f"correct and wrong are the same word, {self.correct!r}")
        for name, index in self.positions.items():
            if not 0 <= index < length:
                raise ValueError(f"position {name!r} is word {index} of a prompt of {length} words")


def draw_pairs(n: int, seed: int, split: Split, draw: Callable[[Chooser], PromptPair]) -> list[PromptPair]:
    """The first `n` pairs of a seeded stream: a longer list starts with the shorter one.

    Args:
      n: how many. seed: of the stream. split: which is only checked; `draw` knows it.
      draw: makes a pair.

    Raises:
      TypeError, ValueError: no number of pairs, no seed, or no split.

    Example:
      >>> digits = ("one", "two", "three")
      >>> def draw(choose):
      ...     return PromptPair(choose(digits), choose(digits), "yes", "no", {})
      >>> draw_pairs(2, 0, "train", draw) == draw_pairs(3, 0, "train", draw)[:2]
      True
    """
    check_count(n)
    check_split(split)
    choose = chooser(seed)
    return [draw(choose) for _ in range(n)]
