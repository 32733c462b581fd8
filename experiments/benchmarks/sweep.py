"""How long exact sweeps take: jaxinterp beside TransformerLens, nnsight, penzai and its own plain path.

    python experiments/benchmarks/sweep.py

A model in GPT-2-small's shape with random float32 weights, the same in every library; 8 prompts of 15 tokens; the
metric is the logit difference at the last position. Denoising: the corrupted run is patched with clean activations.
Prompt pairs differ from token 10 on, or from token 0 on. Every effect is compared with the peer's.

Peers run one after the other, each in a virtual environment of its own that is made on first use. Their cost per patch
does not depend on where it is, so long sweeps are timed on a sample of their lines (all positions of a head, say) and
scaled up. Their time is divided by ours (all of a call, warm) in two ways: per cell asked for, and per cell that can
differ, as a user who skips the identical prefix by hand would have it.

The arithmetic rate counts only the operations that the patches need (`operations.py`), against the rate that large
matrix products of this process keep up over seconds, measured before and after each repetition; "with runs" adds the
base and the source run. The fastest single product is given as well: a machine shared with others reaches it at times.
"""

import argparse
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from operations import patch_operations, run_operations
from peers.environments import PEERS, Peer, environment, tell
from peers.job import lines
from safetensors.numpy import save_file

import jaxinterp as ji

HERE = Path(__file__).resolve().parent
TOLERANCE = 1e-4
GPT2 = {"n_layers": 12, "n_heads": 12, "d_model": 768, "d_head": 64, "d_mlp": 3072, "d_vocab": 50257, "n_ctx": 1024}
TINY = {"n_layers": 3, "n_heads": 4, "d_model": 64, "d_head": 16, "d_mlp": 256, "d_vocab": 101, "n_ctx": 32}
SHAPES = {"gpt2": {**GPT2, "eps": 1e-5}, "tiny": {**TINY, "eps": 1e-5}}


@dataclasses.dataclass(frozen=True)
class Question:
    """A sweep: what is patched, along which axes, and how many of its lines peers are timed on (None: all)."""

    name: str
    site: str
    axes: tuple[str, ...]
    sampled_lines: int | None


@dataclasses.dataclass(frozen=True)
class Pair:
    """Prompts, int[batch, pos], that differ from column `first` on; the two tokens whose logits are compared."""

    first: int
    clean: np.ndarray
    corrupted: np.ndarray
    correct: np.ndarray
    wrong: np.ndarray

    @property
    def name(self) -> str:
        return f"from token {self.first}"


QUESTIONS = (
    Question("heads", "z", ("layer", "head"), None),
    Question("heads by position", "z", ("layer", "head", "pos"), 8),
    Question("resid_pre by position", "resid_pre", ("layer", "pos"), 6),
)


def random_params(model: ji.Transformer) -> dict[str, jax.Array]:
    """Weights as at GPT-2's initialisation, with biases and norms moved off 0 and 1, so that a peer must have them."""
    params = model.init(jax.random.key(0))
    keys = dict(zip(params, jax.random.split(jax.random.key(1), len(params)), strict=True))
    vectors = [name for name in params if name.startswith("b_") or name.startswith("ln")]
    return params | {name: params[name] + 0.02 * jax.random.normal(keys[name], params[name].shape) for name in vectors}


def random_pair(first: int, batch: int, pos: int, d_vocab: int) -> Pair:
    """Random prompts, of which the corrupted ones have other tokens in every column from `first` on."""
    rng = np.random.default_rng(0)
    clean, shift = rng.integers(0, d_vocab, (batch, pos)), rng.integers(1, d_vocab, (batch, pos))
    correct, away = rng.integers(0, d_vocab, batch), rng.integers(1, d_vocab, batch)
    corrupted = np.where(np.arange(pos) < first, clean, (clean + shift) % d_vocab)
    return Pair(first, clean, corrupted, correct, (correct + away) % d_vocab)


def cells_of(question: Question, config: ji.TransformerConfig, n_pos: int) -> np.ndarray:
    """int[cell, axis]: every cell of a sweep, the last axis fastest."""
    lengths = {"layer": config.n_layers, "head": config.n_heads, "pos": n_pos}
    shape = [lengths[axis] for axis in question.axes]
    return np.indices(shape).reshape(len(shape), -1).T


def can_differ(question: Question, cells: np.ndarray, pair: Pair) -> np.ndarray:
    """bool[cell]: those whose activations are not the same in both runs."""
    return cells[:, -1] >= pair.first if "pos" in question.axes else np.ones(len(cells), bool)


def matmul_rates() -> tuple[float, float]:
    """Operations per second of large float32 matrix products: (kept up over two seconds, of the fastest)."""
    operations, times = 0, [0.0]
    best = 0.0
    for n, k, m in ((2048, 2048, 2048), (1024, 768, 3072)):
        x, y = (jax.random.normal(jax.random.key(0), shape) for shape in ((n, k), (k, m)))
        jnp.matmul(x, y).block_until_ready()
        begun = time.perf_counter()
        while time.perf_counter() - begun < 1:
            times.append(seconds(lambda x=x, y=y: jnp.matmul(x, y).block_until_ready())[0])
            operations += 2 * n * k * m
            best = max(best, 2 * n * k * m / times[-1])
    return operations / sum(times), best


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    """(how long a call took, what it returned)."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def measure(
    model: ji.Transformer, params: dict[str, jax.Array], pair: Pair, question: Question
) -> tuple[dict[str, Any], np.ndarray]:
    """(how long our sweep takes, at which rate; its effects)."""
    n_pos = pair.clean.shape[1]
    metric = ji.logit_diff(pair.correct, pair.wrong)

    def sweep() -> np.ndarray:
        return ji.activation_patching(
            model, params, pair.corrupted, pair.clean,
            site=question.site, over=question.axes, metric=metric, progress=False,
        ).values  # fmt: skip

    jax.clear_caches()
    first, effects = seconds(sweep)
    repetitions, rates = [], [matmul_rates()]
    for _ in range(3):  # short sweeps again and again, for as long as the products took
        times = [seconds(sweep)[0]]
        while sum(times) < 1:
            times.append(seconds(sweep)[0])
        rates.append(matmul_rates())
        repetitions.append((statistics.mean(times), (rates[-2][0] + rates[-1][0]) / 2))
    warm = statistics.median(time for time, _ in repetitions)
    products = statistics.median(time * rate for time, rate in repetitions)  # operations of products in that time
    cells = cells_of(question, model.config, n_pos)
    run = cells[can_differ(question, cells, pair)]
    whole = "pos" not in question.axes
    rows = np.full(len(run), pair.first) if whole else run[:, -1]
    patches = len(pair.clean) * sum(
        patch_operations(model.config, n_pos, question.site, layer, row, whole=whole)
        for layer, row in zip(run[:, 0].tolist(), rows.tolist(), strict=True)
    )
    runs = len(pair.clean) * sum(run_operations(model.config, n_pos, row) for row in (0, pair.first))
    told = {
        "pair": pair.name, "sweep": question.name, "asked": len(cells), "run": len(run),
        "first_seconds": first, "seconds": warm, "largest_effect": float(abs(effects).max()),
        "operations": patches, "operations_of_runs": runs, "matmul_rate": products / warm,
        "best_matmul_rate": max(best for _, best in rates),
        "share": patches / products, "share_with_runs": (patches + runs) / products,
    }  # fmt: skip
    tell(
        f"jaxinterp, {question.name} {pair.name}: {warm:.3f} s, {told['share']:.0%} of the matrix product rate, "
        f"{told['share_with_runs']:.0%} with runs"
    )
    return told, effects


def sample(question: Question, cells: np.ndarray, pair: Pair, peer: Peer) -> np.ndarray:
    """int[cell, axis]: those cells that a peer is timed on, whole lines spread evenly over the sweep."""
    if peer.skips:
        cells = cells[can_differ(question, cells, pair)]
    all_lines = lines(cells)
    count = min(question.sampled_lines or len(all_lines), len(all_lines))
    return np.concatenate([all_lines[i] for i in np.linspace(0, len(all_lines) - 1, count).astype(int)])


def ask(
    peer: Peer, python: str, config: ji.TransformerConfig, weights: Path, pairs: Sequence[Pair]
) -> Iterator[tuple[Pair, Question, np.ndarray, dict[str, float], np.ndarray]]:
    """(pair, question, cells, timings, effects) of each sweep that a peer was timed on, in a process of its own."""
    asked = {}
    for pair in pairs:
        for question in QUESTIONS:
            cells = sample(question, cells_of(question, config, pair.clean.shape[1]), pair, peer)
            asked[f"{question.name} {pair.name}"] = pair, question, cells
    job = {
        "sizes": {name: getattr(config, name) for name in SHAPES["gpt2"]},
        "correct": pairs[0].correct.tolist(), "wrong": pairs[0].wrong.tolist(),
        "sweeps": [
            {
                "name": name, "site": question.site, "axes": question.axes, "cells": cells.tolist(),
                "clean": pair.clean.tolist(), "corrupted": pair.corrupted.tolist(),
            }
            for name, (pair, question, cells) in asked.items()
        ],
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "job.json").write_text(json.dumps(job))
        Path(folder, weights.name).symlink_to(weights)
        quiet = os.environ | {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
        tell(peer.name)
        subprocess.run([python, "-m", f"peers.{peer.name}", folder], cwd=HERE, env=quiet, stdout=sys.stderr, check=True)
        timings = json.loads(Path(folder, "timings.json").read_text())
        with np.load(Path(folder, "effects.npz")) as effects:
            for name, (pair, question, cells) in asked.items():
                yield pair, question, cells, timings[name], effects[name]


def compare(
    peer: Peer,
    ours: dict[str, Any],
    effects: np.ndarray,
    cells: np.ndarray,
    timing: dict[str, float],
    theirs: np.ndarray,
) -> dict[str, Any]:
    """A peer's time for a whole sweep, its ratios to ours, and how far its effects are from ours."""
    per_patch = timing["seconds"] / len(cells)
    asked = ours["run"] if peer.skips else ours["asked"]
    return {
        "pair": ours["pair"], "sweep": ours["sweep"], "peer": peer.name,
        "patches_timed": len(cells), "patches_asked": asked, "sampled": len(cells) < asked,
        "first_seconds": timing["first_seconds"], "timed_seconds": timing["seconds"], "seconds": per_patch * asked,
        "difference": float(abs(theirs - effects[tuple(cells.T)]).max()),
        "ratio_asked": per_patch * asked / ours["seconds"],
        "ratio_run": per_patch * ours["run"] / ours["seconds"],
    }  # fmt: skip


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines)


def summary(result: dict[str, Any]) -> str:
    """The README's table: how many times as long as ours each peer takes, per cell asked and per cell run."""
    peers = list(dict.fromkeys(row["peer"] for row in result["peers"]))
    found = {(row["sweep"], row["pair"], row["peer"]): row for row in result["peers"]}
    rows = []
    for own in result["ours"]:
        key = own["sweep"], own["pair"]
        if own["model"] != "english" and peers:
            ratios = [found[(*key, peer)] for peer in peers]
            each = [f"{r['ratio_asked']:.1f} / {r['ratio_run']:.1f}" for r in ratios]
            rows.append([*key, f"{own['asked']} / {own['run']}", f"{own['seconds']:.2f} s", *each])
    return table(["sweep", "prompts differ", "patches asked / run", "jaxinterp", *peers], rows) if rows else ""


def forward_share(model: ji.Transformer, params: dict[str, jax.Array], pair: Pair) -> float:
    """The share of the matrix product rate that a plain, jitted forward of some thousand rows reaches."""
    n_pos = pair.clean.shape[1]
    batch = -(-2048 // n_pos)
    tokens = np.resize(pair.clean, (batch, n_pos))

    @jax.jit
    def forward(params: dict[str, jax.Array], tokens: jax.Array) -> jax.Array:
        run = model.run(params, tokens)
        return model.resume(params, run, start_layer=model.config.n_layers, positions=[-1])[0]

    forward(params, tokens).block_until_ready()
    rates = [matmul_rates()[0]]
    times = [seconds(lambda: forward(params, tokens).block_until_ready())[0] for _ in range(20)]
    rates.append(matmul_rates()[0])
    return batch * run_operations(model.config, n_pos, 0) / statistics.median(times) / statistics.mean(rates)


def report(result: dict[str, Any]) -> str:
    """The tables."""
    rates = [
        [
            row["model"], row["sweep"], row["pair"], str(row["asked"]), str(row["run"]), f"{row['first_seconds']:.2f}",
            f"{row['seconds']:.3f}", f"{row['operations'] / 1e9:.1f}",
            f"{row['matmul_rate'] / 1e9:.0f} ({row['best_matmul_rate'] / 1e9:.0f})",
            f"{row['share']:.0%}", f"{row['share_with_runs']:.0%}",
        ]
        for row in result["ours"]
    ]  # fmt: skip
    ratios = [
        [
            row["sweep"], row["pair"], row["peer"], f"{row['seconds']:.1f}",
            f"{row['patches_timed']} of {row['patches_asked']}" if row["sampled"] else "all",
            f"{row['difference']:.0e}", f"{row['ratio_asked']:.1f}", f"{row['ratio_run']:.1f}",
        ]
        for row in result["peers"]
    ]  # fmt: skip
    head = [
        "model",
        "sweep",
        "prompts differ",
        "asked",
        "run",
        "first s",
        "warm s",
        "Gop",
        "matmul Gop/s (best)",
        "share",
        "with runs",
    ]
    text = "jaxinterp; share: of the matrix product rate, by what the patches need\n\n" + table(head, rates)
    text += "\n\n" + "; ".join(
        f"a plain forward in the shape of {name}: {share:.0%}"
        for name, share in result.get("forward_share", {}).items()
    )
    if ratios:
        head = ["sweep", "prompts differ", "peer", "s", "timed on", "difference", "x per asked", "x per run"]
        text += "\n\npeers; s: for all cells asked; difference: largest of an effect to ours; x: their time / ours\n\n"
        text += table(head, ratios) + "\n\n" + summary(result)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("jaxinterp-results"), help="folder for sweep.json")
    parser.add_argument("--environments", type=Path, default=Path("~/.cache/jaxinterp-benchmarks"))
    parser.add_argument("--peers", nargs="*", choices=[p.name for p in PEERS], default=[p.name for p in PEERS])
    parser.add_argument("--shape", choices=SHAPES, default="gpt2")
    parser.add_argument(
        "--report", type=Path, help="print the tables of an earlier run's sweep.json, and measure nothing"
    )
    options = parser.parse_args()
    if options.report is not None:
        print(report(json.loads(options.report.read_text())))
        return
    peers = [peer for peer in PEERS if peer.name in options.peers]
    pythons = {peer.name: environment(peer, options.environments) for peer in peers}

    model = ji.Transformer(ji.TransformerConfig(**SHAPES[options.shape]))
    params = random_params(model)
    pairs = [random_pair(first, 8, 15, model.config.d_vocab) for first in (10, 0)]
    ours, effects = {}, {}
    for pair in pairs:
        for question in QUESTIONS:
            key = pair.name, question.name
            told, effects[key] = measure(model, params, pair, question)
            ours[key] = {"model": options.shape, **told}
    english, english_params, _ = ji.load("english")
    beside = [
        {"model": "english", **measure(english, english_params, pair, question)[0]}
        for pair in (random_pair(first, 64, 17, english.config.d_vocab) for first in (10, 0))
        for question in QUESTIONS
    ]

    shares = {
        name: forward_share(each, weights, random_pair(0, 8, 15, each.config.d_vocab))
        for name, each, weights in ((options.shape, model, params), ("english", english, english_params))
    }

    compared = []
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "weights.safetensors")
        save_file({name: np.asarray(weight) for name, weight in params.items()}, weights)
        for peer in peers:
            for pair, question, cells, timing, theirs in ask(peer, pythons[peer.name], model.config, weights, pairs):
                key = pair.name, question.name
                compared.append(compare(peer, ours[key], effects[key], cells, timing, theirs))

    result = {
        "machine": {"system": platform.platform(), "cores": os.cpu_count(), "jax": version("jax")},
        "direction": "denoising: clean activations into the corrupted run", "prompts": list(pairs[0].clean.shape),
        "installs": {peer.name: peer.installs for peer in peers},
        "ours": [*ours.values(), *beside], "forward_share": shares, "peers": compared,
    }  # fmt: skip
    print(report(result))
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "sweep.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    tell(f"wrote {path}")
    if apart := [row for row in compared if not row["difference"] <= TOLERANCE]:
        raise SystemExit(
            f"effects differ by more than {TOLERANCE}: {[(r['peer'], r['sweep'], r['pair']) for r in apart]}"
        )


if __name__ == "__main__":
    main()
