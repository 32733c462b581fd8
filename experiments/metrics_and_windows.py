"""Metrics of patching: do probabilities hide single layers, and does attribution work better near its metric?

    python experiments/metrics_and_windows.py

Denoising of indirect objects. First, whole layers of `attn_out` and `mlp_out` are patched over all positions, one alone
or windows of them jointly, and measured by the logit difference, the log-probability and the probability of the right
name; effects are told as shares of the way from base to source. Then heads' outputs `z`, over all positions, are
patched while the metric is inside the model: the last position's residual stream along the difference of the two
names' unembeddings, or the attention of one head in each layer, from the last position to IO less that to S1 (the head
for which that differs most in other clean prompts). Attribution by gradient is held against patching, by the layers of
patch and metric. Intervals are from a bootstrap over prompts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np
from common import Claim
from matplotlib.figure import Figure
from scipy import stats

import jaxinterp as ji

N_LAYERS = 6

SITES = ("mlp_out", "attn_out")

#: Layers that are patched jointly.
WINDOWS = (1, 3, 5, N_LAYERS)

METRICS = ("logit difference", "log-probability", "probability")

#: Metrics inside the model -> the lowest number of layers between patch and metric.
INSIDE: Mapping[str, int] = {"stream along the names' difference": 0, "attention to IO less S1": 1}


@dataclass(frozen=True)
class Internal:
    """Relative errors of attribution for a metric inside the model, float[1 + draws, layer of patch, of metric].

    NaN where the metric does not lie behind the patch.
    """

    errors: np.ndarray

    def at(self, distances: Sequence[int]) -> np.ndarray:
        """The mean error where patch and metric are so many layers apart."""
        return np.nanmean(self.errors[:, np.isin(_distances(), distances)], axis=1)

    def rank_correlation_with(self, distances: np.ndarray) -> np.ndarray:
        """Spearman's correlation of errors with distances, int[layer of patch, of metric]."""
        there = np.isfinite(self.errors[0])
        return np.array([stats.spearmanr(each[there], distances[there]).statistic for each in self.errors])


def _distances() -> np.ndarray:
    """int[layer of patch, of metric]."""
    return np.arange(N_LAYERS)[None] - np.arange(N_LAYERS)[:, None]


@dataclass(frozen=True)
class Results:
    """All that is measured.

    Attributes:
      shares: `{(metric, site, window): shares of the way, float[1 + draws, centre]}`.
      layer_errors: `{metric: relative errors of attribution for single layers, float[1 + draws]}`.
      internal: `{metric inside: its errors}`.
      final: relative errors of attribution for `z` on the logit difference, float[1 + draws, layer].
    """

    shares: Mapping[tuple[str, str, int], np.ndarray]
    layer_errors: Mapping[str, np.ndarray]
    internal: Mapping[str, Internal]
    final: np.ndarray

    def largest(self, metric: str, site: str, window: int) -> np.ndarray:
        """The largest share that one window goes."""
        return self.shares[metric, site, window].max(axis=1)

    def shown(self, site: str, window: int) -> np.ndarray:
        """The largest share of the probability over that of the log-probability: how much of it can be seen."""
        return self.largest("probability", site, window) / self.largest("log-probability", site, window)


SECTION = "The Patching Metric"


def _hiding_claims(site: str) -> tuple[Claim, Claim, Claim]:
    return (
        Claim(
            SECTION,
            "any single patch is unlikely to recover more than 50 % of the log prob difference",
            f"largest share of the log-probability, single layers of {site}",
            lambda results: results.largest("log-probability", site, 1),
            at_most=0.5,
        ),
        Claim(
            SECTION,
            "a significant result in log prob can look like almost nothing on probability",
            f"largest share of the probability over that of the log-probability, single layers of {site}",
            lambda results: results.shown(site, 1),
            at_most=0.5,
        ),
        Claim(
            SECTION,
            "this is why windows of layers were needed",
            f"the same ratio, windows of 5 less single layers of {site}",
            lambda results: results.shown(site, 5) - results.shown(site, 1),
            at_least=0,
        ),
    )


def _distance_claims(metric: str) -> tuple[Claim, Claim]:
    says = (
        "less reliable the earlier you are, but crucially how far from where the metric is calculated, not from the end"
    )
    return (
        Claim(
            SECTION,
            says,
            f"relative error, 3 or more layers from the metric less at most 1; {metric}",
            lambda results: results.internal[metric].at((3, 4, 5)) - results.internal[metric].at((0, 1)),
            at_least=0,
        ),
        Claim(
            SECTION,
            says,
            f"rank correlation of errors with distance from the metric, less that with distance from the end; {metric}",
            lambda results: (
                results.internal[metric].rank_correlation_with(_distances())
                - results.internal[metric].rank_correlation_with(np.broadcast_to(_distances()[:, -1:], (6, 6)))
            ),
            at_least=0,
        ),
    )


#: Written before the first run.
CLAIMS = (
    *(claim for site in SITES for claim in _hiding_claims(site)),
    Claim(
        SECTION,
        "attribution patching breaks more the less linear the function is, and probability is an exponential one",
        "relative error of attribution, single layers: probability less logit difference",
        lambda results: results.layer_errors["probability"] - results.layer_errors["logit difference"],
        at_least=0,
    ),
    *(claim for metric in INSIDE for claim in _distance_claims(metric)),
    Claim(
        SECTION,
        "metrics from activations nearer the patch give cleaner information",
        "relative error at z, layers 0 and 1: logit difference less stream 1 layer on",
        lambda results: results.final[:, :2].mean(axis=1) - _one_on(results)[:, :2].mean(axis=1),
        at_least=0,
    ),
)


def _one_on(results: Results) -> np.ndarray:
    """Errors one layer from the stream as a metric, float[1 + draws, layer of patch]."""
    return np.diagonal(results.internal["stream along the names' difference"].errors, offset=1, axis1=1, axis2=2)


def along(logits: jax.Array, cache: Mapping[str, jax.Array], direction: jax.Array, layer: jax.Array) -> jax.Array:
    """The last position's residual stream behind a layer along each prompt's direction."""
    return (cache["resid_post"][layer, :, -1] * direction).sum(axis=-1)


def attention(
    logits: jax.Array, cache: Mapping[str, jax.Array], io: jax.Array, s1: jax.Array, layer: jax.Array, head: jax.Array
) -> jax.Array:
    """A head's attention from the last position to IO less that to S1."""
    row = cache["pattern"][layer][:, head, -1]
    return (jnp.take_along_axis(row, io[:, None], axis=1) - jnp.take_along_axis(row, s1[:, None], axis=1))[:, 0]


def attending_heads(model: Any, params: Any, pairs: ji.TokenPairs) -> list[int]:
    """In each layer, the head whose attention in clean prompts differs most between IO and S1, for or against."""
    _, cache = model.apply(params, pairs.clean.tokens, capture=("pattern",))
    rows, last = np.arange(len(pairs)), np.asarray(cache["pattern"])[:, :, :, -1]  # [layer, batch, head, key]
    difference = last[:, rows, :, pairs.clean.roles["IO"]] - last[:, rows, :, pairs.clean.roles["S1"]]
    return [int(head) for head in np.abs(difference.mean(axis=0)).argmax(axis=-1)]


def window_shares(pair: Mapping[str, Any], metric: ji.Metric, draws: np.ndarray) -> dict[tuple[str, int], np.ndarray]:
    """Shares of the way, `{(site, window): float[1 + draws, centre]}`, and all layers as a window with one centre."""
    keys: list[tuple[str, int]] = []
    sets: list[dict[str, ji.Where]] = []
    for site in SITES:
        for window in WINDOWS:
            rows = ji.layer_windows(N_LAYERS, window) if window < N_LAYERS else np.ones((1, N_LAYERS), bool)
            keys += [(site, window)] * len(rows)
            sets += [{site: ji.at(layer=row)} for row in rows]
    everything = {"resid_pre": ji.at(layer=0)}
    effects = ji.activation_patching(**pair, metric=metric, sets=[*sets, everything], per_example=True)
    means = common.mean_effects(effects, draws)
    shares = means[:, :-1] / means[:, -1:]
    return {key: shares[:, [key == other for other in keys]] for key in dict.fromkeys(keys)}


def head_errors(pair: Mapping[str, Any], metric: ji.Metric, draws: np.ndarray) -> np.ndarray:
    """The relative error of attribution for the heads of each layer, float[1 + draws, layer]; NaN without effects."""
    how: dict[str, Any] = {"metric": metric, "site": "z", "over": ("layer", "head"), "per_example": True}
    exact, estimates = (
        common.mean_effects(found, draws).reshape(len(draws), N_LAYERS, -1)
        for found in (ji.activation_patching(**pair, **how), ji.attribution_patching(**pair, **how))
    )
    size = np.abs(exact).sum(axis=2)
    return np.where(size > 1e-6, np.abs(estimates - exact).sum(axis=2) / np.maximum(size, 1e-6), np.nan)


def layer_error(pair: Mapping[str, Any], metric: ji.Metric, draws: np.ndarray) -> np.ndarray:
    """The relative error of attribution for single layers of both sites together, float[1 + draws]."""
    how: dict[str, Any] = {"metric": metric, "over": ("layer",), "per_example": True}
    estimates = ji.attribution_patching(**pair, **how, sites=SITES)
    exact = [common.mean_effects(ji.activation_patching(**pair, **how, site=site), draws) for site in SITES]
    means = [common.mean_effects(estimates[site], draws) for site in SITES]
    return common.relative_error(np.concatenate(means, axis=1), np.concatenate(exact, axis=1))


def internal(pair: Mapping[str, Any], metrics: Sequence[ji.Metric], nearest: int, draws: np.ndarray) -> Internal:
    """Errors for one metric in each layer; patches of layers from which it is nearer than `nearest` do not reach it."""
    errors = np.stack([head_errors(pair, metric, draws) for metric in metrics], axis=2)
    return Internal(np.where(_distances() >= nearest, errors, np.nan))


def report(results: Results) -> str:
    """The tables."""
    lines = []
    for site in SITES:
        for window in WINDOWS:
            each = [str(common.interval(results.largest(metric, site, window))) for metric in METRICS]
            name = f"{window} layers" if 1 < window < N_LAYERS else {1: "1 layer", N_LAYERS: "all layers"}[window]
            lines.append([site, name, *each, str(common.interval(results.shown(site, window)))])
    text = "largest share of the way from base to source\n\n"
    text += common.table(["site", "patched jointly", *METRICS, "probability / log-probability"], lines)
    lines = [[metric, str(common.interval(error))] for metric, error in results.layer_errors.items()]
    text += "\n\nattribution of single layers\n\n" + common.table(["metric", "relative error"], lines)
    for name, inside in results.internal.items():
        lines = [
            [f"layer {patch}", *("" if np.isnan(e[0]) else str(common.interval(e)) for e in inside.errors[:, patch].T)]
            for patch in range(N_LAYERS)
        ]
        text += f"\n\nrelative error of attribution at z; {name}\n\n"
        text += common.table(["patched", *(f"metric in layer {layer}" for layer in range(N_LAYERS))], lines)
    lines = [[f"layer {patch}", str(common.interval(each))] for patch, each in enumerate(results.final.T)]
    text += "\n\nrelative error of attribution at z; logit difference\n\n"
    return text + common.table(["patched", "relative error"], lines)


def figure_of(results: Results, heads: Sequence[int]) -> Figure:
    """Largest shares by window and metric above, errors by the layers of patch and metric below."""
    figure = Figure(figsize=(11, 8.6), layout="constrained")
    above, below = figure.subplots(2, 2)
    for axes, site in zip(above, SITES, strict=True):
        for number, metric in enumerate(METRICS):
            found = [common.interval(results.largest(metric, site, window)) for window in WINDOWS]
            value, low, high = np.array(found).T
            x = np.arange(len(WINDOWS)) + 0.26 * (number - 1)
            axes.bar(x, value, width=0.24, color=f"C{number}", label=metric)
            axes.errorbar(x, value, yerr=[value - low, high - value], fmt="none", ecolor="0.2", elinewidth=1)
        axes.set_xticks(range(len(WINDOWS)), ["1", *map(str, WINDOWS[1:-1]), "all"])
        axes.set(xlabel=f"layers of {site} patched jointly", ylabel="largest share of the way", ylim=(0, 1.15))
        axes.grid(axis="y", alpha=0.3)
    above[0].legend(frameon=False, loc="upper left")
    for axes, (name, inside) in zip(below, results.internal.items(), strict=True):
        errors = inside.errors[0]
        image = axes.imshow(errors, cmap="viridis_r", vmin=0, vmax=1, origin="lower")
        for (patch, layer), error in np.ndenumerate(errors):
            if np.isfinite(error):
                axes.text(layer, patch, f"{error:.2f}", ha="center", va="center", color="k" if error < 0.5 else "w")
        ticks = (
            [f"{layer} (head {heads[layer]})" for layer in range(N_LAYERS)] if "attention" in name else range(N_LAYERS)
        )
        axes.set_xticks(range(N_LAYERS), ticks, rotation=30 if "attention" in name else 0)
        axes.set(xlabel="layer of the metric", ylabel="layer of the heads patched", title=name)
        figure.colorbar(image, ax=axes, label="relative error of attribution", extend="max")
    return figure


def _interval_or_none(values: np.ndarray) -> common.Interval | None:
    return None if np.isnan(values[0]) else common.interval(values)


def main() -> None:
    asked = common.options(__doc__, n=32)
    model, params, tokenizer = common.english()
    pairs, draws = common.one_layout(asked.n, asked.seed, tokenizer), common.weights(asked.n, asked.seed)
    pair = {"model": model, "params": params, "base": pairs.corrupted, "source": pairs.clean}
    metrics = {
        "logit difference": ji.logit_diff(pairs.correct, pairs.wrong),
        "log-probability": ji.log_prob(pairs.correct),
        "probability": ji.prob(pairs.correct),
    }
    heads = attending_heads(model, params, common.one_layout(asked.n, asked.seed + 1, tokenizer))
    direction = np.asarray(params["W_E"][pairs.correct] - params["W_E"][pairs.wrong])
    io, s1 = (np.asarray(pairs.clean.roles[role]) for role in ("IO", "S1"))
    layers = range(N_LAYERS)
    inside = {
        "stream along the names' difference": [
            ji.Metric(along, direction, np.int32(layer), capture=("resid_post",)) for layer in layers
        ],
        "attention to IO less S1": [
            ji.Metric(attention, io, s1, np.int32(layer), np.int32(heads[layer]), capture=("pattern",))
            for layer in layers
        ],
    }
    results = Results(
        {
            (name, *key): shares
            for name, metric in metrics.items()
            for key, shares in window_shares(pair, metric, draws).items()
        },
        {name: layer_error(pair, metric, draws) for name, metric in metrics.items()},
        {name: internal(pair, inside[name], nearest, draws) for name, nearest in INSIDE.items()},
        head_errors(pair, metrics["logit difference"], draws),
    )
    print(report(results))
    judged = common.verdicts(CLAIMS, results)
    told = {
        "n": asked.n, "seed": asked.seed, "heads": heads, "claims": judged,
        "shares": [
            {"metric": metric, "site": site, "layers": window, "by centre": [common.interval(c) for c in shares.T]}
            for (metric, site, window), shares in results.shares.items()
        ],
        "attribution of single layers": {name: common.interval(e) for name, e in results.layer_errors.items()},
        "attribution of heads": {
            name: [[_interval_or_none(e) for e in row.T] for row in found.errors.swapaxes(0, 1)]
            for name, found in results.internal.items()
        } | {"logit difference": [common.interval(each) for each in results.final.T]},
    }  # fmt: skip
    common.write(asked.output, "metrics_and_windows", told, figure_of(results, heads))


if __name__ == "__main__":
    main()
