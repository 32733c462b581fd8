"""Ablation: take an activation's information away, and see what the metric loses."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from jaxinterp.metrics import Metric
from jaxinterp.model.config import suggest
from jaxinterp.model.interventions import Interventions, joined
from jaxinterp.model.sampling import check_key
from jaxinterp.model.sites import SiteSpec
from jaxinterp.model.where import Geometry
from jaxinterp.patching.activation import check_run, check_tokens, choose_cells
from jaxinterp.patching.batches import Batch, cut, edits_of, prompts_of
from jaxinterp.patching.cells import Over
from jaxinterp.patching.effects import effect_array
from jaxinterp.patching.endurance import Folder
from jaxinterp.patching.engine import Options, run_sweep
from jaxinterp.patching.nodes import Draw, node_sweep
from jaxinterp.patching.observe import foreign, whole_forwards
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
    over: Over = ("layer", "head", "pos"),
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
    resume: Folder | None = None,
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
    if key is not None:
        check_key(key)
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")
    base = as_prompts(base, mask)
    options = Options(mesh, max_bytes, progress, resume)
    geometry = check_run(model, base, base_interventions, metric)
    cells = choose_cells(model, geometry, site, sites, sets, over, roles or base.roles)
    names = tuple(cells.masks)
    edits = joined(base_interventions)
    if pooled and any("key" in model.sites[name].axes for name in names):
        raise ValueError("pooled=True means over positions, and attention's keys are positions: use pooled=False")
    other, other_edits = base, edits
    if kind in ("mean", "resample") and (reference is not None or source_interventions is not None):
        other = base if reference is None else as_prompts(reference)
        other_edits = joined(source_interventions)
        check_reference(model, base, other, pooled and kind == "mean")
    keys = [None] if kind in ("zero", "mean") else list(jax.random.split(key, num_samples))  # type: ignore[arg-type]
    means = means_of(model, params, base, other, other_edits, metric, names, pooled) if kind == "mean" else {}
    together = [(name,) for name in names] if independent else [names]  # sites that come from one reference prompt
    chosen = _draw(keys, len(together), base, other) if kind == "resample" else np.zeros((len(keys), 0, len(base)), int)

    def draws(batch: Batch, prompts: Prompts, metric: Metric) -> list[Callable[[], Draw]]:
        own = edits_of(edits, model.sites, batch, base)

        def draw(key: Any, rows: np.ndarray) -> Draw:
            return Draw(own, values(key, rows))

        def values(key: Any, rows: np.ndarray) -> Mapping[str, jax.Array]:
            if kind == "zero":
                return {name: jnp.zeros((1,) * len(model.sites[name].axes)) for name in names}
            if kind == "mean":
                return {name: cut(means[name], model.sites[name].axes, batch) for name in names}
            if kind == "noise":
                assert sigma is not None
                cache = captured(model, params, prompts, own, names)
                by_site = zip(names, jax.random.split(key, len(names)), strict=True)
                noise = {name: normal_noise(own_key, model.sites[name], geometry, batch) for name, own_key in by_site}
                return {name: cache[name] + (sigma * noise[name]).astype(cache[name].dtype) for name in names}
            return {
                name: value
                for group, of_group in zip(together, rows, strict=True)
                for name, value in _captured(
                    model, params, other, other_edits, of_group[batch.rows], batch.n_pos, group
                ).items()
            }

        return [functools.partial(draw, key, rows) for key, rows in zip(keys, chosen, strict=True)]

    identity = "ablation", kind, pooled, independent, sigma, keys, other.tokens, other.mask, other_edits
    sweep = node_sweep(
        model, params, base, cells, metric, edits, draws,
        n_draws=len(keys), whole=foreign(other_edits), identity=identity,
    )  # fmt: skip
    tally = run_sweep(sweep, options, per_example=per_example, per_prompt=False)
    return effect_array(
        tally, cells.axes, base, normalize=False, per_example=per_example,
        site="+".join(names), method="ablation", kind=kind,
    )  # fmt: skip


def normal_noise(key: jax.Array, spec: SiteSpec, geometry: Geometry, batch: Batch) -> jax.Array:
    """Standard normal noise for a batch; each prompt's own, whichever batch it is in."""
    shape, dim = spec.shape(1, geometry.pos), spec.axes.index("batch")
    keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.asarray(batch.rows))
    noise = jax.vmap(lambda one: jax.random.normal(one, shape), out_axes=dim)(keys).squeeze(dim + 1)
    everything = dataclasses.replace(batch, rows=np.arange(len(batch.rows)))
    return cut(noise, spec.axes, everything)


def _captured(
    model: Any, params: Any, prompts: Prompts, edits: Any, rows: np.ndarray, n_pos: int, names: tuple[str, ...]
) -> Mapping[str, jax.Array]:
    """The named sites' activations on some of the prompts, up to a column."""
    batch = Batch(0, rows, len(rows), n_pos, 0)
    if foreign(edits):  # they may mix prompts, so that all of them run
        cache = captured(model, params, Prompts(prompts.tokens, prompts.mask), edits, names)
        return {name: cut(value, model.sites[name].axes, batch) for name, value in cache.items()}
    own = edits_of(edits, model.sites, batch, prompts)
    return captured(model, params, prompts_of(prompts, batch), own, names)


def _masks(base: Prompts, reference: Prompts) -> tuple[np.ndarray, np.ndarray]:
    """Both masks, bool[batch, pos], all True where there is no padding."""
    first, second = (
        np.ones(np.shape(p.tokens), bool) if p.mask is None else np.asarray(p.mask) for p in (base, reference)
    )
    return first, second


def _draw(keys: Sequence[Any], n: int, base: Prompts, reference: Prompts) -> np.ndarray:
    """int[key, n, batch]: for each base prompt random reference prompts that are padded in the same way."""
    mine, theirs = _masks(base, reference)
    paddings, kind = np.unique(np.concatenate([mine, theirs]), axis=0, return_inverse=True)
    mine_kind, their_kind = np.split(kind.reshape(-1), [len(mine)])
    order = np.argsort(their_kind, kind="stable")
    counts = np.bincount(their_kind, minlength=len(paddings))
    if not counts[mine_kind].all():
        row = int(np.argmin(counts[mine_kind]))
        raise ValueError(f"no reference prompt has the length of base prompt {row} ({mine[row].sum()} tokens)")
    drawn = [jax.random.randint(key, (n, len(mine)), 0, jnp.asarray(counts[mine_kind])) for key in keys]
    return order[(np.cumsum(counts) - counts)[mine_kind] + np.asarray(drawn)]


def means_of(
    model: Any,
    params: Any,
    base: Prompts,
    reference: Prompts,
    edits: Any,
    metric: Metric,
    names: tuple[str, ...],
    pooled: bool,
) -> dict[str, jax.Array]:
    """The mean of each site over reference prompts, padding left out; one for each position, or one for all."""
    _, rows = _masks(base, reference)
    sums: dict[str, Any] = dict.fromkeys(names, 0.0)
    counts: dict[str, Any] = dict.fromkeys(names, 0.0)
    everything = Metric(metric.fn)  # reads all positions, so that nothing is cut
    for batch in whole_forwards(model, params, reference, edits, everything):
        cache = _captured(model, params, reference, edits, batch.rows, batch.n_pos, names)
        own = rows[batch.rows] & (np.arange(len(batch.rows)) < batch.n)[:, None]
        for name in names:
            spec = model.sites[name]
            batch_dim = spec.axes.index("batch")
            token_dims = [i for i, axis in enumerate(spec.axes) if axis in ("pos", "query")]
            shape = [1] * len(spec.axes)
            shape[batch_dim], shape[token_dims[0]] = own.shape
            x = cache[name]
            weights = jnp.asarray(own.reshape(shape), jnp.promote_types(x.dtype, jnp.float32))
            dims = (batch_dim, *token_dims) if pooled else (batch_dim,)
            sums[name] = sums[name] + jnp.sum(x * weights, dims, keepdims=True)
            counts[name] = counts[name] + jnp.sum(weights, dims, keepdims=True)
    return {name: sums[name] / jnp.maximum(counts[name], 1) for name in names}


def check_reference(model: Any, base: Prompts, reference: Prompts, pooled: bool) -> None:
    """Raises unless the mean over reference prompts is defined wherever a base prompt has a token."""
    check_tokens(model, reference)
    shapes = np.shape(base.tokens), np.shape(reference.tokens)
    if shapes[0][1] != shapes[1][1] and not pooled:
        raise ValueError(
            f"base has {shapes[0][1]} positions, reference has {shapes[1][1]}: they must be as many, for means are "
            "taken position by position (`ji.ablation` alone can pool them, with pooled=True)"
        )
    mine, theirs = _masks(base, reference)
    uncovered = mine.any(axis=0) & ~theirs.any(axis=0) if not pooled else np.zeros(1, bool)
    if uncovered.any():
        raise ValueError(f"no reference prompt has a token at position {int(np.argmax(uncovered))}; base prompts have")
