"""What a sweep runs, decided before it runs: which cells can differ, where each starts, how they are batched.

A cell that writes what stands there already has an effect of exactly 0 and is never run. Others start at the layer
and position that they edit. Positions are bucketed into a few suffix lengths, so that few programs are compiled, and
cells that start together are batched as far as memory allows.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp.metrics import Metric
from jaxinterp.model.sites import SiteSpec
from jaxinterp.model.where import Geometry, PerExample, prompt_columns
from jaxinterp.patching.cells import Axis, Cells

#: What a chunk of cells may take in memory unless the caller says otherwise.
DEFAULT_BYTES = 512 * 2**20

#: What starting a chunk costs, in cells: smaller chunks waste less padding, but each must be started.
CHUNK_COST = 1


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Cells that run as one batch.

    Attributes:
      which: their numbers.
      size: how many the program runs; more than `which` are repetitions.
      start_layer, start_pos: where the program starts.
    """

    which: np.ndarray
    size: int
    start_layer: int
    start_pos: int


@functools.partial(jax.jit, static_argnames=("dims",))
def _apart(base: Any, values: Any, dims: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]) -> Any:
    """{site: (where base and values differ, some axes reduced; the same by row)}."""
    out = {}
    for site, reduced, but_rows in dims:
        apart = base[site] != values[site].astype(base[site].dtype)
        out[site] = jnp.any(apart, axis=reduced, keepdims=True), jnp.any(apart, axis=but_rows)
    return out


def differing(
    cells: Cells, sites: Mapping[str, SiteSpec], base: Mapping[str, Any], values: Mapping[str, Any]
) -> tuple[np.ndarray, int]:
    """(bool[cell]: whether it writes anything that does not stand there already; the first row where any does).

    `base` and `values` hold each site's array in the base run and what is written over it. They are compared bit
    for bit.
    """
    dims = []
    for site, where in cells.wheres.items():
        spec = sites[site]
        everything = tuple(range(len(spec.axes)))
        rows = None if spec.row_axis is None else spec.axes.index(spec.row_axis)
        if where.mask is not None:
            kept: set[int | None] = {i for i in everything if where.mask.shape[i + 1] > 1}
        else:
            kept = {spec.axis(axis.coordinate) for axis in cells.axes}
            kept |= (
                {spec.axes.index("batch")} if any(isinstance(a.selectors, PerExample) for a in cells.axes) else set()
            )
        reduced = tuple(i for i in everything if i not in kept)
        dims.append((site, reduced, tuple(i for i in everything if i != rows)))
    values = {site: values[site] for site in cells.wheres}
    found = jax.device_get(_apart({site: base[site] for site in values}, values, tuple(dims)))
    live, first = np.zeros(len(cells), bool), []
    for site, (apart, by_row) in found.items():
        live |= _reached(cells, sites[site], site, apart)
        first.append(0 if by_row.ndim == 0 else int(np.argmax(by_row)) if by_row.any() else len(by_row))
    return live, min(first)


def _reached(cells: Cells, spec: SiteSpec, site: str, apart: np.ndarray) -> np.ndarray:
    """bool[cell]: whether a cell selects any entry of `apart`."""
    mask = cells.wheres[site].mask
    if mask is not None:
        return np.array([bool((apart & one).any()) for one in mask])
    batch = np.moveaxis(apart, spec.axes.index("batch"), 0)
    rest = [axis for axis in spec.axes if axis != "batch"]
    for axis in reversed(cells.axes):  # each selection puts its axis in front
        dim = spec.axis(axis.coordinate)
        assert dim is not None
        place = 1 + rest.index(spec.axes[dim])
        batch = np.moveaxis(_any_selected(batch, axis.selectors, place), place, 1)
        rest.insert(0, rest.pop(place - 1))
    return batch.any(axis=0).reshape(len(cells))


def _any_selected(apart: np.ndarray, selectors: Any, dim: int) -> np.ndarray:
    """bool[batch, ...] with one axis replaced: for each selector, whether any entry it selects is set."""
    if isinstance(selectors, PerExample):
        index = np.asarray(selectors.index).T  # [batch, n]
        shape = [1] * apart.ndim
        shape[0], shape[dim] = index.shape
        return np.take_along_axis(apart, index.reshape(shape), axis=dim)
    if selectors.dtype == bool:
        return np.moveaxis(np.tensordot(apart, selectors.T.astype(int), axes=(dim, 0)) > 0, -1, dim)
    return np.take(apart, selectors, axis=dim)


def starts(cells: Cells, sites: Mapping[str, SiteSpec]) -> tuple[np.ndarray, np.ndarray]:
    """(int[cell]: the first layer, int[cell]: the first row) that each cell edits; a site outside the blocks counts
    as the layer after the last.
    """
    layers, rows = np.full(len(cells), np.iinfo(int).max), np.full(len(cells), np.iinfo(int).max)
    for site, where in cells.wheres.items():
        spec = sites[site]
        assert spec.row_axis is not None  # as every site of a model that can be resumed
        depth = next(s.sizes[0] for s in sites.values() if s.per_layer)
        assert depth is not None
        if where.mask is not None:
            first_layer = _first_of_mask(where.mask, 1) if spec.per_layer else np.full(len(cells), depth)
            first_row = _first_of_mask(where.mask, 1 + spec.axes.index(spec.row_axis))
        else:
            first_layer = _first_of_axes(cells, "layer") if spec.per_layer else np.full(len(cells), depth)
            first_row = _first_of_axes(cells, spec.row_axis)
        layers, rows = np.minimum(layers, first_layer), np.minimum(rows, first_row)
    return layers, rows


def _first_of_mask(mask: Any, dim: int) -> np.ndarray:
    """int[cell]: the first entry of one dimension that a cell selects; beyond the last if it selects none."""
    chosen = mask.any(axis=tuple(i for i in range(1, mask.ndim) if i != dim))
    return np.where(chosen.any(axis=1), chosen.argmax(axis=1), np.iinfo(int).max)


def _first_of_axes(cells: Cells, coordinate: str) -> np.ndarray:
    """int[cell]: the lowest coordinate of each cell along one axis; 0 where the sweep does not run over it."""
    for number, axis in enumerate(cells.axes):
        if axis.coordinate == coordinate:
            shape = [1] * len(cells.axes)
            shape[number] = len(axis.labels)
            return np.broadcast_to(_lowest(axis).reshape(shape), cells.shape).reshape(-1)
    return np.zeros(len(cells), int)


def _lowest(axis: Axis) -> np.ndarray:
    if isinstance(axis.selectors, PerExample):
        return np.asarray(axis.selectors.index).min(axis=1)
    return axis.selectors.argmax(axis=1) if axis.selectors.dtype == bool else axis.selectors


def confined(cells: Cells) -> bool:
    """Whether every cell edits one layer alone."""
    return all(where.mask is None for where in cells.wheres.values()) and any(
        axis.coordinate == "layer" and axis.selectors.dtype != bool for axis in cells.axes
    )


def metric_span(metric: Metric, geometry: Geometry) -> tuple[int, int]:
    """(first, last) column of the prompts that a metric reads, over all of them."""
    whole = np.ones((geometry.batch, geometry.pos), bool)
    columns = prompt_columns(metric.positions, whole if geometry.mask is None else np.asarray(geometry.mask))
    return int(columns.min()), int(columns.max())


def make_plan(
    which: np.ndarray,
    layers: np.ndarray,
    rows: np.ndarray,
    *,
    n_pos: int,
    apart: bool,
    bytes_per_row: int,
    max_bytes: int | None,
    n_devices: int,
) -> list[Chunk]:
    """Chunks for the cells `which`, which start at `layers` and `rows`.

    Args:
      apart: chunks may not mix start layers.
      bytes_per_row: memory of one position of one cell (all prompts).
    """
    if max_bytes is not None and (not isinstance(max_bytes, int) or max_bytes <= 0):
        raise ValueError(f"max_bytes must be a positive int, got {max_bytes!r}")
    budget = DEFAULT_BYTES if max_bytes is None else max_bytes
    chunks: list[Chunk] = []
    buckets = bucket_starts(rows, n_pos)
    for start in sorted(set(buckets.tolist())):
        here = np.flatnonzero(buckets == start)
        here = here[np.argsort(layers[here], kind="stable")]
        most = max(1, budget // (bytes_per_row * (n_pos - start))) * n_devices
        groups = np.split(here, np.flatnonzero(np.diff(layers[here])) + 1) if apart else [here]
        size = chunk_size([len(g) for g in groups], most, n_devices)
        for group in groups:
            for first in range(0, len(group), size):
                part = group[first : first + size]
                chunks.append(Chunk(which[part], size, int(layers[part].min()), int(start)))
    return sorted(chunks, key=lambda c: (c.start_pos, c.start_layer))


def chunk_size(groups: Sequence[int], most: int, n_devices: int) -> int:
    """Cells that run at once: at most `most`, a multiple of the devices, wasting little on any group."""
    candidates = {-(-g // k) for g in set(groups) for k in range(-(-g // most), -(-g // most) + 4)}
    sizes = {min(-(-c // n_devices) * n_devices, max(most, n_devices)) for c in candidates}
    return min(sizes, key=lambda size: (sum(-(-g // size) * (size + CHUNK_COST) for g in groups), -size))


def bucket_starts(rows: np.ndarray, n_pos: int) -> np.ndarray:
    """int[cell]: the position each cell's program starts at: at or before its own, one of at most 1 + log2(n_pos).

    The few that cost least, counting a cell's arithmetic as proportional to the positions recomputed.
    """
    values, counts = np.unique(rows, return_counts=True)
    n_buckets = min(len(values), 1 + int(math.log2(n_pos)))
    # best[i]: least cost of the cells from values[i] on, in k buckets; each bucket starts at its lowest value
    n = len(values)
    total = np.concatenate([[0], np.cumsum(counts)])
    best = np.full((n_buckets + 1, n + 1), np.inf)
    best[:, n] = 0
    choice = np.zeros((n_buckets + 1, n), int)
    for k in range(1, n_buckets + 1):
        for i in range(n):
            ends = np.arange(i + 1, n + 1)
            costs = (total[ends] - total[i]) * (n_pos - values[i]) + best[k - 1, ends]
            choice[k, i] = ends[np.argmin(costs)]
            best[k, i] = costs.min()
    start_of = {}
    i, k = 0, n_buckets
    while i < n:
        for j in range(i, choice[k, i]):
            start_of[values[j]] = values[i]
        i, k = choice[k, i], k - 1
    return np.array([start_of[row] for row in rows])
