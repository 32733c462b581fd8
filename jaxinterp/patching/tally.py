"""What a sweep has found so far, and how far it has come: the state that survives a kill."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxinterp.patching.batches import Batch
from jaxinterp.patching.plan import Program


@dataclasses.dataclass
class Tally:
    """Running sums over the prompts of finished batches, the effects of the one in work, and the place in the plan.

    Attributes:
      batch, work, program, done: what runs next: the plan's batch, its piece of work, that one's program, and how many
        of that program's cells are done.
      sizes: cells at a time, by group and program: the plan's, unless memory ran out.
      effects: [cell, b] of the batch in work, averaged over draws so far. base, source: [b], its metrics.
      n: prompts in finished batches. mean, spread: [cell], their effects' mean and sum of squared deviations.
      base_each, source_each: [prompt], NaN where there is none (yet).
      each: [cell, prompt] if every prompt's effects are wanted, else [cell, 0].
    """

    batch: int
    work: int
    program: int
    done: int
    sizes: list[list[int]]
    n: int
    effects: np.ndarray
    base: np.ndarray
    source: np.ndarray
    mean: np.ndarray
    spread: np.ndarray
    base_each: np.ndarray
    source_each: np.ndarray
    each: np.ndarray

    @classmethod
    def fresh(
        cls, programs: Sequence[Sequence[Program]], n_cells: int, n_prompts: int, *, per_example: bool
    ) -> "Tally":
        """Nothing done yet of a plan with these programs."""
        nothing = np.full(n_prompts, np.nan)
        return cls(
            batch=0, work=0, program=0, done=0, n=0, sizes=[[p.size * p.tiles for p in group] for group in programs],
            effects=np.zeros((0, 0)), base=np.zeros(0), source=np.zeros(0),
            mean=np.zeros(0 if per_example else n_cells), spread=np.zeros(0 if per_example else n_cells),
            base_each=nothing, source_each=nothing.copy(),
            each=np.zeros((n_cells, n_prompts if per_example else 0)),
        )  # fmt: skip

    def open_work(self, base: np.ndarray, source: np.ndarray | None, share: float, *, opens: bool) -> None:
        """Counts in the metrics of a run whose cells come next, unless that was done before an interruption."""
        if self.program or self.done:
            return
        if not self.work:
            self.effects = np.zeros((len(self.each), len(base)), base.dtype)
            self.base = np.zeros_like(base)
            self.source = np.zeros_like(base) if source is not None else np.full_like(base, np.nan)
        if opens:
            self.base = self.base + share * base
            self.source = self.source if source is None else self.source + share * source

    def add(self, numbers: np.ndarray, effects: np.ndarray, program: int) -> None:
        """Counts in one chunk's effects, [len(numbers), b], and moves on."""
        if len(numbers) == len(self.effects) and (np.diff(numbers) == 1).all():  # all of them, in order
            self.effects += effects
        else:
            self.effects[numbers] += effects
        if program != self.program:
            self.program, self.done = program, 0
        self.done += len(numbers)

    def close_work(self) -> None:
        """Moves on to the next piece of work."""
        self.work, self.program, self.done = self.work + 1, 0, 0

    def add_batch(
        self,
        batch: Batch,
        base: np.ndarray,
        source: np.ndarray | None,
        numbers: np.ndarray,
        effects: np.ndarray,
        *,
        per_prompt: bool,
    ) -> None:
        """Takes in a batch of whose cells all effects, [len(numbers), b], are there at once; other cells have none."""
        self.base, self.source = base, np.full_like(base, np.nan) if source is None else source
        self.effects = effects
        if len(numbers) < len(self.each):
            self.effects = np.zeros((len(self.each), len(base)), effects.dtype)
            self.effects[numbers] = effects
        self.close_batch(batch, per_prompt=per_prompt)

    def close_batch(self, batch: Batch, *, per_prompt: bool) -> None:
        """Takes a finished batch into the sums; prompts that only filled it up are left out."""
        own = slice(batch.n)
        rows = batch.rows[own]
        self.base_each[rows], self.source_each[rows] = self.base[own], self.source[own]
        distance = whole_way(self.base[own], self.source[own]) if per_prompt else None
        if self.each.size:
            self.each[:, rows] = self.effects[:, own] if distance is None else self.effects[:, own] / distance
        else:
            together = max(1, 2**16 // max(1, batch.n))  # cells, so that their effects stay in the processor's cache
            even = np.full(batch.n, 1 / batch.n)
            for first in range(0, len(self.effects), together):
                part = slice(first, first + together)
                effects = self.effects[part, own].astype(np.float64)
                if distance is not None:
                    effects /= distance
                mean = effects @ even
                effects -= mean[:, None]
                share = batch.n / (self.n + batch.n)
                change = mean - self.mean[part]
                self.spread[part] += np.einsum("cb,cb->c", effects, effects) + change**2 * (self.n * share)
                self.mean[part] += change * share
            self.n += batch.n
        self.effects = np.zeros((0, 0))
        self.batch, self.work = self.batch + 1, 0


def whole_way(base: np.ndarray, source: np.ndarray) -> np.ndarray:
    """source - base, NaN where the two are equal as far as rounding can tell."""
    distance = source - base
    nothing = abs(distance) < 1e-6 * max(1e-6, np.max(abs(source)), np.max(abs(base)))
    return np.where(nothing, np.nan, distance)
