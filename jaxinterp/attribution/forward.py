"""Forward mode: what a few patches do, to first order, to any number of outputs at once.

A backward pass gives the derivative of one number with respect to all activations; a tangent that is carried forward
gives the derivative of every output with respect to one patch. Few patches and many outputs: this way is cheaper.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from jaxinterp.attribution.derivatives import check_differentiable
from jaxinterp.attribution.estimates import (
    Estimates,
    Kept,
    Pair,
    axes_kept,
    cells_for,
    check_sites,
    even_batches,
    nothing,
    observed,
    part_of,
    prompts_at_a_time,
    toward,
)
from jaxinterp.metrics import Metric
from jaxinterp.model.interventions import Interventions, joined
from jaxinterp.model.layers import take_columns
from jaxinterp.model.run import gather_rows
from jaxinterp.model.transformer import Transformer
from jaxinterp.model.where import Geometry, Where, selection
from jaxinterp.patching.activation import check_pair, check_roles
from jaxinterp.patching.batches import cells_of
from jaxinterp.patching.cells import Over
from jaxinterp.patching.engine import Options
from jaxinterp.patching.observe import foreign
from jaxinterp.tasks.prompts import Prompts, as_prompts

#: Patches whose tangents are carried forward together.
TOGETHER = 8


def attribution_to_logits(
    model: Any,
    params: Any,
    base: Any,
    source: Any,
    *,
    site: str,
    over: Over | None = None,
    pos: Any = -1,
    tokens: Any = None,
    roles: Mapping[str, Any] | None = None,
    mask: Any = None,
    base_interventions: Interventions | None = None,
    source_interventions: Interventions | None = None,
    mesh: jax.sharding.Mesh | None = None,
    max_bytes: int | None = None,
    progress: bool | None = None,
) -> xr.DataArray:
    """What each patch would do to every logit, estimated to first order: forward mode, one tangent for each patch.

    The work grows with the number of entries, whatever the number of logits; that of `attribution_patching` does not,
    but it is for one number.

    Args:
      pos: the position whose logits are read: an int, negative from each prompt's end, or `ji.per_example(int[batch])`.
      tokens: int[n], which logits; None for the whole vocabulary.
      Others as in `attribution_patching`.

    Returns:
      Mean effects on logits, labelled by the axes of `over` and `token`; their standard error over prompts (NaN for one
      prompt) is the coordinate `standard_error`.

    Raises:
      TypeError, ValueError: at the call, for what does not fit together.

    Example:
      >>> effects = ji.attribution_to_logits(
      ...     model, params, tokens.at[:, 2].set(7), tokens, site="z", over={"layer": [1], "head": [0, 3]})
      >>> effects.dims, effects.sizes["token"] == model.config.d_vocab
      (('layer', 'head', 'token'), True)
    """
    check_sites(model, None, site)
    base, source = as_prompts(base, mask), as_prompts(source, mask)
    if roles is not None:
        check_roles(over or (), roles)
    if tokens is not None:
        tokens = np.asarray(tokens)
        if tokens.ndim != 1 or not tokens.size or not np.issubdtype(tokens.dtype, np.integer):
            raise ValueError(f"tokens must be int[n], the same for all prompts, got {tokens.dtype}{list(tokens.shape)}")
    read = Metric(_mean_logit, positions=pos, columns=tokens)
    options = Options(mesh, max_bytes, progress)
    geometry = check_pair(model, base, source, base_interventions, source_interventions, read)
    check_differentiable(model, params, base, base_interventions, read)
    edits, source_edits = joined(base_interventions), joined(source_interventions)
    shape = jax.eval_shape(lambda: _logits(model, params, Prompts(base.tokens, base.mask), edits, read)[0]).shape
    if shape[1] != 1:
        raise ValueError(f"pos must be one position of each prompt, got {shape[1]}")
    cells = cells_for(model.sites, site, over, geometry, roles or base.roles)
    kept = ((site, axes_kept(model.sites[site], cells)),)
    whole = Pair(base, edits, source, source_edits, read)
    alone = foreign(edits) or foreign(source_edits)
    size = None if alone else prompts_at_a_time(model, params, base, (site,), options, TOGETHER)
    n, mean, spread = 0, np.zeros((len(cells), shape[2])), np.zeros((len(cells), shape[2]))
    with tqdm(total=len(base), desc="prompts", unit="prompt", delay=1, disable=options.hidden) as bar:
        for batch in even_batches(base, read, size, options):
            part, numbers = cells_of(cells, model.sites, batch, base)
            pair = part_of(whole, batch, model.sites, options)
            moments = _moments(model, params, pair, kept, part.take(np.arange(len(part)))[site], batch.n)
            of_batch, around = (np.zeros_like(mean) for _ in range(2))  # cells behind a batch's last column do nothing
            of_batch[numbers], around[numbers] = (np.asarray(moment, np.float64) for moment in moments)
            change = of_batch - mean
            spread += around + change**2 * n * batch.n / (n + batch.n)
            mean += change * batch.n / (n + batch.n)
            n += batch.n
            bar.update(batch.n)
    axes = {axis.name: axis.labels for axis in cells.axes}
    axes["token"] = list(range(shape[2]) if tokens is None else tokens)
    error = np.sqrt(spread / (n * (n - 1))) if n > 1 else np.full_like(mean, np.nan)
    sizes = tuple(len(labels) for labels in axes.values())
    return xr.DataArray(
        mean.reshape(sizes), dims=list(axes), name="effect",
        coords=axes | {"standard_error": (list(axes), error.reshape(sizes))},
        attrs={"n_prompts": len(base), "site": site, "method": "attribution_to_logits"},
    )  # fmt: skip


def _mean_logit(logits: jax.Array, cache: Any) -> jax.Array:
    return logits.mean((1, 2))


def _logits(
    model: Any, params: Any, prompts: Prompts, edits: Any, read: Metric, capture: tuple[str, ...] = ()
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(the logits that are read, [batch, 1, token]; what is captured) of an edited run."""
    run: dict[str, Any] = {"capture": capture, "mask": prompts.mask}
    if isinstance(model, Transformer):
        return model.apply(params, prompts.tokens, edits, positions=read.positions, columns=read.columns, **run)
    logits, cache = model.apply(params, prompts.tokens, edits, **run)
    rows = gather_rows(logits, read.positions, Geometry.of(prompts.tokens, prompts.mask))
    return take_columns(rows, read.columns), cache


@functools.partial(jax.jit, static_argnames=("model", "kept"))
def _moments(
    model: Any,
    params: Any,
    pair: Pair,
    kept: Kept,
    patches: Where,
    n: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """(mean, sum of squared deviations) over the first `n` prompts of each patch's effect on logits, [patch, token]."""
    base, edits, source, source_edits, read = pair
    ((site, _),) = kept
    geometry = Geometry.of(base.tokens, base.mask)
    _, values = _logits(model, params, source, source_edits, read, (site,))
    zeros = nothing(values, kept)
    weights = (jnp.arange(geometry.batch) < n)[:, None]

    def logits(amounts: dict[str, jax.Array]) -> jax.Array:
        return _logits(model, params, base, joined(edits, toward(values, amounts)), read)[0][:, 0]

    _, along = jax.linearize(logits, zeros)

    def of_patch(where: Where) -> tuple[jax.Array, jax.Array]:
        chosen = selection(where, model.sites[site], geometry)
        assert chosen is not None  # a patch of everything has a mask that says so
        effects = along({site: jnp.broadcast_to(chosen, zeros[site].shape).astype(zeros[site].dtype)})
        mean = jnp.sum(effects * weights, axis=0) / n
        return mean, jnp.sum(jnp.square(effects - mean) * weights, axis=0)

    return jax.lax.map(of_patch, patches, batch_size=TOGETHER)


@functools.partial(jax.jit, static_argnames=("model", "kept", "remat"))
def in_forward_mode(
    model: Any,
    params: Any,
    pair: Pair,
    kept: Kept,
    remat: str | None,
) -> Estimates:
    """Estimates from the derivative of the base run along each patch, one after another."""
    base, edits, source, source_edits, metric = pair
    source_metric, values = observed(model, params, source, source_edits, metric, tuple(name for name, _ in kept))
    zeros = nothing(values, kept)

    def each(amounts: dict[str, jax.Array]) -> jax.Array:
        return observed(model, params, base, joined(edits, toward(values, amounts)), metric, (), remat)[0]

    base_metric, along = jax.linearize(each, zeros)

    def of_site(name: str) -> jax.Array:
        batch = model.sites[name].axes.index("batch")
        *shape, n_prompts = jnp.moveaxis(zeros[name], batch, -1).shape  # prompts do not mix, and go along together
        n_entries = zeros[name].size // n_prompts

        def of_entry(number: jax.Array) -> jax.Array:
            here = (jnp.arange(n_entries) == number).reshape(*shape, 1)
            tangent = jnp.moveaxis(jnp.broadcast_to(here, (*shape, n_prompts)), -1, batch)
            nothing_else = {other: jnp.zeros_like(zero) for other, zero in zeros.items()}
            return along(nothing_else | {name: tangent.astype(zeros[name].dtype)})

        found = jax.lax.map(of_entry, jnp.arange(n_entries)).reshape(*shape, n_prompts)
        return jnp.moveaxis(found, -1, batch)

    return Estimates({name: of_site(name) for name in zeros}, base_metric, source_metric, {})
