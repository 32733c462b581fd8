"""Training that outlives its process: a loop whose every step is a function of the settings and the step's number."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import optax.contrib
import orbax.checkpoint as ocp
from optax.contrib import MuonDimensionNumbers
from tqdm import tqdm

from jaxinterp.io.results import write_whole
from jaxinterp.model.params import Params
from jaxinterp.model.transformer import Transformer

RECORD = "training.json"

#: The losses that a record keeps are means over this many steps.
CURVE_STEPS = 25


@dataclass(frozen=True)
class TrainingRecord:
    """How a model was trained; lies beside its weights as `training.json`.

    Attributes:
      settings: what the recipe was asked for.
      steps: how many steps were taken.
      hours: on the clock, all processes of a resumed run together; what a kill undid is not counted.
      cpu_hours: of processor time, likewise.
      losses: the training loss in nats, a mean over each `CURVE_STEPS` steps.
      machine: how many processors there were and what jax ran on.
    """

    settings: Mapping[str, Any]
    steps: int
    hours: float
    cpu_hours: float
    losses: tuple[float, ...]
    machine: str

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Writes `training.json` into a folder, whole or not at all."""
        text = json.dumps(asdict(self), indent=1) + "\n"
        write_whole(Path(folder) / RECORD, lambda path: path.write_text(text, encoding="utf-8"))

    @classmethod
    def joined(cls, records: Sequence["TrainingRecord"]) -> "TrainingRecord":
        """One record of several trainings, each of which began with the weights of the one before.

        Example:
          >>> from jaxinterp.training import TrainingRecord
          >>> one = TrainingRecord({"seed": 0}, 50, 0.5, 1.0, (3.0, 2.0), "2 processors, cpu")
          >>> TrainingRecord.joined([one, one]).losses
          (3.0, 2.0, 3.0, 2.0)
        """
        steps, hours, cpu_hours = (sum(getattr(r, name) for r in records) for name in ("steps", "hours", "cpu_hours"))
        losses = tuple(loss for record in records for loss in record.losses)
        settings = {**records[-1].settings, "cycles": len(records)}
        return cls(settings, steps, hours, cpu_hours, losses, records[-1].machine)

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> "TrainingRecord | None":
        """The record that lies in a folder, or `None`.

        Raises:
          ValueError: a `training.json` that is of something else.
        """
        path = Path(folder) / RECORD
        if not path.is_file():
            return None
        found = json.loads(path.read_text(encoding="utf-8"))
        names = {field.name for field in fields(cls)}
        if not isinstance(found, dict) or found.keys() != names:
            raise ValueError(f"{path} is no record of training: expected {', '.join(sorted(names))}")
        return cls(**found | {"losses": tuple(found["losses"])})


def adamw(steps: int, learning_rate: float, *, warmup: int = 200, weight_decay: float = 0.05) -> Any:
    """AdamW with a warmup, a cosine to a tenth, gradients clipped at norm 1, and decay on matrices alone.

    Example:
      >>> from jaxinterp.training import adamw
      >>> state = adamw(1000, 2e-3).init(params)
    """
    decay = optax.adamw(_schedule(steps, learning_rate, warmup), b2=0.98, weight_decay=weight_decay, mask=_is_matrix)
    return optax.chain(optax.clip_by_global_norm(1.0), decay)


#: What each matrix between activations reads and writes, as axes: heads side by side are one matrix, layers are many.
_READ_AND_WRITTEN = {
    **dict.fromkeys(("W_Q", "W_K", "W_V"), MuonDimensionNumbers((2,), (1, 3))),
    "W_O": MuonDimensionNumbers((1, 2), (3,)),
    **dict.fromkeys(("W_in", "W_gate", "W_out"), MuonDimensionNumbers((1,), (2,))),
}

#: The spread of Muon's steps, in learning rates: at the rate of AdamW for the embeddings, about that of Jordan's runs.
_MUON_SPREAD = 0.6


def muon(steps: int, learning_rate: float, *, warmup: int = 200, weight_decay: float = 0.05) -> Any:
    """Muon for the matrices between activations, and for all else `adamw` with Nesterov's momentum, as Muon has it.

    A step moves such a matrix equally in all directions of its momentum (Jordan et al. 2024,
    kellerjordan.github.io/posts/muon), by a spread that does not depend on its shape (Liu et al. 2025, arXiv
    2502.16982): `0.6 * learning_rate`. Schedule, clipping and decay are those of `adamw`.

    Raises:
      ValueError: fewer steps than one.

    Example:
      >>> from jaxinterp.training import muon
      >>> state = muon(1000, 2e-3).init(params)
    """
    decay = optax.contrib.muon(
        _schedule(steps, learning_rate, warmup), weight_decay=weight_decay, weight_decay_mask=_is_matrix, adam_b2=0.98,
        adam_weight_decay=weight_decay, consistent_rms=_MUON_SPREAD,
        muon_weight_dimension_numbers=lambda params: {name: _READ_AND_WRITTEN.get(name) for name in params},
    )  # fmt: skip
    return optax.chain(optax.clip_by_global_norm(1.0), decay)


def _schedule(steps: int, learning_rate: float, warmup: int) -> optax.Schedule:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    return optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, min(warmup, max(1, steps // 10)), steps, end_value=learning_rate / 10
    )


def _is_matrix(params: Params) -> dict[str, bool]:
    return {name: name.startswith("W_") for name in params}


def scaled_init(model: Transformer, seed: int) -> Params:
    """`model.init`'s weights with the spread `1 / sqrt(d_model)` in place of GPT-2's 0.02, meant for wider models.

    Example:
      >>> from jaxinterp.training import scaled_init
      >>> weights = scaled_init(model, seed=0)
    """
    factor = model.config.d_model**-0.5 / 0.02
    params = model.init(jax.random.key(seed))
    return {name: weight * factor if name.startswith("W_") else weight for name, weight in params.items()}


def sinusoidal_init(model: Transformer, seed: int, scale: float) -> Params:
    """Initial weights as `scaled_init`'s, with sinusoids for positions in dimensions that tokens keep clear of.

    Positions take the first quarter of the dimensions: sines and cosines with wavelengths from 3 tokens to twice the
    context. Going one position on is then the same rotation everywhere, so that one head can learn to look one token
    back; positions drawn at random would have to be arranged first.

    Args:
      model: with a position embedding. seed: of the other weights.
      scale: the sinusoids' amplitude.

    Raises:
      ValueError: a model without a position embedding, or with fewer than eight dimensions.

    Example:
      >>> from jaxinterp.training import sinusoidal_init
      >>> weights = sinusoidal_init(model, seed=0, scale=1.0)
      >>> bool((weights["W_E"][:, :8] == 0).all())
      True
    """
    if model.config.positions not in ("learned", "qk"):
        raise ValueError(f"expected a model with a position embedding, got positions={model.config.positions!r}")
    if model.config.d_model < 8:
        raise ValueError(f"d_model must be at least 8, a quarter of which is for positions, got {model.config.d_model}")
    params, width = scaled_init(model, seed), _place_width(model)
    wavelengths = np.geomspace(3, 2 * model.config.n_ctx, width // 2)
    angles = 2 * np.pi * np.arange(model.config.n_ctx)[:, None] / wavelengths
    place = scale * np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    return params | {
        "W_pos": jax.numpy.zeros_like(params["W_pos"]).at[:, :width].set(place),
        "W_E": params["W_E"].at[:, :width].set(0.0),
    }


def mimetic_init(model: Transformer, seed: int, scale: float) -> Params:
    """Initial weights as `sinusoidal_init`'s, with heads that attend to what is alike and hand on what they read.

    As trained heads often do, a head's keys are begun as nearly its queries, and its output leads values back into
    the dimensions that they came from. In the first layer queries and keys are made of positions, so that heads look
    nearby; in later layers of words, so that they look for the same word. Nothing here is a circuit: what a head looks
    for, and what it does with it, is learnt. Values are made of words alone. After "Mimetic Initialization of
    Self-Attention Layers" (Trockman and Kolter, 2023).

    Args:
      model: with a position embedding, and as many keys as queries. seed: of whatever is drawn.
      scale: the amplitude of the sinusoids.

    Raises:
      ValueError: a model without a position embedding, with fewer than eight dimensions, or whose keys are shared by
        several queries.

    Example:
      >>> from jaxinterp.training import mimetic_init
      >>> weights = mimetic_init(model, seed=0, scale=0.5)
      >>> q, k = (weights[name][1, 0, 8:].ravel() for name in ("W_Q", "W_K"))
      >>> round(float(np.corrcoef(q, k)[0, 1]), 1)
      0.9
    """
    if model.config.groups != 1:
        raise ValueError(f"expected as many keys as queries, got {model.config.groups} queries to a key")
    params, d_model, width = sinusoidal_init(model, seed, scale), model.config.d_model, _place_width(model)
    is_place = (np.arange(d_model) < width)[None, None, :, None]
    is_first = (np.arange(model.config.n_layers) == 0)[:, None, None, None]
    # as large as if all dimensions were read; sharper where neighbours must be told from one another
    gain = np.where(is_first, 1.35 * (d_model / width) ** 0.5, (d_model / (d_model - width)) ** 0.5)
    read = np.where(is_first, is_place, ~is_place) * gain
    values, outputs = params["W_V"] * ~is_place, params["W_O"]
    back = values.swapaxes(-1, -2)
    spread = jax.numpy.sqrt(jax.numpy.mean(outputs**2) / jax.numpy.mean(back**2))
    return params | {
        "W_Q": params["W_Q"] * read,
        "W_K": (0.9 * params["W_Q"] + (1 - 0.9**2) ** 0.5 * params["W_K"]) * read,
        "W_V": values,
        "W_O": 0.8 * spread * back + 0.6 * outputs,
    }


def _place_width(model: Transformer) -> int:
    """How many dimensions positions take at first: a quarter, an even number."""
    return model.config.d_model // 8 * 2


def train(
    loss: Callable[[Params, Any, jax.Array], jax.Array],
    params: Params,
    batches: Callable[[int], Any],
    optimizer: Any,
    *,
    steps: int,
    settings: Mapping[str, Any],
    folder: str | os.PathLike[str],
    save_every: int = 100,
    snapshots: Collection[int] = (),
    on_snapshot: Callable[[int, Params], None] | None = None,
    seed: int = 0,
) -> tuple[Params, TrainingRecord]:
    """Trains to the end, or goes on from the last complete checkpoint in `folder/training`.

    Batches and random keys are functions of the step alone, so a run that was killed and started again ends
    with the weights of an undisturbed one, bit for bit on the same machine.

    Args:
      loss: `loss(params, batch, key)`, the mean loss in nats; `key` is for dropout.
      params: initial parameters.
      batches: the batch of a step, any pytree of arrays; called ahead of time, in a thread.
      optimizer: an `optax` transformation, `adamw` say.
      steps: how many.
      settings: what was asked for, JSON values; a checkpoint of other settings is refused.
      folder: where the checkpoints go, in `training/`.
      save_every: steps between checkpoints.
      snapshots: steps after which `on_snapshot(step, params)` is called.
      on_snapshot: what to do with the parameters then; called again for the same step after a kill. The next step
        takes the arrays over: copy what is to be kept.
      seed: of the keys.

    Returns:
      The trained parameters and the record.

    Raises:
      ValueError: the checkpoints are of a run with other settings, another seed or another first batch; no steps, or
        none between checkpoints. FloatingPointError: a loss that is not finite; the last checkpoint is from before it.

    Example:
      >>> import tempfile
      >>> from jaxinterp.training import adamw, train
      >>> def loss(params, rows, key):
      ...     logits, _ = model.apply(params, rows[:, :-1])
      ...     return optax.softmax_cross_entropy_with_integer_labels(logits, rows[:, 1:]).mean()
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     _, record = train(
      ...         loss, params, lambda step: tokens, adamw(2, 1e-3), steps=2, settings={"seed": 0}, folder=folder
      ...     )
      >>> record.steps
      2
    """
    for name, value in (("steps", steps), ("save_every", save_every)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    # as they come back from a checkpoint
    settings = dict(json.loads(json.dumps({**settings, "steps": steps})))
    first = hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(batches(0)))).hexdigest()
    run = {**settings, "seed_of_keys": seed, "first_batch": first[:16]}

    @partial(jax.jit, donate_argnums=(0, 1))
    def train_step(params: Params, opt_state: Any, batch: Any, key: jax.Array) -> tuple[Params, Any, jax.Array]:
        value, gradients = jax.value_and_grad(loss)(params, batch, key)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    # Everything that a step reads or writes, so that a checkpoint of it is a place to go on from. Copied, since
    # a step donates its arguments and the initial ones belong to the caller.
    state: dict[str, Any] = {
        "params": jax.tree.map(jax.numpy.array, params),
        "opt_state": optimizer.init(params),
        "losses": np.zeros(steps, np.float32),
        "seconds": np.zeros(2),
    }
    options = ocp.CheckpointManagerOptions(max_to_keep=2)
    with ocp.CheckpointManager(Path(folder).resolve() / "training", options=options) as manager:
        start = manager.latest_step() or 0
        if start:
            saved = manager.restore(start, args=ocp.args.Composite(settings=ocp.args.JsonRestore())).settings
            if saved != run:
                raise ValueError(
                    f"{manager.directory} is of a run with {saved}, not {run}: remove it or go on with that"
                )
            restore = ocp.args.Composite(state=ocp.args.StandardRestore(state))
            state = manager.restore(start, args=restore).state
        params, opt_state, losses = state["params"], state["opt_state"], np.array(state["losses"])
        began = _clock() - state["seconds"]
        keys = jax.random.key(seed)
        progress = tqdm(_ahead(batches, range(start, steps)), initial=start, total=steps, unit="step")
        for step, batch in progress:
            params, opt_state, value = train_step(params, opt_state, batch, jax.random.fold_in(keys, step))
            losses[step] = value
            if not np.isfinite(losses[step]):
                raise FloatingPointError(f"the loss of step {step} is {losses[step]}")
            progress.set_postfix(loss=f"{losses[max(0, step - 49) : step + 1].mean():.3f}", refresh=False)
            done = step + 1
            if done in snapshots and on_snapshot is not None:
                on_snapshot(done, params)
            if done % save_every == 0 or done == steps:
                state = {"params": params, "opt_state": opt_state, "losses": losses, "seconds": _clock() - began}
                items = {"state": ocp.args.StandardSave(state), "settings": ocp.args.JsonSave(run)}
                manager.save(done, args=ocp.args.Composite(**items))
                manager.wait_until_finished()  # the next step donates the arrays that are being written
        hours, cpu_hours = (_clock() - began) / 3600
    curve = [float(part.mean()) for part in np.split(losses, range(CURVE_STEPS, steps, CURVE_STEPS))]
    machine = f"{os.cpu_count()} processors, {jax.default_backend()}"
    return params, TrainingRecord(settings, steps, float(hours), float(cpu_hours), tuple(curve), machine)


def _clock() -> np.ndarray:
    """Seconds on the clock, and seconds of processor time that this process took."""
    return np.array([time.perf_counter(), time.process_time()])


def _ahead(batches: Callable[[int], Any], steps: range) -> Iterator[tuple[int, Any]]:
    """Each step with its batch, the next one made while the caller is at work."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(batches, steps[0]) if steps else None
        for step in steps:
            assert coming is not None
            batch = coming.result()
            coming = thread.submit(batches, step + 1) if step + 1 < steps.stop else None
            yield step, batch
