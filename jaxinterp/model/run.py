"""A run that can be resumed: what one forward pass leaves behind so that later ones start in its middle."""

from typing import Any

import jax
import numpy as np
from flax import struct

from jaxinterp.model.attention import take_rows
from jaxinterp.model.config import TransformerConfig
from jaxinterp.model.interventions import Interventions, as_tuple
from jaxinterp.model.sites import EMBEDDING_SITES, SiteSpec
from jaxinterp.model.where import Geometry, PerExample, describe_prompt, is_concrete, prompt_columns, resolve


@struct.dataclass
class Run:
    """A forward pass that can be resumed at any (layer, position). Made by `model.run`.

    Attributes:
      tokens: int[batch, pos]. mask: bool[batch, pos] or None.
      resid: [layer + 1, batch, pos, d_model], the stream that enters each block, and the final one.
      k, v: [layer, batch, pos, kv_head, d_head], as attention reads them (keys rotated).
      interventions: the edits the run stands under; they hold in every resumption.
      cache: what was captured on the way, `{site: array}`.
    """

    tokens: jax.Array
    mask: jax.Array | None
    resid: jax.Array
    k: jax.Array
    v: jax.Array
    interventions: Any
    cache: dict[str, jax.Array]


def check_start(config: TransformerConfig, start_layer: Any, start_pos: int, n_pos: int) -> None:
    """Raises a ValueError unless the forward can start there."""
    if is_concrete(start_layer) and not 0 <= int(start_layer) <= config.n_layers:
        raise ValueError(f"start_layer={int(start_layer)} is out of range: 0 to {config.n_layers}")
    if isinstance(start_pos, bool) or not isinstance(start_pos, (int, np.integer)):
        raise TypeError(f"start_pos must be a plain int (it fixes shapes), got {type(start_pos).__name__}")
    if not 0 <= start_pos < n_pos:
        raise ValueError(f"start_pos={start_pos} is out of range: the prompts have {n_pos} positions")
    if start_pos and not config.causal:
        raise ValueError("attention is bidirectional: every position sees an edit, so start_pos must be 0")


def check_reach(sites: dict[str, SiteSpec], interventions: Interventions, start_layer: Any, geometry: Geometry) -> None:
    """Raises a ValueError for an edit that reaches what a resumption does not recompute.

    Traced coordinates pass, and select nothing there.
    """
    first = int(start_layer) if is_concrete(start_layer) else 0
    for name, edits in interventions.items():
        spec = sites[name]
        if name in EMBEDDING_SITES:
            raise ValueError(f"site {name!r} lies before every block: a resumption does not recompute it")
        for one in as_tuple(edits):
            starts = [("layer", first)] if spec.per_layer else []
            starts += [(axis, geometry.start) for axis in ("pos", "query") if axis in spec.axes]
            for axis, start in starts:
                low = _lowest(one.where, axis, spec, geometry)
                if low is not None and low < start:
                    raise ValueError(
                        f"site {name!r}: the edit reaches {axis} {low}, but the resumption starts at {axis} {start}"
                    )


def _lowest(where: Any, axis: str, spec: SiteSpec, geometry: Geometry) -> int | None:
    """The lowest entry of an axis that an edit selects; None if that is not known, or the mask may tell."""
    if where is None:
        return 0
    dim = spec.axes.index(axis)
    size = spec.shape(geometry.batch, geometry.pos)[dim]
    for name, (start, stop, step) in where.slices:
        if name == axis:
            return min(range(size)[slice(start, stop, step)], default=None)
    if axis not in where.index:
        if where.mask is None:
            return 0
        if not is_concrete(where.mask):
            return None
        chosen = np.flatnonzero(
            np.moveaxis(np.asarray(where.mask), dim, 0).reshape(np.shape(where.mask)[dim], -1).any(1)
        )
        return int(chosen[0]) if len(chosen) else None
    index = where.index[axis]
    values = index.index if isinstance(index, PerExample) else index
    if not is_concrete(values) or (geometry.mask is not None and np.min(values) < 0):
        return None
    values = np.asarray(values)
    chosen = np.flatnonzero(values) if values.dtype == bool else np.where(values < 0, values + size, values)
    return int(chosen.min()) if chosen.size else None


def gather_rows(x: jax.Array, positions: Any, geometry: Geometry) -> jax.Array:
    """The rows of [batch, rows, ...] at `positions` (columns of the prompt): int[n] or per example; None keeps all."""
    if positions is None:
        return x
    return take_rows(x, read_rows(positions, geometry))


def n_positions_read(positions: Any, geometry: Geometry) -> int:
    """How many positions of each prompt are read."""
    if positions is None:
        return geometry.pos - geometry.start
    index = positions.index if isinstance(positions, PerExample) else np.atleast_1d(positions)
    return 1 if isinstance(positions, PerExample) and np.ndim(index) == 1 else np.shape(index)[-1]


def check_positions(what: str, positions: Any, geometry: Geometry) -> None:
    """Raises for concrete positions outside a prompt, or before the rows that are computed."""
    index = positions.index if isinstance(positions, PerExample) else positions
    if index is None or not is_concrete(index) or not (geometry.mask is None or is_concrete(geometry.mask)):
        return
    if isinstance(positions, PerExample) and len(index) != geometry.batch:
        raise ValueError(f"{what}s of {len(index)} prompts, the batch has {geometry.batch}")
    whole = np.ones((geometry.batch, geometry.pos), bool)
    mask = whole if geometry.mask is None else np.asarray(geometry.mask)
    columns = prompt_columns(positions, mask)
    inside = (columns >= 0) & (columns < geometry.pos)
    inside &= np.take_along_axis(mask, np.clip(columns, 0, geometry.pos - 1), axis=1)
    for problem, told in ((~inside, ""), (columns < geometry.start, f"; rows start at {geometry.start}")):
        if problem.any():
            row, which = np.argwhere(problem)[0]
            given = np.asarray(index).reshape(geometry.batch if isinstance(positions, PerExample) else 1, -1)
            position = given[row if len(given) > 1 else 0, which]
            raise ValueError(f"{what} {position} of prompt {row}: {describe_prompt(mask[row])}{told}")


def read_rows(positions: Any, geometry: Geometry) -> jax.Array:
    """Positions as indices into the computed rows: int[n], or int[batch, n] where prompts differ."""
    return resolve(positions, geometry.pos, geometry.ends) - geometry.start
