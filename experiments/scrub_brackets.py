"""Causal scrubbing of the classifier of brackets: Redwood's claims 1 to 3, on a model that was trained here.

    python experiments/scrub_brackets.py

The source finds, on a model of its own with the same shape of blocks, that the output reads the count of brackets from
two heads and the horizon from a third, *directly* (claim 1); that the count is read at position 1 from the share of "("
that a head of layer 0 writes there (2); that the horizon head reads it position by position (3). It recovers 93 % (1),
88 % (1+2), 84 % (1+3; its published code 71 to 74 %), 72 % (1+2+3).

Two readings are scrubbed: "direct", the source's, and "by way of MLPs", where the output may read heads also through
the MLPs at position 0, for a first look at this model, before this protocol, showed that it reads little else than
its last MLP. Heads get their roles on other strings than those that are scrubbed, by ablation: each head is resampled
alone; those that lose 1 % of the performance or more are important. The horizon head is, of those whose ablation hurts
strings that fail the horizon alone more than strings that fail the count alone, the one that hurts most; all other
important heads after layer 0 are count heads. Of layer 0, the head whose resampling at position 1 costs claim 1+2 most
writes the share. If fewer than two heads are important, or none is about the horizon, those of the source's model are
scrubbed.

A claim is held if the whole 95 % interval of what is recovered lies above the source's value less 5 points. Intervals
are clustered by string. Controls: nothing claimed; the output itself claimed; claim 1b with the horizon head labelled
by a shuffled feature, by an unrelated one (whether the third bracket is "("), by a wrong one that correlates with the
right one (the label), and with that head not claimed.

Beside claim 1b, its heads under zero, mean and resampling ablation, which ask only whether they matter; the smallest
set of direct parts that keeps 90 % (greedy); and what an adversary makes of it, who may refine any part by the claim's
features and draw two parts from one string.

Exploratory, for the first run had shown that the count heads tell more than claimed: claim 1b with other features for
them, the share of "(", the same with the length, and how many "(" there are more than ")".

Predictions from an explanation, on other near-miss strings: (i) claim 3b has the share of "(" that the layer-0 head
sees, which is not quite the share on the right; where the horizon is met by one and not by the other the explanation
says that the model errs, so that its error rate should be higher there (held if the 95 % interval of the difference
lies above 0); (ii) the mean loss of a string's scrubbed samples, in which that string itself is hardly ever run, should
rank strings as the model's own losses do (held if the interval of Spearman's correlation lies above 0; beside it, that
of their lengths). For (i) there are twenty times as many strings, for the model errs rarely.
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
from scipy.stats import spearmanr

import jaxinterp as ji
from jaxinterp.scrubbing import (
    ablations,
    adversary,
    direct_paths,
    rewrites,
    smallest_set,
    transformer_graph,
    what_hurts,
)
from jaxinterp.scrubbing.brackets import Roles, adjusted_proportion, bracket_claims
from jaxinterp.tasks.brackets import CLOSE, OPEN, balanced, count, horizon, horizon_classes, open_proportion

#: The strings: which give the heads their roles, and which are scrubbed. Fixed before any scrubbing.
SELECTION = {"seed": 6, "split": "train"}
EVALUATION = {"seed": 7, "split": "held_out"}
PREDICTION = {"seed": 8, "split": "held_out"}

#: Claim -> (arguments of `bracket_claims`, what the source recovers).
CLAIMS: dict[str, tuple[dict[str, Any], float]] = {
    "1a": ({"claim": "1", "start": False}, 0.88),
    "1b": ({"claim": "1"}, 0.93),
    "1+2 (2a)": ({"claim": "1+2"}, 0.88),
    "1+2 (2b)": ({"claim": "1+2", "phi": True}, 0.88),
    "1+3 (3a)": ({"claim": "1+3"}, 0.84),
    "1+3 (3b)": ({"claim": "1+3", "adjusted": True}, 0.84),
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


def other_counts(claim: ji.Hypothesis) -> dict[str, ji.Hypothesis]:
    """Claim 1b with other features for the count heads."""

    def more_open(data: Any) -> np.ndarray:
        tokens = np.asarray(data.tokens)
        return (tokens == OPEN).sum(1) - (tokens == CLOSE).sum(1)

    def share(data: Any) -> np.ndarray:
        return open_proportion(data.tokens)[:, 0].round(9)

    def with_length(data: Any) -> np.ndarray:
        return np.stack([share(data), np.asarray(data.lengths)], axis=1)

    features = {"more ( than )": more_open, 'share of "("': share, 'share of "(", length': with_length}
    heads = [name for name in claim.interpretation if name.startswith("count of")]
    return {
        f"1b, count heads: {label}": dataclasses.replace(
            claim, interpretation={**claim.interpretation, **dict.fromkeys(heads, ji.Feature(feature))}
        )
        for label, feature in features.items()
    }


def predictions(
    model: Any, params: Any, strings: Any, seen: Any, claim: ji.Hypothesis, roles: Roles, n: int, key: jax.Array
) -> dict[str, Any]:
    """How well an explanation tells where the model errs, on strings that played no part in finding it."""
    n_scrubbed = len(seen.tokens)
    logits = np.concatenate([
        np.asarray(model.apply(params, part.tokens, mask=part.mask)[0][:, 0])
        for part in (strings[at : at + 1000] for at in range(0, len(strings), 1000))
    ])  # fmt: skip
    wrong = logits.argmax(1) != strings.label
    share = adjusted_proportion(model, params, seen, roles.proportion)(np.asarray(strings.tokens))
    flagged = (horizon_classes(strings.tokens, share) >= 0).all(1) != (horizon_classes(strings.tokens) >= 0).all(1)
    rates = {
        name: (float(wrong[own].mean()), int(own.sum())) for name, own in (("flagged", flagged), ("not", ~flagged))
    }
    difference = rates["flagged"][0] - rates["not"][0]
    error = float(np.sqrt(sum(rate * (1 - rate) / max(1, count) for rate, count in rates.values())))
    losses = -np.asarray(jax.nn.log_softmax(logits))[np.arange(len(logits)), strings.label]
    rng = np.random.default_rng(0)
    predicted = ji.scrub(claim, params, strings[:n_scrubbed], num_samples=n, key=key).by_datum.loss.values
    ranks = {}
    for name, by in (("claim 1b", predicted), ("the length", np.asarray(strings.lengths[:n_scrubbed]))):
        some = rng.integers(0, n_scrubbed, (200, n_scrubbed))
        low, high = np.percentile([spearmanr(by[own], losses[own]).statistic for own in some], [2.5, 97.5])
        correlation = spearmanr(by, losses[:n_scrubbed]).statistic
        ranks[name] = {"correlation": float(correlation), "interval": [float(low), float(high)]}
    return {
        "rates": rates, "difference": difference, "error": error,
        # without an error on either side there is nothing to predict
        "verdict": "held" if difference - 1.96 * error > 0 else "not held" if wrong.any() else "cannot be told",
        "ranks": ranks, "rank verdict": "held" if ranks["claim 1b"]["interval"][0] > 0 else "not held",
    }  # fmt: skip


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
    other_strings = ji.tasks.brackets(20 * asked.n, **PREDICTION)
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
                run = {"num_samples": asked.samples // 4, "key": key}
                explored = {
                    label: told(other, params, data, asked.samples, key) for label, other in other_counts(claim).items()
                }
                hurts = what_hurts(claim, params, data, **run)
                beside = ablations(claim, params, data, **run)
                attack = adversary(claim, params, data, **run)
                smallest = smallest_set(direct_paths(claim.graph), params, data, keep=0.9, **run)
                predicted = predictions(model, params, other_strings, selection, claim, roles, asked.samples, key)
        for row in claims.values():
            row["verdict"] = "held" if row["recovered"] - 1.96 * row["error"] >= row["paper"] - MARGIN else "not held"
        rows = [
            [name, f"{row['loss']:.2f}", f"{row['accuracy']:.1%}", recovered(row),
             f"{row['paper']:.0%}" if "paper" in row else "", row.get("verdict", "")]
            for name, row in (claims | others | explored).items()
        ]  # fmt: skip
        print(table(["hypothesis", "loss (nats)", "accuracy", "recovered", "source", "verdict"], rows))
        print("\nclaim 1b, with one part not resampled:\n")
        gains = hurts.gain.to_series()
        rows = [[part, str(hurts.kind.sel(part=part).item()), f"{gain:+.1%}"] for part, gain in gains.items()]
        print(table(["part", "kind", "gain"], rows))
        print("\nthe heads of claim 1b, what is left out ablated:\n")
        rows = [[test, f"{row.recovered:.1%}", f"{row.accuracy:.1%}"] for test, row in beside.to_dataframe().iterrows()]
        print(table(["test", "recovered", "accuracy"], rows))
        print(f"\nan adversary of claim 1b ({len(attack.tried.move)} moves tried):\n{attack}")
        kept = ", ".join(smallest.attrs["kept"])
        print(f"\nthe smallest set that keeps 90 %: {kept} ({smallest.attrs['recovered']:.1%})")
        flagged, rest = predicted["rates"]["flagged"], predicted["rates"]["not"]
        print(
            f"\nerrors where the explanation's horizon is not the true one: {flagged[0]:.3%} of {flagged[1]:,} strings,"
            f" elsewhere {rest[0]:.3%} of {rest[1]:,}: {predicted['verdict']}"
        )
        for name, rank in predicted["ranks"].items():
            low, high = rank["interval"]
            print(f"rank correlation of losses, {name}: {rank['correlation']:.2f} ({low:.2f} to {high:.2f})")
        print(f"of claim 1b: {predicted['rank verdict']}")
        found[reading] = {
            "roles": dataclasses.asdict(roles), "importance": importances, "claims": claims, "controls": others,
            "gains": gains.to_dict(), "explored": explored, "ablations": beside.to_dataframe().to_dict("index"),
            "adversary": {"plain": attack.plain.recovered, "worst": attack.worst.recovered, "moves": attack.moves,
                          "lost": attack.lost, "error": attack.lost_error, "tried": len(attack.tried.move)},
            "smallest": {"left out": smallest.feature.values.tolist(), **smallest.attrs}, "predictions": predicted,
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
