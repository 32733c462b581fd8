"""What linear estimates cost: in forward passes, and in memory.

    python experiments/benchmarks/attribution.py

A model in GPT-2-small's shape with random float32 weights, 8 prompts of 15 tokens that differ from token 0 on, the
logit difference at the last position. Times are medians of warm calls, taken in turn. A forward pass is `model.apply`
under `jit`, that gives the logits which the metric reads, or all of them. Memory is what XLA says a compiled program
takes beside its arguments, against one gradient of the same forward with respect to the embedding, which keeps each
block's input alone, plus what the estimates are.
"""

import argparse
import functools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sweep import SHAPES, random_pair, random_params, table

import jaxinterp as ji
from jaxinterp.attribution import atp_star, gradients
from jaxinterp.attribution.estimates import Pair

#: The usual sites, all at once.
SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "q", "k", "v", "pattern", "mlp_post")


def medians(calls: Mapping[str, Callable[[], Any]], repetitions: int) -> dict[str, float]:
    """Seconds of warm calls, taken in turn, so that a processor that slows down does so for all of them."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repetition in range(repetitions + 1):
        for name, call in calls.items():
            begun = time.perf_counter()
            jax.block_until_ready(call())
            if repetition:
                times[name].append(time.perf_counter() - begun)
    return {name: statistics.median(each) for name, each in times.items()}


def temporary_bytes(lowered: Any) -> tuple[int, int]:
    """(temporary memory, outputs) of a program."""
    analysis = lowered.compile().memory_analysis()
    return analysis.temp_size_in_bytes, analysis.output_size_in_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("jaxinterp-results"), help="folder for attribution.json")
    parser.add_argument("--shape", choices=SHAPES, default="gpt2")
    parser.add_argument("--repetitions", type=int, default=15)
    options = parser.parse_args()
    model = ji.Transformer(ji.TransformerConfig(**SHAPES[options.shape]))
    params, pair = random_params(model), random_pair(0, 8, 15, model.config.d_vocab)
    metric = ji.logit_diff(pair.correct, pair.wrong)
    base, source = (jnp.asarray(tokens, jnp.int32) for tokens in (pair.corrupted, pair.clean))
    read = {"positions": metric.positions, "columns": metric.columns}

    forward = jax.jit(lambda params, tokens: model.apply(params, tokens, **read)[0])
    whole = jax.jit(lambda params, tokens: model.apply(params, tokens)[0])

    def attribution(**how: Any) -> Callable[[], Any]:
        return lambda: ji.attribution_patching(
            model, params, base, source, sites=SITES, metric=metric, progress=False, **how
        )

    prompts, other = ji.Prompts(base), ji.Prompts(source)
    kept = tuple((name, tuple(axis not in ("d_model", "d_head") for axis in model.sites[name].axes)) for name in SITES)
    arguments = model, params, Pair(prompts, {}, other, {}, metric), kept

    @jax.jit
    def gradient(params: Any, tokens: Any, probe: Any) -> Any:
        def value(probe: Any) -> jax.Array:
            logits, _ = model.apply(params, tokens, {"embed": ji.add(probe)}, remat="blocks")
            rows = jnp.arange(len(tokens))
            return (logits[rows, -1, pair.correct] - logits[rows, -1, pair.wrong]).sum()

        return jax.grad(value)(probe)

    probe = np.zeros((*base.shape, model.config.d_model), np.float32)
    memory = {"one remat gradient": temporary_bytes(gradient.lower(params, base, probe))}
    programs = {
        "attribution": functools.partial(gradients.at_base, *arguments, None),
        "AtP*": functools.partial(atp_star.with_fixes, *arguments, None, grad_drop=True),
    }
    memory["attribution"] = temporary_bytes(gradients.at_base.lower(*arguments, None))
    memory["AtP*"] = temporary_bytes(atp_star.with_fixes.lower(*arguments, None, grad_drop=True))
    seconds = medians(
        {
            "forward": lambda: forward(params, base),
            "forward, all logits": lambda: whole(params, base),
            "attribution": attribution(),
            "AtP*": attribution(method="atp_star"),
            "EAP": lambda: ji.edge_attribution(model, params, base, source, metric=metric, progress=False),
        }
        | {f"{name}, its program alone": program for name, program in programs.items()},
        options.repetitions,
    )

    rows = [
        [name, f"{time:.3f}", *(f"{time / seconds[one]:.2f}" for one in ("forward", "forward, all logits"))]
        for name, time in seconds.items()
    ]
    print(table(["what", "s", "forward passes", "with all logits"], rows))
    rows = [[name, f"{temp / 2**20:.0f}", f"{out / 2**20:.1f}"] for name, (temp, out) in memory.items()]
    print("\n" + table(["what", "temporary MiB", "outputs MiB"], rows))
    options.output.mkdir(parents=True, exist_ok=True)
    machine = {"system": platform.platform(), "cores": os.cpu_count(), "jax": version("jax")}
    result = {"machine": machine, "prompts": list(base.shape), "sites": SITES, "seconds": seconds, "bytes": memory}
    path = options.output / "attribution.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
