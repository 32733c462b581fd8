"""From coordinates to arrays: how much an edit selects, and full-size values from compact ones."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp.model.interventions import Interventions, as_tuple
from jaxinterp.model.sites import SiteSpec, check_site
from jaxinterp.model.where import Geometry, Where, check_where, compact_indices, selection


def count_selected(sites: Mapping[str, SiteSpec], interventions: Interventions, tokens: Any, mask: Any = None) -> Any:
    """How many entries each edit selects: `{site: (int, ...)}`, one per edit; works under `jit` and `vmap`.

    A traced coordinate that is out of range selects nothing, and counts 0 here.

    Example:
      >>> edits = {"z": ji.zero(ji.at(layer=0, head=1, pos=-1))}
      >>> int(ji.count_selected(model.sites, edits, tokens)["z"][0])  # three prompts, eight dimensions
      24
    """
    batch, pos = np.shape(tokens)
    geometry = Geometry(batch, pos, None if mask is None else jnp.asarray(mask))
    counts = {}
    for name, edits in interventions.items():
        spec = check_site(dict(sites), name)
        shape = spec.shape(batch, pos)
        chosen = [None if e.where is None else selection(e.where, spec, geometry) for e in as_tuple(edits)]
        counts[name] = tuple(
            jnp.asarray(np.prod(shape)) if m is None else jnp.sum(m) * (np.prod(shape) // np.prod(m.shape))
            for m in chosen
        )
    return counts


def place(compact: Any, where: Where, like: Any, *, mask: Any = None) -> jax.Array:
    """A full-size value with `compact` at the entries `where` selects, and 0 elsewhere.

    Args:
      compact: what `capture={site: where}` returns: the site's rank, each restricted axis as long as the
        number of entries selected (in the order selected).
      where: coordinates that select a rectangular block (no `mask=`).
      like: an array of the site's full shape, such as `cache[site]`, whose axes are told from its rank and from
        what fits; or, where that could be two things, `(model.sites[site], (batch, pos))`.
      mask: the padding mask, bool[batch, pos], if the prompts are padded: negative positions count from each
        prompt's own end.

    Raises:
      ValueError: shapes and selection do not fit together, or fit in two ways.

    Example:
      >>> where = ji.at(layer=1, head=[0, 3])
      >>> _, cache = model.apply(params, tokens, capture={"z": where})
      >>> full = ji.place(cache["z"], where, like=(model.sites["z"], tokens.shape))
      >>> full.shape == model.sites["z"].shape(*tokens.shape)
      True
    """
    mask = None if mask is None else jnp.asarray(mask)
    if isinstance(like, tuple):
        spec, (batch, pos) = like
        return _place(compact, where, spec, Geometry(batch, pos, mask))
    fitting = []
    for axes in _LAYOUTS.get(len(like.shape), ()):
        sizes = dict(zip(axes, like.shape, strict=True))
        spec = SiteSpec(axes, tuple(None if a in _PROMPT_AXES else n for a, n in sizes.items()))
        geometry = Geometry(sizes["batch"], sizes[spec.row_axis or ""], mask)
        known = all(spec.axis(name) is not None for name in where.axes)
        if (
            known
            and spec.shape(geometry.batch, geometry.pos) == tuple(like.shape)
            and _fits(compact, where, spec, geometry)
        ):
            fitting.append((spec, geometry))
    if not fitting:
        raise ValueError(
            f"compact has shape {jnp.shape(compact)}, which does not fill the {', '.join(where.axes)} "
            f"selected of shape {tuple(like.shape)}"
        )
    if len({tuple(spec.axis(name) for name in where.axes) for spec, _ in fitting}) > 1:
        raise ValueError(
            "like= could be heads by position or an attention pattern: give (model.sites[site], (batch, pos))"
        )
    return _place(compact, where, *fitting[0])


#: Axes whose sizes the prompt decides.
_PROMPT_AXES = ("batch", "pos", "query", "key")

#: What the axes of a cached array can be, by its rank.
_LAYOUTS: dict[int, tuple[tuple[str, ...], ...]] = {
    3: (("batch", "pos", "d_mlp"),),
    4: tuple(("layer", "batch", "pos", last) for last in ("d_mlp", "feature", "expert")),
    5: (
        ("layer", "batch", "pos", "head", "d_head"),
        ("layer", "batch", "pos", "expert", "d_mlp"),
        ("layer", "batch", "head", "query", "key"),
    ),
}


def _compact_shape(where: Where, spec: SiteSpec, geometry: Geometry) -> tuple[int, ...]:
    kept = compact_indices(where, spec, geometry)
    full = spec.shape(geometry.batch, geometry.pos)
    return tuple(jnp.shape(kept[dim])[-1] if dim in kept else n for dim, n in enumerate(full))


def _fits(compact: Any, where: Where, spec: SiteSpec, geometry: Geometry) -> bool:
    return jnp.shape(compact) == _compact_shape(where, spec, geometry)


def _place(compact: Any, where: Where, spec: SiteSpec, geometry: Geometry) -> jax.Array:
    check_where(where, "place", spec, geometry)
    compact = jnp.asarray(compact)
    if not _fits(compact, where, spec, geometry):
        raise ValueError(f"compact has shape {compact.shape}, expected {_compact_shape(where, spec, geometry)}")
    full = spec.shape(geometry.batch, geometry.pos)
    for dim, kept in compact_indices(where, spec, geometry).items():
        # which entry of the compact array each full entry comes from; unselected ones are cleared below
        source = jnp.argmax(jnp.asarray(kept)[..., None, :] == jnp.arange(full[dim])[:, None], axis=-1)
        if source.ndim == 1:
            compact = jnp.take(compact, source, axis=dim)
        else:
            shape = [1] * len(full)
            shape[spec.axes.index("batch")], shape[dim] = source.shape
            compact = jnp.take_along_axis(compact, source.reshape(shape), axis=dim)
    chosen = selection(where, spec, geometry)
    return compact if chosen is None else jnp.where(chosen, compact, 0)
