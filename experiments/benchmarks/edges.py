"""Edge attribution: jaxinterp beside a straightforward implementation with TransformerLens' hooks.

    python experiments/benchmarks/edges.py

A model in GPT-2-small's shape with random float32 weights, the same in both; 8 prompts of 15 tokens that differ from
token 0 on, the logit difference at the last position. EAP takes one gradient of the corrupted run, EAP-IG five on the
embedding's way to the clean one, at the same points in both. Every score is compared.

The usual implementation lets parameters take gradients, as models come; it is measured with frozen parameters as well.
Each method runs in a process of its own, one after the other. Times are warm medians. Memory is the largest resident
size beyond that after loading the model and a forward: in warm calls, and in the first one, which compiles ours. A warm
call's alone, beyond the size just before it, leaves out what the first one left behind: compiled programs, imports and
the gradients of parameters. What XLA says of our program, beside its arguments, is given as well.
"""

import argparse
import dataclasses
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from attribution import temporary_bytes
from peers.environments import PEERS, environment, tell
from safetensors.numpy import save_file
from sweep import HERE, SHAPES, TOLERANCE, Pair, random_pair, random_params, table

import jaxinterp as ji
from jaxinterp.attribution import edges
from jaxinterp.attribution.integrated import quadrature

OURS, THEIRS, FROZEN = "jaxinterp", "transformer_lens", "transformer_lens, frozen"


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to take gradients: `rule` None is one of the base run."""

    name: str
    rule: str | None = None
    steps: int = 1

    @property
    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """(how far the embedding has gone at each gradient, its weight)."""
        return (np.zeros(1), np.ones(1)) if self.rule is None else quadrature(self.rule, self.steps)


def edge_count(n_layers: int, n_heads: int) -> int:
    """How many edges a model has whose MLPs read after the heads; 32,491 for 12 layers of 12 heads."""
    before = [1 + layer * (n_heads + 1) for layer in range(n_layers + 1)]
    return sum(3 * n_heads * n + n + n_heads for n in before[:-1]) + before[-1]


def ask(
    who: str, python: str, config: ji.TransformerConfig, weights: Path, pair: Pair, method: Method, repetitions: int
) -> tuple[dict[str, Any], np.ndarray]:
    """(seconds and bytes, scores) of one library and method, in a process of its own."""
    fractions, counts = method.points
    job = {
        "sizes": {name: getattr(config, name) for name in SHAPES["gpt2"]}, "sweeps": [],
        "correct": pair.correct.tolist(), "wrong": pair.wrong.tolist(),
        "base": pair.corrupted.tolist(), "source": pair.clean.tolist(),
        "fractions": fractions.tolist(), "weights": counts.tolist(), "rule": method.rule,
        "frozen": who == FROZEN, "repetitions": repetitions,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "job.json").write_text(json.dumps(job))
        Path(folder, weights.name).symlink_to(weights)
        quiet = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
        tell(f"{who}, {method.name}")
        module = f"peers.edges_{who.partition(',')[0]}"
        subprocess.run([python, "-m", module, folder], cwd=HERE, env=quiet, stdout=sys.stderr, check=True)
        return json.loads(Path(folder, "told.json").read_text()), np.load(Path(folder, "scores.npy"))


def program_bytes(model: ji.Transformer, params: dict[str, jax.Array], pair: Pair, method: Method) -> int:
    """What XLA takes beside arguments and results."""
    prompts, other = ji.Prompts(pair.corrupted), ji.Prompts(pair.clean)
    metric = ji.logit_diff(pair.correct, pair.wrong)
    arguments = model, params, prompts, {}, other, {}, metric, *method.points
    return temporary_bytes(edges._by_inputs.lower(*arguments, by_position=False))[0]


def compare(
    method: Method, peer: str, told: dict[str, dict[str, Any]], scores: dict[str, np.ndarray]
) -> dict[str, Any]:
    """How far a peer's scores are from ours, and its costs over ours."""
    there = ~np.isnan(scores[OURS])
    ours, theirs = scores[OURS][there], scores[peer][there]
    if scores[peer][~there].any():
        raise SystemExit(f"{peer} scores edges that we do not")
    costs = ("seconds", "processor_seconds", "bytes", "call_bytes", "first_bytes")
    return {
        "method": method.name, "peer": peer, "edges": int(there.sum()),
        "largest_score": float(abs(ours).max()), "difference": float(abs(ours - theirs).max()),
        "ratios": {name: told[peer][name] / told[OURS][name] for name in costs},
    }  # fmt: skip


def report(result: dict[str, Any]) -> str:
    """The tables."""
    costs = [
        [
            row["method"], row["library"], f"{row['seconds']:.3f}", f"{row['processor_seconds']:.3f}",
            f"{row['first_seconds']:.3f}", f"{row['bytes'] / 2**20:.0f}",
            f"{row['call_bytes'] / 2**20:.0f}", f"{row['first_bytes'] / 2**20:.0f}",
            f"{row['program_bytes'] / 2**20:.0f}" if "program_bytes" in row else "",
        ]
        for row in result["costs"]
    ]  # fmt: skip
    ratios = [
        [
            row["method"], row["peer"], f"{row['edges']:,}", f"{row['largest_score']:.2g}", f"{row['difference']:.0e}",
            *(f"{ratio:.1f}" for ratio in row["ratios"].values()),
        ]
        for row in result["compared"]
    ]  # fmt: skip
    head = ["method", "library", "s", "processor s", "first s", "MiB beyond the model", "a call's", "first", "XLA's"]
    text = table(head, costs) + "\n\ndifference: largest of a score to ours; x: theirs / ours\n\n"
    head = [
        "method",
        "peer",
        "edges",
        "largest score",
        "difference",
        "x s",
        "x processor s",
        "x MiB",
        "x a call's",
        "x first",
    ]
    return text + table(head, ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("jaxinterp-results"), help="folder for edges.json")
    parser.add_argument("--environments", type=Path, default=Path("~/.cache/jaxinterp-benchmarks"))
    parser.add_argument("--shape", choices=SHAPES, default="gpt2")
    parser.add_argument("--rule", choices=("left", "right", "midpoint", "gauss-legendre"), default="right")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--repetitions", type=int, default=7)
    options = parser.parse_args()
    peer = next(peer for peer in PEERS if peer.name == THEIRS)
    theirs = environment(peer, options.environments)
    pythons = {OURS: sys.executable, THEIRS: theirs, FROZEN: theirs}
    model = ji.Transformer(ji.TransformerConfig(**SHAPES[options.shape]))
    params, pair = random_params(model), random_pair(0, 8, 15, model.config.d_vocab)

    costs, compared = [], []
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "weights.safetensors")
        save_file({name: np.asarray(weight) for name, weight in params.items()}, weights)
        for method in (Method("EAP"), Method("EAP-IG", options.rule, options.steps)):
            told, scores = {}, {}
            for who, python in pythons.items():
                answer = ask(who, python, model.config, weights, pair, method, options.repetitions)
                told[who], scores[who] = answer
            told[OURS]["program_bytes"] = program_bytes(model, params, pair, method)
            costs += [{"method": method.name, "library": who, **each} for who, each in told.items()]
            compared += [compare(method, who, told, scores) for who in (THEIRS, FROZEN)]

    result = {
        "machine": {"system": platform.platform(), "cores": os.cpu_count(), "jax": version("jax")},
        "direction": "gradients of the corrupted run, difference clean - corrupted", "shape": options.shape,
        "prompts": list(pair.clean.shape), "rule": options.rule, "steps": options.steps,
        "installs": {peer.name: peer.installs}, "costs": costs, "compared": compared,
    }  # fmt: skip
    print(report(result))
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "edges.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    tell(f"wrote {path}")
    expected = edge_count(model.config.n_layers, model.config.n_heads)
    for row in compared:
        if row["edges"] != expected:
            raise SystemExit(f"{row['method']}: {row['edges']:,} edges have a score, of {expected:,}")
        if not row["difference"] <= TOLERANCE:
            raise SystemExit(f"{row['method']}: scores differ from {row['peer']}'s by {row['difference']:.1e}")


if __name__ == "__main__":
    main()
