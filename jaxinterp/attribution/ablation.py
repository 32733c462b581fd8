"""Attribution of ablations: what zeroing an activation, or setting it to its mean, would do, to first order."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import xarray as xr

from jaxinterp.attribution.derivatives import check_differentiable
from jaxinterp.attribution.estimates import (
    Estimates,
    Kept,
    cells_for,
    check_sites,
    estimated,
    nothing,
    observed,
    toward,
)
from jaxinterp.metrics import Metric
from jaxinterp.model.config import suggest
from jaxinterp.model.interventions import Interventions, joined
from jaxinterp.patching.ablation import check_reference, means_of
from jaxinterp.patching.activation import check_roles, check_run
from jaxinterp.patching.batches import Batch, cut
from jaxinterp.patching.cells import Over
from jaxinterp.patching.engine import Options
from jaxinterp.tasks.prompts import Prompts, as_prompts

KINDS = ("zero", "mean")


def attribution_ablation(
    model: Any,
    params: Any,
    base: Any,
    *,
    metric: Metric,
    sites: Sequence[str] | None = None,
    site: str | None = None,
    over: Over | None = None,
    kind: str = "zero",
    reference: Any = None,
    per_example: bool = False,
    roles: Mapping[str, Any] | None = None,
    mask: Any = None,
    base_interventions: Interventions | None = None,
    mesh: jax.sharding.Mesh | None = None,
    max_bytes: int | None = None,
    progress: bool | None = None,
) -> xr.DataArray | dict[str, xr.DataArray]:
    """What `ablation` would find, estimated to first order: -a . gradient, or (mean - a) . gradient.

    Args:
      kind: "zero"; or "mean", over the prompts of `reference`, position by position.
      reference: prompts for "mean" (tokens or `ji.Prompts`); by default the base prompts.
      Others as in `attribution_patching`.

    Returns:
      As `attribution_patching`.

    Example:
      >>> effects = ji.attribution_ablation(model, params, tokens, site="mlp_out", over=("layer",),
      ...                                   metric=ji.logit_diff(3, 4))
      >>> effects.dims
      ('layer',)
    """
    names = check_sites(model, sites, site)
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; {suggest(str(kind), KINDS)}")
    if kind == "zero" and reference is not None:
        raise ValueError("reference= means nothing for kind='zero'; it is for 'mean'")
    base = as_prompts(base, mask)
    if roles is not None:
        check_roles(over or (), roles)
    geometry = check_run(model, base, base_interventions, metric)
    check_differentiable(model, params, base, base_interventions, metric)
    grids = {name: cells_for(model.sites, name, over, geometry, roles or base.roles) for name in names}
    edits = joined(base_interventions)
    means: Mapping[str, jax.Array] = {}
    if kind == "mean":
        other = base if reference is None else as_prompts(reference)
        check_reference(model, base, other, pooled=False)
        means = means_of(model, params, base, other, edits if reference is None else {}, metric, names, pooled=False)

    def of_batch(batch: Batch, prompts: Prompts, own: Any, metric: Metric, kept: Kept) -> Estimates:
        values = {name: cut(mean, model.sites[name].axes, batch) for name, mean in means.items()}
        return _at_base(model, params, prompts, own, values, metric, kept)

    arrays = estimated(
        model, params, base, grids, metric, edits, of_batch, Options(mesh, max_bytes, progress),
        per_example=per_example, method="attribution_ablation", kind=kind,
    )  # fmt: skip
    return arrays if site is None else arrays[site]


@functools.partial(jax.jit, static_argnames=("model", "kept"))
def _at_base(
    model: Any, params: Any, base: Prompts, edits: Any, values: Mapping[str, jax.Array], metric: Metric, kept: Kept
) -> Estimates:
    names = tuple(name for name, _ in kept)
    shapes = jax.eval_shape(lambda: observed(model, params, base, edits, metric, names)[1])
    values = values or {name: jnp.zeros((1,) * shape.ndim, shape.dtype) for name, shape in shapes.items()}

    def total(amounts: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        each, _ = observed(model, params, base, joined(edits, toward(values, amounts)), metric, ())
        return each.sum(), each

    effects, base_metric = jax.grad(total, has_aux=True)(nothing(shapes, kept))
    return Estimates(effects, base_metric, None, {})
