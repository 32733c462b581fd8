"""One batch's activations and gradients, laid out as they are stored: rows are prompts, or their tokens."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp.metrics import Metric, score
from jaxinterp.model.interventions import add, joined
from jaxinterp.model.sites import SiteSpec
from jaxinterp.model.where import Geometry, PerExample, Where, compact_indices, prompt_columns, take
from jaxinterp.tasks.prompts import Prompts


def differs_by_prompt(where: Where, axis: str, prompts: Prompts) -> bool:
    """Whether coordinates along an axis over tokens are other columns from prompt to prompt."""
    index = where.index.get(axis)
    return isinstance(index, PerExample) or (index is not None and prompts.mask is not None and bool(np.min(index) < 0))


def columns_of(where: Where | None, axis: str, prompts: Prompts) -> np.ndarray:
    """The columns kept along an axis over tokens: int[batch, n] where they differ by prompt, else int[1, n]."""
    n_pos = prompts.tokens.shape[1]
    if where is None or axis not in where.axes:
        return np.arange(n_pos)[None]
    if differs_by_prompt(where, axis, prompts):
        mask = np.ones(prompts.tokens.shape, bool) if prompts.mask is None else prompts.mask
        return prompt_columns(where.index[axis], mask)
    for name, bounds in where.slices:
        if name == axis:
            return np.arange(n_pos)[slice(*bounds)][None]
    index = np.atleast_1d(np.asarray(where.index[axis]))
    return np.where(index < 0, index + n_pos, index)[None]


def is_single(index: Any) -> bool:
    """Whether a coordinate is one number (of each prompt), so that its axis is gone."""
    return np.ndim(index.index) == 1 if isinstance(index, PerExample) else np.ndim(index) == 0


def stored_axes(spec: SiteSpec, where: Where | None, flatten: bool) -> tuple[str, ...]:
    """The axes of a site that are stored; "row" is "batch" and the axis over tokens, made one."""
    gone = set() if where is None else {spec.axis(name) for name, index in where.index.items() if is_single(index)}
    if not flatten:
        return tuple(axis for dim, axis in enumerate(spec.axes) if dim not in gone)
    left = [axis for dim, axis in enumerate(spec.axes) if dim not in gone and axis != spec.row_axis]
    return tuple("row" if axis == "batch" else axis for axis in left)


@functools.partial(jax.jit, static_argnames=("model", "flatten", "dtype"))
def harvested(
    model: Any,
    params: Any,
    prompts: Prompts,
    edits: Any,
    metric: Metric | None,
    wheres: dict[str, Where | None],
    *,
    flatten: bool,
    dtype: str | None,
) -> tuple[dict[str, dict[str, jax.Array]], dict[str, dict[str, jax.Array]]]:
    """(`{"arrays" or "gradients": {site: array}}`; how many values of each are too large for the dtype)."""
    geometry, sites = Geometry.of(prompts.tokens, prompts.mask), model.sites
    read = {} if metric is None else metric.capture
    capture = {site: None if site in wheres and site in read else (wheres | read)[site] for site in wheres | read}

    def arranged(x: jax.Array, spec: SiteSpec, where: Where | None) -> jax.Array:
        axes = stored_axes(spec, where, flatten)
        order = [part for axis in axes for part in (("batch", str(spec.row_axis)) if axis == "row" else (axis,))]
        left = [axis for axis in spec.axes if axis in order]
        x = x.squeeze(tuple(dim for dim, axis in enumerate(spec.axes) if axis not in order))
        x = x.transpose([left.index(axis) for axis in order])
        dim = axes.index("row") if flatten else 0
        return x.reshape(*x.shape[:dim], -1, *x.shape[dim + 2 :]) if flatten else x

    def compact(x: jax.Array, site: str, where: Where | None) -> jax.Array:
        if where is not None:
            for dim, kept in compact_indices(where, sites[site], geometry).items():
                x = take(x, jnp.asarray(kept), dim, sites[site].axes.index("batch"))
        return x

    def forward(probes: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
        probed = joined(edits, {site: add(zeros) for site, zeros in probes.items()})
        logits, cache = model.apply(params, prompts.tokens, probed, capture=capture, mask=prompts.mask)
        both = wheres.keys() & read.keys()  # which were captured whole
        arrays = {site: compact(cache[site], site, wheres[site]) if site in both else cache[site] for site in wheres}
        if metric is None:
            return jnp.zeros(()), arrays
        seen = {site: compact(cache[site], site, read[site]) if site in both else cache[site] for site in read}
        return score(metric, logits, seen, geometry).sum(), arrays

    if metric is None:
        found = {"arrays": forward({})[1]}
    else:  # no prompt's metric depends on another's activations, so that the sum's gradient is each one's own
        dtypes = {site: array.dtype for site, array in jax.eval_shape(forward, {})[1].items()}
        if rounded := [site for site, kind in dtypes.items() if not jnp.issubdtype(kind, jnp.floating)]:
            raise ValueError(f"site {rounded[0]!r} holds {dtypes[rounded[0]]}, which has no gradient")
        probes = {site: jnp.zeros(sites[site].shape(geometry.batch, geometry.pos), dtypes[site]) for site in wheres}
        gradients, arrays = jax.grad(forward, has_aux=True)(probes)
        found = {"arrays": arrays, "gradients": {s: compact(gradients[s], s, where) for s, where in wheres.items()}}
    stored: dict[str, dict[str, jax.Array]] = {kind: {} for kind in found}
    lost: dict[str, dict[str, jax.Array]] = {kind: {} for kind in found}
    for kind, each in found.items():
        for site, x in each.items():
            x = arranged(x, sites[site], wheres[site])
            stored[kind][site] = x
            if dtype is not None and jnp.issubdtype(x.dtype, jnp.floating):
                stored[kind][site] = narrow = x.astype(dtype)
                lost[kind][site] = jnp.sum(jnp.isfinite(x) & ~jnp.isfinite(narrow))
    return stored, lost
