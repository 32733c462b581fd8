"""Causal scrubbing of the classifier of brackets: Redwood's claims 1 to 3, on a model that was trained here.

    python experiments/scrub_brackets.py

The source finds, on a model of its own with the same shape of blocks, that the output reads the count of brackets from
two heads and the horizon from a third, *directly* (claim 1); that the count is read at position 1 from the share of "("
that a head of layer 0 writes there (2); that the horizon head reads it position by position (3). It recovers 93 % (1),
88 % (1+2), 84 % (1+3; its published code 71 to 74 %), 72 % (1+2+3).

Two readings are scrubbed: "direct", the source's, and "by way of MLPs", where the output may read heads also through
the MLPs at position 0, for a first look at this model, before this protocol, showed that it reads little else than
its last MLP. Heads get their roles on other strings than those that are scrubbed, by ablation: each head is resampled
alone; those that raise the loss by 1 % of the loss of random outputs or more are important. The horizon head is, of
those whose ablation hurts strings that fail the horizon alone more than strings that fail the count alone, the one that
hurts most; all other important heads are count heads. Of layer 0, the head whose resampling at position 1 costs claim
1+2 most writes the share. If no heads are important, those of the source's model are scrubbed.

A claim is held if the whole 95 % interval of what is recovered lies above the source's value less 5 points. Intervals
are clustered by string. Controls: nothing claimed; the output itself claimed; claim 1b with the horizon head labelled
by a shuffled feature, by an unrelated one (whether the third bracket is "("), by a wrong one that correlates with the
right one (the label), and with that head not claimed.
"""

import argparse
import dataclasses
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from common import table
from matplotlib.figure import Figure

import jaxinterp as ji
from jaxinterp.scrubbing import rewrites, transformer_graph, what_hurts
from jaxinterp.scrubbing.brackets import Roles, bracket_claims
from jaxinterp.tasks.brackets import OPEN, balanced, count, horizon

#: The strings: which give the heads their roles, and which are scrubbed. Fixed before any scrubbing.
SELECTION = {"seed": 6, "split": "train"}
EVALUATION = {"seed": 7, "split": "held_out"}

#: Claim -> (arguments of `bracket_claims`, what the source recovers).
CLAIMS: dict[str, tuple[dict[str, Any], float]] = {
    "1a": ({"claim": "1", "start": False}, 0.88),
    "1b": ({"claim": "1"}, 0.93),
    "1+2 (2a)": ({"claim": "1+2"}, 0.88),
    "1+2 (2b)": ({"claim": "1+2", "phi": True}, 0.88),
    "1+3 (3a)": ({"claim": "1+3"}, 0.84),
    "1+2+3": ({"claim": "1+2+3"}, 0.72),
}

#: MLPs through which the output reads heads.
READINGS: dict[str, tuple[str, ...]] = {"direct": (), "by way of MLPs": ("m0", "m1", "m2")}

#: What a claim may fall below the source's value and still be held.
MARGIN = 0.05


def importance(model: Any, params: Any, data: Any, through: tuple[str, ...], n: int, key: jax.Array) -> dict[str, Any]:
    """For each head: how much the loss rises if what the output reads of it is resampled, overall and by class."""
    graph = rewrites.hide(transformer_graph(model, params, data[:32], read=0), through, reader="logits")
    parents = graph.parents("logits")
    classes = np.stack([count(data.tokens), horizon(data.tokens)], axis=1)
    features = {"out": ji.Feature(classes, parents)} | {node: ji.Feature() for node in parents}
    of = {"out": "logits"} | {node: node for node in parents}
    found = {}
    for head in (node for node in parents if ".h" in node):
        samplers = dict.fromkeys(parents, "exact") | {head: "unconditional"}
        result = ji.scrub(ji.Hypothesis(graph, features, of, samplers), params, data, num_samples=n, key=key)
        each = dict(zip(result.by_class["class"].values.tolist(), result.by_class.loss.values.tolist(), strict=True))
        found[head] = {
            "loss": result.loss - result.model_loss, "share": 1 - result.recovered,
            "count fails": each["[False  True]"], "horizon fails": each["[ True False]"],
        }  # fmt: skip
    return found


def roles_of(model: Any, params: Any, data: Any, through: tuple[str, ...], n: int, key: jax.Array) -> tuple[Roles, Any]:
    """(the heads' roles by the rule above, what they rest on)."""
    found = importance(model, params, data, through, n, key)
    important = [head for head, by in found.items() if by["share"] >= 0.01]
    about_horizon = [head for head in important if found[head]["horizon fails"] > found[head]["count fails"]]
    if not about_horizon or len(important) < 2:
        return Roles(), found  # no head plays a role: the source's names serve
    read = max(about_horizon, key=lambda head: found[head]["loss"])

    def place(head: str) -> tuple[int, int]:
        layer, number = head[1:].split(".h")
        return int(layer), int(number)

    counts = tuple(place(head) for head in important if head != read and place(head)[0] > 0)
    roles = Roles(counts, place(read), (0, 0))
    costs = {}
    for head in range(model.config.n_heads):
        claim = bracket_claims(
            model, params, data, "1+2", roles=dataclasses.replace(roles, proportion=(0, head)), through=through
        )
        without = dataclasses.replace(claim, samplers={**claim.samplers, "share of ( from position 1": "unconditional"})
        scores = [ji.scrub(one, params, data, num_samples=n // 4, key=key).recovered for one in (claim, without)]
        costs[f"a0.h{head} at position 1"] = {"cost": scores[0] - scores[1]}
    writer = int(np.argmax([cost["cost"] for cost in costs.values()]))
    return dataclasses.replace(roles, proportion=(0, writer)), found | costs


def controls(claim: ji.Hypothesis, data: Any) -> dict[str, ji.Hypothesis]:
    """Hypotheses that ought to score in a known way."""
    rng = np.random.default_rng(0)
    names, of = dict(claim.interpretation), dict(claim.correspondence)
    root = names["balanced"]

    def labelled(values: Any) -> ji.Hypothesis:
        return dataclasses.replace(claim, interpretation=names | {"horizon": ji.Feature(values)})

    rest = tuple(parent for parent in root.parents if parent != "horizon")
    alone = {name: feature for name, feature in names.items() if name != "horizon"}
    alone["balanced"] = ji.Feature(root.values, rest)
    whole = {"balanced": ji.Feature(root.values)}
    return {
        "nothing claimed": ji.Hypothesis(claim.graph, whole, {"balanced": "logits"}, {"balanced": "unconditional"}),
        "the output itself": ji.Hypothesis(claim.graph, whole, {"balanced": "logits"}),
        "1b, horizon head: shuffled": labelled(rng.permutation(horizon(data.tokens))),
        "1b, horizon head: third bracket": labelled(np.asarray(data.tokens)[:, 3] == OPEN),
        "1b, horizon head: the label": labelled(balanced(data.tokens)),
        "1b, horizon head not claimed": ji.Hypothesis(
            claim.graph, alone, {name: of[name] for name in alone}, {"balanced": "exact"}
        ),
    }


def figure_of(found: dict[str, Any]) -> Figure:
    """What each claim recovers, beside the source's model."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    axes = figure.subplots()
    names = list(CLAIMS)
    places = np.arange(len(names))
    axes.bar(places - 0.28, [paper for _, paper in CLAIMS.values()], 0.26, color="0.75", label="the source's model")
    for number, (reading, results) in enumerate(found.items()):
        rows = [results["claims"][name] for name in names]
        errors = [1.96 * row["error"] for row in rows]
        axes.bar(places + 0.28 * number, [row["recovered"] for row in rows], 0.26, yerr=errors, capsize=3,
                 color=f"C{number}", label=f"this model, {reading}")  # fmt: skip
    axes.set(xticks=places, xticklabels=names, xlabel="claim", ylabel="performance recovered", ylim=(0, 1.05))
    axes.set_title("Causal scrubbing of the classifier of brackets")
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000, help="strings (default 10000)")
    parser.add_argument("--samples", type=int, default=200_000, help="samples for each claim (default 200000)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--output", type=Path, default=Path("jaxinterp-results"), help="folder for results")
    asked = parser.parse_args()
    model, params, _ = ji.load("brackets")
    selection, data = (ji.tasks.brackets(asked.n, **which) for which in (SELECTION, EVALUATION))
    key, found = jax.random.key(asked.seed), {}
    for reading, through in READINGS.items():
        roles, importances = roles_of(model, params, selection, through, asked.samples // 4, key)
        print(f"\n{reading}: {roles}\n")
        claims: dict[str, Any] = {}
        for name, (how, paper) in CLAIMS.items():
            claim = bracket_claims(model, params, data, roles=roles, through=through, **how)
            claims[name] = told(claim, params, data, asked.samples, key) | {"paper": paper}
            if name == "1b":
                others = {
                    label: told(control, params, data, asked.samples, key)
                    for label, control in controls(claim, data).items()
                }
                hurts = what_hurts(claim, params, data, num_samples=asked.samples // 4, key=key)
        for row in claims.values():
            row["verdict"] = "held" if row["recovered"] - 1.96 * row["error"] >= row["paper"] - MARGIN else "not held"
        rows = [
            [name, f"{row['loss']:.2f}", f"{row['accuracy']:.1%}", recovered(row),
             f"{row['paper']:.0%}" if "paper" in row else "", row.get("verdict", "")]
            for name, row in (claims | others).items()
        ]  # fmt: skip
        print(table(["hypothesis", "loss (nats)", "accuracy", "recovered", "source", "verdict"], rows))
        print("\nclaim 1b, with one part not resampled:\n")
        gains = hurts.gain.to_series()
        rows = [[part, str(hurts.kind.sel(part=part).item()), f"{gain:+.1%}"] for part, gain in gains.items()]
        print(table(["part", "kind", "gain"], rows))
        found[reading] = {
            "roles": dataclasses.asdict(roles), "importance": importances, "claims": claims, "controls": others,
            "gains": gains.to_dict(),
        }  # fmt: skip
    asked.output.mkdir(parents=True, exist_ok=True)
    result = {"model": "brackets", "jax": version("jax"), "n": asked.n, "samples": asked.samples, "seed": asked.seed}
    (asked.output / "scrub_brackets.json").write_text(json.dumps(result | {"readings": found}, indent=1) + "\n")
    figure_of(found).savefig(asked.output / "scrub_brackets.png", dpi=130)
    print(f"\nwrote {asked.output / 'scrub_brackets'}.json, .png")


def told(claim: ji.Hypothesis, params: Any, data: Any, n: int, key: jax.Array) -> dict[str, float]:
    """What a scrub found, as numbers."""
    result = ji.scrub(claim, params, data, num_samples=n, key=key)
    return {
        "recovered": result.recovered, "error": result.recovered_error, "loss": result.loss,
        "loss_error": result.loss_error, "accuracy": result.accuracy, "clipped_loss": result.clipped_loss,
        "random_loss": result.random_loss, "model_loss": result.model_loss,
    }  # fmt: skip


def recovered(row: dict[str, float]) -> str:
    """With its 95 % interval."""
    low, high = (row["recovered"] + sign * 1.96 * row["error"] for sign in (-1, 1))
    return f"{row['recovered']:.1%} ({low:.1%} to {high:.1%})"


if __name__ == "__main__":
    main()
