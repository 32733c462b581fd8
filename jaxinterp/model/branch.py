"""Continuing a run from its middle under an edit to one layer alone: what sweeps of patches are made of.

Equal to `resume.resumed`, with less arithmetic: nothing is computed that the edit cannot change or nobody reads.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxinterp.model.attention import head_outputs, take_rows
from jaxinterp.model.block import after_heads
from jaxinterp.model.config import TransformerConfig
from jaxinterp.model.interventions import joined
from jaxinterp.model.layers import unembed
from jaxinterp.model.params import Params, weight_axes
from jaxinterp.model.resume import Blocks, Edits, entering
from jaxinterp.model.run import Run, read_rows
from jaxinterp.model.sites import QUERY_SITES, SiteSpec, model_sites
from jaxinterp.model.tap import Tap
from jaxinterp.model.where import PerExample, Where


def branched(
    config: TransformerConfig,
    sites: dict[str, SiteSpec],
    params: Params,
    run: Run,
    edits: Edits,
    start_layer: Any,
    start_pos: int,
    positions: Any,
    columns: jax.Array | None,
) -> jax.Array:
    """The logits of `resumed` for edits that touch one layer alone, with less arithmetic.

    Unchecked: what an edit selects before the start is left as it was in the run. The layer that is edited runs apart
    from those that follow, which then need no edits of their own; the last block computes just the rows that are read.

    Args:
      start_layer: the edited layer, 0 to n_layers - 1; int or traced.
      positions: where logits are read; not None.
    """
    # edits of the embedding are behind us, and need not be made again
    standing = {site: several for site, several in joined(run.interventions).items() if site != "embed"}
    edited = Blocks(config, sites, params, run, joined(standing, edits), {}, start_pos)
    after = Blocks(config, sites, params, run, standing, {}, start_pos)
    if standing or "z" not in run.cache:
        x, _ = edited.step(start_layer, entering(run, start_layer, start_pos))
    else:
        x = _edited_block(edited, run, edits, start_layer)
    if standing:
        x = jax.lax.fori_loop(start_layer + 1, config.n_layers, lambda layer, x: after.step(layer, x)[0], x)
        return after.logits(x, positions, columns)

    last = config.n_layers - 1
    rows = read_rows(positions, after.geometry)
    x = jax.lax.fori_loop(start_layer + 1, last, lambda layer, x: after.step(layer, x)[0], x)
    if config.n_layers == 1:
        x = take_rows(x, rows)
    else:
        x = jax.lax.cond(start_layer < last, lambda x: after.step(last, x, rows)[0], lambda x: take_rows(x, rows), x)
    return unembed(config, params, x, after.outside, columns)


def _edited_block(blocks: Blocks, run: Run, edits: Edits, layer: Any) -> jax.Array:
    """The stream after the block that is edited, from what the run knows of it.

    Edits of `z` and what follows start behind the heads. Of an edit to one head's inputs, only that head (its group,
    where keys are shared) is computed anew. An edit of a single row leaves the block's other rows as they were.
    """
    config, sites, start = blocks.config, blocks.sites, blocks.start_pos
    names = list(sites)
    weights, _, tap, _ = blocks.layer(layer)
    x = entering(run, layer, start)
    heads = jax.lax.dynamic_index_in_dim(run.cache["z"], layer, keepdims=False)[:, start:]
    site, where = _single(edits)
    behind = all(names.index(name) >= names.index("z") for name in edits)
    if not behind:
        if where is None or not _is_scalar(where.index.get("head")) or config.qk_norm == "all":
            return blocks.step(layer, x)[0]
        heads = _with_one_group(blocks, heads, x, site, layer)
    row = None if where is None or not (behind or site in QUERY_SITES) else _single_row(where)
    if row is None:
        return after_heads(config, weights, x, heads, tap)
    rows = jnp.clip(row - start, 0, x.shape[1] - 1)
    out = jax.lax.dynamic_index_in_dim(run.resid, layer + 1, keepdims=False)[:, start:]
    near = Tap(sites, blocks.geometry._replace(rows=rows + start), tap.edits if behind else {}, {}, layer)
    new = after_heads(config, weights, take_rows(x, rows), take_rows(heads, rows), near)
    at = (slice(None), rows) if rows.ndim == 1 else (jnp.arange(x.shape[0])[:, None], rows)
    return out.at[at].set(new)


def _with_one_group(blocks: Blocks, heads: jax.Array, x: jax.Array, site: str, layer: Any) -> jax.Array:
    """Every head's output, those of one group of heads (that share keys and values) computed anew, under the edit.

    The group is a small model of its own: its heads, and what the layer holds for them.

    Args:
      heads: [batch, rows, head, d_head], all of them, without the edit. x: [batch, rows, d_model], what they read.
    """
    config, axes = blocks.config, blocks.sites[site].axes[1:]
    weights, data, tap, prefix = blocks.layer(layer)
    (one,) = tap.edits[site]
    assert one.where is not None
    size = 1 if "kv_head" in axes else config.groups
    group = one.where.index["head"] // size

    def own(value: jax.Array, axes: tuple[str, ...]) -> jax.Array:
        for dim, axis in enumerate(axes):
            if axis in ("head", "kv_head") and value.shape[dim] != 1:
                each = config.groups if axis == "head" else 1
                value = jax.lax.dynamic_slice_in_dim(value, group * each, each, dim)
        return value

    mask = None if one.where.mask is None else own(one.where.mask, axes)
    index = {**one.where.index, "head": one.where.index["head"] - group * size}
    where = dataclasses.replace(one.where, index=index, mask=mask)
    one = dataclasses.replace(one, values=tuple(own(jnp.asarray(v), axes) for v in one.values), where=where)
    small = dataclasses.replace(config, n_heads=config.groups, n_kv_heads=1)
    axes_of, axes_of_keys = weight_axes(config), ("batch", "pos", "kv_head", "d_head")
    changed, _ = head_outputs(
        small,
        {name: own(weight, axes_of[name][1:]) for name, weight in weights.items()},
        data, x, blocks.place, blocks.geometry,
        Tap(model_sites(small), blocks.geometry, {site: (one,)}, {}, layer),
        None if prefix is None else (own(prefix[0], axes_of_keys), own(prefix[1], axes_of_keys)),
    )  # fmt: skip
    return jax.lax.dynamic_update_slice_in_dim(heads, changed, group * config.groups, 2)


def _single(edits: Edits) -> tuple[str, Where | None]:
    """(the site, its coordinates) of the only edit there is; coordinates are None if there are several."""
    (site, several), *more = edits.items()
    return site, several[0].where if not more and len(several) == 1 else None


def _is_scalar(index: Any) -> bool:
    """Whether a coordinate is a single one, shared by all prompts."""
    return index is not None and not isinstance(index, PerExample) and jnp.ndim(index) == 0


def _single_row(where: Where) -> jax.Array | None:
    """int[1], or int[batch, 1] where prompts differ: the only row that is selected; None if there may be others."""
    index = where.index.get("pos", where.index.get("query"))
    if isinstance(index, PerExample):
        return jnp.asarray(index.index)[:, None] if jnp.ndim(index.index) == 1 else None
    return jnp.asarray(index)[None] if _is_scalar(index) else None
