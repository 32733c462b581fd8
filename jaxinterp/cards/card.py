"""A model card: measured figures with their intervals, text, and drawings, written as `README.md` and PNGs."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from jaxinterp.io.results import write_whole
from jaxinterp.training import CURVE_STEPS, TrainingRecord


@dataclass(frozen=True)
class Measure:
    """One measured number and its 95 % interval.

    Attributes:
      name: what was measured.
      value, low, high: the number and its interval, in `unit`.
      n: how many independent cases it is from.
      unit: `"%"` shows value, low and high, which are proportions, as percentages.
      bar: what was asked for, as text; `None` if nothing was.
      held: whether the value meets the bar; `None` without one.
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    unit: str = "nats"
    bar: str | None = None
    held: bool | None = None

    def row(self) -> str:
        """The measure as a line of a Markdown table."""
        factor, digits = (100, 2) if self.unit == "%" else (1, 3)
        tiny = 0 < abs(factor * self.value) < 0.5 / 10**digits  # 0.000 would say nothing
        value, low, high = (
            f"{factor * x:.1e}" if tiny else f"{factor * x:.{digits}f}" for x in (self.value, self.low, self.high)
        )
        verdict = "" if self.held is None else (" (held)" if self.held else " (**not held**)")
        return f"| {self.name} | {value} {self.unit} ({low} to {high}) | {self.n:,} | {self.bar or ''}{verdict} |"


def proportion(
    name: str,
    hits: Iterable[bool],
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    groups: Sequence[Any] | np.ndarray | None = None,
) -> Measure:
    """A proportion with its Wilson interval, against a bar if one is given.

    Where cases are of `groups` (one label each) that are right or wrong together, they count for as many independent
    ones as have the proportion's variance over groups, at least one for each group; `n` is how many groups there are.

    Example:
      >>> from jaxinterp.cards.card import proportion
      >>> proportion("right", [True] * 99 + [False], at_least=0.97).held
      True
    """
    hits = np.asarray(list(hits), bool)
    value = float(hits.mean())
    if groups is None:
        n = len(hits)
        low, high = stats.binomtest(int(hits.sum()), n).proportion_ci(method="wilson")
    else:
        _, codes = np.unique(np.asarray(groups), return_inverse=True)
        counts = np.bincount(codes)
        n = len(counts)
        misses = np.bincount(codes, weights=hits - value)
        variance = (misses**2).sum() / len(hits) ** 2 * n / max(n - 1, 1)
        worth = np.clip(value * (1 - value) / variance if variance else n, n, len(hits))
        middle = stats.norm.ppf(0.975) ** 2 / worth
        half = np.sqrt(middle * (value * (1 - value) + middle / 4))
        low, high = ((value + middle / 2 + side * half) / (1 + middle) for side in (-1, 1))
    return Measure(name, value, float(low), float(high), n, "%", *_bar(value, at_least, at_most, "%"))


def mean(
    name: str,
    values: Sequence[float] | np.ndarray,
    *,
    unit: str = "nats",
    at_least: float | None = None,
    at_most: float | None = None,
) -> Measure:
    """A mean over independent cases with its interval from the t distribution.

    Example:
      >>> from jaxinterp.cards.card import mean
      >>> mean("loss", [1.0, 2.0, 3.0]).value
      2.0
    """
    values = np.asarray(values, np.float64)
    half = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)
    value = float(values.mean())
    return Measure(name, value, value - half, value + half, len(values), unit, *_bar(value, at_least, at_most, unit))


def ratio(over: np.ndarray, under: np.ndarray, *, seed: int = 0) -> tuple[Any, Any, Any]:
    """A ratio of sums over independent cases with its 95 % interval from a bootstrap over cases, as (value, low, high).

    Args:
      over, under: float[case] or float[case, ...], what is summed above and below the line; trailing axes stay, and a
        draw of cases is the same for all of them.
      seed: of the bootstrap.

    Example:
      >>> from jaxinterp.cards.card import ratio
      >>> value, low, high = ratio(np.array([1.0, 2.0, 3.0]), np.array([4.0, 4.0, 4.0]))
      >>> float(value), bool(low <= value <= high)
      (0.5, True)
    """

    def divided(over: np.ndarray, under: np.ndarray, axis: int) -> np.ndarray:
        return over.sum(axis) / under.sum(axis)

    with np.errstate(invalid="ignore"):  # a draw may have nothing below the line
        interval = stats.bootstrap(
            (over, under), divided, axis=0, paired=True, vectorized=True, n_resamples=2000, batch=200,
            method="percentile", rng=np.random.default_rng(seed),
        ).confidence_interval  # fmt: skip
        return divided(over, under, 0), interval.low, interval.high


def _bar(value: float, at_least: float | None, at_most: float | None, unit: str) -> tuple[str | None, bool | None]:
    bounds = [
        (sign, bound, ok)
        for sign, bound, ok in (
            ("≥", at_least, at_least is None or value >= at_least),
            ("≤", at_most, at_most is None or value <= at_most),
        )
        if bound is not None
    ]
    if not bounds:
        return None, None
    text = ", ".join(
        f"{sign} {100 * bound:g} %" if unit == "%" else f"{sign} {bound:g} {unit}" for sign, bound, _ in bounds
    )
    return text, all(ok for *_, ok in bounds)


@dataclass(frozen=True)
class Card:
    """A model card.

    Attributes:
      name: the model's.
      summary: what it is, in Markdown.
      measures: tables of measures by their heading.
      text: further sections, in Markdown: data, recipe, limits.
      figures: drawings by file name, each with its caption.
    """

    name: str
    summary: str
    measures: Mapping[str, Sequence[Measure]]
    text: str
    figures: Mapping[str, tuple[Figure, str]] = field(default_factory=dict)

    def markdown(self) -> str:
        """The whole card."""
        parts = [f"# {self.name}", self.summary.strip()]
        for heading, measures in self.measures.items():
            lines = ["| figure | value (95 % interval) | cases | bar |", "|---|---|---|---|"]
            parts += [f"## {heading}", "\n".join(lines + [measure.row() for measure in measures])]
        parts.append(self.text.strip())
        parts += [f"![{caption}]({file})" for file, (_, caption) in self.figures.items()]
        return "\n\n".join(parts) + "\n"

    def write(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Writes `README.md` and the figures into a folder, each whole or not at all; returns the files.

        Raises:
          ValueError: a folder that `check_folder` refuses, or that holds drawings of these names but no card.
          OSError: one that cannot be written.
        """
        folder = check_folder(folder, self.name)
        taken = [file for file in self.figures if (folder / file).exists()]
        if taken and not (folder / "README.md").exists():
            raise ValueError(f"{folder / taken[0]} is of no card: give another folder, or remove it")
        folder.mkdir(parents=True, exist_ok=True)
        for file, (figure, _) in self.figures.items():
            write_whole(folder / file, partial(figure.savefig, dpi=110))
            plt.close(figure)
        write_whole(folder / "README.md", lambda path: path.write_text(self.markdown(), encoding="utf-8"))
        return [folder / file for file in ("README.md", *self.figures)]


def check_folder(folder: str | os.PathLike[str], name: str) -> Path:
    """Where a card may be written: a folder, there or not, whose `README.md`, if there is one, is a card of that name.

    Raises:
      ValueError: a `README.md` of something else, or what is no folder.
    """
    if Path(folder).exists() and not Path(folder).is_dir():
        raise ValueError(f"{folder} is no folder: give another")
    readme = Path(folder) / "README.md"
    if readme.is_file() and not readme.read_text(encoding="utf-8", errors="replace").startswith(f"# {name}\n"):
        raise ValueError(f"{readme} is not a card of {name!r}: give another folder, or remove it")
    return Path(folder)


def loss_figure(record: TrainingRecord, *, reference: Mapping[str, float] | None = None) -> Figure:
    """The training loss by step; `reference` draws named levels beside it (in nats)."""
    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    steps = np.minimum(np.arange(1, len(record.losses) + 1) * CURVE_STEPS, record.steps)
    axes.plot(steps, record.losses, color="C0", linewidth=1, label=f"mean of {CURVE_STEPS} steps")
    for number, (name, level) in enumerate((reference or {}).items(), start=1):
        axes.axhline(level, color=f"C{number}", linestyle="--", linewidth=1, label=name)
    axes.set(xlabel="step", ylabel="training loss (nats per token)", yscale="log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.legend(frameon=False)
    return figure


def training_text(record: TrainingRecord | None) -> str:
    """What training cost, as a sentence of Markdown."""
    if record is None:
        return "There is no `training.json` beside these weights, so what they cost is not known."
    settings = ", ".join(f"{name} {value}" for name, value in record.settings.items())
    return (
        f"These weights: {settings}; {record.cpu_hours:.1f} hours of processor time, {record.hours:.1f} on the clock "
        f"({record.machine})."
    )
