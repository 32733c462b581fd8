"""Sweeps at the cost of what their cells can change: resumed from a cached run, batched, planned beforehand.

Models without `resume`, and sweeps that resuming cannot serve, take the plain path; results are the same.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm.auto import tqdm

from jaxinterp.metrics import Metric, score_read
from jaxinterp.model.interventions import replace
from jaxinterp.model.run import Run
from jaxinterp.model.where import Geometry
from jaxinterp.patching.cells import Cells
from jaxinterp.patching.plain import captured, metric_values, patched_metric
from jaxinterp.patching.plan import Chunk, confined, differing, make_plan, metric_span, starts
from jaxinterp.tasks.prompts import Prompts


@functools.partial(jax.jit, static_argnames=("model", "names"))
def _observed(model: Any, params: Any, prompts: Prompts, edits: Any, metric: Metric, names: tuple[str, ...]) -> Any:
    """(a run that can be resumed, with the named sites in its cache; its metric)."""
    run = model.run(params, prompts.tokens, mask=prompts.mask, interventions=edits, capture=names)
    depth = run.resid.shape[0] - 1
    logits, _ = model.resume(params, run, start_layer=depth, positions=metric.positions, columns=metric.columns)
    return run, score_read(metric, logits, {})


@functools.partial(jax.jit, static_argnames=("model", "start_pos", "one_layer"))
def _resumed_metric(
    model: Any,
    params: Any,
    run: Run,
    values: Any,
    wheres: Any,
    metric: Metric,
    start_layer: Any,
    *,
    start_pos: int,
    one_layer: bool,
) -> jax.Array:
    """The metric of each cell's run, branched off the base run: [cell, batch]."""

    def one(wheres: Any) -> jax.Array:
        patches = {site: replace(values[site], where) for site, where in wheres.items()}
        logits = model.branch(
            params, run, patches, start_layer=start_layer, start_pos=start_pos,
            positions=metric.positions, columns=metric.columns, one_layer=one_layer,
        )  # fmt: skip
        return score_read(metric, logits, {})

    return jax.vmap(one)(wheres)


def can_resume(model: Any, metric: Metric, names: tuple[str, ...]) -> bool:
    """Whether sweeps of these sites under this metric can start in the middle of a run."""
    return (
        all(hasattr(model, name) for name in ("run", "resume", "branch"))
        and metric.positions is not None  # else every row's logits are read
        and not metric.capture  # activations that may lie before the start
        and not {"embed", "pos_embed"} & set(names)
    )


def observe(
    model: Any, params: Any, prompts: Prompts, edits: Any, metric: Metric, names: tuple[str, ...]
) -> tuple[Run | None, dict[str, jax.Array], np.ndarray]:
    """(a run to resume if the model can; the named sites' activations; the metric, [batch]) of an edited run."""
    prompts = Prompts(prompts.tokens, prompts.mask)  # what the program reads; labels would recompile it
    if not can_resume(model, metric, names):
        cache = captured(model, params, prompts, edits, names)
        return None, cache, np.asarray(metric_values(model, params, prompts, edits, metric))
    order = list(model.sites)
    behind_heads = all(order.index(name) >= order.index("z") for name in names)
    kept = tuple(dict.fromkeys((*names, "z"))) if behind_heads else names
    run, values = _observed(model, params, prompts, edits, metric, kept)
    return run, run.cache, np.asarray(values)


def patched_values(
    model: Any,
    params: Any,
    base: Prompts,
    base_edits: Any,
    observed: tuple[Run | None, Mapping[str, jax.Array], np.ndarray],
    values: Mapping[str, jax.Array],
    cells: Cells,
    metric: Metric,
    *,
    mesh: Mesh | None,
    max_bytes: int | None,
    progress: bool | None,
) -> np.ndarray:
    """The metric of each cell's run, the base run with `values` at the cell's coordinates: [cell, batch].

    Args:
      observed: what `observe` returned of the base run.
      values: what is written, `{site: array}`; the site's rank, every axis full or 1.
    """
    run, standing, base_metric = observed
    base = Prompts(base.tokens, base.mask)
    values = {site: values[site] for site in cells.wheres}
    chunks = plan_sweep(model, params, base, run, standing, values, cells, metric, mesh=mesh, max_bytes=max_bytes)
    if mesh is not None:
        params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    out = np.broadcast_to(base_metric, (len(cells), len(base_metric))).copy()
    hidden = None if progress is None else not progress
    total = sum(len(chunk.which) for chunk in chunks)
    with tqdm(total=total, desc="patches", unit="patch", delay=1, disable=hidden) as bar:
        for chunk in chunks:
            wheres = cells.take(chunk.which, chunk.size)
            if mesh is not None:
                wheres = jax.device_put(wheres, NamedSharding(mesh, PartitionSpec(mesh.axis_names)))
            if run is None:
                edited = patched_metric(model, params, base, base_edits, values, wheres, metric)
            else:
                edited = _resumed_metric(
                    model, params, run, values, wheres, metric, chunk.start_layer,
                    start_pos=chunk.start_pos, one_layer=confined(cells),
                )  # fmt: skip
            out[chunk.which] = np.asarray(edited)[: len(chunk.which)]
            bar.update(len(chunk.which))
    return out


def plan_sweep(
    model: Any,
    params: Any,
    base: Prompts,
    run: Run | None,
    standing: Mapping[str, jax.Array],
    values: Mapping[str, jax.Array],
    cells: Cells,
    metric: Metric,
    *,
    mesh: Mesh | None,
    max_bytes: int | None,
) -> list[Chunk]:
    """The chunks that a sweep runs; cells that can change nothing are in none."""
    geometry = Geometry.of(base.tokens, base.mask)
    live, first_row = differing(cells, model.sites, standing, values)
    layers, rows = (np.zeros(len(cells), int),) * 2 if run is None else starts(cells, model.sites)
    if run is not None and not model.config.causal:
        rows = np.zeros_like(rows)
    elif run is not None:
        # behind the first position that differs, and at or before the first that is read
        rows = np.maximum(rows, first_row)
        first_read, last_read = metric_span(metric, geometry)
        live &= rows <= last_read
        rows = np.minimum(rows, first_read)
    which = np.flatnonzero(live)
    if not len(which):
        return []
    return make_plan(
        which, layers[which], rows[which],
        n_pos=geometry.pos, apart=run is not None and confined(cells), bytes_per_row=row_bytes(model, params, base),
        max_bytes=max_bytes, n_devices=1 if mesh is None else mesh.size,
    )  # fmt: skip


def row_bytes(model: Any, params: Any, base: Prompts) -> int:
    """What one position of one cell's forward holds at its widest: a few streams, a layer's widest site, logits."""
    batch, pos = np.shape(base.tokens)
    wide = max(np.dtype(np.float32).itemsize, max(leaf.dtype.itemsize for leaf in jax.tree.leaves(params)))
    on_demand = ("q_input", "k_input", "v_input", "result")  # only where somebody names them
    entries = {
        name: int(np.prod(spec.shape(batch, pos)[1 if spec.per_layer else 0 :])) // pos
        for name, spec in model.sites.items()
        if name not in on_demand
    }
    return wide * (6 * entries.get("resid_final", 0) + 3 * max(entries.values()))
