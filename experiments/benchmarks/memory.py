"""A million patches in bounded memory, at the rate of ten thousand.

    python experiments/benchmarks/memory.py

Every neuron x position x layer of a model with wide MLPs (2 layers, 8,192 neurons, 64 positions: 1,048,576 patches),
beside a sweep of a hundredth of the neurons. Memory is the largest resident size of the process, before and after the
large sweep; the budget is `max_bytes`. The small sweep is timed warm; the large one's time includes its compilation.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import jax
import numpy as np

import jaxinterp as ji

CONFIG = ji.TransformerConfig(n_layers=2, n_heads=2, d_model=32, d_head=16, d_mlp=8192, d_vocab=64, n_ctx=64)
BATCH = 2


def resident() -> int:
    """The largest resident size this process has had, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def run_bytes() -> int:
    """What is kept of the base and the source run: the stream, keys, values, head outputs and neurons."""
    rows = BATCH * CONFIG.n_ctx
    per_row = (CONFIG.n_layers + 1) * CONFIG.d_model + CONFIG.n_layers * (
        3 * CONFIG.n_heads * CONFIG.d_head + CONFIG.d_mlp
    )
    return 2 * 4 * rows * per_row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-bytes", type=int, default=256 * 2**20, help="the budget (default: 256 MiB)")
    parser.add_argument("--output", type=Path, default=Path("jaxinterp-results"), help="folder for memory.json")
    options = parser.parse_args()
    model = ji.Transformer(CONFIG)
    params = model.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    base, source = rng.integers(0, CONFIG.d_vocab, (2, BATCH, CONFIG.n_ctx))
    metric = ji.logit_diff([1, 2], [3, 4])

    def sweep(neurons: int) -> tuple[int, float]:
        """(how many patches, how many of them in a second)."""
        over = {"layer": None, "neuron": range(neurons), "pos": None}
        begun = time.perf_counter()
        effects = ji.activation_patching(
            model, params, base, source, site="mlp_post", over=over, metric=metric, max_bytes=options.max_bytes
        )
        return effects.size, effects.size / (time.perf_counter() - begun)

    few = CONFIG.d_mlp // 100
    sweep(few)
    small = sweep(few)
    before = resident()
    large = sweep(CONFIG.d_mlp)
    grown, allowed = resident() - before, 1.1 * (run_bytes() + options.max_bytes)
    result = {
        "patches": [small[0], large[0]], "patches_per_second": [small[1], large[1]], "rate_ratio": large[1] / small[1],
        "grown_bytes": grown, "allowed_bytes": int(allowed), "max_bytes": options.max_bytes,
    }  # fmt: skip
    print("| patches | per second | resident memory, MiB |")
    print("|---|---|---|")
    print(f"| {small[0]:,} | {small[1]:,.0f} | {before / 2**20:.0f} |")
    print(f"| {large[0]:,} | {large[1]:,.0f} | {(before + grown) / 2**20:.0f} |")
    print(f"grown by {grown / 2**20:.0f} MiB; base and source run, budget and a tenth are {allowed / 2**20:.0f} MiB")
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "memory.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
