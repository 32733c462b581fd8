"""What a peer is asked and what it answers: files in a folder, so that no peer needs to import jaxinterp.

The folder holds `weights.safetensors` (float32; a block's weights are stacked by layer, W_Q is [layer, head, d_model,
d_head]) and `job.json`. A worker adds `effects.npz` and `timings.json`, each by name of sweep.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Patches of one site, from the clean run into the corrupted one.

    Attributes:
      site: "z" (what a head reads, before W_O) or "resid_pre" (the stream that enters a block).
      axes: what the columns of `cells` are; what they leave out is patched whole.
      cells: int[cell, axis].
      clean, corrupted: tokens, int[batch, pos].
    """

    name: str
    site: str
    axes: tuple[str, ...]
    cells: np.ndarray
    clean: np.ndarray
    corrupted: np.ndarray


@dataclasses.dataclass(frozen=True)
class Job:
    """A model in GPT-2's form, two tokens per prompt whose logits are compared, and the sweeps to time.

    Attributes:
      sizes: n_layers, n_heads, d_model, d_head, d_mlp, d_vocab, n_ctx and eps.
      weights: the parameters; the unembedding is W_E transposed.
      correct, wrong: int[batch]; the metric is the difference of their logits at the last position.
    """

    sizes: dict[str, Any]
    weights: dict[str, np.ndarray]
    correct: np.ndarray
    wrong: np.ndarray
    sweeps: list[Sweep]

    def block(self, layer: int) -> dict[str, np.ndarray]:
        """The weights of one block."""
        outside = ("W_E", "W_pos", "ln_final.w", "ln_final.b")
        return {name: weight[layer] for name, weight in self.weights.items() if name not in outside}

    @classmethod
    def read(cls, folder: Path) -> "Job":
        """The job that lies in a folder."""
        said = json.loads((folder / "job.json").read_text())
        sweeps = [
            Sweep(s["name"], s["site"], tuple(s["axes"]), *(np.array(s[k]) for k in ("cells", "clean", "corrupted")))
            for s in said["sweeps"]
        ]
        weights = load_file(folder / "weights.safetensors")
        return cls(said["sizes"], weights, np.array(said["correct"]), np.array(said["wrong"]), sweeps)


def lines(cells: np.ndarray) -> list[np.ndarray]:
    """Cells, split where any axis but the last changes."""
    return np.split(cells, 1 + np.flatnonzero((np.diff(cells[:, :-1], axis=0) != 0).any(axis=1)))


#: From cells to their effects: metric of each patched run - metric of the corrupted run.
Patch = Callable[[np.ndarray], np.ndarray]


def work(prepare: Callable[[Job], Callable[[Sweep], Patch]], *, compiles: bool) -> None:
    """Does the job in the folder named on the command line.

    Args:
      prepare: makes, once, the function that begins a sweep (with what it needs of the clean and the corrupted run,
        which is not timed) and returns what patches cells, which is.
      compiles: a sweep's first run compiles, so it is run twice; otherwise a line of patches warms it up.
    """
    folder = Path(sys.argv[1])
    job = Job.read(folder)
    begin = prepare(job)
    effects, timings = {}, {}
    for sweep in job.sweeps:
        patch = begin(sweep)
        start = time.perf_counter()
        patch(sweep.cells if compiles else lines(sweep.cells)[0])
        warm = time.perf_counter()
        effects[sweep.name] = patch(sweep.cells)
        timings[sweep.name] = {"first_seconds": warm - start, "seconds": time.perf_counter() - warm}
        print(f"  {sweep.name}: {timings[sweep.name]['seconds']:.2f} s", file=sys.stderr, flush=True)
    np.savez(folder / "effects.npz", **effects)
    (folder / "timings.json").write_text(json.dumps(timings))
