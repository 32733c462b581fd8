"""Trains the next `english` from nothing: `python models/english/next.py`. Run it again after a kill and it goes on.

Checkpoints lie in `training/` inside the folder, snapshots of the weights along the way in `snapshots/`. Another seed:
`--seed 1 --folder FOLDER`; the twin with dropout: `--attn-dropout 0.1 --folder FOLDER`. `jaxinterp/cards/english.py`
measures what comes of it.
"""

import argparse
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

import jaxinterp as ji
from jaxinterp.io import checkpoints
from jaxinterp.tasks.english.corpus import MECHANISMS, batch
from jaxinterp.tasks.english.tokenizer import word_tokenizer
from jaxinterp.training import adamw, scaled_init, train

#: Copying is slow to be found in sentences, where few words are copies: short lists that are read twice come first, for
#: this share of the steps, in half as many rows of half the length. (Without them, none was found in 1,000 steps; with
#: long lists in 300, neither.)
COPYING, COPYING_SHARE = ("short_list_twice",), 0.2

SNAPSHOTS = (100, 200, 300, 400, 500, 600, 700, 900, 1200, 1600, 2000, 2500)


def main() -> None:
    """Trains and saves the model with the record of its training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--steps", type=int, default=2900, help="training steps")
    parser.add_argument("--seed", type=int, default=0, help="decides the initial weights, the corpus and the dropout")
    parser.add_argument("--batch", type=int, default=32, help="rows of 128 words per step")
    parser.add_argument("--attn-dropout", type=float, default=0.0, help="rate on attention patterns, in training alone")
    parser.add_argument("--save-every", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "next", help="where the model goes")
    args = parser.parse_args()

    tokenizer = word_tokenizer()
    ids = tokenizer.get_vocab()
    config = ji.TransformerConfig(
        n_layers=6, d_model=192, n_heads=6, d_mlp=640, d_vocab=tokenizer.get_vocab_size(), n_ctx=128,
        attn_dropout=args.attn_dropout,
    )  # fmt: skip
    model = ji.Transformer(config)

    def loss(params: dict, rows: np.ndarray, key: jax.Array) -> jax.Array:
        dropout = key if args.attn_dropout else None
        logits, _ = model.apply(params, rows[:, :-1], key=dropout)
        return optax.softmax_cross_entropy_with_integer_labels(logits, rows[:, 1:]).mean()

    def rows(step: int) -> np.ndarray:
        if step < COPYING_SHARE * args.steps:
            size, n_ctx = -(-args.batch // 2), config.n_ctx // 2
            return batch(ids, step, seed=args.seed, size=size, n_ctx=n_ctx, mechanisms=COPYING)
        return batch(ids, step, seed=args.seed, size=args.batch, n_ctx=config.n_ctx, mechanisms=MECHANISMS)

    def save(folder: Path, params: Any) -> None:
        checkpoints.save(folder, model, params, tokenizer, stored_as="float16")

    args.folder.mkdir(parents=True, exist_ok=True)
    params, record = train(
        loss, scaled_init(model, args.seed), rows, adamw(args.steps, 2e-3, warmup=100), steps=args.steps,
        seed=args.seed,
        settings={"seed": args.seed, "batch": args.batch, "attn_dropout": args.attn_dropout}, folder=args.folder,
        save_every=args.save_every, snapshots=SNAPSHOTS,
        on_snapshot=lambda step, params: save(args.folder / "snapshots" / f"step-{step}", params),
    )  # fmt: skip
    save(args.folder, params)
    record.write(args.folder)
    print(f"{record.steps} steps in {record.hours:.2f} hours, {record.cpu_hours:.2f} hours of processor time")


if __name__ == "__main__":
    main()
