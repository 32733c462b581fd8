"""Which patches a sweep makes: axes of selectors, their product as one pytree with a leading `cell` axis.

A cell is a set of coordinates at one or several sites. Coordinates are data, so that a whole grid of cells is
one compiled program whatever its layers, positions and heads are.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxinterp.model.config import suggest
from jaxinterp.model.sites import AXIS_ALIASES, SiteSpec, check_site
from jaxinterp.model.where import Geometry, PerExample, Where, check_where, selection

#: Axes whose coordinates `ji.at` knows, and the name it knows them by.
COORDINATES = {
    "layer": "layer", "pos": "pos", "head": "head", "kv_head": "head", "d_mlp": "neuron", "neuron": "neuron",
    "expert": "expert", "query": "query", "key": "key", "feature": "feature", "role": "pos",
}  # fmt: skip


#: The axes of a sweep; as a mapping, with the entries of each (None: all).
Over = Sequence[str] | Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Axis:
    """One axis of a result: a selector (and its label) for each of its entries.

    Attributes:
      name: the result's dimension.
      coordinate: the name `ji.at` gives it.
      labels: what stands on the axis: numbers, or names of roles and sets.
      selectors: int[n], bool[n, size], or PerExample(int[n, batch]); None for sets, which masks tell apart.
    """

    name: str
    coordinate: str
    labels: list[Any]
    selectors: Any


@dataclasses.dataclass(frozen=True)
class Cells:
    """A grid of patches, in the axes' row-major order.

    Attributes:
      axes: the result's axes.
      masks: the sites that are patched; each with None where the axes' selectors say all, or bool[cell, *the site's
        rank], each axis full or 1.
    """

    axes: tuple[Axis, ...]
    masks: dict[str, np.ndarray | None]

    @property
    def shape(self) -> tuple[int, ...]:
        """How many entries each axis has."""
        return tuple(len(axis.labels) for axis in self.axes)

    def __len__(self) -> int:
        return math.prod(self.shape)

    def take(self, which: np.ndarray) -> dict[str, Where]:
        """The coordinates of some cells: `{site: Where}` whose leaves lead with `cell`."""
        places = np.unravel_index(which, self.shape) if self.axes else ()
        index = {
            axis.coordinate: jax.tree.map(lambda leaf, place=place: leaf[place], axis.selectors)
            for axis, place in zip(self.axes, places, strict=True)
            if axis.selectors is not None
        }
        return {s: Where(index, (), None if mask is None else mask[which]) for s, mask in self.masks.items()}


def grid(
    sites: Mapping[str, SiteSpec],
    patched: Sequence[str],
    over: Over,
    geometry: Geometry,
    roles: Mapping[str, Any] | None,
    window: int = 1,
) -> Cells:
    """Every combination of the axes in `over`, or of their entries; at each, all `patched` sites at once.

    A `window` of more than 1 patches that many layers around each cell's own (`layer_windows`).

    Raises:
      ValueError: an axis that a site does not have or `over` repeats, roles missing or unasked for.
    """
    if isinstance(over, str):
        raise TypeError(f"over must be a tuple of axis names, got the string {over!r}; write over=({over!r},)")
    if not isinstance(over, Iterable):
        raise TypeError(f"over must be a tuple of axis names, got {over!r}; write over=() for one patch of everything")
    axes = tuple(_axis(sites, patched, name, geometry, roles) for name in over)
    if window > 1:
        if "layer" not in over:
            raise ValueError(f"window={window} needs 'layer' in over")
        axes = tuple(
            dataclasses.replace(axis, selectors=layer_windows(len(axis.labels), window))
            if axis.name == "layer"
            else axis
            for axis in axes
        )
    coordinates = [axis.coordinate for axis in axes]
    if len(set(coordinates)) < len(coordinates):
        raise ValueError(f"over={tuple(over)} names one axis twice")
    if isinstance(over, Mapping):
        axes = tuple(axis if over[axis.name] is None else _entries(axis, over[axis.name]) for axis in axes)
    # a grid of no axes is one cell, and still needs a leaf to say so
    return Cells(axes, {s: None if axes else np.ones((1,) * (1 + len(sites[s].axes)), bool) for s in patched})


def _entries(axis: Axis, wanted: Any) -> Axis:
    """An axis with some of its entries, by label."""
    wanted = list(wanted) if np.ndim(wanted) or isinstance(wanted, range) else [wanted]
    for one in wanted:
        if isinstance(one, (bool, np.bool_, float)) or one not in axis.labels:
            told = suggest(str(one), axis.labels) if axis.name == "role" else f"it has 0 to {len(axis.labels) - 1}"
            raise ValueError(f"over[{axis.name!r}] holds {one!r}, which is no entry of that axis; {told}")
    if not wanted or len(set(wanted)) < len(wanted):
        raise ValueError(f"over[{axis.name!r}] is empty, or names an entry twice: {wanted}")
    places = np.array([axis.labels.index(one) for one in wanted])
    selectors = jax.tree.map(lambda leaf: leaf[places], axis.selectors)
    return dataclasses.replace(axis, labels=[axis.labels[i] for i in places], selectors=selectors)


def _axis(
    sites: Mapping[str, SiteSpec],
    patched: Sequence[str],
    name: str,
    geometry: Geometry,
    roles: Mapping[str, Any] | None,
) -> Axis:
    if name not in COORDINATES:
        raise ValueError(f"unknown axis {name!r} in over; {suggest(name, _axes_of(sites, patched))}")
    sizes = set()
    for site in patched:
        spec = sites[site]
        dim = spec.axis("pos" if name == "role" else name)
        if dim is None:
            raise ValueError(
                f"over={name!r}: site {site!r} has no such axis; it has {', '.join(_axes_of(sites, [site]))}"
            )
        sizes.add(spec.shape(geometry.batch, geometry.pos)[dim])
    if len(sizes) > 1:
        raise ValueError(
            f"over={name!r}: the sites {', '.join(patched)} differ in it ({sorted(sizes)}); patch them apart"
        )
    if name != "role":
        size = sizes.pop()
        return Axis(name, COORDINATES[name], list(range(size)), np.arange(size))
    if not roles:
        raise ValueError("over holds 'role': give roles={'S2': int[batch], ...}, or prompts that have roles")
    columns = []
    for role, index in roles.items():
        index = np.asarray(index.index if isinstance(index, PerExample) else index)
        if index.shape != (geometry.batch,) or not np.issubdtype(index.dtype, np.integer):
            raise ValueError(f"role {role!r} must be int[batch] with batch = {geometry.batch}, got {index.shape}")
        check_where(Where({"pos": PerExample(index)}, ()), patched[0], sites[patched[0]], geometry)
        ends = geometry.pos if geometry.ends is None else np.asarray(geometry.ends)[:, 0]
        columns.append(np.where(index < 0, index + ends, index))
    return Axis("role", "pos", list(roles), PerExample(np.stack(columns)))


def _axes_of(sites: Mapping[str, SiteSpec], patched: Sequence[str]) -> list[str]:
    """What `over` may hold for these sites."""
    names = [n for n in COORDINATES if n != "role" and all(sites[s].axis(n) is not None for s in patched)]
    aliased = {a for n in names for a in AXIS_ALIASES.get(n, ()) if a != n}
    return [n for n in names if n not in aliased] + (["role"] if "pos" in names else [])


def joint_sets(sites: Mapping[str, SiteSpec], patched: Sequence[str], sets: Any, geometry: Geometry) -> Cells:
    """One cell for each of `sets`: a `where`, several (their union), or `{site: where or several}`.

    `sets` may be a mapping, whose keys become the labels.

    Raises:
      TypeError, ValueError: an entry that is none of these, or that selects what does not exist.
    """
    if not isinstance(sets, (Mapping, list, tuple)):
        raise TypeError(f"sets must be a list (or a labelled dict) of sets of coordinates, got {type(sets).__name__}")
    labels = list(map(str, sets)) if isinstance(sets, Mapping) else list(range(len(sets)))
    entries = list(sets.values()) if isinstance(sets, Mapping) else list(sets)
    if not entries:
        raise ValueError("sets is empty")
    named = []
    for label, entry in zip(labels, entries, strict=True):
        entry = entry if isinstance(entry, Mapping) else dict.fromkeys(patched, entry)
        if not entry:
            raise ValueError(f"set {label!r} names no site, and no site= is given")
        named.append({site: union_mask(site, check_site(dict(sites), site), w, geometry) for site, w in entry.items()})
    masks: dict[str, np.ndarray | None] = {}
    for site in dict.fromkeys(site for entry in named for site in entry):
        rank = len(sites[site].axes)
        parts = [entry.get(site, np.zeros((1,) * rank, bool)) for entry in named]
        shape = np.broadcast_shapes(*(p.shape for p in parts))
        masks[site] = np.stack([np.broadcast_to(p, shape) for p in parts])
    axis = Axis("set", "set", labels, None)
    return Cells((axis,), masks)


def union_mask(site: str, spec: SiteSpec, wheres: Any, geometry: Geometry) -> np.ndarray:
    """bool, the site's rank, each axis full or 1: what any of the given wheres selects."""
    union = np.zeros((1,) * len(spec.axes), bool)
    several = wheres if isinstance(wheres, (list, tuple)) else (wheres,)
    if not several or any(where is None for where in several):
        raise ValueError(f"a set selects nothing at site {site!r}: give ji.at(...), or ji.at() for all of it")
    for where in several:
        check_where(where, site, spec, geometry)
        chosen = selection(where, spec, geometry)
        union = union | (np.ones_like(union) if chosen is None else np.asarray(chosen))
    return union


def layer_windows(n_layers: int, width: int) -> np.ndarray:
    """bool[n_layers, n_layers]: for each centre, the layers of a window of `width` around it; shorter at the edges.

    The window at centre l is max(0, l - width // 2) <= layer < min(n_layers, l + ceil(width / 2)) (ROME).

    Example:
      >>> ji.layer_windows(4, 3).astype(int).tolist()
      [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]
    """
    if not 1 <= width <= 2 * n_layers:
        raise ValueError(f"window must lie between 1 and {2 * n_layers}, got {width}")
    centre, layer = np.arange(n_layers)[:, None], np.arange(n_layers)[None]
    return (layer >= centre - width // 2) & (layer < centre + math.ceil(width / 2))
