"""Redundancy: do heads stand in for one that is ablated, more so if attention had dropout, and does attribution tell?

    python experiments/redundancy.py

Noising of indirect objects in two models of one recipe, seed and data, after two cycles of training without and with
dropout of attention patterns (`models/english/checkpoints/2`, `models/english_dropout/checkpoints/2`; after one cycle
neither does the task). A head's output `z`, over all positions, is set to that of the corrupted prompt:

    total     its effect on the logit difference
    direct    the same, while nothing but the unembedding sees the change
    estimate  of the total by attribution, one gradient on the clean run

The mover is the head with the most negative direct effect. Then it is ablated, and each later head's response is told
apart: what that head, as it is now, puts straight into the logit difference in place of what it did. A positive
response repairs. Backups are the three heads that repair most. Both are chosen on other prompts than those that are
evaluated. Intervals are from a bootstrap over prompts: they say nothing about other seeds of training.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import numpy as np
import xarray as xr
from common import Claim, interval
from matplotlib.figure import Figure

import jaxinterp as ji

MODELS = Path(__file__).parents[1] / "models"

#: Name -> folder of weights: what `python models/english/train.py` has in its `cycles/2`, and with `--attn-dropout 0.1
#: --cycles 2 --folder FOLDER`.
FOLDERS: Mapping[str, Path] = {
    "without dropout": MODELS / "english" / "checkpoints" / "2",
    "with dropout": MODELS / "english_dropout" / "checkpoints" / "2",
}

#: Heads that count as backups.
BACKUPS = 3


@dataclass(frozen=True)
class Effects:
    """One model's, averaged over prompts, float[1 + draws, head]; heads are counted through all layers.

    Attributes:
      mover: the number of the head that is ablated. backups: those of the heads that stand in for it.
      total, direct, estimate: of each head alone.
      response: of each head to the mover's ablation. conditional: the total effect where the mover is ablated already.
      whole: float[1 + draws], the effect of the corrupted prompt.
      right: float[1 + draws], the share of clean prompts whose right name has the larger logit.
    """

    n_heads: int
    mover: int
    backups: np.ndarray
    total: np.ndarray
    direct: np.ndarray
    estimate: np.ndarray
    response: np.ndarray
    conditional: np.ndarray
    whole: np.ndarray
    right: np.ndarray

    def repaired(self) -> np.ndarray:
        """What other heads' responses make good of the mover's direct effect, float[1 + draws]."""
        return -self.response.sum(axis=1) / self.direct[:, self.mover]

    def effective_heads(self) -> np.ndarray:
        """Over how many heads direct effects are spread, (sum |d|)^2 / sum d^2, float[1 + draws]."""
        return np.abs(self.direct).sum(axis=1) ** 2 / (self.direct**2).sum(axis=1)

    def lost(self) -> np.ndarray:
        """The mover's total effect as a share of the way to the corrupted prompt, float[1 + draws]."""
        return self.total[:, self.mover] / self.whole

    def of_backups(self, values: np.ndarray) -> np.ndarray:
        """The mean size of the backups' effects, float[1 + draws]."""
        return np.abs(values[:, self.backups]).mean(axis=1)

    def rank_of_backups(self, values: np.ndarray) -> np.ndarray:
        """The backups' mean place among all heads by size, 1 is the largest, float[1 + draws]."""
        ranks = 1 + np.argsort(np.argsort(-np.abs(values), axis=1, kind="stable"), axis=1)
        return ranks[:, self.backups].mean(axis=1)

    def name(self, head: int) -> str:
        """A head as layer.head."""
        return f"{head // self.n_heads}.{head % self.n_heads}"


Results = Mapping[str, Effects]

ANOMALY, REDUNDANCY = "Comparing ranks: Fun observations", "How does redundancy & superposition change the picture?"

#: Written before the first run.
CLAIMS = (
    Claim(
        ANOMALY,
        "when a name mover head is ablated the other heads compensate for it",
        "share of the mover's direct effect that other heads' responses repair, with dropout",
        lambda found: found["with dropout"].repaired(),
        at_least=0,
    ),
    Claim(
        REDUNDANCY,
        "in models trained with dropout it is clear that models will learn serial redundancy",
        "the same share, with dropout less without",
        lambda found: found["with dropout"].repaired() - found["without dropout"].repaired(),
        at_least=0,
    ),
    Claim(
        REDUNDANCY,
        "this also incentivises parallel redundancy: better to spread out the parts that can be dropped out",
        "effective number of heads with direct effects, with dropout less without",
        lambda found: found["with dropout"].effective_heads() - found["without dropout"].effective_heads(),
        at_least=0,
    ),
    Claim(
        REDUNDANCY,
        "storing a crucial connection in a single head is crazy",
        "share of the way that the mover's ablation goes, without dropout less with",
        lambda found: found["without dropout"].lost() - found["with dropout"].lost(),
        at_least=0,
    ),
    Claim(
        REDUNDANCY,
        "head 2 does nothing relevant by default",
        "size of the backups' total effects over that behind the mover's ablation, with dropout",
        lambda found: (
            found["with dropout"].of_backups(found["with dropout"].total)
            / found["with dropout"].of_backups(found["with dropout"].conditional)
        ),
        at_most=0.5,
    ),
    Claim(
        ANOMALY,
        "any linear approximation will likely have a big effect and will flag the redundant head as important",
        "size of the backups' estimates less that of their total effects, with dropout, in logits",
        lambda found: (
            found["with dropout"].of_backups(found["with dropout"].estimate)
            - found["with dropout"].of_backups(found["with dropout"].total)
        ),
        at_least=0,
    ),
    Claim(
        ANOMALY,
        "attribution patching's linear approximation is a feature, not a bug here",
        "mean rank of the backups by total effect less that by estimate, with dropout",
        lambda found: (
            found["with dropout"].rank_of_backups(found["with dropout"].total)
            - found["with dropout"].rank_of_backups(found["with dropout"].estimate)
        ),
        at_least=0,
    ),
)


def direct_effects(pair: Mapping[str, Any], **how: Any) -> xr.DataArray:
    """Each head's effect, prompt by prompt, while nothing but the unembedding sees the change."""
    return ji.path_patching(
        **pair, senders={"z": ji.at()}, receivers={"resid_final": ji.at()}, over=("sender_layer", "sender_head"),
        per_example=True, **how,
    )  # fmt: skip


def responses(pair: Mapping[str, Any], mover: Mapping[str, ji.Intervention]) -> xr.DataArray:
    """What each head puts straight into the metric when the mover is ablated, less what it did; not the mover's own."""
    return direct_effects({**pair, "source": pair["base"]}, source_interventions=mover)


def ablated(pair: Mapping[str, Any], mover: int) -> dict[str, ji.Intervention]:
    """The edit that sets a head's output to that of the corrupted prompts."""
    model = pair["model"]
    _, cache = model.apply(pair["params"], pair["source"].tokens, capture=("z",))
    layer, head = divmod(mover, model.config.n_heads)
    return {"z": ji.replace(cache["z"], ji.at(layer=layer, head=head))}


def measured(model: Any, params: Any, chosen_on: ji.TokenPairs, pairs: ji.TokenPairs, draws: np.ndarray) -> Effects:
    """Chooses the mover and its backups on some prompts, and measures everything on others."""

    def noising(pairs: ji.TokenPairs) -> dict[str, Any]:
        metric = ji.logit_diff(pairs.correct, pairs.wrong)
        return {"model": model, "params": params, "base": pairs.clean, "source": pairs.corrupted, "metric": metric}

    pair, everything = noising(chosen_on), np.full((1, len(chosen_on)), 1 / len(chosen_on))
    mover = int(common.mean_effects(direct_effects(pair), everything)[0].argmin())
    response = common.mean_effects(responses(pair, ablated(pair, mover)), everything)[0]
    response[mover] = -np.inf
    backups = np.argsort(-response)[:BACKUPS]

    pair = noising(pairs)
    edit, heads = ablated(pair, mover), {"site": "z", "over": ("layer", "head"), "per_example": True}

    def mean(effects: xr.DataArray) -> np.ndarray:
        return common.mean_effects(effects, draws)

    response = mean(responses(pair, edit))
    response[:, mover] = 0
    everything = {"sets": [{"resid_pre": ji.at(layer=0)}], "per_example": True}
    last = model.apply(params, pairs.clean.tokens, positions=[-1])[0][:, 0]
    own, other = (np.take_along_axis(np.asarray(last), ids[:, None], 1)[:, 0] for ids in (pairs.correct, pairs.wrong))
    return Effects(
        model.config.n_heads, mover, backups,
        total=mean(ji.activation_patching(**pair, **heads)),
        direct=mean(direct_effects(pair)),
        estimate=mean(ji.attribution_patching(**pair, **heads)),
        response=response,
        conditional=mean(ji.activation_patching(**pair, **heads, base_interventions=edit)),
        whole=mean(ji.activation_patching(**pair, **everything))[:, 0],
        right=draws @ (own > other),
    )  # fmt: skip


def report(found: Results) -> str:
    """The tables."""
    names = {
        "prompts that are answered right": lambda effects: effects.right,
        "repaired share of the mover's direct effect": Effects.repaired,
        "effective number of heads": Effects.effective_heads,
        "share of the way by the mover's ablation": Effects.lost,
    }
    rows = [[name, *(str(interval(of(effects))) for effects in found.values())] for name, of in names.items()]
    lines = [common.table(["quantity", *found], rows)]
    for name, effects in found.items():
        rows = [
            [
                f"{effects.name(head)} {'mover' if head == effects.mover else 'backup'}",
                *(str(interval(values[:, head])) for values in _columns(effects).values()),
            ]
            for head in (effects.mover, *effects.backups)
        ]
        lines.append(f"{name}, in logits\n\n" + common.table(["head", *_columns(effects)], rows))
    return "\n\n".join(lines)


def _columns(effects: Effects) -> dict[str, np.ndarray]:
    names = ("direct", "total", "estimate", "response", "conditional")
    return {name: getattr(effects, name) for name in names}


def figure_of(found: Results) -> Figure:
    """For each model: total against direct effects, responses to the mover's ablation, estimates against totals."""
    figure = Figure(figsize=(13, 8.4), layout="constrained")
    widest = max(np.abs(effects.response[0]).max() for effects in found.values())
    for row, (name, effects) in zip(figure.subplots(2, 3), found.items(), strict=True):
        special = {effects.mover: "C3"} | {int(head): "C0" for head in effects.backups}
        colours = [special.get(head, "0.6") for head in range(effects.total.shape[1])]
        for axes, x, x_name in ((row[0], effects.direct, "direct effect"), (row[2], effects.estimate, "estimate")):
            axes.scatter(x[0], effects.total[0], c=colours, s=28)
            ends = [min(x[0].min(), effects.total[0].min()), max(x[0].max(), effects.total[0].max())]
            axes.plot(ends, ends, color="0.7", linewidth=1, zorder=0)
            for number, head in enumerate(special):
                axes.annotate(effects.name(head), (x[0, head], effects.total[0, head]), xytext=(6, 4 - 11 * number),
                              textcoords="offset points", fontsize=8)  # fmt: skip
            axes.set(xlabel=f"{x_name} (logits)", ylabel="total effect (logits)", title=f"{name}: {x_name}")
            axes.grid(alpha=0.3)
        grid = effects.response[0].reshape(-1, effects.n_heads)
        image = row[1].imshow(grid, cmap="RdBu", vmin=-widest, vmax=widest)
        for (layer, head), value in np.ndenumerate(grid):
            own = layer * effects.n_heads + head == effects.mover
            colour = "white" if abs(value) > 0.6 * widest else "black"
            text = "mover" if own else f"{value:.2f}"
            row[1].text(head, layer, text, ha="center", va="center", fontsize=8, color=colour)
        row[1].set(xlabel="head", ylabel="layer", title=f"{name}: response to the mover's ablation")
        figure.colorbar(image, ax=row[1], label="put into the logit difference (logits); blue repairs")
    figure.suptitle("Noising single heads: the mover red, its backups blue")
    return figure


def main() -> None:
    asked = common.options(__doc__, n=64)
    if missing := [str(folder) for folder in FOLDERS.values() if not (folder / "config.json").exists()]:
        train = "python models/english/train.py --attn-dropout 0.1 --cycles 2 --folder models/english_dropout"
        raise SystemExit(f"{missing[0]} is not there: {train}")
    draws = common.weights(asked.n, asked.seed)
    found: dict[str, Effects] = {}
    for name, folder in FOLDERS.items():
        model, params, tokenizer = ji.load(folder)
        if tokenizer is None:
            raise ValueError(f"{folder} has no tokenizer")
        pairs = [common.one_layout(asked.n, seed, tokenizer) for seed in (asked.seed + 1, asked.seed)]
        found[name] = measured(model, params, *pairs, draws)
    print(report(found))
    judged = common.verdicts(CLAIMS, found)
    told = {
        "n": asked.n, "seed": asked.seed, "claims": judged,
        "models": {
            name: {
                "folder": FOLDERS[name].relative_to(MODELS.parent).as_posix(),
                "mover": effects.name(effects.mover),
                "backups": [effects.name(int(head)) for head in effects.backups],
                "heads": {
                    column: {effects.name(head): interval(values[:, head]) for head in range(values.shape[1])}
                    for column, values in _columns(effects).items()
                },
                "whole": interval(effects.whole), "right": interval(effects.right),
            }
            for name, effects in found.items()
        },
    }  # fmt: skip
    common.write(asked.output, "redundancy", told, figure_of(found))


if __name__ == "__main__":
    main()
