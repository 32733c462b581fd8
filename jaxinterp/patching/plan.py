"""What a sweep runs, decided before it runs: which prompts together, where cells start, how many at a time.

Cells start at the layer and position that they edit. Positions are bucketed into a few suffix lengths, so that few
programs are compiled, and cells are batched as far as memory allows.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp.patching.batches import Batch
from jaxinterp.patching.buckets import bucket_starts
from jaxinterp.patching.cost import WEIGHT_ROWS, Cost

#: What starting a chunk costs, in cells: smaller chunks waste less padding, but each must be started.
CHUNK_COST = 1


@dataclasses.dataclass(frozen=True)
class Program:
    """Cells that are run by one compiled program.

    Attributes:
      start_pos: the first position that it computes.
      size: how many cells one block takes at a time.
      tiles: how many times as many go up through the blocks together.
      group: how many cells of one layer begin at a time, where they run apart.
      cells: how many it is expected to run, for one batch. layers: the first and the last layer they start at.
      spans: layers at which a new chunk begins: the cells of one chunk start within one span. Empty where they run
        apart.
      apart: whether every cell edits one layer, and starts with it; else all of a chunk start where the first does.
      operations: what that takes.
      bytes: of one chunk, with the weights that are sliced out for it.
    """

    start_pos: int
    size: int
    tiles: int
    group: int
    cells: int
    layers: tuple[int, int]
    spans: tuple[int, ...]
    apart: bool
    operations: float
    bytes: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a sweep will run. Made by `ji.plan_patching`.

    Attributes:
      batches: the prompts that run together.
      programs: of each group of batches, by start position.
      asked: cells in the result. draws: random draws that each is averaged over.
      counted: whether operations are known; else they count runs.
    """

    batches: tuple[Batch, ...]
    programs: tuple[tuple[Program, ...], ...]
    asked: int
    draws: int
    counted: bool

    @property
    def operations(self) -> float:
        """Of the whole sweep, without filling up of chunks."""
        return self.draws * sum(p.operations for batch in self.batches for p in self.programs[batch.group])

    @property
    def bytes(self) -> int:
        """Of the largest chunk, estimated."""
        return max((p.bytes for group in self.programs for p in group), default=0)

    def describe(self) -> str:
        """What starts where, operations, bytes and the time they should take, as text.

        The time is that of this machine's own large matrix products, measured now; compilation comes on top.

        Example:
          >>> plan = ji.plan_patching(model, params, tokens, tokens[::-1], site="z", metric=ji.logit_diff(3, 4))
          >>> print(plan.describe().splitlines()[0])
          48 cells asked, 28 to run, 3 prompts in 1 batch
        """
        to_run = max((sum(p.cells for p in group) for group in self.programs), default=0)
        prompts = sum(batch.n for batch in self.batches)
        batches = f"{len(self.batches)} batch" + "es" * (len(self.batches) > 1)
        lines = [f"{self.asked:,} cells asked, {to_run:,} to run, {prompts:,} prompts in {batches}"]
        if self.draws > 1:
            lines[0] += f", {self.draws} draws each"
        for number, group in enumerate(self.programs):
            own = [batch for batch in self.batches if batch.group == number]
            if len(self.programs) > 1:
                lines.append(f"{sum(b.n for b in own):,} prompts of up to {own[0].n_pos} tokens:")
            for p in group:
                first, last = p.layers
                where = f"layer {first}" if first == last else f"layers {first} to {last}"
                lines.append(
                    f"  from position {p.start_pos} of {own[0].n_pos}: {p.cells:,} cells that start at {where}, "
                    f"{p.size * p.tiles:,} at a time in {_amount(p.bytes, 'B', 1024)}"
                )
        if self.counted and self.operations:
            rate = matrix_rate()
            lines.append(
                f"{_amount(self.operations, 'FLOP')}: {_duration(self.operations / rate)} or more at this machine's "
                f"{_amount(rate, 'FLOP/s')}, compilation apart; at most {_amount(self.bytes, 'B', 1024)} a chunk"
            )
        return "\n".join(lines)

    def as_data(self) -> dict[str, Any]:
        """The plan as JSON holds it."""
        data = dataclasses.asdict(self)
        for batch in data["batches"]:
            batch["rows"] = batch["rows"].tolist()
        return data

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "Plan":
        """The inverse of `as_data`."""
        batches = tuple(Batch(**{**batch, "rows": np.array(batch["rows"])}) for batch in data["batches"])
        programs = tuple(
            tuple(Program(**{**p, "layers": tuple(p["layers"]), "spans": tuple(p["spans"])}) for p in group)
            for group in data["programs"]
        )
        return cls(**{**data, "batches": batches, "programs": programs})


def plan_group(
    layers: np.ndarray, rows: np.ndarray, cost: Cost, *, max_bytes: int, n_devices: int
) -> tuple[Program, ...]:
    """The programs for the cells of one batch, which start at `layers` and `rows`."""
    buckets = bucket_starts(rows, cost.n_pos, each=2 * WEIGHT_ROWS / cost.batch if cost.known else 0.0)
    make = _apart if cost.apart else _together
    return tuple(
        make(layers[buckets == start], start, cost, max_bytes, n_devices) for start in sorted(set(buckets.tolist()))
    )


def _apart(layers: np.ndarray, start: int, cost: Cost, max_bytes: int, n_devices: int) -> Program:
    """The program for cells that start at one position, each at the layer it edits."""
    values, counts = np.unique(layers, return_counts=True)
    # three quarters for what a block needs, the rest for the streams of all cells on their way
    most = max(1, max_bytes * 3 // 4 // cost.bytes(start)) * n_devices
    size = chunk_size(np.cumsum(counts).tolist(), most, n_devices)
    waiting = max(size, (max_bytes - size // n_devices * cost.bytes(start)) // cost.stream(start) * n_devices)
    tiles = min(-(-len(layers) // size), waiting // size)
    each, by_layer = size // n_devices, [-(-count // n_devices) for count in counts.tolist()]
    program = Program(
        start_pos=start, size=size, tiles=tiles, group=chunk_size(by_layer, each, 1),
        cells=len(layers), layers=(int(values[0]), int(values[-1])), spans=(), apart=True, operations=0.0,
        # and the weights of two layers: the one that cells pass, and the last
        bytes=each * (cost.bytes(start) + tiles * cost.stream(start)) + 2 * cost.weights,
    )  # fmt: skip
    return dataclasses.replace(program, operations=operations_of(program, cost, layers))


def _together(layers: np.ndarray, start: int, cost: Cost, max_bytes: int, n_devices: int) -> Program:
    """The program for cells that start at one position, those of a chunk at one layer: the first that any edits.

    Cells of one layer run together where that leaves the device busy; else those of several share a chunk.
    """
    values, counts = np.unique(layers, return_counts=True)
    most = max(1, max_bytes // cost.bytes(start)) * n_devices
    before = np.concatenate([[0], np.cumsum(counts)])

    def price(i: int, j: int) -> float:
        """Of cells that start at the layers values[i:j], together."""
        first, n = int(values[i]), int(before[j] - before[i])
        return -(-n // most) * cost.overhead(first) + n * float(cost.operations(first, start))

    # least[i]: of all cells from values[i] on, whose first span ends at ends[i]
    n = len(values)
    least, ends = np.zeros(n + 1), np.arange(1, n + 1)
    for i in reversed(range(n)):
        several = range(n, i, -1)  # the most where all cost the same
        prices = [price(i, j) + least[j] for j in several]
        ends[i], least[i] = several[int(np.argmin(prices))], min(prices)
    cuts = [0]
    while cuts[-1] < n:
        cuts.append(int(ends[cuts[-1]]))
    size = chunk_size(np.diff(before[cuts]).tolist(), most, n_devices)
    program = Program(
        start_pos=start, size=size, tiles=1, group=1, cells=len(layers), layers=(int(values[0]), int(values[-1])),
        spans=tuple(values[cuts[:-1]].tolist()), apart=False, operations=0.0,
        bytes=size * cost.bytes(start) // n_devices,
    )  # fmt: skip
    return dataclasses.replace(program, operations=operations_of(program, cost, layers))


def operations_of(program: Program, cost: Cost, layers: np.ndarray) -> float:
    """What cells take that start at these layers and run in this program."""
    first = layers if program.apart else np.asarray(program.spans)[span_of(program, layers)]
    return float(np.sum(cost.operations(first, program.start_pos)))


def span_of(program: Program, layers: np.ndarray) -> np.ndarray:
    """int[cell]: the number of the span in which each starts."""
    return np.searchsorted(program.spans, layers, side="right") - 1


def chunk_size(groups: Sequence[int], most: int, n_devices: int) -> int:
    """Cells that run at once: at most `most`, a multiple of the devices, wasting little on any group."""
    candidates = {-(-g // k) for g in set(groups) for k in range(-(-g // most), -(-g // most) + 4)}
    sizes = {min(-(-c // n_devices) * n_devices, max(most, n_devices)) for c in candidates}
    return min(sizes, key=lambda size: (sum(-(-g // size) * (size + CHUNK_COST) for g in groups), -size))


def matrix_rate() -> float:
    """Operations per second of this device's own large matrix products, in float32: the best of a few."""
    n = 1024
    multiply = jax.jit(jnp.matmul)
    one = jnp.ones((n, n), jnp.float32)
    multiply(one, one).block_until_ready()
    seconds = []
    for _ in range(5):
        begun = time.perf_counter()
        multiply(one, one).block_until_ready()
        seconds.append(time.perf_counter() - begun)
    return 2 * n**3 / min(seconds)


def _amount(value: float, unit: str, step: int = 1000) -> str:
    """A number with its unit, in thousands of whatever size reads well."""
    prefixes = ["", *("KMGTP" if step == 1000 else ("Ki", "Mi", "Gi", "Ti", "Pi"))]
    power = 0
    while value >= step and power < len(prefixes) - 1:
        value, power = value / step, power + 1
    return f"{value:.3g} {prefixes[power]}{unit}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
