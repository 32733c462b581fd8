"""Sweeps at the cost of what their cells can change: resumed from a cached run, batched, planned beforehand.

Models without `run` and `resume`, and sweeps that resuming cannot serve, take the plain path; results are the same.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm.auto import tqdm

from jaxinterp.metrics import Metric, score_read
from jaxinterp.model.resume import branched, resumed
from jaxinterp.model.run import take_columns
from jaxinterp.model.transformer import Transformer
from jaxinterp.model.where import Geometry
from jaxinterp.patching.cells import Cells
from jaxinterp.patching.plain import captured, cell_edits, metric_values, patched_metric
from jaxinterp.patching.plan import Chunk, confined, differing, make_plan, metric_span, starts
from jaxinterp.tasks.prompts import Prompts

#: Sites that only exist where somebody names them: they count towards memory only if they are patched.
ON_DEMAND = ("q_input", "k_input", "v_input", "result")

#: What `observe` returns: a run to resume (None: take the plain path), the named sites' activations, the metric.
Observed = tuple[Any, Mapping[str, jax.Array], np.ndarray]


@functools.partial(jax.jit, static_argnames=("model", "names"))
def _observed(model: Any, params: Any, prompts: Prompts, edits: Any, metric: Metric, names: tuple[str, ...]) -> Any:
    """(a run that can be resumed, the named sites' activations, the metric)."""
    tokens, mask = prompts.tokens, prompts.mask
    depth = next(spec.sizes[0] for spec in model.sites.values() if spec.per_layer)
    if isinstance(model, Transformer):
        run = model.run(params, tokens, mask=mask, interventions=edits, capture=names)
        cache = run.cache
    else:
        run, cache = model.run(params, tokens, mask=mask), model.apply(params, tokens, capture=names, mask=mask)[1]
    logits, _ = model.resume(params, run, start_layer=depth, positions=metric.positions)
    return run, cache, score_read(metric, take_columns(logits, metric.columns), {})


@functools.partial(jax.jit, static_argnames=("model", "start_pos", "one_layer", "renormalise"))
def _resumed_metric(
    model: Any,
    params: Any,
    run: Any,
    values: Mapping[str, jax.Array],
    wheres: Any,
    metric: Metric,
    start_layer: Any,
    *,
    start_pos: int,
    one_layer: bool,
    renormalise: bool,
) -> jax.Array:
    """The metric of each cell's run, continued from the base run: [cell, batch]."""

    def one(wheres: Any) -> jax.Array:
        edits = cell_edits(values, wheres, renormalise)
        if isinstance(model, Transformer):  # unchecked: a sweep knows that nothing differs before its start
            this = model.config, model.sites, params, run, edits
            where = start_layer, start_pos, metric.positions, metric.columns
            logits = branched(*this, *where) if one_layer else resumed(*this, {}, *where)[0]
        else:
            start = {"start_layer": start_layer, "start_pos": start_pos}
            logits, _ = model.resume(params, run, edits, **start, positions=metric.positions)
            logits = take_columns(logits, metric.columns)
        return score_read(metric, logits, {})

    return jax.vmap(one)(wheres)


def can_resume(model: Any, metric: Metric, names: tuple[str, ...], edits: Any) -> bool:
    """Whether sweeps of these sites under this metric can start in the middle of a run."""
    return (
        hasattr(model, "run")
        and hasattr(model, "resume")
        and (isinstance(model, Transformer) or not edits)  # whose runs can stand under edits
        and all(model.sites[name].row_axis is not None for name in names)
        and metric.positions is not None  # else every row's logits are read
        and not metric.capture  # activations that may lie before the start
        and not {"embed", "pos_embed"} & set(names)
    )


def observe(model: Any, params: Any, prompts: Prompts, edits: Any, metric: Metric, names: tuple[str, ...]) -> Observed:
    """(a run to resume if the model can; the named sites' activations; the metric, [batch]) of an edited run."""
    prompts = Prompts(prompts.tokens, prompts.mask)  # what the program reads; labels would recompile it
    if not can_resume(model, metric, names, edits):
        cache = captured(model, params, prompts, edits, names)
        return None, cache, np.asarray(metric_values(model, params, prompts, edits, metric))
    order = list(model.sites)
    if isinstance(model, Transformer) and all(order.index(name) >= order.index("z") for name in names):
        names = tuple(dict.fromkeys((*names, "z")))  # so that branches start behind the heads
    run, cache, values = _observed(model, params, prompts, edits, metric, names)
    return run, cache, np.asarray(values)


def patched_values(
    model: Any,
    params: Any,
    base: Prompts,
    base_edits: Any,
    observed: Observed,
    values: Mapping[str, jax.Array],
    cells: Cells,
    metric: Metric,
    *,
    mesh: Mesh | None,
    max_bytes: int | None,
    progress: bool | None,
    renormalise: bool = False,
) -> np.ndarray:
    """The metric of each cell's run, the base run with `values` at the cell's coordinates: [cell, batch].

    Args:
      observed: what `observe` returned of the base run.
      values: what is written, `{site: array}`; the site's rank, every axis full or 1.
      renormalise: attention rows are scaled to sum to 1 after "pattern" was patched.
    """
    run, standing, base_metric = observed
    values = {site: values[site] for site in cells.wheres}
    chunks = plan_sweep(model, params, base, run, standing, values, cells, metric, mesh=mesh, max_bytes=max_bytes)
    shared = params, Prompts(base.tokens, base.mask), base_edits, run, values, metric
    if mesh is not None:
        shared = jax.device_put(shared, NamedSharding(mesh, PartitionSpec()))
    params, base, base_edits, run, values, metric = shared
    out = np.broadcast_to(base_metric, (len(cells), len(base_metric))).copy()
    hidden = None if progress is None else not progress
    total = sum(len(chunk.which) for chunk in chunks)
    with tqdm(total=total, desc="patches", unit="patch", delay=1, disable=hidden) as bar:
        for chunk in chunks:
            wheres = cells.take(chunk.which, chunk.size)
            if mesh is not None:
                wheres = jax.device_put(wheres, NamedSharding(mesh, PartitionSpec(mesh.axis_names)))
            if run is None:
                edited = patched_metric(model, params, base, base_edits, values, wheres, metric, renormalise)
            else:
                edited = _resumed_metric(
                    model, params, run, values, wheres, metric, chunk.start_layer,
                    start_pos=chunk.start_pos, one_layer=confined(cells), renormalise=renormalise,
                )  # fmt: skip
            out[chunk.which] = np.asarray(edited)[: len(chunk.which)]
            bar.update(len(chunk.which))
    return out


def plan_sweep(
    model: Any,
    params: Any,
    base: Prompts,
    run: Any,
    standing: Mapping[str, jax.Array],
    values: Mapping[str, jax.Array],
    cells: Cells,
    metric: Metric,
    *,
    mesh: Mesh | None,
    max_bytes: int | None,
) -> list[Chunk]:
    """The chunks that a sweep runs; cells that can change nothing are in none."""
    if mesh is not None and not isinstance(mesh, Mesh):
        raise TypeError(f"mesh must be a jax.sharding.Mesh, got {type(mesh).__name__}")
    geometry = Geometry.of(base.tokens, base.mask)
    live, first_row = differing(cells, model.sites, standing, values)
    layers, rows = (np.zeros(len(cells), int),) * 2 if run is None else starts(cells, model.sites)
    if isinstance(model, Transformer) and model.config.causal and run is not None:
        # behind the first position that differs, and at or before the first that is read
        rows = np.maximum(rows, first_row)
        first_read, last_read = metric_span(metric, geometry)
        live &= rows <= last_read
        rows = np.minimum(rows, first_read)
    else:
        rows = np.zeros_like(rows)
    which = np.flatnonzero(live)
    return make_plan(
        which, layers[which], rows[which],
        n_pos=geometry.pos, apart=run is not None and confined(cells),
        bytes_per_row=row_bytes(model, params, base, tuple(cells.wheres)),
        max_bytes=max_bytes, n_devices=1 if mesh is None else mesh.size,
    )  # fmt: skip


def row_bytes(model: Any, params: Any, base: Prompts, names: tuple[str, ...]) -> int:
    """What one position of one cell's forward holds at its widest: a few streams, a layer's widest site, logits."""
    batch, pos = np.shape(base.tokens)
    wide = max(
        [
            4,
            *(
                np.asarray(leaf).dtype.itemsize if np.isscalar(leaf) else leaf.dtype.itemsize
                for leaf in jax.tree.leaves(params)
            ),
        ]
    )
    entries = {
        name: int(np.prod(spec.shape(batch, pos)[1 if spec.per_layer else 0 :])) // pos
        for name, spec in model.sites.items()
        if name not in ON_DEMAND or name in names
    }
    return wide * (6 * entries.get("resid_final", 0) + 3 * max(entries.values()) + 1)
