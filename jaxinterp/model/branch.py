"""Continuing a run from its middle under edits to one layer each: what sweeps of patches are made of.

Equal to `resume.resumed`, with less arithmetic: nothing is computed that the edit cannot change or nobody reads.
"""

import dataclasses
from collections.abc import Callable
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


def branches(
    config: TransformerConfig,
    sites: dict[str, SiteSpec],
    params: Params,
    run: Run,
    write: Callable[[Any], Edits],
    cells: Any,
    layers: jax.Array,
    start_pos: int,
    positions: Any,
    columns: jax.Array | None,
    score: Callable[[jax.Array], jax.Array],
    *,
    tile: int,
    group: int,
) -> jax.Array:
    """The score of the logits of `resumed`, for many edits that touch one layer each: [cell, batch].

    All cells go up through the blocks together, so that a block's weights are read once for all of them. At a layer the
    cells that began below pass the plain block, `tile` of them at a time; those that edit it begin there, `group` at a
    time. The last block computes just the rows that are read.

    Unchecked: what an edit selects before the start is left as it was in the run.

    Args:
      write: one cell's coordinates -> its edits, of one layer.
      cells: leaves lead with cell, a multiple of `tile` of them.
      layers: int[cell], the one that each edits, ascending; `n_layers` for those at the end that only fill up.
      positions: where logits are read; not None.
      score: logits of one cell [batch, n, column] -> [batch].
    """
    # edits of the embedding are behind us, and need not be made again
    standing = {site: several for site, several in joined(run.interventions).items() if site != "embed"}
    after = Blocks(config, sites, params, run, standing, {}, start_pos)
    n, last = len(layers), config.n_layers - 1
    rows = read_rows(positions, after.geometry)

    def begun(layer: Any) -> jax.Array:
        """How many cells edit a layer below this one."""
        return jnp.sum(layers < layer)

    def edited(cell: Any, layer: Any, arrays: Any) -> jax.Array:
        """A cell's stream after the block that it edits."""
        edits = write(cell)
        blocks = Blocks(config, sites, params, run, joined(standing, edits), {}, start_pos)
        if standing or "z" not in run.cache:
            return blocks.step(layer, entering(run, layer, start_pos), arrays=arrays)[0]
        return _edited_block(blocks, run, edits, layer, arrays)

    def pass_block(layer: Any, x: jax.Array, out: jax.Array, only: jax.Array | None) -> jax.Array:
        """`x` [cell, batch, row, d_model] after a block, written to `out`; of `only` these rows.

        The last tile takes some cells along that have not begun; what it makes of them is overwritten when they do.
        """
        arrays = after.arrays(layer)

        def plain(number: jax.Array, out: jax.Array) -> jax.Array:
            # where a block is written to its input, tiles are apart, so that none has been overwritten
            part = jax.lax.dynamic_slice_in_dim(out if only is None else x, number * tile, tile)
            part = jax.vmap(lambda x: after.step(layer, x, only, arrays=arrays)[0])(part)
            return jax.lax.dynamic_update_slice_in_dim(out, part, number * tile, 0)

        def begin(number: jax.Array, out: jax.Array) -> jax.Array:
            first = begun(layer) + number * group
            which = jnp.minimum(first + jnp.arange(group), n - 1)
            part = jax.vmap(edited, (0, None, None))(jax.tree.map(lambda leaf: leaf[which], cells), layer, arrays)
            part = part if only is None else jax.vmap(take_rows, (0, None))(part, only)
            return jax.lax.dynamic_update_slice_in_dim(out, part, first, 0)

        out = jax.lax.fori_loop(0, _over(begun(layer), tile), plain, out)
        return jax.lax.fori_loop(0, _over(begun(layer + 1) - begun(layer), group), begin, out)

    def buffer(one: jax.Array) -> jax.Array:
        """Zeros for every cell, and for those that the last group may write beyond the end; where `one` lies."""
        return jnp.broadcast_to(jnp.zeros_like(one), (n + group, *one.shape))

    first = entering(run, 0, start_pos)
    x = buffer(first)
    end = config.n_layers if standing else last
    x = jax.lax.fori_loop(layers[0], end, lambda layer, x: pass_block(layer, x, x, None), x)
    if not standing:
        x = pass_block(last, x, buffer(take_rows(first, rows)), rows)

    def read_off(x: jax.Array) -> jax.Array:
        if standing:
            return score(after.logits(x, positions, columns))
        return score(unembed(config, params, x, after.outside, columns))

    scores = buffer(first[:, 0, 0].astype(jax.eval_shape(read_off, x[0]).dtype))

    def finish(number: jax.Array, out: jax.Array) -> jax.Array:
        part = jax.vmap(read_off)(jax.lax.dynamic_slice_in_dim(x, number * tile, tile))
        return jax.lax.dynamic_update_slice_in_dim(out, part, number * tile, 0)

    return jax.lax.fori_loop(0, _over(begun(config.n_layers), tile), finish, scores)[:n]


def _over(count: jax.Array, size: int) -> jax.Array:
    """How many times `size` it takes to hold a count."""
    return (count + size - 1) // size


def _edited_block(blocks: Blocks, run: Run, edits: Edits, layer: Any, arrays: Any) -> jax.Array:
    """The stream after the block that is edited, from what the run knows of it.

    Edits of `z` and what follows start behind the heads. Of an edit to one head's inputs, only that head (its group,
    where keys are shared) is computed anew. An edit of a single row leaves the block's other rows as they were.
    """
    config, sites, start = blocks.config, blocks.sites, blocks.start_pos
    names = list(sites)
    weights, _, tap, _ = blocks.layer(layer, arrays)
    x = entering(run, layer, start)
    heads = jax.lax.dynamic_index_in_dim(run.cache["z"], layer, keepdims=False)[:, start:]
    site, where = _single(edits)
    behind = all(names.index(name) >= names.index("z") for name in edits)
    if not behind:
        if where is None or not _is_scalar(where.index.get("head")) or config.qk_norm == "all":
            return blocks.step(layer, x, arrays=arrays)[0]
        heads = _with_one_group(blocks, heads, x, site, layer, arrays)
    row = None if where is None or not (behind or site in QUERY_SITES) else _single_row(where)
    if row is None:
        return after_heads(config, weights, x, heads, tap)
    rows = jnp.clip(row - start, 0, x.shape[1] - 1)
    out = jax.lax.dynamic_index_in_dim(run.resid, layer + 1, keepdims=False)[:, start:]
    near = Tap(sites, blocks.geometry._replace(rows=rows + start), tap.edits if behind else {}, {}, layer)
    new = after_heads(config, weights, take_rows(x, rows), take_rows(heads, rows), near)
    at = (slice(None), rows) if rows.ndim == 1 else (jnp.arange(x.shape[0])[:, None], rows)
    return out.at[at].set(new)


def _with_one_group(blocks: Blocks, heads: jax.Array, x: jax.Array, site: str, layer: Any, arrays: Any) -> jax.Array:
    """Every head's output, those of one group of heads (that share keys and values) computed anew, under the edit.

    The group is a small model of its own: its heads, and what the layer holds for them.

    Args:
      heads: [batch, rows, head, d_head], all of them, without the edit. x: [batch, rows, d_model], what they read.
    """
    config, axes = blocks.config, blocks.sites[site].axes[1:]
    weights, data, tap, prefix = blocks.layer(layer, arrays)
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
        Tap(dict(model_sites(small)), blocks.geometry, {site: (one,)}, {}, layer),
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
