"""Ablation: take an activation's information away, and see what the metric loses."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from jaxinterp.metrics import Metric
from jaxinterp.model.config import suggest
from jaxinterp.model.interventions import Interventions, joined
from jaxinterp.model.sites import SiteSpec
from jaxinterp.patching.activation import check_run, check_tokens, choose_cells
from jaxinterp.patching.effects import effect_array
from jaxinterp.patching.engine import observe, patched_values
from jaxinterp.patching.plain import captured
from jaxinterp.tasks.prompts import Prompts, as_prompts

KINDS = ("zero", "mean", "resample", "noise")


def ablation(
    model: Any,
    params: Any,
    base: Any,
    *,
    metric: Metric,
    site: str | None = None,
    over: Sequence[str] = ("layer", "head", "pos"),
    kind: str = "zero",
    reference: Any = None,
    pooled: bool = False,
    sigma: float | None = None,
    num_samples: int = 1,
    key: jax.Array | None = None,
    independent: bool = False,
    per_example: bool = False,
    roles: Mapping[str, Any] | None = None,
    sites: Sequence[str] | None = None,
    sets: Any = None,
    mask: Any = None,
    base_interventions: Interventions | None = None,
    source_interventions: Interventions | None = None,
    mesh: jax.sharding.Mesh | None = None,
    max_bytes: int | None = None,
    progress: bool | None = None,
) -> xr.DataArray:
    """The effect of replacing activations by ones that carry nothing about the prompt, cell by cell.

    Args:
      kind: "zero"; "mean": the mean over the reference prompts; "resample": the activation of a random
        reference prompt, one draw per base prompt, shared by all sites ablated together; "noise": the
        activation plus Gaussian noise, the same draw in every cell.
      reference: prompts for "mean" and "resample" (tokens or `ji.Prompts`); by default the base prompts.
      pooled: for "mean": one mean over all positions, instead of one for each. Padding never counts.
      sigma: for "noise": standard deviation, in the activation's units.
      num_samples: draws that "resample" and "noise" are averaged over; the key is consumed.
      independent: for "resample": a draw of its own for each site, instead of one shared by all.
      source_interventions: edits under which the reference activations are taken.
      Others as in `activation_patching`.

    Returns:
      The effect, metric of the ablated run - metric of the base run; labelled as in `activation_patching`.

    Example:
      >>> effects = ji.ablation(
      ...     model, params, tokens, site="mlp_out", over=("layer",), kind="mean", metric=ji.logit_diff(3, 4))
      >>> effects.dims
      ('layer',)
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; {suggest(kind, KINDS)}")
    if kind == "noise" and (sigma is None or not 0 <= sigma < float("inf")):
        raise ValueError(f"kind='noise' needs sigma=, a standard deviation; got {sigma}")
    meant = {
        "reference": (reference is not None, ("mean", "resample")),
        "source_interventions": (source_interventions is not None, ("mean", "resample")),
        "pooled": (pooled, ("mean",)),
        "sigma": (sigma is not None, ("noise",)),
        "independent": (independent, ("resample",)),
        "num_samples": (num_samples != 1, ("resample", "noise")),
    }
    for name, (given, kinds) in meant.items():
        if given and kind not in kinds:
            raise ValueError(f"{name}= means nothing for kind={kind!r}; it is for {' and '.join(kinds)}")
    if kind in ("resample", "noise") and key is None:
        raise ValueError(f"kind={kind!r} draws at random: give key=jax.random.key(seed)")
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")
    base = as_prompts(base, mask)
    geometry = check_run(model, base, base_interventions, metric)
    cells = choose_cells(model, geometry, site, sites, sets, over, roles or base.roles)
    names = tuple(cells.wheres)
    edits = joined(base_interventions)
    if pooled and any("key" in model.sites[name].axes for name in names):
        raise ValueError("pooled=True means over positions, and attention's keys are positions: use pooled=False")
    other, other_edits = base, edits
    if kind in ("mean", "resample") and (reference is not None or source_interventions is not None):
        other = base if reference is None else as_prompts(reference)
        other_edits = joined(source_interventions)
        _check_reference(model, base, other, pooled and kind == "mean")
    cache = {} if kind == "zero" else captured(model, params, Prompts(other.tokens, other.mask), other_edits, names)

    def edited(draw: Any) -> np.ndarray:
        values = _values(kind, model.sites, names, cache, base, other, draw, pooled, sigma, independent)
        return patched_values(
            model, params, base, edits, observed, values, cells, metric,
            mesh=mesh, max_bytes=max_bytes, progress=progress,
        )  # fmt: skip

    draws = [None] if kind in ("zero", "mean") else list(jax.random.split(key, num_samples))  # type: ignore[arg-type]
    observed = observe(model, params, base, edits, metric, names)
    return effect_array(
        np.mean([edited(draw) for draw in draws], axis=0), observed[2], None, cells.axes, base,
        normalize=False, per_example=per_example, site="+".join(names), method="ablation", kind=kind,
    )  # fmt: skip


def _values(
    kind: str,
    sites: Mapping[str, SiteSpec],
    names: Sequence[str],
    cache: Mapping[str, jax.Array],
    base: Prompts,
    reference: Prompts,
    draw: Any,
    pooled: bool,
    sigma: float | None,
    independent: bool,
) -> dict[str, jax.Array]:
    """What each site is overwritten with: the site's rank, every axis full or 1."""
    if kind == "zero":
        return {name: jnp.zeros((1,) * len(sites[name].axes)) for name in names}
    if kind == "mean":
        return {name: _mean(cache[name], sites[name], base, reference, pooled) for name in names}
    keys = dict(zip(names, jax.random.split(draw, len(names)), strict=True))
    if kind == "noise":
        assert sigma is not None
        return {
            name: cache[name] + sigma * jax.random.normal(keys[name], cache[name].shape, cache[name].dtype)
            for name in names
        }
    rows = {name: _draw(keys[name] if independent else draw, base, reference) for name in names}
    return {name: jnp.take(cache[name], rows[name], axis=sites[name].axes.index("batch")) for name in names}


def _masks(base: Prompts, reference: Prompts) -> tuple[np.ndarray, np.ndarray]:
    """Both masks, bool[batch, pos], all True where there is no padding."""
    first, second = (
        np.ones(np.shape(p.tokens), bool) if p.mask is None else np.asarray(p.mask) for p in (base, reference)
    )
    return first, second


def _draw(key: jax.Array, base: Prompts, reference: Prompts) -> jax.Array:
    """int[batch]: for each base prompt a random reference prompt that is padded in the same way."""
    mine, theirs = _masks(base, reference)
    alike = (mine[:, None] == theirs[None]).all(axis=-1)
    if not alike.any(axis=1).all():
        row = int(np.argmin(alike.any(axis=1)))
        raise ValueError(f"no reference prompt has the length of base prompt {row} ({mine[row].sum()} tokens)")
    return jax.random.categorical(key, jnp.where(alike, 0.0, -jnp.inf), axis=1)


def _mean(x: jax.Array, spec: SiteSpec, base: Prompts, reference: Prompts, pooled: bool) -> jax.Array:
    """The mean over reference prompts, padding left out; one for each position, or one for all."""
    _, rows = _masks(base, reference)
    batch_dim = spec.axes.index("batch")
    token_dims = [i for i, axis in enumerate(spec.axes) if axis in ("pos", "query")]
    shape = [1] * x.ndim
    shape[batch_dim], shape[token_dims[0]] = rows.shape
    weights = jnp.asarray(rows.reshape(shape), jnp.promote_types(x.dtype, jnp.float32))
    dims = (batch_dim, *token_dims) if pooled else (batch_dim,)
    return jnp.sum(x * weights, dims, keepdims=True) / jnp.maximum(jnp.sum(weights, dims, keepdims=True), 1)


def _check_reference(model: Any, base: Prompts, reference: Prompts, pooled: bool) -> None:
    check_tokens(model, reference)
    shapes = np.shape(base.tokens), np.shape(reference.tokens)
    if shapes[0][1] != shapes[1][1] and not pooled:
        raise ValueError(
            f"base has {shapes[0][1]} positions, reference has {shapes[1][1]}: pooled=True takes means over positions"
        )
    mine, theirs = _masks(base, reference)
    uncovered = mine.any(axis=0) & ~theirs.any(axis=0) if not pooled else np.zeros(1, bool)
    if uncovered.any():
        raise ValueError(f"no reference prompt has a token at position {int(np.argmax(uncovered))}; base prompts have")
