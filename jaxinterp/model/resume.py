"""Continuing a run from its middle: only what an edit can reach is computed again."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxinterp.model.attention import layer_data
from jaxinterp.model.block import block
from jaxinterp.model.config import TransformerConfig
from jaxinterp.model.interventions import Intervention, at_layer, joined, split_layers
from jaxinterp.model.layers import embed, take_columns, token_positions, unembed
from jaxinterp.model.params import Params, block_names
from jaxinterp.model.run import Run, gather_rows
from jaxinterp.model.sites import SiteSpec
from jaxinterp.model.tap import Tap, kept_layers, write_layer
from jaxinterp.model.where import Geometry, Where

Edits = Mapping[str, tuple[Intervention, ...]]


def resumed(
    config: TransformerConfig,
    sites: dict[str, SiteSpec],
    params: Params,
    run: Run,
    edits: Edits,
    capture: dict[str, Where | None],
    start_layer: Any,
    start_pos: int,
    positions: Any,
    columns: jax.Array | None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The definition of `Transformer.resume`: every block from `start_layer` on, at every row from `start_pos` on."""
    blocks = Blocks(config, sites, params, run, joined(run.interventions, edits), capture, start_pos)
    start_layer = jnp.clip(start_layer, 0, config.n_layers)
    x = entering(run, start_layer, start_pos)
    inside = {name: where for name, where in capture.items() if sites[name].per_layer}
    layers = {name: kept_layers(where, sites[name], blocks.geometry) for name, where in inside.items()}
    shapes = jax.eval_shape(blocks.step, 0, x)[1]
    buffers = {}
    for name, shape in shapes.items():
        kept = layers[name]
        buffers[name] = blank_layers(shape, config.n_layers if kept is None else kept.shape[0])

    def loop(layer: Any, carry: tuple[jax.Array, dict[str, jax.Array]]) -> tuple[jax.Array, dict[str, jax.Array]]:
        x, buffers = carry
        x, captured = blocks.step(layer, x)
        return x, {n: write_layer(buffers[n], layers[n], layer, captured[n]) for n in buffers}

    x, cache = jax.lax.fori_loop(start_layer, config.n_layers, loop, (x, buffers))
    logits = blocks.logits(x, positions, columns)
    return logits, {name: (cache | blocks.outside.captured)[name] for name in capture}


class Blocks:
    """What a resumption's blocks share: stacked weights, cached keys and values, edits, and the outside sites."""

    def __init__(
        self,
        config: TransformerConfig,
        sites: dict[str, SiteSpec],
        params: Params,
        run: Run,
        edits: Edits,
        capture: dict[str, Where | None],
        start_pos: int,
    ) -> None:
        self.config, self.sites, self.params, self.start_pos = config, sites, params, start_pos
        self.geometry = Geometry.of(run.tokens, run.mask, start_pos)
        self.outside = Tap(sites, self.geometry, edits, capture)
        self.place = None
        if config.positions == "qk":
            tokens = run.tokens[:, start_pos:]
            _, self.place = embed(config, params, tokens, token_positions(self.geometry), self.outside)
        self.inside = {name: where for name, where in capture.items() if sites[name].per_layer}
        self.by_layer, self.shared = split_layers(edits, sites)
        self.stacked = (
            {name: params[name] for name in block_names(config)},
            {name: jnp.asarray(d) for name, d in layer_data(config).items()},
            (run.k, run.v),
        )

    def arrays(self, layer: Any) -> Any:
        """What one layer, an int or traced, has of its own whatever the edits: weights, data, cached keys and values.

        Indexed, not scanned: the loop may start anywhere.
        """
        return entry(self.stacked, layer)

    def layer(self, layer: Any, arrays: Any = None) -> tuple[Params, dict[str, Any], Tap, Any]:
        """(weights, data, tap, prefix) of one layer; `arrays` are its own, if they are at hand."""
        weights, data, kv = self.arrays(layer) if arrays is None else arrays
        edits = at_layer(entry(self.by_layer, layer), self.shared)
        tap = Tap(self.sites, self.geometry, edits, self.inside, layer)
        prefix = tuple(cached[:, : self.start_pos] for cached in kv) if self.start_pos else None
        return weights, data, tap, prefix

    def step(
        self, layer: Any, x: jax.Array, queries: jax.Array | None = None, *, arrays: Any = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """(the stream after one block, what was captured in it)."""
        weights, data, tap, prefix = self.layer(layer, arrays)
        x, _ = block(self.config, weights, data, x, self.place, self.geometry, tap, prefix, queries=queries)
        return x, tap.captured

    def logits(self, x: jax.Array, positions: Any, columns: jax.Array | None) -> jax.Array:
        """Logits from the final stream, where they are read."""
        return read_logits(self.config, self.params, self.outside, x, positions, columns)


def read_logits(
    config: TransformerConfig, params: Params, outside: Tap, x: jax.Array, positions: Any, columns: jax.Array | None
) -> jax.Array:
    """Logits from the final stream, where they are read; all rows go through sites that somebody names."""
    x = outside("resid_final", x)
    names = list(outside.sites)
    late = outside.wants(*names[names.index("resid_final") + 1 :])
    if not late:
        x = gather_rows(x, positions, outside.geometry)
    if not outside.wants("logits"):
        logits = unembed(config, params, x, outside, columns)
        return gather_rows(logits, positions, outside.geometry) if late else logits
    logits = gather_rows(unembed(config, params, x, outside), positions, outside.geometry)
    return take_columns(logits, columns)


def entry(tree: Any, layer: Any) -> Any:
    """One layer's entry of everything that is stacked by layer."""
    return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, layer, keepdims=False), tree)


def entering(run: Run, layer: Any, start_pos: int) -> jax.Array:
    """The stream that enters a layer of a run, rows from `start_pos` on."""
    return jax.lax.dynamic_index_in_dim(run.resid, layer, keepdims=False)[:, start_pos:]


def blank_layers(shape: jax.ShapeDtypeStruct, n: int) -> jax.Array:
    """A buffer of `n` layers that says of every entry that it was never computed."""
    return jnp.full((n, *shape.shape), jnp.nan if jnp.issubdtype(shape.dtype, jnp.floating) else 0, shape.dtype)
