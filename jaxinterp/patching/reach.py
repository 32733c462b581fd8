"""What a cell can change: whether it writes anything new, where its run starts to differ, whether anybody reads that.

A cell that writes what stands there already, or only what the metric cannot see, has an effect of exactly 0 and is
never run.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp.metrics import Metric
from jaxinterp.model.sites import QUERY_SITES, SiteSpec
from jaxinterp.model.where import PerExample, prompt_columns
from jaxinterp.patching.cells import Axis, Cells
from jaxinterp.tasks.prompts import Prompts


@functools.partial(jax.jit, static_argnames=("dims",))
def _apart(
    base: Any, values: Any, real: jax.Array | None, dims: tuple[tuple[str, tuple[int, ...], tuple[int, ...], Any], ...]
) -> Any:
    """{site: (where base and values differ, some axes reduced; the same by row)}; rows of padding never do."""
    out = {}
    for site, reduced, but_rows, shape in dims:
        apart = base[site] != values[site].astype(base[site].dtype)
        if real is not None and shape is not None:
            apart &= real.reshape(shape)
        out[site] = jnp.any(apart, axis=reduced, keepdims=True), jnp.any(apart, axis=but_rows)
    return out


def differing(
    cells: Cells, sites: Mapping[str, SiteSpec], prompts: Prompts, base: Mapping[str, Any], values: Mapping[str, Any]
) -> tuple[np.ndarray, int]:
    """(bool[cell]: whether it writes anything that does not stand there already; the first row where any does).

    `base` and `values` hold each site's array in the base run and what is written over it. They are compared bit
    for bit. What stands in rows of padding reaches nothing that is read.
    """
    dims = []
    for site, mask in cells.masks.items():
        spec = sites[site]
        everything = tuple(range(len(spec.axes)))
        rows = None if spec.row_axis is None else spec.axes.index(spec.row_axis)
        if mask is not None:
            kept: set[int | None] = {i for i in everything if mask.shape[i + 1] > 1}
        else:
            kept = {spec.axis(axis.coordinate) for axis in cells.axes}
            if any(isinstance(axis.selectors, PerExample) for axis in cells.axes):
                kept |= {spec.axes.index("batch")}
        reduced = tuple(i for i in everything if i not in kept)
        shape = None
        if rows is not None:  # of the mask, as the site's array has it
            sizes = dict(zip(("batch", spec.row_axis), np.shape(prompts.tokens), strict=True))
            shape = tuple(sizes.get(axis, 1) for axis in spec.axes)
        dims.append((site, reduced, tuple(i for i in everything if i != rows), shape))
    stood, written = ({site: of[site] for site in cells.masks} for of in (base, values))
    found = jax.device_get(_apart(stood, written, prompts.mask, tuple(dims)))
    live, first = np.zeros(len(cells), bool), []
    for site, (apart, by_row) in found.items():
        live |= _reached(cells, sites[site], cells.masks[site], apart)
        first.append(0 if by_row.ndim == 0 else int(np.argmax(by_row)) if by_row.any() else len(by_row))
    return live, min(first)


def _reached(cells: Cells, spec: SiteSpec, mask: np.ndarray | None, apart: np.ndarray) -> np.ndarray:
    """bool[cell]: whether a cell selects any entry of `apart`."""
    if mask is not None:
        together = max(1, 2**24 // max(1, apart.size, mask[0].size))
        parts = [mask[i : i + together] & apart for i in range(0, len(mask), together)]
        return np.concatenate([part.reshape(len(part), -1).any(axis=1) for part in parts])
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
    layers, rows = np.full((2, len(cells)), np.iinfo(np.int32).max, np.int32)
    for site, mask in cells.masks.items():
        spec = sites[site]
        assert spec.row_axis is not None  # as every site of a model that can be resumed
        if mask is not None:
            first_layer = _first_of_mask(mask, 1) if spec.per_layer else n_layers(sites)
            first_row = _first_of_mask(mask, 1 + spec.axes.index(spec.row_axis))
        else:
            first_layer = _first_of_axes(cells, "layer") if spec.per_layer else n_layers(sites)
            first_row = _first_of_axes(cells, spec.row_axis)
        layers, rows = np.minimum(layers, first_layer), np.minimum(rows, first_row)
    return layers.astype(np.int32), rows.astype(np.int32)


def n_layers(sites: Mapping[str, SiteSpec]) -> int:
    """How many blocks a model has, by what its sites say."""
    depth = next(spec.sizes[0] for spec in sites.values() if spec.per_layer)
    assert depth is not None
    return depth


def _first_of_mask(mask: Any, dim: int) -> np.ndarray:
    """int[cell]: the first entry of one dimension that a cell selects; beyond the last if it selects none."""
    chosen = mask.any(axis=tuple(i for i in range(1, mask.ndim) if i != dim))
    return np.where(chosen.any(axis=1), chosen.argmax(axis=1), np.iinfo(np.int32).max)


def _first_of_axes(cells: Cells, coordinate: str) -> Any:
    """int[cell]: the lowest coordinate of each cell along one axis; 0 where the sweep does not run over it."""
    for number, axis in enumerate(cells.axes):
        if axis.coordinate == coordinate:
            return along(cells, number, _lowest(axis))
    return np.int32(0)


def _lowest(axis: Axis) -> np.ndarray:
    if isinstance(axis.selectors, PerExample):
        return np.asarray(axis.selectors.index).min(axis=1)
    return axis.selectors.argmax(axis=1) if axis.selectors.dtype == bool else axis.selectors


def along(cells: Cells, number: int, values: np.ndarray) -> np.ndarray:
    """[cell]: what each cell has of values that stand on one axis."""
    shape = [1] * len(cells.axes)
    shape[number] = len(values)
    return np.broadcast_to(values.reshape(shape), cells.shape).reshape(-1)


def confined(cells: Cells) -> bool:
    """Whether every cell edits one layer alone."""
    return all(mask is None for mask in cells.masks.values()) and any(
        axis.coordinate == "layer" and axis.selectors.dtype != bool for axis in cells.axes
    )


def columns_read(metric: Metric, prompts: Prompts) -> np.ndarray:
    """bool[batch, pos]: the columns that a metric reads; it declares its positions."""
    read = np.zeros(np.shape(prompts.tokens), bool)
    columns = prompt_columns(metric.positions, ~read if prompts.mask is None else np.asarray(prompts.mask))
    np.put_along_axis(read, columns, True, axis=1)
    return read


def unread(cells: Cells, sites: Mapping[str, SiteSpec], read: np.ndarray) -> np.ndarray:
    """bool[cell]: whether nobody reads what it changes: a single row, behind which no block mixes positions, of which
    the metric reads nothing.
    """
    nothing = np.zeros(len(cells), bool)
    order = list(sites)
    own_row = [site in QUERY_SITES or order.index(site) >= order.index("z") for site in cells.masks]
    if not all(own_row) or any(mask is not None for mask in cells.masks.values()):
        return nothing
    last = np.ones(len(cells), bool)
    if any(sites[site].per_layer for site in cells.masks):
        if not confined(cells):
            return nothing
        last = _first_of_axes(cells, "layer") == n_layers(sites) - 1
    for number, axis in enumerate(cells.axes):
        if axis.coordinate in ("pos", "query"):
            if isinstance(axis.selectors, PerExample):
                seen = np.any(np.take_along_axis(read, np.asarray(axis.selectors.index).T, axis=1), axis=0)
            else:
                seen = np.isin(axis.selectors, np.flatnonzero(read.any(axis=0)))
            return last & ~along(cells, number, np.asarray(seen))
    return nothing
