"""The rate of a harvest beside that of the forward alone.

    python experiments/benchmarks/harvest.py [--folder /tmp]

The same prompts, in the same batches and with the same captures. `forward` runs `model.apply` and throws away what it
captured, logits and all; `captures` runs it without the logits, which a harvest does not need either; `harvest` writes
to disk as well. One after the other, several times over; medians of the tokens in a second. Where there is a metric,
`gradients` is the forward and the backward pass without a disk. Processor time is told too, since others may be at work
on the same machine.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxinterp as ji
from jaxinterp.io.harvesting.shards import Index

GPT2_SMALL = ji.TransformerConfig(n_layers=12, d_model=768, n_heads=12, d_vocab=50257, n_ctx=1024)

#: Name -> (which model, prompts, their tokens, sites, other arguments of the harvest).
CASES: dict[str, Any] = {
    "gpt2, one layer": ("gpt2", 32, 64, {"resid_post": ji.at(layer=6)}, {"flatten": True}),
    "gpt2, all layers": ("gpt2", 32, 64, ("resid_post",), {}),
    "gpt2, all layers, float16": ("gpt2", 32, 64, ("resid_post",), {"dtype": "float16"}),
    "english, one layer": ("english", 4096, 32, {"resid_post": ji.at(layer=2)}, {"flatten": True}),
    "english, all layers": ("english", 4096, 32, ("resid_post",), {}),
    "english, gradients": ("english", 2048, 32, ("resid_post",), {"metric": ji.logit_diff(3, 4)}),
}


def model_of(name: str) -> tuple[ji.Transformer, Any]:
    """A model and its parameters; of GPT-2 small only the shape."""
    if name == "english":
        return ji.load("english")[:2]
    model = ji.Transformer(GPT2_SMALL)
    return model, model.init(jax.random.key(0))


def measure(case: str, repeats: int, parent: Path) -> dict[str, Any]:
    """Seconds that each takes: medians, and of each repetition."""
    which, n, n_pos, sites, how = CASES[case]
    model, params = model_of(which)
    tokens = np.random.default_rng(0).integers(0, model.config.d_vocab, (n, n_pos), dtype=np.int32)
    metric = how.get("metric")
    seen: dict[str, int] = {}

    def harvest() -> None:
        folder = tempfile.mkdtemp(dir=parent)
        try:
            ji.harvest(model, params, tokens, sites, folder, progress=False, **how)
            seen["batch"] = Index.read(Path(folder)).batch
            seen["bytes"] = sum(path.stat().st_size for path in Path(folder).rglob("*.npy"))
        finally:
            shutil.rmtree(folder)

    @jax.jit
    def captures(params: Any, rows: Any) -> Any:
        return model.apply(params, rows, capture=sites)[1]

    @jax.jit
    def gradients(params: Any, rows: Any) -> Any:
        def total(probes: Any) -> Any:
            edits = {site: ji.add(value) for site, value in probes.items()}
            logits, cache = model.apply(params, rows, edits, capture=sites)
            return metric.fn(logits[:, -1:][..., np.asarray(metric.columns)], {}, *metric.data).sum(), cache

        probes = {site: jax.numpy.zeros(model.sites[site].shape(*rows.shape)) for site in sites}
        return jax.grad(total, has_aux=True)(probes)

    def over_batches(run: Callable[[Any], Any]) -> Callable[[], None]:
        def whole() -> None:
            for first in range(0, n, seen["batch"]):
                rows = np.minimum(np.arange(first, first + seen["batch"]), n - 1)  # all of one shape
                jax.block_until_ready(run(tokens[rows]))

        return whole

    runs = {
        "harvest": harvest,
        "forward": over_batches(lambda rows: model.apply(params, rows, capture=sites)),
        "captures": over_batches(lambda rows: captures(params, rows)),
    }
    if metric is not None:
        runs = {"harvest": harvest, "gradients": over_batches(lambda rows: gradients(params, rows))}
    for run in runs.values():
        run()  # compiles
    clocks = {"wall": time.perf_counter, "processor": time.process_time}
    seconds: dict[str, dict[str, list[float]]] = {clock: {name: [] for name in runs} for clock in clocks}
    for _ in range(repeats):
        for name, run in runs.items():
            begun = {clock: now() for clock, now in clocks.items()}
            run()
            for clock, now in clocks.items():
                seconds[clock][name].append(now() - begun[clock])
    medians = {clock: {name: statistics.median(each) for name, each in s.items()} for clock, s in seconds.items()}
    return {
        "case": case, "tokens": tokens.size, "batch": seen["batch"], "bytes": seen["bytes"], "seconds": medians,
        "harvest_over": {c: {name: m[name] / m["harvest"] for name in runs} for c, m in medians.items()},
        "each": seconds,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="how many times each (default: 5)")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="a disk to write to")
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES), help="which (default: all)")
    parser.add_argument("--output", type=Path, default=Path("jaxinterp-results"), help="folder for harvest.json")
    options = parser.parse_args()
    results = [measure(case, options.repeats, options.folder) for case in options.cases]
    print("| harvest | batch | MB written | tokens/s | of whose rate | by the clock | by processor time |")
    print("|---|---|---|---|---|---|---|")
    for told in results:
        wall, processor = (told["harvest_over"][clock] for clock in ("wall", "processor"))
        rate = told["tokens"] / told["seconds"]["wall"]["harvest"]
        for name in [name for name in wall if name != "harvest"]:
            cells = [told["case"], told["batch"], f"{told['bytes'] / 1e6:.0f}", f"{rate:,.0f}", name]
            print(f"| {' | '.join(map(str, cells))} | {wall[name]:.2f} | {processor[name]:.2f} |")
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "harvest.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
