"""How fast `ji.generate` makes tokens, beside a loop of whole forwards.

    python experiments/benchmarks/generation.py

The loop is the definition: for each token one compiled `model.apply` over the padded sequence, which reads the last
row's logits on the host. Both decode greedily, under an edit of every position, and must give the same tokens. Times
are of the second call, without compilation.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxinterp as ji

SHAPES = {
    "english": ji.TransformerConfig(n_layers=4, n_heads=8, d_model=256, d_vocab=4096, n_ctx=1024),
    "GPT-2 small": ji.TransformerConfig(n_layers=12, n_heads=12, d_model=768, d_vocab=50257, n_ctx=1024),
}


def timed(fn: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    """(what the second call gives, the seconds it takes)."""
    fn()
    begun = time.perf_counter()
    return fn(), time.perf_counter() - begun


def measure(config: ji.TransformerConfig, batch: int, prompt: int, new: int, *, naive: bool) -> dict[str, float]:
    model = ji.Transformer(config)
    params = model.init(jax.random.key(0))
    tokens = np.random.default_rng(0).integers(0, config.d_vocab, (batch, prompt))
    steer = np.random.default_rng(1).normal(size=(1, 1, 1, config.d_model)).astype(np.float32)
    edits = {"resid_post": ji.add(steer, ji.at(layer=config.n_layers // 2))}

    @jax.jit
    def chosen(params, sequence, column):
        return jnp.argmax(model.apply(params, sequence, edits)[0][:, column], axis=-1)

    def by_whole_forwards() -> np.ndarray:
        sequence = np.pad(tokens, ((0, 0), (0, new)))
        for column in range(prompt, prompt + new):
            sequence[:, column] = chosen(params, sequence, column - 1)
        return sequence[:, prompt:]

    fast, seconds = timed(lambda: np.asarray(ji.generate(model, params, tokens, edits, max_new_tokens=new).tokens))
    result = {"batch": batch, "prompt": prompt, "new": new, "tokens_per_second": batch * new / seconds}
    if naive:
        plain, plain_seconds = timed(by_whole_forwards)
        assert (fast == plain).all(), "both must choose the same tokens"
        result |= {"loop_tokens_per_second": batch * new / plain_seconds, "ratio": plain_seconds / seconds}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="english")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=16)
    parser.add_argument("--new", type=int, nargs="+", default=[16, 64, 240])
    parser.add_argument("--no-loop", action="store_true", help="leave the loop of whole forwards out")
    parser.add_argument("--output", type=Path, default=Path("jaxinterp-results"), help="folder for generation.json")
    options = parser.parse_args()
    rows = [
        measure(SHAPES[options.shape], options.batch, options.prompt, new, naive=not options.no_loop)
        for new in options.new
    ]
    print("| prompts x tokens | new | tokens per second | by whole forwards | times as fast |")
    print("|---|---|---|---|---|")
    for row in rows:
        loop = f"{row['loop_tokens_per_second']:,.0f} | {row['ratio']:.1f}" if "ratio" in row else "| "
        print(f"| {row['batch']} x {row['prompt']} | {row['new']} | {row['tokens_per_second']:,.0f} | {loop} |")
    options.output.mkdir(parents=True, exist_ok=True)
    result = {"shape": options.shape, "device": jax.devices()[0].device_kind, "rows": rows}
    (options.output / "generation.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
