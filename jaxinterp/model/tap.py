"""Where the forward meets the outside: `x = tap(name, x)` edits what is named and records what is captured.

A tap is a tracing-time object; a site that nobody names adds no operation.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp.model.interventions import Intervention, edit
from jaxinterp.model.sites import SiteSpec, check_site
from jaxinterp.model.where import Geometry, Where, check_where, compact_indices, is_concrete, take


class Tap:
    """The interventions and captures of one layer, or of the sites outside the blocks (`layer=None`)."""

    def __init__(
        self,
        sites: Mapping[str, SiteSpec],
        geometry: Geometry,
        edits: Mapping[str, tuple[Intervention, ...]],
        capture: Mapping[str, Where | None],
        layer: Any = None,
    ) -> None:
        self.sites, self.geometry, self.edits, self.capture, self.layer = sites, geometry, edits, capture, layer
        self.captured: dict[str, jax.Array] = {}

    def __call__(self, name: str, x: jax.Array) -> jax.Array:
        """`x` after the edits of site `name`, recorded if that site is captured."""
        x = self.edit(name, x)
        if name in self.capture:
            self.captured[name] = keep(x, self.capture[name], self.sites[name], self.geometry)
        return x

    def edit(self, name: str, x: jax.Array) -> jax.Array:
        """`x` after the edits of site `name`, without recording it."""
        if name in self.edits:
            return edit(x, self.edits[name], self.sites[name], self.geometry, self.layer)
        return x

    def wants(self, *names: str) -> bool:
        """Whether any of these sites is edited or captured."""
        return any(name in self.edits or name in self.capture for name in names)


def check_capture(sites: Mapping[str, SiteSpec], capture: Any, geometry: Geometry) -> dict[str, Where | None]:
    """What to record, as `{site: where or None}`; raises for unknown sites and coordinates out of range."""
    if isinstance(capture, str):
        raise TypeError(f"capture must be a tuple of site names or {{site: where}}, got the string {capture!r}")
    if not isinstance(capture, Iterable):
        raise TypeError(f"capture must be a tuple of site names or {{site: where}}, got {type(capture).__name__}")
    named = dict(capture) if isinstance(capture, Mapping) else dict.fromkeys(capture)
    for name, where in named.items():
        check_where(where, name, check_site(dict(sites), name), geometry)
    return {name: where and _counted(where) for name, where in named.items()}


def _counted(where: Where) -> Where:
    """The same selection with boolean coordinates as integers: how much is kept must be known when compiling."""

    def indices(value: Any) -> Any:
        if getattr(value, "dtype", None) != bool:
            return value
        if not is_concrete(value) or not np.any(value):
            raise ValueError("a boolean coordinate of a capture must be known, and select something")
        return np.flatnonzero(value)

    return dataclasses.replace(where, index={axis: indices(value) for axis, value in where.index.items()})


def keep(x: jax.Array, where: Where | None, spec: SiteSpec, geometry: Geometry) -> jax.Array:
    """What a capture keeps of one site's array (one layer's, if there is one per layer)."""
    if where is None:
        return x
    drop = int(spec.per_layer)
    for dim, kept in compact_indices(where, spec, geometry).items():
        if dim or not drop:
            late = geometry.start if spec.axes[dim] in ("pos", "query") else 0
            x = take(x, jnp.asarray(kept) - late, dim - drop, spec.axes.index("batch") - drop)
    return x


def kept_layers(where: Where | None, spec: SiteSpec, geometry: Geometry) -> jax.Array | None:
    """int[n]: the layers a capture keeps, None if all."""
    if where is None or "layer" not in where.axes:
        return None
    return jnp.asarray(compact_indices(where, spec, geometry)[0])


def write_layer(buffer: jax.Array, layers: jax.Array | None, layer: Any, x: jax.Array) -> jax.Array:
    """`buffer` with one layer's array in its slot; unchanged if the capture does not keep that layer."""
    if layers is None:
        return buffer.at[layer].set(x)
    return jnp.where((layers == layer).reshape(-1, *[1] * x.ndim), x, buffer)
