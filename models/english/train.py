"""Trains `english` from nothing: `python models/english/train.py`. Run it again after a kill and it goes on.

Checkpoints lie in `training/` inside the folder. A resumed run starts at the last one that was complete, with
the batches that would have come next: the result is the one an undisturbed run gives.
"""

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import matplotlib
import numpy as np
import optax
import orbax.checkpoint as ocp
from evaluate import report
from tqdm import tqdm

import jaxinterp as ji
from jaxinterp.io import checkpoints
from jaxinterp.tasks import word_tokenizer
from jaxinterp.tasks.corpus import MIXTURE, batch

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def optimizer(steps: int) -> optax.GradientTransformation:
    """AdamW with warmup, a cosine to a tenth, clipped gradients, and weight decay on matrices alone."""
    warmup = min(200, steps // 10)
    schedule = optax.warmup_cosine_decay_schedule(0.0, 2e-3, warmup, steps, end_value=2e-4)

    def is_matrix(params: dict) -> dict:
        return {name: name.startswith("W_") for name in params}

    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, b2=0.98, weight_decay=0.05, mask=is_matrix),
    )


@partial(jax.jit, static_argnames=("model", "update"), donate_argnames=("params", "opt_state"))
def train_step(model: ji.Transformer, update: Any, params: dict, opt_state: Any, rows: np.ndarray) -> tuple:
    """One step on `rows[batch, n_ctx + 1]`: (params, opt_state, mean loss in nats per word)."""

    def loss(params: dict) -> jax.Array:
        logits, _ = model.apply(params, rows[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, rows[:, 1:]).mean()

    value, gradients = jax.value_and_grad(loss)(params)
    updates, opt_state = update(gradients, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, value


def initial_params(model: ji.Transformer, seed: int) -> dict:
    """Initial weights with the spread `1 / sqrt(d_model)`: GPT-2's 0.02 is meant for wider models."""
    factor = model.config.d_model**-0.5 / 0.02
    params = model.init(jax.random.key(seed))
    return {name: weight * factor if name.startswith("W_") else weight for name, weight in params.items()}


def clock() -> np.ndarray:
    """Seconds on the clock, and seconds of processor time that this process took."""
    return np.array([time.perf_counter(), time.process_time()])


def train(model: ji.Transformer, ids: dict[str, int], args: argparse.Namespace) -> tuple[dict, np.ndarray, np.ndarray]:
    """Trains to the end: (params, the loss of every step, seconds on the clock and of processor time)."""
    optimize = optimizer(args.steps)
    params = initial_params(model, args.seed)
    # Everything that a step reads or writes, so that a checkpoint of it is a place to go on from.
    state = {
        "params": params,
        "opt_state": optimize.init(params),
        "losses": np.zeros(args.steps, np.float32),
        "seconds": np.zeros(2),  # on the clock, and of processor time
    }
    settings = {name: getattr(args, name) for name in ("steps", "seed", "batch")}
    options = ocp.CheckpointManagerOptions(max_to_keep=2)
    with ocp.CheckpointManager(args.folder.resolve() / "training", options=options) as manager:
        start = manager.latest_step() or 0
        if start:
            saved = manager.restore(start, args=ocp.args.Composite(settings=ocp.args.JsonRestore())).settings
            if saved != settings:
                raise SystemExit(
                    f"{manager.directory} is of a run with {saved}, not {settings}: remove it or go on with that"
                )
            restore = ocp.args.Composite(state=ocp.args.StandardRestore(state))
            state = manager.restore(start, args=restore).state
        params, opt_state, losses = state["params"], state["opt_state"], np.array(state["losses"])
        began = clock() - state["seconds"]
        progress = tqdm(range(start, args.steps), initial=start, total=args.steps, unit="step")
        for step in progress:
            # Copying is slow to be found in sentences, where few words are copies: lists read twice come first.
            mixture = ("repetition",) if step < 0.06 * args.steps else MIXTURE
            rows = batch(ids, step, seed=args.seed, size=args.batch, n_ctx=model.config.n_ctx, mixture=mixture)
            params, opt_state, losses[step] = train_step(model, optimize.update, params, opt_state, rows)
            progress.set_postfix(loss=f"{losses[max(0, step - 49) : step + 1].mean():.3f}", refresh=False)
            if (step + 1) % args.save_every == 0 or step + 1 == args.steps:
                state = {"params": params, "opt_state": opt_state, "losses": losses, "seconds": clock() - began}
                items = {"state": ocp.args.StandardSave(state), "settings": ocp.args.JsonSave(settings)}
                manager.save(step + 1, args=ocp.args.Composite(**items))
                manager.wait_until_finished()  # the next step donates the arrays that are being written
    return params, losses, clock() - began


def plot(losses: np.ndarray, path: Path) -> None:
    """The loss curve: every step, and a running mean."""
    width = min(100, len(losses))
    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    axes.plot(np.arange(1, len(losses) + 1), losses, color="0.8", linewidth=0.6, label="each step")
    axes.plot(
        np.arange(width, len(losses) + 1),
        np.convolve(losses, np.full(width, 1 / width), mode="valid"),
        color="C0",
        label=f"mean of {width} steps",
    )
    axes.set(xlabel="step", ylabel="training loss (nats per word)", yscale="log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Trains, saves the model and its loss curve, and prints the table of the model card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--steps", type=int, default=5000, help="training steps")
    parser.add_argument("--seed", type=int, default=0, help="decides the initial weights and the corpus")
    parser.add_argument("--batch", type=int, default=64, help="rows of 64 words per step")
    parser.add_argument("--save-every", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where the model goes")
    args = parser.parse_args()

    tokenizer = word_tokenizer()
    config = ji.TransformerConfig(n_layers=4, d_model=128, n_heads=4, d_vocab=tokenizer.get_vocab_size(), n_ctx=64)
    model = ji.Transformer(config)
    params, losses, seconds = train(model, tokenizer.get_vocab(), args)
    checkpoints.save(args.folder, model, params, tokenizer)
    plot(losses, args.folder / "loss.png")
    print("{} steps in {:.1f} minutes, {:.1f} minutes of processor time\n".format(args.steps, *(seconds / 60)))
    for line in report(model, params, tokenizer):
        print(line)


if __name__ == "__main__":
    main()
