"""Sweeps at the cost of what their cells can change: resumed from a cached run, batched, planned beforehand.

Models without `run` and `resume`, and sweeps that resuming cannot serve, take the plain path; results are the same.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm.auto import tqdm

from jaxinterp.metrics import Metric, score_read
from jaxinterp.model.branch import branches
from jaxinterp.model.layers import take_columns
from jaxinterp.model.resume import resumed
from jaxinterp.model.transformer import Transformer
from jaxinterp.model.where import Geometry
from jaxinterp.patching.batches import Batch, make_batches
from jaxinterp.patching.cost import RUN_BYTES, Cost, chunk_bytes, cost_of
from jaxinterp.patching.endurance import Folder, Keeper, Store
from jaxinterp.patching.fingerprints import fingerprint, fingerprint_of_code, fingerprint_of_metric
from jaxinterp.patching.observe import run_bytes
from jaxinterp.patching.plain import patched_metric
from jaxinterp.patching.plan import Plan, Program, operations_of, plan_group, span_of
from jaxinterp.patching.reach import columns_read, n_layers
from jaxinterp.patching.tally import Tally
from jaxinterp.tasks.prompts import Prompts


@dataclasses.dataclass(frozen=True)
class Options:
    """How a sweep runs, which changes nothing about its result.

    Attributes:
      mesh: devices that cells are spread over. max_bytes: for a chunk of cells. progress: whether a bar is shown.
      resume: a folder that finished chunks are kept in.
    """

    mesh: Mesh | None = None
    max_bytes: int | None = None
    progress: bool | None = None
    resume: Folder | None = None

    def __post_init__(self) -> None:
        if self.mesh is not None and not isinstance(self.mesh, Mesh):
            raise TypeError(f"mesh must be a jax.sharding.Mesh, got {type(self.mesh).__name__}")
        if self.max_bytes is not None and (type(self.max_bytes) is not int or self.max_bytes <= 0):
            raise ValueError(f"max_bytes must be a positive int, got {self.max_bytes!r}")
        if self.progress not in (None, True, False):
            raise TypeError(f"progress must be True, False or None, got {self.progress!r}")
        if self.resume is not None and not isinstance(self.resume, Folder):
            raise TypeError(f"resume must be a folder, got {type(self.resume).__name__}")
        if self.resume == "":
            raise ValueError("resume must be a folder, got the empty string")

    @property
    def budget(self) -> int:
        """Bytes that a chunk of cells may take."""
        return self.max_bytes or chunk_bytes()

    @property
    def hidden(self) -> bool | None:
        """What tqdm calls `disable`."""
        return None if self.progress is None else not self.progress

    def spread(self, prompts: Prompts) -> Prompts:
        """Prompts, each device of the mesh with its share of them; as they are, where they cannot be shared out."""
        if self.mesh is None or len(prompts) % self.mesh.size:
            return prompts
        return jax.device_put(prompts, NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names)))

    @property
    def n_devices(self) -> int:
        """How many devices cells are spread over."""
        return 1 if self.mesh is None else self.mesh.size


@dataclasses.dataclass(frozen=True)
class Work:
    """Some cells of one batch over one base run, ready to be continued from it.

    Attributes:
      prompts, edits, metric: the batch's own; the run stands under the edits.
      run: what is continued; None for the plain path.
      base_metric: [batch]. source_metric: [batch], where there is a source.
      numbers: int[n], the cells it covers. live: bool[n], those that must run.
      layers, rows: int[n], where each starts.
      values: whatever the cells write. take: coordinates of some of the cells, leaves leading with cell.
      share: its weight in the average over draws. opens: whether it is the first of its draw.
    """

    prompts: Prompts
    edits: Any
    metric: Metric
    run: Any
    base_metric: np.ndarray
    source_metric: np.ndarray | None
    numbers: np.ndarray
    live: np.ndarray
    layers: np.ndarray
    rows: np.ndarray
    values: Any
    take: Callable[[np.ndarray], Any]
    share: float = 1.0
    opens: bool = True


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What a sweep asks.

    Attributes:
      base: the prompts whose run is edited.
      names: the sites that are patched. n_cells: how many patches there are.
      first: int[prompt], the first column at which anything that is written can differ.
      outline: (layers, rows, live) of a batch's cells, as far as they are known without a run.
      works: how to prepare each of a batch's pieces of work.
      write: `(values, one cell's coordinates) -> its edits`; static.
      draws: how many runs of the base a cell is averaged over.
      resumes: whether cells continue a run; else each is a whole forward.
      one_layer: whether each cell edits one layer alone. one_head: whether one site at one head.
      whole: whether prompts may not run apart, for an edit may mix them.
      kept: sites whose activations are held for each prompt of a batch, beside what resuming needs.
      identity: what else tells this sweep from others (hashed for `resume`).
    """

    model: Any
    params: Any
    base: Prompts
    metric: Metric
    names: tuple[str, ...]
    n_cells: int
    first: np.ndarray
    outline: Callable[[Batch], tuple[np.ndarray, np.ndarray, np.ndarray]]
    works: Callable[[Batch], Sequence[Callable[[], Work]]]
    draws: int
    write: Callable[[Any, Any], Any]
    resumes: bool
    one_layer: bool
    one_head: bool
    whole: bool
    kept: tuple[str, ...]
    identity: Any


@functools.partial(jax.jit, static_argnames=("model", "start_pos", "write", "tile", "group", "mesh"))
def _branched_metric(
    model: Transformer,
    params: Any,
    run: Any,
    values: Any,
    cells: Any,
    layers: jax.Array,
    metric: Metric,
    *,
    start_pos: int,
    write: Callable[[Any, Any], Any],
    tile: int,
    group: int,
    mesh: Mesh | None,
) -> jax.Array:
    """The metric of each cell's run, continued from the base run at the one layer that it edits: [cell, batch].

    Cells are in order of their layers, on each device of the mesh for itself.
    """

    def on_one_device(params: Any, run: Any, values: Any, cells: Any, layers: jax.Array, metric: Metric) -> jax.Array:
        # unchecked: a sweep knows that nothing differs before its start
        return branches(
            model.config, model.sites, params, run, functools.partial(write, values), cells, layers, start_pos,
            metric.positions, metric.columns, lambda logits: score_read(metric, logits, {}), tile=tile, group=group,
        )  # fmt: skip

    if mesh is None:
        return on_one_device(params, run, values, cells, layers, metric)
    whole, spread = PartitionSpec(), PartitionSpec(mesh.axis_names)
    on_each = jax.shard_map(
        on_one_device, mesh=mesh, in_specs=(whole, whole, whole, spread, spread, whole), out_specs=spread,
        check_vma=False,
    )  # fmt: skip
    return on_each(params, run, values, cells, layers, metric)


@functools.partial(jax.jit, static_argnames=("model", "start_pos", "write"))
def _resumed_metric(
    model: Any,
    params: Any,
    run: Any,
    values: Any,
    cells: Any,
    metric: Metric,
    start_layer: Any,
    *,
    start_pos: int,
    write: Callable[[Any, Any], Any],
) -> jax.Array:
    """The metric of each cell's run, continued from the base run at one layer for all: [cell, batch]."""

    def one(cell: Any) -> jax.Array:
        edits = write(values, cell)
        if isinstance(model, Transformer):  # unchecked: a sweep knows that nothing differs before its start
            this = model.config, model.sites, params, run, edits
            where = start_layer, start_pos, metric.positions, metric.columns
            logits, _ = resumed(*this, {}, *where)
        else:
            start = {"start_layer": start_layer, "start_pos": start_pos}
            logits, _ = model.resume(params, run, edits, **start, positions=metric.positions)
            logits = take_columns(logits, metric.columns)
        return score_read(metric, logits, {})

    return jax.vmap(one)(cells)


def cost_of_cells(sweep: Sweep, geometry: Geometry) -> Cost:
    """What each of a sweep's cells costs in a batch of this shape."""
    return cost_of(
        sweep.model, sweep.params, geometry, sweep.metric, sweep.names,
        resumes=sweep.resumes, one_layer=sweep.one_layer, one_head=sweep.one_head,
    )  # fmt: skip


def sweep_batches(sweep: Sweep, options: Options) -> list[Batch]:
    """The prompts that run together: as many as fit half of the budget with their runs, and a quarter with one cell."""
    one = Geometry(1, np.shape(sweep.base.tokens)[1])
    cost = cost_of_cells(sweep, one)
    run = run_bytes(sweep.model, cost.itemsize, one, ("z", *sweep.kept))
    size = max(1, min((options.max_bytes or RUN_BYTES) // 2 // run, options.budget // 4 // cost.bytes(0)))
    # cells start at all layers, one like another
    each = np.mean(cost.operations(np.arange(n_layers(sweep.model.sites)), 0)) if cost.known else np.inf
    operations = sweep.draws * sweep.n_cells * each / one.pos
    if sweep.whole:
        size = len(sweep.base)
    cut = sweep.metric.positions is not None and not sweep.metric.capture
    return make_batches(sweep.base, sweep.first, size, cut=cut, operations=float(operations))


def begins(
    model: Any, prompts: Prompts, metric: Metric, rows: np.ndarray, first: int, *, resumes: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(int[n]: the rows at which cells start, bool[n]: whether anybody reads what follows)."""
    if not (isinstance(model, Transformer) and model.config.causal and resumes):
        return np.zeros_like(rows), np.ones(len(rows), bool)
    # behind the first position that differs, and at or before the first that is read
    read = np.flatnonzero(columns_read(metric, prompts).any(axis=0))
    rows = np.maximum(rows, np.int32(first))
    return np.minimum(rows, read[0]).astype(np.int32), rows <= read[-1]


def identify(sweep: Sweep, options: Options, *whatever: Any) -> dict[str, str]:
    """What a sweep is, part by part, as hashes."""
    return {
        "version of the code": fingerprint_of_code(),
        "model": fingerprint((sweep.model, sweep.params)),
        "prompts": fingerprint((sweep.base.tokens, sweep.base.mask)),
        "metric": fingerprint_of_metric(sweep.metric),
        "sweep": fingerprint((sweep.names, sweep.identity, whatever)),
        "number of devices": fingerprint(options.n_devices),
    }


def run_sweep(sweep: Sweep, options: Options, *, per_example: bool, per_prompt: bool) -> Tally:
    """Plans a sweep and runs it; continues it where its folder says that it stopped.

    Args:
      per_example: keep every prompt's effects, instead of their mean and spread.
      per_prompt: divide each prompt's effects by the difference of its own source and base metrics.
    """
    store = None if options.resume is None else Store(options.resume, identify(sweep, options, per_example, per_prompt))
    found = None if store is None else store.read()
    ready: Work | None = None
    if found is not None:
        plan, tally = found
    else:
        plan, ready = plan_sweep(sweep, options)
        tally = Tally.fresh(plan.programs, sweep.n_cells, len(sweep.base), per_example=per_example)
        if store is not None:
            store.write(plan, tally)
    everywhere = None if options.mesh is None else NamedSharding(options.mesh, PartitionSpec())
    sweep = dataclasses.replace(sweep, params=jax.device_put(sweep.params, everywhere))
    by_batch = [plan.draws * sum(p.operations for p in plan.programs[batch.group]) for batch in plan.batches]
    total, unit = max(plan.operations, 1), "FLOP" if plan.counted else "patch"
    with (
        tqdm(total=total, desc="patches", unit=unit, unit_scale=True, delay=1, disable=options.hidden) as bar,
        Keeper(store, plan, tally) as keep,
    ):
        while tally.batch < len(plan.batches):
            bar.update(sum(by_batch[: tally.batch]) - bar.n)  # cells that turned out to change nothing count as done
            batch = plan.batches[tally.batch]
            for job in list(sweep.works(batch))[tally.work :]:
                work = ready or job()
                ready = None
                tally.open_work(work.base_metric, work.source_metric, work.share, opens=work.opens)
                _run_work(sweep, work, plan, options, tally, bar, keep)
                tally.close_work()
            tally.close_batch(batch, per_prompt=per_prompt)
        bar.update(total - bar.n)
        keep(last=True)
    return tally


def plan_sweep(sweep: Sweep, options: Options) -> tuple[Plan, Work | None]:
    """(the plan; the first piece of work, where looking at it made the plan exact)."""
    batches = sweep_batches(sweep, options)
    jobs = sweep.works(batches[0])
    ready = jobs[0]() if len(batches) == len(jobs) == 1 else None
    programs = []
    for number in range(1 + max(batch.group for batch in batches)):
        own = [batch for batch in batches if batch.group == number]
        if ready is not None:
            layers, rows, live = ready.layers, ready.rows, ready.live
        else:  # what any of its batches may have to run
            together = dataclasses.replace(own[0], rows=np.concatenate([batch.rows for batch in own]))
            layers, rows, live = sweep.outline(together)
        size = Geometry(len(own[0].rows), own[0].n_pos)
        cost = cost_of_cells(sweep, size)
        programs.append(
            plan_group(layers[live], rows[live], cost, max_bytes=options.budget, n_devices=options.n_devices)
        )
    plan = Plan(
        batches=tuple(batches), programs=tuple(programs), asked=sweep.n_cells, draws=sweep.draws,
        counted=cost.known,
    )  # fmt: skip
    return plan, ready


def _run_work(sweep: Sweep, work: Work, plan: Plan, options: Options, tally: Tally, bar: tqdm, keep: Keeper) -> None:
    """Runs what is left of one piece of work, chunk by chunk."""
    batch = plan.batches[tally.batch]
    programs = plan.programs[batch.group]
    size = Geometry(len(batch.rows), batch.n_pos)
    cost = cost_of_cells(sweep, size)
    # what all chunks share goes to the devices once
    everywhere = None if options.mesh is None else NamedSharding(options.mesh, PartitionSpec())
    shared = work.prompts, work.run, work.values, work.metric
    prompts, run, written, metric = jax.device_put(shared, everywhere)
    edits = work.edits if options.mesh is None else jax.device_put(work.edits, everywhere)
    queues = _queues(work, programs)
    # on an accelerator the next chunk is under way while the last one's result is fetched
    ahead = int(jax.default_backend() != "cpu")

    def launch(number: int, which: np.ndarray) -> jax.Array:
        program, size = programs[number], tally.sizes[batch.group][number]
        filled = np.pad(which, (0, size - len(which)), mode="edge")
        layers = work.layers[filled].astype(np.int32)
        if program.apart:
            layers[len(which) :] = n_layers(sweep.model.sites)
            # dealt out, so that every device has cells of all layers, in order
            filled, layers = (each.reshape(-1, options.n_devices).T.ravel() for each in (filled, layers))
        cells = work.take(filled)
        if options.mesh is not None:
            spread = NamedSharding(options.mesh, PartitionSpec(options.mesh.axis_names))
            cells, layers = jax.device_put((cells, layers), spread)
        if run is None:
            return patched_metric(sweep.model, sweep.params, prompts, edits, written, cells, metric, sweep.write)
        if program.apart:
            tile = min(program.size, size) // options.n_devices
            return _branched_metric(
                sweep.model, sweep.params, run, written, cells, layers, metric, start_pos=program.start_pos,
                write=sweep.write, tile=tile, group=min(program.group, tile), mesh=options.mesh,
            )  # fmt: skip
        return _resumed_metric(
            sweep.model, sweep.params, run, written, cells, metric, int(work.layers[which].min()),
            start_pos=program.start_pos, write=sweep.write,
        )  # fmt: skip

    while tally.program < len(programs):
        waiting: list[tuple[int, np.ndarray, jax.Array]] = []
        number = at = tally.program  # at: the program that fails, if one does
        done = tally.done
        try:
            while number < len(programs) or waiting:
                if number < len(programs):
                    which = _next_chunk(
                        queues[number][done:], work.layers, tally.sizes[batch.group][number], programs[number]
                    )
                    at = number
                    if len(which):
                        waiting.append((number, which, launch(number, which)))
                        done += len(which)
                    else:
                        number, done = number + 1, 0
                while waiting and (len(waiting) > ahead or number == len(programs)):
                    at, which, edited = waiting.pop(0)
                    values = np.asarray(edited)
                    if programs[at].apart:  # collected again
                        by_device = values.reshape(options.n_devices, -1, values.shape[-1])
                        values = by_device.swapaxes(0, 1).reshape(values.shape)
                    effects = values[: len(which)] - work.base_metric
                    tally.add(work.numbers[which], work.share * effects, at)
                    bar.update(operations_of(programs[at], cost, work.layers[which]))
                    keep()
            tally.program = len(programs)
        except jax.errors.JaxRuntimeError as error:
            sizes = tally.sizes[batch.group]
            # whole tiles while there are any, then less of one
            step = programs[at].size if sizes[at] > programs[at].size else options.n_devices
            half = sizes[at] // 2 // step * step or min(step, sizes[at] - 1) // options.n_devices * options.n_devices
            if "RESOURCE_EXHAUSTED" not in str(error) or not half:
                raise
            warnings.warn(f"out of memory: chunks of {sizes[at]} cells become {half}", stacklevel=2)
            sizes[at] = half


def _queues(work: Work, programs: Sequence[Program]) -> list[np.ndarray]:
    """For each program the cells that it runs, in order of their layers."""
    starts = np.array([program.start_pos for program in programs])
    bucket = np.searchsorted(starts, work.rows, side="right") - 1
    assert not (work.live & (bucket < 0)).any(), "a cell starts before every planned program"
    queues = [np.flatnonzero(work.live & (bucket == number)) for number in range(len(programs))]
    return [queue[np.argsort(work.layers[queue], kind="stable")] for queue in queues]


def _next_chunk(queue: np.ndarray, layers: np.ndarray, size: int, program: Program) -> np.ndarray:
    """The next cells that run together."""
    chunk = queue[:size]
    if program.apart:
        return chunk
    span = span_of(program, layers[chunk])
    return chunk[span == span[:1]]
