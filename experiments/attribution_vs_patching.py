"""Estimates of attribution patching against the exact effects, for every kind of activation.

    python experiments/attribution_vs_patching.py

Denoising of indirect objects: the base run reads the corrupted prompt, in which the other person gives, activations
come from the clean one, and effects are on the logit difference of the two names. A cell is a site at one layer and
position, and one head, neuron or attended position. Positions before S2, where the two runs are the same, are left
out, and so are cells whose exact effect is 0 in every prompt: they cannot reach the metric. Mean effects over prompts
are compared; intervals are from a bootstrap over prompts. Frozen: the scales of all norms are constants in derivatives
(`ji.freeze_norms`), while exact effects are what they are.
"""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import common
import jax
import numpy as np
import xarray as xr
from common import Claim
from matplotlib.figure import Figure

import jaxinterp as ji

N_LAYERS = 6

#: How many neurons of each layer are looked at: the same numbers in every layer and for every method.
N_NEURONS = 24

SITES = ("resid_pre", "attn_out", "mlp_out", "z", "q", "k", "v", "pattern", "mlp_post")


def grids(positions: range, neurons: np.ndarray) -> dict[str, dict[str, Any]]:
    """The cells of each site, over all layers. Patterns: what S2 and the last position attend to."""
    place = {"layer": None, "pos": positions}
    return {
        **dict.fromkeys(("resid_pre", "attn_out", "mlp_out"), place),
        **{site: {**place, "head": None} for site in ("z", "q")},
        **{site: {**place, "kv_head": None} for site in ("k", "v")},
        "pattern": {"layer": None, "head": None, "query": [positions[0], positions[-1]], "key": None},
        "mlp_post": {**place, "d_mlp": neurons},
    }


@dataclass(frozen=True)
class Method:
    """A way to estimate.

    Attributes:
      name: for tables.
      how: arguments of `ji.attribution_patching`.
      score: whether it only ranks cells, and estimates no effects.
      repetitions: how often it is timed.
    """

    name: str
    how: Mapping[str, Any]
    score: bool = False
    repetitions: int = 9


METHODS = (
    Method("grad", {"method": "grad"}),
    Method("ig", {"method": "ig"}, repetitions=1),
    Method("atp_star", {"method": "atp_star", "grad_drop": False}),
    Method("atp_star, GradDrop", {"method": "atp_star"}, score=True),
)


@dataclass(frozen=True)
class Effects:
    """Mean effects of one site's cells.

    Attributes:
      coordinates: `{axis: int[cell]}`; "pos" is the query's for patterns.
      exact: float[1 + draws, cell].
      estimates: `{(method, frozen): float[1 + draws, cell]}`.
    """

    coordinates: Mapping[str, np.ndarray]
    exact: np.ndarray
    estimates: Mapping[tuple[str, bool], np.ndarray]

    def part(
        self, layers: Sequence[int] | None = None, positions: Sequence[int] | None = None, *, frozen: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """(estimates by gradient, exact effects) of some layers and positions, or of all."""
        chosen = np.ones(self.exact.shape[1], bool)
        for axis, wanted in (("layer", layers), ("pos", positions)):
            if wanted is not None:
                chosen &= np.isin(self.coordinates[axis], wanted)
        return self.estimates["grad", frozen][:, chosen], self.exact[:, chosen]


@dataclass(frozen=True)
class Results:
    """All that is measured.

    Attributes:
      sites: `{site: its effects}`.
      costs: `{method: time in forwards, float[1 + repetitions, 2]}`, on the clock and of processors; first the median.
    """

    sites: Mapping[str, Effects]
    costs: Mapping[str, np.ndarray]

    def error(self, site: str, layers: Sequence[int] | None = None, *, frozen: bool = False) -> np.ndarray:
        """The relative error of the gradient's estimates."""
        return common.relative_error(*self.sites[site].part(layers, frozen=frozen))


PRACTICE, PRESENT = "Does This Work In Practice? (Experiments)", "Does This Make Any Sense?"
LINEAR, GUESSES = "Linear vs Non-Linear (Local) Structure", "My Guesses for Where Attribution Patching Works"


def _good(site: str, layers: Sequence[int] | None = None) -> Claim:
    where = "" if layers is None else f", layers {layers[0]} to {layers[-1]}"
    return Claim(
        PRACTICE,
        "a good approximation for all other layer outputs, head outputs, queries, keys, values, attention patterns",
        f"Pearson's r at {site}{where}",
        lambda results: common.pearson(*results.sites[site].part(layers)),
        at_least=0.9,
    )


def _better_later(site: str) -> Claim:
    return Claim(
        PRESENT,
        "it works best when patching things near the end of the model",
        f"relative error at {site}, layers 0 and 1 less layers 4 and 5",
        lambda results: results.error(site, (0, 1)) - results.error(site, (4, 5)),
        at_least=0,
    )


#: Of the method "grad" without frozen scales, unless they say otherwise. Written before the first run.
CLAIMS = (
    *(_good(site) for site in ("attn_out", "z", "q", "k", "v", "pattern")),
    _good("mlp_out", range(1, 6)),
    Claim(
        PRACTICE,
        'a bad approximation for "big" activations like residual stream patching',
        "Pearson's r at resid_pre",
        lambda results: common.pearson(*results.sites["resid_pre"].part()),
        at_most=0.9,
    ),
    Claim(
        PRACTICE,
        "it works best for small changes, and a full stream is a big one",
        "relative error at resid_pre less that at z",
        lambda results: results.error("resid_pre") - results.error("z"),
        at_least=0,
    ),
    Claim(
        PRACTICE,
        "it works badly for MLP0, well for everything else",
        "relative error at mlp_out, layer 0 less layers 1 to 5",
        lambda results: results.error("mlp_out", (0,)) - results.error("mlp_out", range(1, 6)),
        at_least=0,
    ),
    *(_better_later(site) for site in ("z", "attn_out", "mlp_out")),
    Claim(
        GUESSES,
        "patching at the embedding will likely work terribly",
        "relative error at resid_pre, layer 0",
        lambda results: results.error("resid_pre", (0,)),
        at_least=0.5,
    ),
    Claim(
        LINEAR,
        "near the final layer, where residual stream patching should work near perfectly, LayerNorm breaks things",
        "relative error at resid_pre, layer 5",
        lambda results: results.error("resid_pre", (5,)),
        at_least=0.5,
    ),
    Claim(
        LINEAR,
        "one possible patch is to treat the normalisation factors as constants",
        "relative error at resid_pre, less that with frozen scales",
        lambda results: results.error("resid_pre") - results.error("resid_pre", frozen=True),
        at_least=0,
    ),
    Claim(
        LINEAR,
        'for "small" patches LayerNorm does not matter that much',
        "relative error at z, less that with frozen scales",
        lambda results: results.error("z") - results.error("z", frozen=True),
        at_least=-0.05,
        at_most=0.05,
    ),
    Claim(
        "Comparing ranks",
        "one way to use it is as a heuristic to take the top K activations that matter",
        "top-20 recall at z",
        lambda results: common.recall(*results.sites["z"].part()),
        at_least=0.8,
    ),
    Claim(
        "Why Care?",
        "it matters way more if the technique gives false negatives; it mostly gives none",
        "largest effect at z outside the estimates' top 20, over the largest effect",
        lambda results: common.missed(*results.sites["z"].part()) / np.abs(results.sites["z"].exact).max(axis=1),
        at_most=0.1,
    ),
    Claim(
        "Why Care?",
        "two forward passes and one backward pass, about twice as expensive as a forward pass",
        "time for all sites together, in forwards (interval over repetitions)",
        lambda results: results.costs["grad"][:, 0],
        at_most=4,
    ),
)


def estimated(pair: Mapping[str, Any], method: Method, *, frozen: bool) -> dict[str, xr.DataArray]:
    """The estimates for all sites, from one call, by cell and prompt."""
    how: dict[str, Any] = {
        **pair,
        **method.how,
        "base_interventions": ji.freeze_norms(pair["model"]) if frozen else None,
    }
    return dict(ji.attribution_patching(**how, sites=SITES, per_example=True))


def effects_of(exact: xr.DataArray, estimates: Mapping[tuple[str, bool], xr.DataArray], draws: np.ndarray) -> Effects:
    """Mean effects of the cells that have one in some prompt, with their estimates."""
    axes = [axis for axis in exact.dims if axis != "batch"]
    alive = (exact != 0).any("batch").values
    coordinates = {
        "pos" if axis == "query" else str(axis): exact[axis].values[index]
        for axis, index in zip(axes, np.nonzero(alive), strict=True)
    }
    same = {axis: exact[axis].values for axis in axes}
    chosen = alive.reshape(-1)
    means = {
        key: common.mean_effects(found.sel(same).transpose(*exact.dims), draws)[:, chosen]
        for key, found in estimates.items()
    }
    return Effects(coordinates, common.mean_effects(exact, draws)[:, chosen], means)


def seconds(call: Callable[[], Any]) -> np.ndarray:
    """Seconds of a call: on the clock, and of processor time."""
    begun = time.perf_counter(), time.process_time()
    call()
    return np.array([time.perf_counter() - begun[0], time.process_time() - begun[1]])


def costs(pair: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Time of warm estimates over that of the warm, jitted forward beside them, by method."""
    model, metric, tokens = pair["model"], pair["metric"], np.asarray(pair["base"].tokens)
    read = {"positions": metric.positions, "columns": metric.columns}
    forward = jax.jit(lambda params: model.apply(params, tokens, **read)[0])
    forward(pair["params"])
    found = {}
    for method in METHODS:
        ratios = []
        for _ in range(method.repetitions):
            own = seconds(functools.partial(estimated, pair, method, frozen=False))
            beside = [seconds(lambda: forward(pair["params"]).block_until_ready()) for _ in range(9)]
            ratios.append(own / np.median(beside, axis=0))
        found[method.name] = np.array([np.median(ratios, axis=0), *ratios])
    return found


def measured(pair: Mapping[str, Any], cells: Mapping[str, Any], draws: np.ndarray) -> Results:
    """Exact effects, all estimates, and what these cost."""
    estimates = {(m.name, frozen): estimated(pair, m, frozen=frozen) for m in METHODS for frozen in (False, True)}
    sites = {}
    for site in SITES:
        exact = ji.activation_patching(**pair, site=site, over=cells[site], per_example=True)
        sites[site] = effects_of(exact, {key: found[site] for key, found in estimates.items()}, draws)
    return Results(sites, costs(pair))


def agreement(results: Results) -> list[dict[str, Any]]:
    """How well each method does at each site, with intervals; scores have no slope and no r."""
    rows = []
    for site, effects in results.sites.items():
        for method in METHODS:
            for frozen in (False, True):
                pair = effects.estimates[method.name, frozen], effects.exact
                measures: dict[str, Callable[..., np.ndarray]] = {
                    "slope": common.slope, "r": common.pearson, "relative error": common.relative_error,
                    "top-20 recall": common.recall, "largest missed": common.missed,
                }  # fmt: skip
                if method.score:
                    measures = {name: measures[name] for name in ("top-20 recall", "largest missed")}
                found = {name: common.interval(measure(*pair)) for name, measure in measures.items()}
                told = {"site": site, "cells": effects.exact.shape[1], "method": method.name, "frozen": frozen}
                rows.append({**told, "largest effect": float(np.abs(effects.exact[0]).max()), **found})
    return rows


def by_place(results: Results, positions: range) -> list[dict[str, Any]]:
    """The gradient's relative error by layers and by positions from the metric, frozen or not."""
    rows = []
    for site, effects in results.sites.items():
        for axis, indices in (("layers", range(N_LAYERS)), ("positions", positions)):
            for index in indices:
                for frozen in (False, True):
                    where: dict[str, Any] = {axis: [index]}
                    estimates, exact = effects.part(**where, frozen=frozen)
                    distance = indices.stop - index - (axis == "positions")
                    share = np.abs(exact[0]).sum() / np.abs(effects.exact[0]).sum()
                    told = {"site": site, "axis": axis, "from the metric": distance, "frozen": frozen}
                    if exact.shape[1]:
                        error = common.interval(common.relative_error(estimates, exact))
                        rows.append({**told, "share of effects": float(share), "relative error": error})
    return rows


def cells(results: Results) -> list[dict[str, Any]]:
    """Each cell with its exact effect and its estimates."""
    rows = []
    for site, effects in results.sites.items():
        for cell in range(effects.exact.shape[1]):
            at = {axis: int(index[cell]) for axis, index in effects.coordinates.items()}
            head = at.get("head", at.get("kv_head", ""))
            told = {"site": site, "layer": at["layer"], "pos": at["pos"], "head": head}
            told |= {"key": at.get("key", ""), "neuron": at.get("d_mlp", ""), "exact": effects.exact[0, cell]}
            names = {key: f"{key[0]}{', frozen' if key[1] else ''}" for key in effects.estimates}
            rows.append(told | {names[key]: found[0, cell] for key, found in effects.estimates.items()})
    return rows


def report(rows: Sequence[Mapping[str, Any]], places: Sequence[Mapping[str, Any]], costs: Mapping[str, Any]) -> str:
    """The tables."""
    measures = ("slope", "r", "relative error", "top-20 recall", "largest missed")
    lines = [
        [row["site"], str(row["cells"]), row["method"], "yes" if row["frozen"] else "", f"{row['largest effect']:.3f}"]
        + [str(row[name]) if name in row else "" for name in measures]
        for row in rows
    ]
    text = common.table(["site", "cells", "method", "frozen", "largest effect", *measures], lines)
    for axis in ("layers", "positions"):
        chosen = [row for row in places if row["axis"] == axis and row["share of effects"] > 0.01]
        distances = sorted({row["from the metric"] for row in chosen})
        found = {(row["site"], row["frozen"], row["from the metric"]): row for row in chosen}
        lines = []
        for site, frozen in dict.fromkeys((row["site"], row["frozen"]) for row in chosen):
            each = [found.get((site, frozen, distance)) for distance in distances]
            lines.append([site, "yes" if frozen else "", *(str(row["relative error"]) if row else "" for row in each)])
        head = ["site", "frozen", *(f"{distance} from the metric" for distance in distances)]
        text += f"\n\nrelative error of grad by {axis} between cell and metric, where more than 1 % of effects are\n\n"
        text += common.table(head, lines)
    lines = [
        [name, *(f"{each[0]:.1f} ({each.min():.1f} to {each.max():.1f})" for each in ratios.T)]
        for name, ratios in costs.items()
    ]
    head = ["method", "forwards, on the clock", "forwards, processor time"]
    return text + "\n\ncost of all sites together (least and most of the repetitions)\n\n" + common.table(head, lines)


def figure_of(results: Results) -> Figure:
    """Exact effects across, the gradient's estimates up, a panel for each site."""
    figure = Figure(figsize=(11, 10.5), layout="constrained")
    for number, (site, effects) in enumerate(results.sites.items(), start=1):
        axes = figure.add_subplot(3, 3, number)
        estimates, exact = (means[0] for means in effects.part())
        low, high = min(estimates.min(), exact.min()), max(estimates.max(), exact.max())
        ends = low - 0.05 * (high - low), high + 0.05 * (high - low)
        axes.plot(ends, ends, color="0.6", linewidth=1, zorder=0)
        layers = effects.coordinates["layer"]
        points = axes.scatter(
            exact, estimates, c=layers, cmap="viridis", vmin=0, vmax=5, s=16, alpha=0.85, linewidths=0
        )
        r, error = common.pearson(*effects.part())[0], common.relative_error(*effects.part())[0]
        axes.set(xlim=ends, ylim=ends, aspect="equal")
        axes.set_title(f"{site}   r = {r:.2f}, relative error {error:.2f}", fontsize=10)
        if number > 6:
            axes.set_xlabel("exact effect (logits)")
        if number % 3 == 1:
            axes.set_ylabel("estimate by gradient (logits)")
    figure.colorbar(points, ax=figure.axes, label="layer", shrink=0.4, pad=0.01)
    return figure


def main() -> None:
    asked = common.options(__doc__, n=32)
    model, params, tokenizer = common.english()
    pairs = common.one_layout(asked.n, asked.seed, tokenizer)
    positions = common.differing(pairs)
    neurons = np.sort(np.random.default_rng(asked.seed).choice(model.config.d_mlp, N_NEURONS, replace=False))
    pair = {
        "model": model, "params": params, "base": pairs.corrupted, "source": pairs.clean,
        "metric": ji.logit_diff(pairs.correct, pairs.wrong),
    }  # fmt: skip
    results = measured(pair, grids(positions, neurons), common.weights(asked.n, asked.seed))
    rows, places = agreement(results), by_place(results, positions)
    print(report(rows, places, results.costs))
    judged = common.verdicts(CLAIMS, results)
    told = {
        "n": asked.n, "seed": asked.seed, "task": "indirect objects, denoising, logit difference",
        "neurons": neurons.tolist(), "claims": judged, "agreement": [_plain(row) for row in rows],
        "by_place": [_plain(row) for row in places],
        "forwards": {name: ratios.tolist() for name, ratios in results.costs.items()},
    }  # fmt: skip
    common.write(asked.output, "attribution_vs_patching", told, figure_of(results), cells(results))


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in row.items()}


if __name__ == "__main__":
    main()
