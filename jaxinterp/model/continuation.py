"""Edits of a prompt and of what is generated after it, brought to the columns of the whole sequence.

Users count negative positions from the prompt's end, which does not move, and may give arrays as long as the prompt.
The forward knows one sequence: here such edits become what it takes.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxinterp.model.interventions import Intervention, Interventions, check_interventions, joined
from jaxinterp.model.sites import SiteSpec
from jaxinterp.model.where import TOKEN_AXES, Geometry, PerExample, Where, is_concrete, shifted


def whole_mask(mask: Any, new: int) -> Any:
    """The padding mask bool[batch, pos + new] once `new` tokens follow each prompt's own last one; numpy if known."""
    if mask is None:
        return None
    xp: Any = np if is_concrete(mask) else jnp
    mask = xp.asarray(mask)
    starts = xp.argmax(mask, axis=1)[:, None]
    ends = mask.shape[1] - xp.argmax(mask[:, ::-1], axis=1)[:, None]
    columns = xp.arange(mask.shape[1] + new)
    return (columns >= starts) & (columns < ends + new)


def whole_edits(
    sites: Mapping[str, SiteSpec], interventions: Interventions | None, geometry: Geometry, new: int
) -> dict[str, tuple[Intervention, ...]]:
    """The edits in the coordinates of the whole sequence, after they have been checked.

    Args:
      geometry: that of the whole sequence, `new` tokens of it generated.

    Raises:
      TypeError, ValueError: as `check_interventions` does, where an array ends with the prompt and the edit names
        positions behind it, and for a slice of all new columns that misses new tokens of shorter prompts.
    """
    known = None if geometry.mask is None or not is_concrete(geometry.mask) else geometry.mask
    check_interventions(sites, interventions or {}, geometry._replace(mask=known), new)
    if known is not None:
        _check_slices(joined(interventions), np.asarray(known), new)
    return {
        name: tuple(_whole(one, name, sites[name], geometry.pos - new, new) for one in edits)
        for name, edits in joined(interventions).items()
    }


def _check_slices(edits: Mapping[str, tuple[Intervention, ...]], mask: np.ndarray, new: int) -> None:
    """Raises for a slice that begins where the longest prompt ends: shorter ones, padded on the right, end before."""
    prompt = mask.shape[1] - new
    firsts = mask.shape[1] - np.argmax(mask[:, ::-1], axis=1) - new
    for name, several in edits.items():
        for axis, (start, _, _) in (bounds for one in several if one.where for bounds in one.where.slices):
            if axis in TOKEN_AXES and (start or 0) >= prompt > firsts.min():
                row = int(firsts.argmin())
                raise ValueError(
                    f"site {name!r}: {axis}= is a slice from {start} on, but the new tokens of prompt {row}, padded on "
                    f"the right, begin at {firsts[row]}: list them, ji.per_example(mask.sum(1)[:, None] + "
                    f"np.arange({new})), or pad on the left"
                )


def _whole(one: Intervention, name: str, spec: SiteSpec, prompt: int, new: int) -> Intervention:
    short = {
        axis
        for value in one.values
        for axis, size in zip(spec.axes, np.shape(value), strict=True)
        if axis in TOKEN_AXES and size == prompt != 1
    }
    where = Where({}, ()) if one.where is None else one.where
    for axis in sorted(short):
        last = _last_named(where, axis)
        if last is not None and last >= prompt:
            raise ValueError(
                f"site {name!r}: {axis}= reaches {last}, but the value ends with the prompt's {prompt} positions; "
                f"one for generated tokens as well has {prompt + new}"
            )
    mask = None if where.mask is None else _extended(where.mask, spec.axes, prompt, new, fill=False)
    for axis in short:
        within = (np.arange(prompt + new) < prompt).reshape([-1 if a == axis else 1 for a in spec.axes])
        mask = within if mask is None else mask & within
    where = Where(
        {axis: _column(axis, index, prompt, new) for axis, index in where.index.items()},
        tuple((axis, shifted(bounds, new) if axis in TOKEN_AXES else bounds) for axis, bounds in where.slices),  # type: ignore[misc]
        mask,
    )
    values = tuple(_extended(value, spec.axes, prompt, new) for value in one.values)
    return dataclasses.replace(one, values=values, where=None if one.where is None and mask is None else where)


def _extended(array: Any, axes: tuple[str, ...], prompt: int, new: int, **fill: Any) -> Any:
    """The array with token axes of the prompt's length made as long as the sequence: by its last entry, or by `fill`.

    What stands behind the prompt is never selected, but must not turn into NaN under a derivative either.
    """
    widths = [
        (0, new if axis in TOKEN_AXES and size == prompt != 1 else 0)
        for axis, size in zip(axes, np.shape(array), strict=True)
    ]
    if not any(after for _, after in widths):
        return array
    how: dict[str, Any] = {"constant_values": fill["fill"]} if fill else {"mode": "edge"}
    return np.pad(np.asarray(array), widths, **how) if is_concrete(array) else jnp.pad(array, widths, **how)


def _column(axis: str, index: Any, prompt: int, new: int) -> Any:
    """A coordinate, negative ones on token axes counted from the sequence's end."""
    if axis not in TOKEN_AXES:
        return index
    if isinstance(index, PerExample):
        return PerExample(_column(axis, index.index, prompt, new))
    if isinstance(index, int):
        return index - new if index < 0 else index
    xp: Any = np if is_concrete(index) else jnp
    if index.dtype == bool:
        return _extended(index, (axis,), prompt, new, fill=False)
    return xp.where(xp.asarray(index) < 0, index - new, index)


def _last_named(where: Where, axis: str) -> int | None:
    """The last column that concrete coordinates name outright; None if they name none, or none is known."""
    for name, (start, stop, _) in where.slices:
        if name == axis:
            return max(start or 0, (stop or 0) - 1)
    index = where.index.get(axis)
    index = index.index if isinstance(index, PerExample) else index
    if index is None or not is_concrete(index):
        return None
    return int(np.flatnonzero(index).max(initial=0) if np.asarray(index).dtype == bool else np.max(index))
