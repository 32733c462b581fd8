"""The definition of a patch, batched: the forward with an intervention, `vmap`ped over cells in chunks.

Every faster path is held to this one. It asks nothing of a model but `apply` and `sites`.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm.auto import tqdm

from jaxinterp.metrics import Metric, score
from jaxinterp.model.interventions import joined, replace
from jaxinterp.model.where import Geometry
from jaxinterp.patching.cells import Cells, differing
from jaxinterp.tasks.prompts import Prompts

#: What a chunk of cells may take in memory unless the caller says otherwise.
DEFAULT_BYTES = 512 * 2**20


@functools.partial(jax.jit, static_argnames=("model",))
def metric_values(model: Any, params: Any, prompts: Prompts, edits: Any, metric: Metric) -> jax.Array:
    """The metric of an edited run: [batch]."""
    logits, cache = model.apply(params, prompts.tokens, edits, capture=metric.capture, mask=prompts.mask)
    return score(metric, logits, cache, Geometry.of(prompts.tokens, prompts.mask))


@functools.partial(jax.jit, static_argnames=("model", "names"))
def captured(model: Any, params: Any, prompts: Prompts, edits: Any, names: tuple[str, ...]) -> Any:
    """The named sites' activations on an edited run, as `{site: array}`."""
    return model.apply(params, prompts.tokens, edits, capture=names, mask=prompts.mask)[1]


@functools.partial(jax.jit, static_argnames=("model",))
def _patched(
    model: Any, params: Any, prompts: Prompts, edits: Any, values: Any, wheres: Any, metric: Metric
) -> jax.Array:
    def one(wheres: Any) -> jax.Array:
        patches = {site: replace(values[site], where) for site, where in wheres.items()}
        return metric_values(model, params, prompts, joined(edits, patches), metric)

    return jax.vmap(one)(wheres)


def patched_values(
    model: Any,
    params: Any,
    base: Prompts,
    base_edits: Any,
    values: Mapping[str, jax.Array],
    cells: Cells,
    metric: Metric,
    base_metric: np.ndarray,
    *,
    mesh: Mesh | None,
    max_bytes: int | None,
    progress: bool | None,
) -> np.ndarray:
    """The metric of each cell's run, the base run with `values` at the cell's coordinates: [cell, batch].

    Cells that would write what stands there already are not run: they keep `base_metric`, [batch].
    """
    base = Prompts(base.tokens, base.mask)  # what the program reads; labels would recompile it
    standing = captured(model, params, base, base_edits, tuple(cells.wheres))
    live = np.flatnonzero(differing(cells, model.sites, standing, values))
    size = chunk_size(model, params, base, len(live), max_bytes, 1 if mesh is None else mesh.size)
    if mesh is not None:
        params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    out = np.broadcast_to(base_metric, (len(cells), len(base_metric))).copy()
    hidden = None if progress is None else not progress
    with tqdm(total=len(live), desc="patches", unit="patch", delay=1, disable=hidden) as bar:
        for which, wheres in cells.chunks(live, size):
            if mesh is not None:
                wheres = jax.device_put(wheres, NamedSharding(mesh, PartitionSpec(mesh.axis_names)))
            edited = _patched(model, params, base, base_edits, values, wheres, metric)
            out[which] = np.asarray(edited)[: len(which)]
            bar.update(len(which))
    return out


def chunk_size(model: Any, params: Any, base: Prompts, n_cells: int, max_bytes: int | None, n_devices: int) -> int:
    """Cells that run at once: as many as fit the budget, spread evenly over the chunks, a multiple of the devices."""
    if max_bytes is not None and max_bytes <= 0:
        raise ValueError(f"max_bytes must be positive, got {max_bytes}")
    budget = DEFAULT_BYTES if max_bytes is None else max_bytes
    most = max(1, budget // cell_bytes(model, params, base)) * n_devices
    n_chunks = max(1, -(-n_cells // most))
    return max(1, -(-n_cells // (n_chunks * n_devices))) * n_devices


def cell_bytes(model: Any, params: Any, base: Prompts) -> int:
    """What one cell's forward holds at its widest: a few streams, one layer's widest site, the logits."""
    shape = np.shape(base.tokens)
    wide = max(np.dtype(np.float32).itemsize, max(leaf.dtype.itemsize for leaf in jax.tree.leaves(params)))
    entries = {
        name: int(np.prod(spec.shape(*shape)[1 if spec.per_layer else 0 :])) for name, spec in model.sites.items()
    }
    on_demand = ("q_input", "k_input", "v_input", "result")  # only where somebody names them
    widest = max(n for name, n in entries.items() if name not in on_demand)
    return wide * (6 * entries.get("resid_final", widest) + 3 * widest + 2 * entries.get("logits", 0))
