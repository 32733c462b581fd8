"""Activations, and gradients, of a whole dataset, streamed to disk as fast as the model makes them.

One compiled program runs batch after batch; while it is at work on the next ones, a thread writes those that are done.
"""

import collections
import dataclasses
import os
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from tqdm.auto import tqdm

from jaxinterp.io.harvesting.opened import Harvest, open_harvest
from jaxinterp.io.harvesting.program import harvested
from jaxinterp.io.harvesting.request import Request, bytes_at_work, checked, identify, layouts_of, rows_of
from jaxinterp.io.harvesting.shards import INDEX, Index, ShardWriter
from jaxinterp.metrics import Metric
from jaxinterp.model.interventions import Interventions
from jaxinterp.patching.batches import Batch
from jaxinterp.patching.engine import Options

#: Batches that are computed, or wait, while one is being written.
AHEAD = 2

#: What may change once everything is written: nothing more is computed.
WHILE_RUNNING = ("version of the code", "number of devices")


def harvest(
    model: Any,
    params: Any,
    dataset: Any,
    sites: Any,
    folder: str | os.PathLike[str],
    *,
    mask: Any = None,
    interventions: Interventions | None = None,
    metric: Metric | None = None,
    flatten: bool = False,
    dtype: Any = None,
    shard_bytes: int = 256 * 2**20,
    max_bytes: int | None = None,
    mesh: Mesh | None = None,
    progress: bool | None = None,
) -> Harvest:
    """Activations of a dataset, on disk: sharded, memory-mapped back, and gone on with after a kill.

    Called again with the same arguments it goes on behind the last whole shard, whatever stopped it, and writes the
    same bit for bit; once all is written it returns what there is. Prompts run in their order, a fixed number at a
    time, each by itself: functions of `ji.apply_fn` must not mix them.

    Args:
      dataset: tokens int[batch, pos] or a `ji.Prompts`; a memory-mapped array is read as it is needed.
      sites: names, or `{site: where}` to keep only what `where` (from `ji.at`) selects. As in numpy, an axis that is
        given a single number is gone, one that is given a list or a slice is kept; so is a whole one.
      folder: made if it is not there. One that holds another harvest is refused.
      mask: bool[batch, pos], False at padding.
      interventions: edits of the model that is harvested.
      metric: if given, gradients of each prompt's own metric with respect to the same activations are stored too.
      flatten: False: rows are prompts, and each array has the axes of a cache, "batch" all of them ([layer, batch, pos,
        d_model]); what stands at padding means nothing. True: rows are tokens ([layer, row, d_model], or [row, d_model]
        of one layer), padding left out; `coordinates` tells their prompts and positions.
      dtype: "float16" or "bfloat16" (or "float32", of a float64 model) to store less; None stores what the model
        computes, bit for bit.
      shard_bytes: the most that one shard's activations and gradients take, unless those of one prompt take more.
      max_bytes: the most memory that batches take, by estimate; by default a quarter of what is free, on CPUs 80 MiB,
        since more would not fit their caches. It and `shard_bytes` stay as they were at first when a harvest goes on.
      mesh: devices that prompts are spread over.
      progress: whether a bar is shown; None for where there is a terminal.

    Returns:
      The harvest, as `ji.open_harvest(folder)` gives it.

    Raises:
      TypeError, ValueError: before anything is compiled or written, for input that cannot be meant, and for a folder
        that holds something else (says what differs). Later: values that are too large for `dtype`.
      OSError: the folder cannot be written, a full disk say; whole shards are kept.

    Example:
      >>> prompts = ji.Prompts(tokens, np.arange(6) < np.array([[6], [4], [5]]))
      >>> harvest = ji.harvest(
      ...     model, params, prompts, {"resid_post": ji.at(layer=1)}, "folder", flatten=True, dtype="float16")
      >>> harvest.arrays["resid_post"].shape, harvest.arrays["resid_post"].dtype
      ((15, 32), dtype('float16'))
      >>> probes = ji.harvest(model, params, prompts, {"z": ji.at(pos=-1)}, "other", metric=ji.logit_diff(3, 4))
      >>> probes.gradients["z"].axes
      ('layer', 'batch', 'head', 'd_head')
    """
    options = Options(mesh, max_bytes, progress)
    if type(shard_bytes) is not int or shard_bytes <= 0:
        raise ValueError(f"shard_bytes must be a positive int, got {shard_bytes!r}")
    if not isinstance(folder, (str, os.PathLike)) or not str(folder):
        raise TypeError(f"folder must be a path, got {folder!r}")
    if type(flatten) is not bool:
        raise TypeError(f"flatten must be True or False, got {flatten!r}")
    request = checked(model, params, dataset, mask, sites, interventions, metric, flatten, dtype)
    layouts, bytes_of_prompt = layouts_of(request)
    identity, folder = identify(request, options.n_devices), Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, not a folder")
    index = _begun(folder, identity)
    if index is not None and index.complete:
        return open_harvest(folder)
    if index is not None:
        open_harvest(folder)  # whose shards are looked at now, rather than in the end
    else:
        at_work = bytes_at_work(request) + (2 + AHEAD) * bytes_of_prompt
        in_shard = shard_bytes // bytes_of_prompt
        fresh = Index(identity, len(request.prompts), 1, 1, layouts)
        index = _planned(fresh, min(len(request.prompts), options.budget // at_work, in_shard), in_shard, options)
    while not index.complete:
        writer = ShardWriter(folder, index)
        try:
            index.write(folder)
            _run(request, options, writer)
            index = writer.index
        except OSError as error:
            kept = f"cannot write to {folder}, whose {len(writer.index.shards)} whole shards are kept"
            raise OSError(error.errno, f"{kept}: {error.strerror or error}") from error
        except jax.errors.JaxRuntimeError as error:
            half = index.batch // 2
            if "RESOURCE_EXHAUSTED" not in str(error) or writer.index.shards or half < options.n_devices:
                raise
            index = _planned(index, half, index.shard_prompts, options)
            warnings.warn(f"out of memory: batches of {writer.index.batch} prompts become {index.batch}", stacklevel=2)
        finally:
            writer.abandon()
    return open_harvest(folder)


def _begun(folder: Path, identity: Mapping[str, str]) -> Index | None:
    """The index of this harvest, if it was begun in the folder; raises if the folder holds anything else."""
    if not (folder / INDEX).exists():
        if found := next(folder.glob("shard-*"), None):
            raise ValueError(f"{found} stands in the way: {folder} has shards, but no {INDEX}; give another folder")
        return None
    index = Index.read(folder)
    parts = [part for part in identity if not (index.complete and part in WHILE_RUNNING)]
    if others := [part for part in parts if index.identity.get(part) != identity[part]]:
        raise ValueError(
            f"{folder} holds a harvest of another {' and '.join(others)}: give the arguments it was begun with, or "
            "another folder"
        )
    return index


def _planned(index: Index, batch: int, shard_prompts: int, options: Options) -> Index:
    """The same harvest in batches and shards of about so many prompts; a shard is of whole batches."""
    batch = max(1, batch // options.n_devices) * options.n_devices
    return dataclasses.replace(index, batch=batch, shard_prompts=max(1, shard_prompts // batch) * batch)


def _run(request: Request, options: Options, writer: ShardWriter) -> None:
    """Harvests what the folder does not hold yet."""
    index, n = writer.index, len(request.prompts)
    params, everywhere, spread = request.params, None, None
    if options.mesh is not None:
        names = options.mesh.axis_names
        mesh = Mesh(options.mesh.devices, names, axis_types=(AxisType.Auto,) * len(names))
        everywhere, spread = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(names))
        params = jax.device_put(params, everywhere)

    def launch(first: int, last: int) -> Any:
        """Begins a batch; the last ones are filled up with prompts, so that one program serves all."""
        rows = np.pad(np.arange(first, last), (0, index.batch - (last - first)), mode="edge")
        prompts, *others = request.inputs(Batch(0, rows, last - first, request.n_pos, 0))
        if everywhere is not None:
            prompts, others = jax.device_put(prompts, spread), jax.device_put(others, everywhere)
        found = harvested(request.model, params, prompts, *others, flatten=request.flatten, dtype=request.dtype)
        for array in jax.tree.leaves(found):
            array.copy_to_host_async()
        return found

    def write(found: Any, chosen: Any, first: int, last: int) -> None:
        """Waits for a batch, and writes it; in a thread."""
        stored, lost = jax.device_get(found)
        for kind, site in [(kind, site) for kind, each in lost.items() for site in each]:
            if lost[kind][site]:
                raise ValueError(
                    f"{kind} of site {site!r}, prompts {first} to {last - 1}: {lost[kind][site]} values are too large "
                    f"for {request.dtype}; 'bfloat16' reaches as far as float32, and dtype=None stores what there is"
                )
        writer.append(stored, chosen)

    lengths = None if request.prompts.mask is None else request.prompts.mask.sum(axis=1)
    hidden = None if options.progress is None else not options.progress

    def tokens(first: int, last: int) -> int:
        return (last - first) * request.n_pos if lengths is None else int(lengths[first:last].sum())

    behind = min(n, len(index.shards) * index.shard_prompts)
    bar = tqdm(
        total=tokens(0, n), initial=tokens(0, behind), desc="harvest", unit=" tokens", unit_scale=True, delay=1,
        disable=hidden,
    )  # fmt: skip
    waiting: collections.deque[tuple[Future[None], int]] = collections.deque()
    latest: Future[None] | None = None

    def submit(job: Callable[..., None], *args: Any, count: int = 0) -> None:
        """Has the thread do what comes next; `count` tokens are done then."""
        nonlocal latest
        latest = thread.submit(_after, latest, job, *args)
        waiting.append((latest, count))

    def settle(most: int) -> None:
        """Waits until no more than so much is left to do."""
        while len(waiting) > most:
            done, count = waiting.popleft()
            done.result()
            bar.update(count)

    with bar, ThreadPoolExecutor(1) as thread:
        for begin in range(behind, n, index.shard_prompts):
            end = min(begin + index.shard_prompts, n)
            coordinates, rows = rows_of(request, begin, end)
            submit(writer.open, coordinates)
            for first in range(begin, end, index.batch):
                last = min(first + index.batch, end)
                chosen: Any = slice(last - first)
                if rows is not None:
                    own = rows[first - begin : last - begin]
                    chosen = slice(own.size) if own.all() else np.flatnonzero(own)
                submit(write, launch(first, last), chosen, first, last, count=tokens(first, last))
                settle(AHEAD)
            submit(writer.close)
        settle(0)


def _after(before: Future[None] | None, job: Callable[..., None], *args: Any) -> None:
    """Does a job, unless one before it failed: then fails in the same way."""
    if before is not None:
        before.result()
    job(*args)
