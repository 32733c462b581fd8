"""Trains `brackets` from nothing: `python models/brackets/train.py`. Run it again after a kill and it goes on.

Checkpoints lie in `training/` inside the folder. A resumed run starts at the last one that was complete, with
the strings that would have come next: the result is the one an undisturbed run gives.
"""

import argparse
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

import jaxinterp as ji
from jaxinterp.cards.brackets import card
from jaxinterp.io import checkpoints
from jaxinterp.model.params import Params
from jaxinterp.tasks import brackets
from jaxinterp.tasks.brackets import N_TOKENS, VOCABULARY, bracket_tokenizer
from jaxinterp.training import adamw, scaled_init, train

CONFIG = ji.TransformerConfig(
    n_layers=3,
    d_model=56,
    n_heads=2,
    d_head=28,
    d_mlp=224,
    d_vocab=len(VOCABULARY),
    d_vocab_out=2,
    n_ctx=N_TOKENS,
    causal=False,
    positions="learned",
    normalization="layer",
    eps=1e-5,
    act_fn="relu",
    tie_embeddings=False,
    unembed_bias=True,
)

#: What a string is of, each kind as often as it stands here; written out, so that the recipe stays what it was.
KINDS = (
    *("balanced",) * 9,
    *("flipped",) * 2,
    "dropped",
    *("swapped",) * 2,
    *("dip",) * 2,
    "starts_closed",
    "ends_open",
    "shuffled",
    "random",
)
SEED, STEPS, BATCH = 0, 15_000, 256
LEARNING_RATE, WARMUP, WEIGHT_DECAY = 2e-3, 200, 0.01


def main() -> None:
    """Trains, saves the model and what training cost, and writes the model card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps")
    parser.add_argument("--seed", type=int, default=SEED, help="decides the initial weights and the strings")
    parser.add_argument("--batch", type=int, default=BATCH, help="strings per step")
    parser.add_argument("--save-every", type=int, default=200, help="steps between checkpoints")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where the model goes")
    args = parser.parse_args()
    for name in ("steps", "batch", "save_every"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}")
    if args.seed < 0:
        parser.error(f"--seed must not be negative, got {args.seed}")

    model = ji.Transformer(CONFIG)

    def loss(params: Params, batch: Any, key: jax.Array) -> jax.Array:
        tokens, mask, label = batch
        logits, _ = model.apply(params, tokens, mask=mask, unroll=CONFIG.n_layers)
        return optax.softmax_cross_entropy_with_integer_labels(logits[:, 0], label).mean()

    def batches(step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        data = brackets(args.batch, seed=(args.seed, step), kinds=KINDS)
        return data.tokens, data.mask, data.label

    params, record = train(
        loss,
        scaled_init(model, args.seed),
        batches,
        adamw(args.steps, LEARNING_RATE, warmup=WARMUP, weight_decay=WEIGHT_DECAY),
        steps=args.steps,
        settings={
            "seed": args.seed,
            "batch": args.batch,
            "learning_rate": LEARNING_RATE,
            "warmup": WARMUP,
            "weight_decay": WEIGHT_DECAY,
        },
        folder=args.folder,
        save_every=args.save_every,
        seed=args.seed,
    )
    tokenizer = bracket_tokenizer()
    checkpoints.save(args.folder, model, params, tokenizer)
    record.write(args.folder)
    written = card(model, params, tokenizer, record)
    written.write(args.folder)
    print(written.markdown())


if __name__ == "__main__":
    main()
