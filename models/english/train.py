"""Trains `english` from nothing: `python models/english/train.py`. Run it again after a kill and it goes on.

The learning rate goes through several cycles; the weights after each lie in `cycles/`, and a cycle that is there is not
run again. Checkpoints of the one in flight lie in its `training/`, weights along the way in `snapshots/`. Another seed:
`--seed 1 --folder FOLDER`; the twin with dropout: `--attn-dropout 0.1 --cycles 2 --folder FOLDER`.
"""

import argparse
import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from tqdm import tqdm

import jaxinterp as ji
from jaxinterp.cards.induction import head_scores
from jaxinterp.cards.make import CASES, make_card
from jaxinterp.io import checkpoints
from jaxinterp.tasks.english.corpus import batch
from jaxinterp.tasks.english.documents import MECHANISMS
from jaxinterp.tasks.english.tokenizer import word_tokenizer
from jaxinterp.training import TrainingRecord, mimetic_init, muon, train

#: Copying from wherever a word stood before is slow to be found in sentences, where few words are copies, and lists
#: that are read twice in one order are copied by counting. Names of two words that are read again in any order come
#: first: three rows in four of these steps, a share of the first cycle.
COPYING, COPYING_SHARE = ("pairs_again",), 0.25

#: How many made the weights that are here. A cycle takes about 40 minutes on two idle cores.
CYCLES = 4

LEARNING_RATE, WARMUP, WEIGHT_DECAY = 2e-3, 100, 0.05

#: The amplitude of the positions that training begins with, in spreads of a word's dimensions.
POSITION_SCALE = 2.0

#: Steps, of all cycles together, after which the weights are kept.
SNAPSHOTS = (200, 400, 600, 800, 1000, 1300, 1600, 2000, 2500, 3000, 3500)

#: Steps between looks at the heads, so that a run shows when they form.
LOOK_EVERY = 100


def main() -> None:
    """Trains and saves the model with the record of its training and its card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--cycles", type=int, default=CYCLES, help="cycles of the learning rate")
    parser.add_argument("--steps", type=int, default=4000, help="training steps of each")
    parser.add_argument("--seed", type=int, default=0, help="decides the initial weights, the corpus and the dropout")
    parser.add_argument("--batch", type=int, default=32, help="rows of 128 words per step")
    parser.add_argument("--attn-dropout", type=float, default=0.0, help="rate on attention patterns, in training alone")
    parser.add_argument("--save-every", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where the model goes")
    parser.add_argument("--cases", type=int, default=CASES["english"], help="prompts of each task in the card")
    args = parser.parse_args()
    for name in ("cycles", "steps", "batch", "save_every"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}")
    if args.seed < 0:
        parser.error(f"--seed must not be negative, got {args.seed}")
    if not 0 <= args.attn_dropout < 1:
        parser.error(f"--attn-dropout must be at least 0 and less than 1, got {args.attn_dropout}")
    if args.cases < 8 or args.cases % 4:
        parser.error(f"--cases must be a multiple of 4, and at least 8, got {args.cases}")

    tokenizer = word_tokenizer()
    ids = tokenizer.get_vocab()
    config = ji.TransformerConfig(
        n_layers=6, d_model=192, n_heads=6, d_mlp=640, d_vocab=tokenizer.get_vocab_size(), n_ctx=128,
        attn_dropout=args.attn_dropout,
    )  # fmt: skip
    model = ji.Transformer(config)

    def loss(params: dict, rows: np.ndarray, key: jax.Array) -> jax.Array:
        dropout = key if args.attn_dropout else None
        logits, _ = model.apply(params, rows[:, :-1], key=dropout, unroll=config.n_layers)
        return optax.softmax_cross_entropy_with_integer_labels(logits, rows[:, 1:]).mean()

    def rows(step: int) -> np.ndarray:
        """The batch of a step, counted through all cycles."""
        copies = 3 * args.batch // 4 if step < COPYING_SHARE * args.steps else 0
        sizes = ((copies, COPYING), (args.batch - copies, MECHANISMS))
        how = {"seed": args.seed, "n_ctx": config.n_ctx}
        return np.concatenate([batch(ids, step, size=n, mechanisms=kinds, **how) for n, kinds in sizes])

    # A cycle that another text trained is not one of this run: both kinds of batches are in the hash.
    text = hashlib.blake2b(b"".join(rows(step).tobytes() for step in (*range(4), *range(args.steps, args.steps + 40))))
    settings = {
        "seed": args.seed,
        "batch": args.batch,
        "attn_dropout": args.attn_dropout,
        "optimizer": "muon",
        "learning_rate": LEARNING_RATE,
        "warmup": WARMUP,
        "weight_decay": WEIGHT_DECAY,
        "position_scale": POSITION_SCALE,
        "copying_share": COPYING_SHARE,
        "text": text.hexdigest()[:16],
    }

    def save(folder: Path, params: Any) -> None:
        checkpoints.save(folder, model, params, tokenizer, stored_as="float16")

    def run_cycle(number: int, folder: Path, params: Any) -> None:
        before = (number - 1) * args.steps

        def look(step: int, params: Any) -> None:
            if before + step in SNAPSHOTS:
                save(args.folder / "snapshots" / f"step-{before + step}", params)
            scores, _ = head_scores(model, params, bos=ids["<bos>"], n=50, draws=16)
            best = ", ".join(f"{name} {each.mean(0).max():.3f}" for name, each in scores.items())
            tqdm.write(f"cycle {number}, step {step}: the best heads' scores are {best}")

        folder.mkdir(parents=True, exist_ok=True)
        params, record = train(
            loss, params, lambda step: rows(before + step),
            muon(args.steps, LEARNING_RATE, warmup=WARMUP, weight_decay=WEIGHT_DECAY),
            steps=args.steps, seed=args.seed + before, settings=settings, folder=folder,
            save_every=args.save_every, snapshots=range(LOOK_EVERY, args.steps + 1, LOOK_EVERY), on_snapshot=look,
        )  # fmt: skip
        record.write(folder)
        save(folder, params)

    params = mimetic_init(model, args.seed, POSITION_SCALE * config.d_model**-0.5)
    records = []
    for number in range(1, args.cycles + 1):
        folder = args.folder / "cycles" / str(number)
        if not (folder / "config.json").exists():  # the file that is written last
            run_cycle(number, folder, params)
        # what is stored, so that a cycle begins the same whether or not the one before was run just now
        _, params, _ = ji.load(folder)
        found = TrainingRecord.read(folder)
        if found is None or found.settings != settings | {"steps": args.steps}:
            raise SystemExit(f"{folder} is of another run, {found and found.settings}: remove it or go on with that")
        records.append(found)
    save(args.folder, params)
    TrainingRecord.joined(records).write(args.folder)
    card = make_card("english", args.folder, n=args.cases)
    card.write(args.folder)
    print(card.markdown())


if __name__ == "__main__":
    main()
