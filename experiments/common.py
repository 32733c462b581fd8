"""What the experiments share: prompts of one layout, intervals over prompts, verdicts on claims, tables and files."""

import argparse
import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from tokenizers import Tokenizer

import jaxinterp as ji

#: Every indirect-object prompt has this many words, and the giver is named again by this one, counted from 0.
N_WORDS, S2 = 17, 11

#: Prompts that are generated for each that has the layout.
GENERATED = 200


def options(description: str, n: int) -> argparse.Namespace:
    """The command line of an experiment."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=n, help=f"prompts (default {n})")
    parser.add_argument("--seed", type=int, default=0, help="of prompts, and of everything else that is drawn")
    parser.add_argument("--output", type=Path, default=Path("jaxinterp-results"), help="folder for results")
    return parser.parse_args()


def english() -> tuple[Any, Any, Tokenizer]:
    """The built-in model, its parameters and its tokenizer."""
    model, params, tokenizer = ji.load("english")
    if tokenizer is None:
        raise ValueError("the built-in model has lost its tokenizer")
    return model, params, tokenizer


def one_layout(n: int, seed: int, tokenizer: Tokenizer) -> ji.TokenPairs:
    """The first `n` held-out indirect-object pairs of a seed that have `N_WORDS` words and S2 at `S2`.

    S2 and the last position are then the same in all prompts. What the model says plays no part in the choice.
    """
    generated = ji.tasks.indirect_objects(GENERATED * n, seed=seed, split="held_out")
    pairs = [pair for pair in generated if len(pair.clean.split()) == N_WORDS and pair.positions["S2"] == S2]
    if len(pairs) < n:
        raise ValueError(f"of {len(generated)} prompts {len(pairs)} have the layout; {n} are needed")
    return ji.tokenize_pairs(pairs[:n], tokenizer)


def differing(pairs: ji.TokenPairs) -> range:
    """The positions of pairs of one layout at which clean and corrupted runs can differ: from S2 to the last."""
    return range(int(pairs.clean.roles["S2"][0]), pairs.clean.tokens.shape[1])


class Interval(NamedTuple):
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def weights(n: int, seed: int, draws: int = 2000) -> np.ndarray:
    """Weights of prompts, float[1 + draws, n]: first each prompt alike, then samples with replacement (a bootstrap)."""
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws)
    return np.concatenate([np.ones((1, n)), counts]) / n


def interval(values: np.ndarray) -> Interval:
    """The first value, with the interval that holds 95 % of the others."""
    return Interval(float(values[0]), *(float(bound) for bound in np.nanquantile(values[1:], [0.025, 0.975])))


def mean_effects(effects: xr.DataArray, weights: np.ndarray) -> np.ndarray:
    """Effects of cells averaged over prompts, float[1 + draws, cell], from those of each prompt."""
    return weights @ effects.transpose("batch", ...).values.reshape(effects.sizes["batch"], -1)


def pearson(estimates: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Pearson's r over cells, float[1 + draws]."""
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (estimates, exact))
    return (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))


def slope(estimates: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """The least-squares slope of estimates on exact effects, float[1 + draws]: 1 is right, below 1 too small."""
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (estimates, exact))
    return (a * b).sum(axis=1) / (b * b).sum(axis=1)


def relative_error(estimates: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Sum of |estimate - exact| over sum of |exact|, float[1 + draws]: 0 is right, 1 no better than to say 0."""
    return np.abs(estimates - exact).sum(axis=1) / np.abs(exact).sum(axis=1)


def _below_top(values: np.ndarray, k: int) -> np.ndarray:
    """bool[1 + draws, cell]: whether a cell is not among the `k` largest absolute values."""
    ranks = np.argsort(np.argsort(-np.abs(values), axis=1, kind="stable"), axis=1)
    return ranks >= k


def recall(estimates: np.ndarray, exact: np.ndarray, k: int = 20) -> np.ndarray:
    """The share of the `k` cells of largest |exact| that are among the `k` of largest |estimate|, float[1 + draws]."""
    return (~_below_top(estimates, k) & ~_below_top(exact, k)).sum(axis=1) / min(k, exact.shape[1])


def missed(estimates: np.ndarray, exact: np.ndarray, k: int = 20) -> np.ndarray:
    """The largest |exact| outside the `k` cells of largest |estimate|, float[1 + draws]; 0 if there is none."""
    return np.where(_below_top(estimates, k), np.abs(exact), 0).max(axis=1)


@dataclass(frozen=True)
class Claim:
    """What a source says, and what decides whether it holds here; written before there were results.

    Attributes:
      section: of "Attribution Patching: Activation Patching At Industrial Scale" (Nanda 2023).
      says: the claim.
      quantity: what is measured, in words.
      measure: the same as a function of an experiment's results: float[1 + draws].
      at_least, at_most: the claim holds if the whole 95 % interval of the quantity lies between.
    """

    section: str
    says: str
    quantity: str
    measure: Callable[[Any], np.ndarray]
    at_least: float = -np.inf
    at_most: float = np.inf

    def judged(self, results: Any) -> dict[str, Any]:
        """The verdict, with the interval it rests on."""
        found = interval(self.measure(results))
        held = self.at_least <= found.low and found.high <= self.at_most
        bounds = [f"{sign} {b:g}" for sign, b in (("≥", self.at_least), ("≤", self.at_most)) if np.isfinite(b)]
        return {
            "section": self.section, "claim": self.says, "quantity": self.quantity, "needed": " and ".join(bounds),
            "found": found._asdict(), "verdict": "held" if held else "not held",
        }  # fmt: skip


def verdicts(claims: Sequence[Claim], results: Any) -> list[dict[str, Any]]:
    """Judges claims and prints the verdicts."""
    judged = [claim.judged(results) for claim in claims]
    print("\nClaims: held if the whole 95 % interval over prompts lies where it is needed\n")
    rows = [[each["quantity"], each["needed"], str(Interval(**each["found"])), each["verdict"]] for each in judged]
    print(table(["quantity", "needed", "found", "verdict"], rows))
    return judged


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines)


def write(
    folder: Path, name: str, result: Mapping[str, Any], figure: Figure, cells: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Writes NAME.json, NAME.png, and NAME.csv with a line for each cell if there are any."""
    folder.mkdir(parents=True, exist_ok=True)
    told = {"model": "english", "jax": version("jax"), **result}
    (folder / f"{name}.json").write_text(json.dumps(told, indent=1) + "\n")
    figure.savefig(folder / f"{name}.png", dpi=130)
    if cells:
        with (folder / f"{name}.csv").open("w", newline="") as file:
            lines = csv.DictWriter(file, list(cells[0]))
            lines.writeheader()
            lines.writerows(cells)
    print(f"\nwrote {folder / name}.json, .png" + (", .csv" if cells else ""))
