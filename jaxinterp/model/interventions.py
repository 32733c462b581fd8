"""Edits to activations, as pytrees: a static function plus array leaves.

`interventions` is `{site: one, or a tuple applied in order}`. An edit of a site's array `x` is
`where(mask, fn(x, *values, *args), x)`: values have the site's rank (layer first, every axis full or 1) and
are sliced with it, args are passed whole. `vmap` over coordinates is a sweep, the gradient with respect to an
added zero is attribution patching.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxinterp.model.sites import SiteSpec, check_site
from jaxinterp.model.where import Geometry, Where, check_shape, check_where, is_concrete, rows, selection


@struct.dataclass
class Intervention:
    """One edit. Made by `ji.replace`, `ji.add` and their siblings.

    Attributes:
      fn: `fn(x, *values, *args) -> edited x`; static.
      values: arrays of the site's rank.
      args: anything else that the function reads.
      where: what is edited; None means the whole site.
    """

    fn: Callable[..., Any] = struct.field(pytree_node=False)
    values: tuple[Any, ...] = ()
    args: tuple[Any, ...] = ()
    where: Where | None = None


Interventions = Mapping[str, Intervention | tuple[Intervention, ...]]


def replace(value: Any, where: Where | None = None) -> Intervention:
    """Overwrites a site with `value`, which has the site's rank, layer first, as `cache[site]` holds it.

    Example:
      >>> _, cache = model.apply(params, tokens, capture=("z",))
      >>> logits, _ = model.apply(params, tokens, {"z": ji.replace(cache["z"], ji.at(layer=1, head=0))})
    """
    return Intervention(_replace, (value,), (), where)


def add(value: Any, where: Where | None = None) -> Intervention:
    """Adds `value` (a steering vector, a probe of zeros) to a site.

    Example:
      >>> steer = jnp.ones((1, 1, 1, model.config.d_model))
      >>> logits, _ = model.apply(params, tokens, {"resid_pre": ji.add(steer, ji.at(layer=1, pos=-1))})
    """
    return Intervention(_add, (value,), (), where)


def lerp(value: Any, t: Any, where: Where | None = None) -> Intervention:
    """Moves a site a fraction `t` of the way to `value`: `x + t (value - x)`; `t` is a scalar.

    Example:
      >>> _, cache = model.apply(params, tokens, capture=("z",))
      >>> halfway = {"z": ji.lerp(cache["z"], 0.5)}
    """
    return Intervention(_lerp, (value,), (_scalar("t", t),), where)


def scale(c: Any, where: Where | None = None) -> Intervention:
    """Multiplies a site by the scalar `c`.

    Example:
      >>> louder = {"mlp_out": ji.scale(2.0, ji.at(layer=0))}
    """
    return Intervention(_scale, (), (_scalar("c", c),), where)


def zero(where: Where | None = None) -> Intervention:
    """Sets a site to exactly 0.

    Example:
      >>> without_head = {"z": ji.zero(ji.at(layer=1, head=2))}
    """
    return Intervention(_zero, (), (), where)


def replace_along(direction: Any, value: Any, where: Where | None = None) -> Intervention:
    """Takes the component along `direction` from `value` and leaves the rest: `x + d d·(value - x)`, |d| = 1.

    `direction` is a vector over the site's last axis, or has the site's rank; it need not be a unit vector.

    Example:
      >>> _, cache = model.apply(params, tokens, capture=("resid_post",))
      >>> swap = ji.replace_along(jnp.ones(model.config.d_model), cache["resid_post"], ji.at(layer=0))
    """
    return _along(_replace_along, direction, (value,), where)


def project_out(direction: Any, where: Where | None = None) -> Intervention:
    """Removes the component along `direction`: `x - d d·x`, |d| = 1; `direction` as in `replace_along`.

    Example:
      >>> erase = {"resid_post": ji.project_out(jnp.ones(model.config.d_model))}
    """
    return _along(_project_out, direction, (), where)


def stop_gradient(where: Where | None = None) -> Intervention:
    """Leaves values as they are and lets no derivative through (frozen norms: on `"ln1.scale"`).

    Example:
      >>> frozen = {"ln1.scale": ji.stop_gradient(), "pattern": ji.stop_gradient()}
    """
    return Intervention(jax.lax.stop_gradient, (), (), where)


def apply_fn(fn: Callable[..., jax.Array], *args: Any, where: Where | None = None) -> Intervention:
    """Replaces `x` by `fn(x, *args)`, which must keep the shape; `x` is one layer's array, args come whole.

    `fn` is part of the compiled program: pass the same function object to reuse it.

    Example:
      >>> clipped = {"mlp_post": ji.apply_fn(jnp.minimum, 1.0, where=ji.at(layer=0))}
    """
    if not callable(fn):
        raise TypeError(f"apply_fn expects a function first, got {type(fn).__name__}")
    return Intervention(fn, (), args, where)


def _replace(x: jax.Array, value: jax.Array) -> jax.Array:
    return jnp.broadcast_to(value, x.shape)


def _add(x: jax.Array, value: jax.Array) -> jax.Array:
    return x + value


def _lerp(x: jax.Array, value: jax.Array, t: Any) -> jax.Array:
    return x + jnp.asarray(t, x.dtype) * (value - x)


def _scale(x: jax.Array, c: Any) -> jax.Array:
    return x * jnp.asarray(c, x.dtype)


def _zero(x: jax.Array) -> jax.Array:
    return jnp.zeros_like(x)


def _unit(direction: jax.Array) -> jax.Array:
    return direction / jnp.linalg.norm(direction, axis=-1, keepdims=True)


def _component(x: jax.Array, direction: jax.Array) -> jax.Array:
    return jnp.sum(x * direction, axis=-1, keepdims=True) * direction


def _replace_along(x: jax.Array, value: jax.Array, direction: jax.Array) -> jax.Array:
    return x + _component(value - x, _unit(jnp.asarray(direction, x.dtype)))


def _replace_along_placed(x: jax.Array, direction: jax.Array, value: jax.Array) -> jax.Array:
    return x + _component(value - x, _unit(direction))


def _project_out(x: jax.Array, direction: jax.Array) -> jax.Array:
    return x - _component(x, _unit(jnp.asarray(direction, x.dtype)))


def _along(fn: Callable[..., Any], direction: Any, values: tuple[Any, ...], where: Where | None) -> Intervention:
    """A plain vector is an argument; a direction of the site's rank differs by layer or position, so is a value."""
    if is_concrete(direction):
        vectors = np.asarray(direction)
        if vectors.ndim == 0 or not np.issubdtype(vectors.dtype, np.number):
            raise TypeError(f"direction must be a vector, got {direction!r}")
        if not np.isfinite(vectors).all():
            raise ValueError("direction holds NaN or infinite entries")
        if not vectors.any(axis=-1).all():
            raise ValueError("direction is, or holds, a zero vector")
    if np.ndim(direction) == 1:
        return Intervention(fn, values, (direction,), where)
    return Intervention(_replace_along_placed if values else _project_out, (direction, *values), (), where)


def _scalar(name: str, value: Any) -> Any:
    if np.ndim(value):
        raise ValueError(f"{name} must be a scalar, got shape {np.shape(value)}")
    if is_concrete(value):
        if isinstance(value, bool) or not np.issubdtype(np.asarray(value).dtype, np.number) or np.iscomplexobj(value):
            raise TypeError(f"{name} must be a number, got {value!r}")
        if not np.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value}")
    return value


def as_tuple(edits: Intervention | tuple[Intervention, ...]) -> tuple[Intervention, ...]:
    """The edits of one site, as a tuple."""
    return edits if isinstance(edits, tuple) else (edits,)


def joined(*interventions: Interventions | None) -> dict[str, tuple[Intervention, ...]]:
    """Several sets of edits as one: at each site, those of the first set come first.

    Example:
      >>> both = ji.joined({"z": ji.zero(ji.at(layer=0))}, {"z": ji.scale(2.0)})
      >>> len(both["z"])
      2
    """
    merged: dict[str, tuple[Intervention, ...]] = {}
    for edits in interventions:
        for name, edit in (edits or {}).items():
            merged[name] = merged.get(name, ()) + as_tuple(edit)
    return merged


def edit(x: jax.Array, edits: tuple[Intervention, ...], spec: SiteSpec, geometry: Geometry, layer: Any) -> jax.Array:
    """The definition of an intervention: `x` after each edit, in order.

    Args:
      x: a site's array; of one layer where there is one per layer, rows from `geometry.start` on.
      edits: with values and masks already of that layer (`at_layer`).
      layer: the layer, an int or traced; None at sites that stand outside the blocks.
    """
    axes = spec.axes[int(spec.per_layer) :]
    for one in edits:
        values = [rows(jnp.asarray(v, x.dtype), axes, geometry) for v in one.values]
        edited = one.fn(x, *values, *one.args)
        if jnp.shape(edited) != x.shape:
            raise ValueError(f"{one.fn} turned {x.shape} into {jnp.shape(edited)}; an edit must keep the shape")
        chosen = None if one.where is None else selection(one.where, spec, geometry, layer)
        x = edited.astype(x.dtype) if chosen is None else jnp.where(chosen, edited.astype(x.dtype), x)
    return x


def split_layers(edits: Mapping[str, tuple[Intervention, ...]], sites: Mapping[str, SiteSpec]) -> tuple[Any, Any]:
    """(what has one entry per layer, what all layers share) of the edits of per-layer sites.

    Both have the edits' structure, with None where the other holds the leaf; `at_layer` puts them together
    again once a scan, or an index, has picked the layer of the first.
    """
    n_layers = next(spec.sizes[0] for spec in sites.values() if spec.per_layer)

    def split(leaf: Any, by_layer: bool) -> tuple[Any, Any]:
        if by_layer and n_layers != 1 and jnp.shape(leaf)[0] == n_layers:
            return jnp.asarray(leaf), None
        return None, jnp.asarray(leaf)[0] if by_layer else leaf

    def part(one: Intervention, which: int) -> Intervention:
        where = one.where
        if where is not None:
            mask = None if where.mask is None else split(where.mask, True)[which]
            index = where.index if which else {}
            where = dataclasses.replace(where, index=index, mask=mask)
        return dataclasses.replace(
            one, values=tuple(split(v, True)[which] for v in one.values), args=one.args if which else (), where=where
        )

    blocks = {name: tuple_ for name, tuple_ in edits.items() if sites[name].per_layer}
    return tuple({name: tuple(part(one, which) for one in ones) for name, ones in blocks.items()} for which in (0, 1))  # type: ignore[return-value]


def at_layer(by_layer: Any, shared: Any) -> dict[str, tuple[Intervention, ...]]:
    """One layer's edits: the slice of `split_layers`' first part put together with its second."""

    def merge(one: Intervention, other: Intervention) -> Intervention:
        where = other.where
        if where is not None and one.where is not None and one.where.mask is not None:
            where = dataclasses.replace(where, mask=one.where.mask)
        values = tuple(v if v is not None else w for v, w in zip(one.values, other.values, strict=True))
        return dataclasses.replace(other, values=values, where=where)

    return {
        name: tuple(merge(one, other) for one, other in zip(by_layer[name], ones, strict=True))
        for name, ones in shared.items()
    }


def check_interventions(sites: Mapping[str, SiteSpec], interventions: Any, geometry: Geometry, new: int = 0) -> None:
    """Raises one clear error for the first thing that is wrong with a set of edits; traced leaves pass.

    Args:
      new: how many columns at the end are generated tokens, as in `check_where`.

    Raises:
      TypeError: not a mapping of sites to interventions.
      ValueError: an unknown site, an axis it lacks, a concrete coordinate out of range, a value of the wrong
        shape (both are quoted), NaN or inf in a concrete value.
    """
    if not isinstance(interventions, Mapping):
        raise TypeError(f"interventions must be a dict {{site: intervention}}, got {type(interventions).__name__}")
    for name, edits in interventions.items():
        spec = check_site(dict(sites), name)
        full = spec.shape(geometry.batch, geometry.pos)
        if isinstance(edits, list) or not all(isinstance(one, Intervention) for one in as_tuple(edits)):
            raise TypeError(f"site {name!r}: expected an intervention (ji.replace, ji.zero, ...) or a tuple of them")
        for one in as_tuple(edits):
            check_where(one.where, name, spec, geometry, new)
            for value in one.values:
                check_shape(f"site {name!r}: the value", np.shape(value), spec, full, new)
                if not (
                    jnp.issubdtype(jnp.result_type(value), jnp.floating)
                    or jnp.issubdtype(jnp.result_type(value), jnp.integer)
                ):
                    raise TypeError(f"site {name!r}: the value must be real numbers, got {jnp.result_type(value)}")
                check_finite(f"site {name!r}: the value", value)
            if (
                one.fn in (_replace_along_placed, _project_out)
                and one.values
                and np.shape(one.values[0])[-1] != full[-1]
            ):
                raise ValueError(
                    f"site {name!r}: direction has shape {np.shape(one.values[0])}; its last axis is {full[-1]}"
                )
            for arg in one.args if one.fn in (_replace_along, _project_out) else ():
                if np.shape(arg) != full[-1:]:
                    raise ValueError(f"site {name!r}: direction has shape {np.shape(arg)}, expected {full[-1:]}")


def check_finite(what: str, value: Any) -> None:
    """Raises a ValueError if a concrete floating array holds NaN or inf, and says how many."""
    if is_concrete(value) and jnp.issubdtype(jnp.result_type(value), jnp.floating):
        bad = np.size(value) - int(np.sum(np.isfinite(np.asarray(value))))
        if bad:
            raise ValueError(f"{what} holds {bad} NaN or infinite entries of {np.size(value)}")


def partition(interventions: Any) -> tuple[Any, Any]:
    """(values, rest): the floating leaves, and everything else; each has None where the other holds the leaf.

    So `jax.grad` needs no tricks: differentiate a function of `values` that calls `ji.combine(values, rest)`.

    Example:
      >>> probe = {"z": ji.scale(1.0, ji.at(layer=0, head=1))}
      >>> values, rest = ji.partition(probe)
      >>> grads = jax.grad(lambda v: model.apply(params, tokens, ji.combine(v, rest))[0].sum())(values)
    """

    def floating(leaf: Any) -> bool:
        return bool(jnp.issubdtype(jnp.result_type(leaf), jnp.floating))

    values = jax.tree.map(lambda leaf: leaf if floating(leaf) else None, interventions)
    rest = jax.tree.map(lambda leaf: None if floating(leaf) else leaf, interventions)
    return values, rest


def combine(values: Any, rest: Any) -> Any:
    """The inverse of `ji.partition`.

    Example:
      >>> edits = {"z": ji.scale(2.0, ji.at(layer=0))}
      >>> values, rest = ji.partition(edits)
      >>> ji.combine(values, rest) == edits
      True
    """
    return jax.tree.map(lambda v, r: r if v is None else v, values, rest, is_leaf=lambda leaf: leaf is None)
