"""Attributions inside attention: which entries of a pattern count, and from where to where a value's effect goes.

Attention patterns themselves are a site: `attribution_patching(site="pattern")` takes entries as free numbers, those of
a row not bound to sum to 1. Here are the two questions that a site does not answer (Nanda 2023).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import xarray as xr

from jaxinterp.attribution.derivatives import check_differentiable
from jaxinterp.attribution.estimates import Estimates, Kept, Pair, cells_for, estimated, observed, sum_to
from jaxinterp.metrics import Metric
from jaxinterp.model.config import suggest
from jaxinterp.model.interventions import Interventions, add, joined
from jaxinterp.patching.activation import check_normalize, check_pair, check_run
from jaxinterp.patching.batches import Batch, edits_of, prompts_of
from jaxinterp.patching.cells import Over
from jaxinterp.patching.engine import Options
from jaxinterp.patching.observe import foreign
from jaxinterp.tasks.prompts import Prompts, as_prompts

#: What the sign of an attention attribution says: "importance", that an entry helps; "ablation", what its removal does.
SIGNS = {"importance": 1.0, "ablation": -1.0}


def attention_attribution(
    model: Any,
    params: Any,
    base: Any,
    *,
    metric: Metric,
    sign: str,
    over: Over = ("layer", "head", "query", "key"),
    per_example: bool = False,
    mask: Any = None,
    base_interventions: Interventions | None = None,
    mesh: jax.sharding.Mesh | None = None,
    max_bytes: int | None = None,
    progress: bool | None = None,
) -> xr.DataArray:
    """Each entry of the attention patterns times its gradient: what it is worth on this prompt, without a second one.

    Args:
      sign: "importance", pattern * gradient, is positive where an entry raises the metric; "ablation", its negative, is
        the estimated effect of setting the entry to 0, as in `attribution_patching`.
      Others as in `attribution_patching`.

    Returns:
      Labelled by axis, in the metric's units.

    Example:
      >>> worth = ji.attention_attribution(model, params, tokens, metric=ji.logit_diff(3, 4), sign="importance")
      >>> worth.dims
      ('layer', 'head', 'query', 'key')
    """
    if sign not in SIGNS:
        raise ValueError(f"unknown sign {sign!r}; {suggest(str(sign), SIGNS)}")
    base = as_prompts(base, mask)
    geometry = check_run(model, base, base_interventions, metric)
    check_differentiable(model, params, base, base_interventions, metric)
    grids = {"pattern": cells_for(model.sites, "pattern", over, geometry, base.roles)}

    def of_batch(batch: Batch, prompts: Prompts, own: Any, metric: Metric, kept: Kept) -> Estimates:
        return _by_entry(model, params, prompts, own, metric, SIGNS[sign], kept)

    return estimated(
        model, params, base, grids, metric, joined(base_interventions), of_batch, Options(mesh, max_bytes, progress),
        per_example=per_example, method=f"attention_attribution ({sign})",
    )["pattern"]  # fmt: skip


def value_attribution(
    model: Any,
    params: Any,
    base: Any,
    source: Any,
    *,
    metric: Metric,
    over: Over = ("layer", "head", "query", "key"),
    normalize: bool | str = False,
    per_example: bool = False,
    mask: Any = None,
    base_interventions: Interventions | None = None,
    source_interventions: Interventions | None = None,
    mesh: jax.sharding.Mesh | None = None,
    max_bytes: int | None = None,
    progress: bool | None = None,
) -> xr.DataArray:
    """What patching the value at a key position does through one query position: source by destination.

        pattern(query, key) (v_source - v_base)(key) . d metric / d z(query)

    Over all queries (and the heads that share the value) these add up to the attribution of `v` at the key.

    Args: as in `attribution_patching`.

    Example:
      >>> moved = ji.value_attribution(model, params, tokens.at[:, 2].set(7), tokens, metric=ji.logit_diff(3, 4))
      >>> moved.dims
      ('layer', 'head', 'query', 'key')
    """
    base, source = as_prompts(base, mask), as_prompts(source, mask)
    check_normalize(normalize)
    geometry = check_pair(model, base, source, base_interventions, source_interventions, metric)
    check_differentiable(model, params, base, base_interventions, metric)
    grids = {"pattern": cells_for(model.sites, "pattern", over, geometry, base.roles)}
    source_edits, options = joined(source_interventions), Options(mesh, max_bytes, progress)

    def of_batch(batch: Batch, prompts: Prompts, own: Any, metric: Metric, kept: Kept) -> Estimates:
        theirs = edits_of(source_edits, model.sites, batch, source)
        pair = Pair(prompts, own, options.spread(prompts_of(source, batch)), theirs, metric)
        return _by_route(model, params, pair, kept)

    return estimated(
        model, params, base, grids, metric, joined(base_interventions), of_batch, options,
        together=foreign(source_edits), normalize=normalize, per_example=per_example, method="value_attribution",
    )["pattern"]  # fmt: skip


@functools.partial(jax.jit, static_argnames=("model", "kept"))
def _by_entry(model: Any, params: Any, base: Prompts, edits: Any, metric: Metric, sign: float, kept: Kept) -> Estimates:
    gradient, each, cache = _gradient(model, params, base, edits, metric, "pattern", ("pattern",), first=False)
    return Estimates({"pattern": sum_to(sign * cache["pattern"] * gradient, kept[0][1])}, each, None, {})


@functools.partial(jax.jit, static_argnames=("model", "kept"))
def _by_route(model: Any, params: Any, pair: Pair, kept: Kept) -> Estimates:
    base, edits, source, source_edits, metric = pair
    source_metric, theirs = observed(model, params, source, source_edits, metric, ("v",))
    gradient, each, ours = _gradient(model, params, base, edits, metric, "z", ("pattern", "v"), first=True)
    pattern, change = ours["pattern"], theirs["v"] - ours["v"]
    n_layers, batch, n_heads, queries, keys = pattern.shape
    groups = n_heads // change.shape[3]
    by_group = gradient.reshape(n_layers, batch, queries, change.shape[3], groups, -1)
    routes = jnp.einsum("lbqhgf,lbkhf->lbhgqk", by_group, change).reshape(n_layers, batch, n_heads, queries, keys)
    return Estimates({"pattern": sum_to(pattern * routes, kept[0][1])}, each, source_metric, {})


def _gradient(
    model: Any,
    params: Any,
    base: Prompts,
    edits: Any,
    metric: Metric,
    site: str,
    names: tuple[str, ...],
    *,
    first: bool,
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """(d metric / d one site, behind the edits made at it or, if `first`, before; the metric, [batch]; activations)."""
    shapes = jax.eval_shape(lambda: observed(model, params, base, edits, metric, (site,))[1])[site]

    def total(probe: jax.Array) -> tuple[jax.Array, Any]:
        probing = {site: add(probe)}
        under = joined(probing, edits) if first else joined(edits, probing)
        each, cache = observed(model, params, base, under, metric, names)
        return each.sum(), (each, cache)

    gradient, (each, cache) = jax.grad(total, has_aux=True)(jnp.zeros(shapes.shape, shapes.dtype))
    return gradient, each, cache
