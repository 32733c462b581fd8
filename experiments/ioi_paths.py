"""The edges of the indirect-object circuit of `english`: exact effects beside EAP's and EAP-IG's estimates.

    python experiments/ioi_paths.py

Denoising: the base run reads the corrupted prompt, in which the other person gives. An edge is one writer (the input, a
head, an MLP) read by one reader (a head's query, key or value, an MLP, the logits) as in the clean run, everything else
as in the base run. Effects on the logit difference of the two names; means over prompts are compared, and intervals are
from a bootstrap over prompts.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr
from common import (
    Claim,
    differing,
    interval,
    mean_effects,
    missed,
    one_layout,
    options,
    pearson,
    recall,
    relative_error,
    slope,
    table,
    verdicts,
    weights,
    write,
)  # fmt: skip
from matplotlib.figure import Figure

import jaxinterp as ji

#: How each estimate is made.
METHODS = {
    "EAP": {"method": "eap"},
    "EAP-IG (inputs)": {"method": "eap_ig"},
    "EAP-IG (activations)": {"method": "eap_ig", "path": "activations"},
    "EAP, both ends": {"method": "eap_ig", "path": "clean-corrupted"},
}


@dataclass(frozen=True)
class Results:
    """All that is measured, means over prompts.

    Attributes:
      exact: of every edge, float[1 + draws, edge]. estimates: `{method: the same}`.
      between_heads: bool[edge]: from a head to a head.
      nodes: (estimates, exact effects) of every head's output at every position, float[1 + draws, node].
    """

    exact: np.ndarray
    estimates: Mapping[str, np.ndarray]
    between_heads: np.ndarray
    nodes: tuple[np.ndarray, np.ndarray]

    def concentration(self) -> np.ndarray:
        """The share of all absolute effects between heads that the largest 1 % of these edges hold."""
        effects = -np.sort(-np.abs(self.exact[:, self.between_heads]), axis=1)
        return effects[:, : max(1, effects.shape[1] // 100)].sum(axis=1) / effects.sum(axis=1)


PATHS = "Path patching"

#: Written before the first run.
CLAIMS = (
    Claim(
        PATHS, "Patching a single path is a very small change, so a linear approximation is plausible",
        "Pearson's r of EAP with exact effects, all edges",
        lambda r: pearson(r.estimates["EAP"], r.exact), at_least=0.9,
    ),
    Claim(
        PATHS, "It is even more plausible of a path than of a node",
        "relative error of heads' outputs - relative error of edges",
        lambda r: relative_error(*r.nodes) - relative_error(r.estimates["EAP"], r.exact), at_least=0,
    ),
    Claim(
        PATHS, "Connections between heads are sparse", "share of |effect| in the largest 1 % of edges between heads",
        lambda r: r.concentration(), at_least=0.5,
    ),
    Claim(
        PATHS, "The top paths recover key edges of the circuit", "EAP's recall of the 20 largest",
        lambda r: recall(r.estimates["EAP"], r.exact), at_least=0.5,
    ),
    Claim(
        "Hanna et al. 2024 (EAP-IG)", "Gradients along the input's way are more faithful than one gradient",
        "recall of EAP-IG (inputs) - recall of EAP",
        lambda r: recall(r.estimates["EAP-IG (inputs)"], r.exact) - recall(r.estimates["EAP"], r.exact), at_least=0,
    ),
)  # fmt: skip


def measure(n: int, seed: int) -> tuple[Results, list[str], list[str]]:
    """(results, writers and readers of the edges)."""
    model, params, tokenizer = ji.load("english")
    pairs = one_layout(n, seed, tokenizer)
    metric = ji.logit_diff(pairs.correct, pairs.wrong)
    runs = (model, params, pairs.corrupted, pairs.clean)
    drawn = weights(n, seed)

    def by_edge(edges: ji.EdgeScores) -> xr.DataArray:
        scores = edges.scores.stack(edge=("writer", "reader")).transpose("batch", "edge")
        return scores[:, scores.notnull().any("batch").values]

    exact = by_edge(ji.edge_effects(*runs, metric=metric, per_example=True))
    estimates = {
        name: drawn @ by_edge(ji.edge_attribution(*runs, metric=metric, per_example=True, **how)).values
        for name, how in METHODS.items()
    }
    over = {"layer": None, "pos": differing(pairs), "head": None}
    node_run = {"site": "z", "over": over, "metric": metric, "per_example": True}
    nodes = ji.attribution_patching(*runs, **node_run), ji.activation_patching(*runs, **node_run)
    writers, readers = exact.writer.values.tolist(), exact.reader.values.tolist()
    between = np.array([".h" in writer and ".h" in reader for writer, reader in zip(writers, readers, strict=True)])
    results = Results(drawn @ exact.values, estimates, between, tuple(mean_effects(each, drawn) for each in nodes))
    return results, writers, readers


def figure(results: Results, labels: list[str]) -> Figure:
    """Estimates against exact effects, and the largest edges by name."""
    drawing = Figure(figsize=(13, 5), layout="constrained")
    left, middle, right = drawing.subplots(1, 3, width_ratios=(1, 1, 1.2))
    exact = results.exact[0]
    for axes, name in ((left, "EAP"), (middle, "EAP-IG (inputs)")):
        estimates = results.estimates[name][0]
        bounds = min(exact.min(), estimates.min()), max(exact.max(), estimates.max())
        axes.plot(bounds, bounds, color="0.7", linewidth=0.8)
        kinds = (("between heads", results.between_heads, "C3"), ("others", ~results.between_heads, "C0"))
        for kind, which, colour in kinds:
            axes.scatter(exact[which], estimates[which], s=9, alpha=0.6, color=colour, label=kind, linewidths=0)
        axes.set(xlabel="exact effect (logit difference)", ylabel=f"{name}'s estimate", title=name)
    left.legend(frameon=False)
    top = np.argsort(-np.abs(exact))[:15]
    rows = np.arange(len(top))
    low, high = np.quantile(results.exact[1:, top], [0.025, 0.975], axis=0)
    right.errorbar(
        exact[top], rows, xerr=(exact[top] - low, high - exact[top]), fmt="o", color="k", markersize=4, label="exact",
    )  # fmt: skip
    for name, marker in (("EAP", "x"), ("EAP-IG (inputs)", "+")):
        right.scatter(results.estimates[name][0, top], rows, marker=marker, label=name, zorder=3)
    right.axvline(0, color="0.7", linewidth=0.8)
    right.set_yticks(rows, [labels[edge] for edge in top])
    right.invert_yaxis()
    right.set(xlabel="effect (logit difference)", title="The largest edges")
    right.legend(frameon=False)
    return drawing


def main() -> None:
    """Measures, prints the tables, judges the claims, writes the files."""
    asked = options(__doc__ or "", n=32)
    results, writers, readers = measure(asked.n, asked.seed)
    labels = [f"{writer} → {reader}" for writer, reader in zip(writers, readers, strict=True)]
    statistics = {
        "Pearson's r": pearson, "slope": slope, "relative error": relative_error, "top-20 recall": recall,
        "largest missed": missed,
    }  # fmt: skip
    found = {
        method: {name: interval(of(estimates, results.exact)) for name, of in statistics.items()}
        for method, estimates in results.estimates.items()
    }
    print(f"{len(labels):,} edges, {asked.n} prompts\n")
    print(table(["method", *statistics], [[method, *map(str, each.values())] for method, each in found.items()]))
    top = np.argsort(-np.abs(results.exact[0]))[:15]
    rows = [
        [
            labels[edge],
            str(interval(results.exact[:, edge])),
            *(f"{e[0, edge]:.2f}" for e in results.estimates.values()),
        ]
        for edge in top
    ]
    print("\n" + table(["edge", "exact", *results.estimates], rows))
    judged = verdicts(CLAIMS, results)
    cells = [
        {"writer": writers[edge], "reader": readers[edge], "exact": float(results.exact[0, edge])}
        | {method: float(each[0, edge]) for method, each in results.estimates.items()}
        for edge in range(len(labels))
    ]
    told = {"prompts": asked.n, "seed": asked.seed, "edges": len(labels), "claims": judged}
    told["methods"] = {m: {name: value._asdict() for name, value in each.items()} for m, each in found.items()}
    write(asked.output, "ioi_paths", told, figure(results, labels), cells)


if __name__ == "__main__":
    main()
