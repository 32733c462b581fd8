"""Coordinates over a site's array: what `ji.at` makes, and how it becomes a mask.

Integers, lists, arrays and traced scalars are pytree leaves, so `vmap` over a coordinate is a sweep; slices
are static. Every axis is selected independently and the selections are intersected.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxinterp.model.sites import SiteSpec

#: Axes that run over tokens: negative coordinates count from each prompt's own end.
TOKEN_AXES = ("pos", "query", "key")


class Geometry(NamedTuple):
    """The shape of what is being computed: a batch of prompts, and the first row of it that is recomputed."""

    batch: int
    pos: int
    mask: jax.Array | None = None  # bool[batch, pos], True at tokens, False at padding
    start: int = 0  # rows before it come from a cached run
    rows: jax.Array | None = None  # int[n] or int[batch, n]: only these columns are computed; None for all from start

    @classmethod
    def of(cls, tokens: Any, mask: jax.Array | None = None, start: int = 0) -> "Geometry":
        """The geometry of tokens int[batch, pos]."""
        batch, pos = jnp.shape(tokens)
        return cls(batch, pos, mask, start)

    @property
    def columns(self) -> jax.Array:
        """int[batch or 1, n]: the columns of the prompt that are computed."""
        if self.rows is None:
            return jnp.arange(self.start, self.pos)[None]
        return self.rows if self.rows.ndim == 2 else self.rows[None]

    @property
    def ends(self) -> jax.Array | None:
        """int[batch, 1]: the column after each prompt's last token; None where every prompt is full length."""
        if self.mask is None:
            return None
        return self.pos - jnp.argmax(self.mask[:, ::-1], axis=1)[:, None]

    @property
    def starts(self) -> jax.Array | None:
        """int[batch, 1]: the column of each prompt's first token."""
        return None if self.mask is None else jnp.argmax(self.mask, axis=1)[:, None]


@struct.dataclass
class PerExample:
    """A coordinate that differs from prompt to prompt: int[batch] or int[batch, n]."""

    index: Any


@struct.dataclass
class Where:
    """A selection over a site's array. Made by `ji.at`; an empty one selects everything."""

    index: dict[str, Any]
    slices: tuple[tuple[str, tuple[int | None, int | None, int | None]], ...] = struct.field(pytree_node=False)
    mask: Any = None

    @property
    def axes(self) -> tuple[str, ...]:
        """The coordinate names that are restricted."""
        return (*self.index, *(name for name, _ in self.slices))


def per_example(index: Any) -> PerExample:
    """A position for each prompt: int[batch], or int[batch, n] for several. Negative counts from the prompt's end.

    Example:
      >>> subject = ji.per_example([2, 4])  # the subject is token 2 of the first prompt, 4 of the second
      >>> where = ji.at(layer=0, pos=subject)
    """
    index = index if isinstance(index, jax.Array) else np.asarray(index)
    if not jnp.issubdtype(index.dtype, jnp.integer) or index.ndim not in (1, 2):
        raise ValueError(f"per_example expects int[batch] or int[batch, n], got {index.dtype}{list(index.shape)}")
    return PerExample(index)


def _coordinate(axis: str, value: Any) -> Any:
    """A coordinate as a pytree leaf: int, int[n], bool[n] or PerExample; anything else is refused."""
    if isinstance(value, PerExample):
        if axis not in TOKEN_AXES:
            raise ValueError(f"{axis}= cannot be per_example: only {', '.join(TOKEN_AXES)} differ by prompt")
        return value
    if isinstance(value, (bool, np.bool_, float, str)):
        raise TypeError(f"{axis}= expects ints, slices, lists or arrays of them, got {value!r}")
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (Sequence, range)):
        traced = any(isinstance(one, jax.Array) for one in value)
        value = jnp.stack([jnp.asarray(one) for one in value]) if traced else np.asarray(value)
    if getattr(value, "size", 1) == 0:
        raise ValueError(f"{axis}= is empty: it selects nothing")
    if not hasattr(value, "dtype") or not hasattr(value, "ndim"):
        raise TypeError(f"{axis}= expects ints, slices, lists or arrays of them, got {type(value).__name__}")
    if not (jnp.issubdtype(value.dtype, jnp.integer) or value.dtype == bool) or value.ndim > 1:
        raise TypeError(f"{axis}= expects an int, int[n] or bool[n], got {value.dtype}{list(value.shape)}")
    return value


def at(
    *,
    layer: Any = None,
    batch: Any = None,
    pos: Any = None,
    head: Any = None,
    neuron: Any = None,
    expert: Any = None,
    query: Any = None,
    key: Any = None,
    feature: Any = None,
    mask: Any = None,
) -> Where:
    """Coordinates over a site's array: the intersection of what each axis selects.

    Each coordinate is an int (traced too), a slice, a list or int array, or a boolean array as long as the axis (which
    is data: it may select nothing). Negative numbers count from the end; on `pos`, `query` and `key` from each prompt's
    own end when the prompts are padded. Those three may also be `ji.per_example(int[batch])`. `head` addresses
    key/value heads on sites that have those, `neuron` addresses `d_mlp` (in every expert that `expert` leaves). What is
    not named is not restricted.

    Args:
      mask: a boolean array of the site's rank, layer first, every axis full or 1; it restricts further.

    Returns:
      A pytree whose leaves are the coordinates. Concrete coordinates out of range raise where they are used;
      traced ones select nothing, and `ji.count_selected` counts.

    Raises:
      TypeError, ValueError: a coordinate that is none of the above.

    Example:
      >>> ji.at(layer=2, head=[0, 3], pos=-1).axes
      ('layer', 'pos', 'head')
    """
    named = {
        "layer": layer, "batch": batch, "pos": pos, "head": head,
        "neuron": neuron, "expert": expert, "query": query, "key": key, "feature": feature,
    }  # fmt: skip
    given = {axis: value for axis, value in named.items() if value is not None}
    slices = tuple(
        (axis, (value.start, value.stop, value.step)) for axis, value in given.items() if isinstance(value, slice)
    )
    for axis, bounds in slices:
        if not all(bound is None or isinstance(bound, (int, np.integer)) for bound in bounds):
            raise TypeError(f"{axis}= is a slice of {bounds}; bounds must be plain ints (they are static)")
        step = bounds[2]
        if step is not None and step < 1:
            raise ValueError(f"{axis}= is a slice with step {step}; steps must be positive")
    index = {axis: _coordinate(axis, value) for axis, value in given.items() if not isinstance(value, slice)}
    return Where(index=index, slices=slices, mask=mask)


def resolve(index: Any, size: int, ends: jax.Array | None) -> Any:
    """Non-negative indices: int[n], or int[batch, n] where prompts differ. Out of range stays out of range."""
    if isinstance(index, PerExample):
        index = jnp.asarray(index.index)
        index = index[:, None] if index.ndim == 1 else index
    else:
        index = jnp.atleast_1d(jnp.asarray(index))
    return jnp.where(index < 0, index + (size if ends is None else ends), index)


def axis_mask(where: Where, axis: str, size: int, ends: jax.Array | None) -> jax.Array:
    """Which entries of one axis are selected: bool[size], or bool[batch, size] where prompts differ."""
    places = jnp.arange(size)
    for name, (start, stop, step) in where.slices:
        if name == axis:
            bounds = [start or 0, size if stop is None else stop]
            low, high = (b if b >= 0 else b + (size if ends is None else ends) for b in bounds)
            low = jnp.maximum(low, 0)
            return (places >= low) & (places < high) & ((places - low) % (step or 1) == 0)
    index = where.index[axis]
    if not isinstance(index, (int, PerExample)) and index.dtype == bool:
        return jnp.asarray(index)
    known = isinstance(index, (int, np.ndarray)) and np.min(index) >= 0
    indices = resolve(index, size, None if known else ends)
    return jnp.any(places == indices[..., None], axis=-2)


def selection(where: Where, spec: SiteSpec, geometry: Geometry, layer: Any = None) -> jax.Array | None:
    """The mask over a site's array, every axis full or 1; None where everything is selected.

    With a `layer` (an int, traced or not), the mask over that layer alone, without the layer axis, rows from
    `geometry.start` on; `where.mask` is then already that layer's.
    """
    full = spec.shape(geometry.batch, geometry.pos)
    drop = int(layer is not None)
    mask = None if where.mask is None else rows(jnp.asarray(where.mask), spec.axes[drop:], geometry)
    for name in where.axes:
        dim = spec.axis(name)
        assert dim is not None  # check_where has refused it
        chosen = axis_mask(where, name, full[dim], geometry.ends if name in TOKEN_AXES else None)
        if name == "layer" and drop:
            part = chosen[layer]
        else:
            shape = [1] * len(full)
            shape[dim] = full[dim]
            if chosen.ndim == 2:
                shape[spec.axes.index("batch")] = chosen.shape[0]
            part = rows(chosen.reshape(shape[drop:]), spec.axes[drop:], geometry)
        mask = part if mask is None else mask & part
    return mask


def rows(value: jax.Array, axes: tuple[str, ...], geometry: Geometry) -> jax.Array:
    """The rows that are computed, of an array whose token axes are full or 1."""
    if geometry.rows is not None:
        for dim, axis in enumerate(axes):
            if axis in ("pos", "query") and value.shape[dim] != 1:
                if geometry.rows.ndim == 2:
                    shape = list(value.shape)
                    shape[axes.index("batch")] = geometry.batch
                    value = jnp.broadcast_to(value, shape)
                return take(value, geometry.rows, dim, axes.index("batch"))
        return value
    if geometry.start == 0:
        return value
    cut = tuple(
        slice(geometry.start, None) if axis in ("pos", "query") and size != 1 else slice(None)
        for axis, size in zip(axes, value.shape, strict=True)
    )
    return value[cut]


def is_concrete(value: Any) -> bool:
    """Whether a value is known now, outside any trace."""
    return not isinstance(value, jax.core.Tracer)


def check_where(where: Any, name: str, spec: SiteSpec, geometry: Geometry, new: int = 0) -> None:
    """Raises for axes the site lacks, concrete coordinates out of range, and masks of the wrong shape.

    Args:
      new: how many columns at the end are generated tokens (as many tokens of each prompt): negative positions count
        from before these, and arrays may be as long as the prompt alone.
    """
    if where is None:
        return
    if not isinstance(where, Where):
        raise TypeError(f"site {name!r}: where= expects ji.at(...), got {type(where).__name__}")
    shape = spec.shape(geometry.batch, geometry.pos)
    for axis in where.axes:
        dim = spec.axis(axis)
        if dim is None:
            raise ValueError(f"site {name!r} has no axis {axis!r}; its axes are {spec}")
    for axis, bounds in where.slices:
        dim = spec.axis(axis)
        assert dim is not None
        if not len(range(shape[dim])[slice(*shifted(bounds, new if axis in TOKEN_AXES else 0))]):
            raise ValueError(f"site {name!r}: {axis}= {slice(*bounds)} selects none of the {shape[dim]} entries")
    for axis, index in where.index.items():
        dim = spec.axis(axis)
        assert dim is not None
        size, label = shape[dim], spec.axes[dim]
        late = new if axis in TOKEN_AXES else 0
        if isinstance(index, PerExample):
            if len(index.index) != geometry.batch:
                got = len(index.index)
                raise ValueError(f"site {name!r}: {axis}= is for {got} prompts, the batch has {geometry.batch}")
        elif getattr(index, "dtype", None) == bool:
            if index.shape not in ((size,), (size - late,)):
                raise ValueError(
                    f"site {name!r}: {axis}= is bool{list(index.shape)}, the axis {label} has {size} entries"
                )
            continue
        values = index.index if isinstance(index, PerExample) else index
        if not is_concrete(values):
            continue
        low, high = int(np.min(values)), int(np.max(values))
        if low < late - size or high >= size:
            worst = high if high >= size else low
            parts = f", {size - late} of the prompt, from whose end negative ones count, and {late} new" if late else ""
            raise ValueError(
                f"site {name!r}: {axis}={worst} is out of range: the axis {label} has {size} entries{parts}"
            )
        if axis in TOKEN_AXES and geometry.mask is not None and is_concrete(geometry.mask):
            mask = np.asarray(geometry.mask)
            _check_inside(f"site {name!r}: {axis}=", index, where.index.get("batch"), mask, new)
    if where.mask is not None:
        check_shape(f"site {name!r}: mask=", jnp.shape(where.mask), spec, shape, new)
        if jnp.result_type(where.mask) != bool:
            raise TypeError(f"site {name!r}: mask= must be boolean, got {jnp.result_type(where.mask)}")


def shifted(bounds: tuple[int | None, ...], new: int) -> tuple[int | None, ...]:
    """A slice's bounds, negative ones counted from the end of the whole sequence instead of `new` tokens before it."""
    return tuple(b - new if b is not None and b < 0 else b for b in bounds)


def _check_inside(what: str, index: Any, batch: Any, mask: np.ndarray, new: int) -> None:
    """Raises where a position lies in padding: of its own prompt if it is one prompt's, else of every prompt."""
    prompts = np.arange(len(mask))
    if batch is not None and is_concrete(batch):
        prompts = np.atleast_1d(prompts[np.asarray(batch)])
    columns = prompt_columns(index, mask, new)[prompts]
    inside = (columns >= 0) & np.take_along_axis(mask[prompts], np.maximum(columns, 0), axis=1)
    own = isinstance(index, PerExample) or np.min(index) < 0
    if inside.all() if own else inside.any(axis=0).all():
        return
    row, which = np.argwhere(~inside)[0]
    given = index.index if isinstance(index, PerExample) else np.broadcast_to(index, (len(mask), np.size(index)))
    position = np.asarray(given).reshape(len(mask), -1)[prompts[row], which]
    told = describe_prompt(mask[prompts[row]]) + (f", the last {new} of them new" if new else "")
    raise ValueError(f"{what}{position} is out of range for prompt {prompts[row]}: {told}")


def prompt_columns(index: Any, mask: np.ndarray, new: int = 0) -> np.ndarray:
    """int[batch, n]: concrete positions as columns of the prompts; negative ones count from each prompt's own end.

    With `new` generated tokens at the end of each row of the mask, from before these.
    """
    given = np.asarray(index.index if isinstance(index, PerExample) else index)
    shape = (len(mask), -1) if isinstance(index, PerExample) else (1, -1)
    ends = mask.shape[1] - np.argmax(mask[:, ::-1], axis=1)[:, None] - new
    columns = np.where(given.reshape(shape) < 0, given.reshape(shape) + ends, given.reshape(shape))
    return np.broadcast_to(columns, (len(mask), columns.shape[1]))


def describe_prompt(mask: np.ndarray) -> str:
    """How long one prompt is, and where it lies if it is padded."""
    first, last = int(np.argmax(mask)), len(mask) - 1 - int(np.argmax(mask[::-1]))
    return f"it has {mask.sum()} tokens" + ("" if mask.all() else f", columns {first} to {last}")


def check_shape(what: str, shape: tuple[int, ...], spec: SiteSpec, full: tuple[int, ...], new: int = 0) -> None:
    """Raises unless the shape has the site's rank with every axis full or 1; quotes both.

    With `new` generated tokens, token axes may be as long as the prompt as well.
    """
    late = [new if axis in TOKEN_AXES else 0 for axis in spec.axes]
    if len(shape) != len(full) or any(
        got not in (1, want, want - n) for got, want, n in zip(shape, full, late, strict=True)
    ):
        axis = next((a for a in spec.axes if a in TOKEN_AXES), None)
        parts = f"; {axis} may be the {full[spec.axes.index(axis)] - new} of the prompt alone" if new and axis else ""
        raise ValueError(f"{what} has shape {tuple(shape)}, expected {full} {spec} with every axis full or 1{parts}")


def compact_indices(where: Where, spec: SiteSpec, geometry: Geometry) -> dict[int, Any]:
    """The entries that `where` keeps along each restricted dimension: int[n] or int[batch, n], by dimension."""
    shape = spec.shape(geometry.batch, geometry.pos)
    if where.mask is not None:
        raise ValueError("mask= selects no rectangular block: name coordinates, or keep the whole site")
    kept: dict[int, Any] = {}
    for axis, (start, stop, step) in where.slices:
        dim = spec.axis(axis)
        assert dim is not None
        if axis in TOKEN_AXES and geometry.mask is not None and min(start or 0, stop or 0) < 0:
            raise ValueError(f"{axis}= is a slice from the prompts' ends, which differ: list the positions instead")
        kept[dim] = np.arange(shape[dim])[slice(start, stop, step)]
    for axis, index in where.index.items():
        dim = spec.axis(axis)
        assert dim is not None
        if getattr(index, "dtype", None) == bool:
            kept[dim] = np.flatnonzero(index)  # concrete: a capture has counted it already
        else:
            kept[dim] = resolve(index, shape[dim], geometry.ends if axis in TOKEN_AXES else None)
    return kept


def take(array: jax.Array, index: Any, dim: int, batch_dim: int) -> jax.Array:
    """Entries along one dimension; where they differ by prompt (int[batch, n]), each prompt's own.

    Out-of-range entries come back as NaN (0 for integers), never as their neighbours.
    """
    index = jnp.where(index < 0, array.shape[dim], index)
    if index.ndim == 1:
        return jnp.take(array, index, axis=dim, mode="fill")
    return jax.vmap(lambda a, i: jnp.take(a, i, axis=dim - (dim > batch_dim), mode="fill"), (batch_dim, 0), batch_dim)(
        array, index
    )
