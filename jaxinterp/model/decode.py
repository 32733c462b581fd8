"""One step of generation: some rows of a sequence through every block, beside the keys and values of earlier rows."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxinterp.model.attention import layer_data, put_rows, take_rows
from jaxinterp.model.block import block
from jaxinterp.model.interventions import at_layer, split_layers
from jaxinterp.model.layers import embed, token_positions, unembed
from jaxinterp.model.params import Params, block_names
from jaxinterp.model.resume import Edits
from jaxinterp.model.tap import Tap
from jaxinterp.model.transformer import Transformer
from jaxinterp.model.where import Geometry

KeysValues = tuple[jax.Array, jax.Array]


def advance(
    model: Transformer,
    params: Params,
    edits: Edits,
    tokens: jax.Array,
    geometry: Geometry,
    past: KeysValues | None,
    read: jax.Array | None = None,
) -> tuple[jax.Array, KeysValues]:
    """(logits [batch, n, vocab] of the rows that are read, keys and values with those of these rows put in).

    Args:
      tokens: int[batch, n], at the columns `geometry.rows`.
      geometry: of the whole sequence, which gives arrays of keys and values their length.
      past: keys (as attention reads them) and values, [layer, batch, pos, kv_head, d_head]: of the rows before, the
        rest is never looked at; None before the first step, whose rows begin at column 0.
      read: columns among the rows of a first step, int[n] or int[batch, n]; None for all rows.
    """
    config, sites = model.config, model.sites
    assert geometry.rows is not None
    x, place = embed(config, params, tokens, token_positions(geometry), Tap(sites, geometry, edits, {}))
    by_layer, shared = split_layers(edits, sites)

    def step(x: jax.Array, scanned: Any) -> tuple[jax.Array, KeysValues]:
        weights, data, layer_edits, layer, before = scanned
        tap = Tap(sites, geometry, at_layer(layer_edits, shared), {}, layer)
        return block(config, weights, data, x, place, geometry, tap, before)

    scanned = (
        {name: params[name] for name in block_names(config)},
        {name: jnp.asarray(d) for name, d in layer_data(config).items()},
        by_layer,
        jnp.arange(config.n_layers),
        past,
    )
    x, own = jax.lax.scan(step, x, scanned)
    if past is None:
        widths = [(0, geometry.pos - tokens.shape[1] if dim == 2 else 0) for dim in range(5)]
        past = (jnp.pad(own[0], widths), jnp.pad(own[1], widths))
    else:
        put = jax.vmap(put_rows, (0, 0, None))
        past = (put(past[0], own[0], geometry.rows), put(past[1], own[1], geometry.rows))
    if read is not None:
        x, geometry = take_rows(x, read), geometry._replace(rows=read)
    outside = Tap(sites, geometry, edits, {})
    return unembed(config, params, outside("resid_final", x), outside), past
