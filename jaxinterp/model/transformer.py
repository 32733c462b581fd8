"""The forward pass: blocks stacked and scanned, every named point a tap, resumable from any (layer, position)."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp.model.attention import layer_data
from jaxinterp.model.block import block
from jaxinterp.model.config import TransformerConfig
from jaxinterp.model.interventions import (
    Interventions,
    at_layer,
    check_interventions,
    joined,
    split_layers,
)
from jaxinterp.model.layers import dropout, embed, token_positions
from jaxinterp.model.params import Params, block_names, check_params, init_params
from jaxinterp.model.resume import blank_layers, read_logits, resumed
from jaxinterp.model.run import Run, check_positions, check_reach, check_start
from jaxinterp.model.sites import EMBEDDING_SITES, SiteSpec, model_sites
from jaxinterp.model.tap import Tap, check_capture, kept_layers, write_layer
from jaxinterp.model.where import Geometry, Where, is_concrete

Cache = dict[str, jax.Array]

#: What a gradient may keep of a block, by the name of what it computes once more.
REMAT = {
    None: None,
    "products": jax.checkpoint_policies.dots_saveable,
    "blocks": jax.checkpoint_policies.nothing_saveable,
}


@dataclasses.dataclass(frozen=True)
class Transformer:
    """A transformer as a description: hashable, static under `jit`. Parameters are passed to every call.

    Example:
      >>> small = ji.TransformerConfig(n_layers=2, d_model=16, n_heads=2, d_vocab=20)
      >>> model = ji.Transformer(small)
      >>> params = model.init(jax.random.key(0))
      >>> logits, cache = model.apply(params, jnp.array([[1, 2, 3]]), capture=("z",))
      >>> logits.shape, cache["z"].shape
      ((1, 3, 20), (2, 1, 3, 2, 8))
    """

    config: TransformerConfig

    @property
    def sites(self) -> dict[str, SiteSpec]:
        """`{name: SiteSpec}` of every site this architecture has, in forward order."""
        return dict(model_sites(self.config))

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters, a flat dict of arrays with block weights stacked by layer. The key is consumed.

        Example:
          >>> params = model.init(jax.random.key(0))
          >>> params["W_Q"].shape  # layer, head, d_model, d_head
          (2, 4, 32, 8)
        """
        return init_params(self.config, key)

    def apply(
        self,
        params: Params,
        tokens: Any,
        interventions: Interventions | None = None,
        *,
        capture: Any = (),
        mask: Any = None,
        key: jax.Array | None = None,
        positions: Any = None,
        columns: Any = None,
        unroll: int = 1,
        remat: str | None = None,
    ) -> tuple[jax.Array, Cache]:
        """One forward pass, edited by `interventions`.

        Args:
          params: as `init` makes them.
          tokens: int[batch, pos], or `ji.Prompts`.
          interventions: `{site: one, or a tuple applied in order}`.
          capture: site names, or `{site: where}` to keep only what `where` (from `ji.at`) selects; ranks are
            kept, so what is kept of `z` is [layers, batch, positions, heads, d_head].
          mask: bool[batch, pos], False at padding; each row one run of tokens, padded on either side. Positions
            count from each prompt's first token. Rows of padding come out finite and meaningless.
          key: turns dropout on, for training.
          positions: where logits are wanted: an int, ints, or `ji.per_example`; None for all.
          columns: which columns of the unembedding are wanted: int[n] or int[batch, n]; None for all.
          unroll: how many blocks the compiled program lays out one after another before it loops, at least 1; more take
            longer to compile, and less to differentiate on CPUs, since less is stacked by layer.
          remat: what a gradient computes once more instead of keeping it: None, nothing; "products", all but the matrix
            products; "blocks", everything within a block.

        Returns:
          logits [batch, positions, columns] (float32 at least) and the cache `{site: array}`, layer first.

        Raises:
          TypeError, ValueError: before anything is compiled, for input that cannot be meant (unknown sites,
            coordinates out of range, wrong shapes, tokens out of vocabulary, ...).

        Example:
          >>> without = {"z": ji.zero(ji.at(layer=1, head=2))}
          >>> logits, cache = model.apply(params, tokens, without, capture=("resid_post",))
          >>> cache["resid_post"].shape == model.sites["resid_post"].shape(*tokens.shape)
          True
        """
        check_params(self.config, params)
        tokens, mask = self.check_prompt(tokens, mask)
        geometry = Geometry.of(tokens, mask)
        sites = self.sites
        check_interventions(sites, interventions or {}, geometry)
        named = check_capture(sites, capture, geometry)
        if type(unroll) is not int or unroll < 1:
            raise ValueError(f"unroll must be an int of at least 1, got {unroll!r}")
        if remat not in REMAT:
            raise ValueError(f"unknown remat {remat!r}; expected one of {', '.join(map(repr, REMAT))}")
        logits, cache, _ = _forward(
            self, params, tokens, joined(interventions), named, mask, key,
            *self.check_read(positions, columns, geometry),
            keep_run=False, unroll=unroll, remat=remat,
        )  # fmt: skip
        return logits, cache

    def check_prompt(self, tokens: Any, mask: Any = None) -> tuple[jax.Array, jax.Array | None]:
        """Tokens and mask as arrays; raises for shapes, ids and masks that no prompt of this model can have."""
        return check_prompt(self.config, tokens, mask)

    def run(
        self,
        params: Params,
        tokens: Any,
        *,
        mask: Any = None,
        interventions: Interventions | None = None,
        capture: Any = (),
    ) -> Run:
        """A forward pass that keeps what `resume` needs: the stream that enters each block, keys and values.

        Args:
          interventions: edits that this run, and every resumption of it, stands under.
          capture: as in `apply`; found in `run.cache`.

        Example:
          >>> run = model.run(params, tokens)
          >>> run.resid.shape[0] == model.config.n_layers + 1
          True
        """
        check_params(self.config, params)
        tokens, mask = self.check_prompt(tokens, mask)
        geometry = Geometry.of(tokens, mask)
        check_interventions(self.sites, interventions or {}, geometry)
        named = check_capture(self.sites, capture, geometry)
        edits = joined(interventions)
        _, _, run = _forward(self, params, tokens, edits, named, mask, None, None, None, keep_run=True)
        assert run is not None
        return run

    def resume(
        self,
        params: Params,
        run: Run,
        interventions: Interventions | None = None,
        *,
        start_layer: Any,
        start_pos: int = 0,
        capture: Any = (),
        positions: Any = None,
        columns: Any = None,
    ) -> tuple[jax.Array, Cache]:
        """Continues a run under further edits, from one layer and one position on; nothing before is recomputed.

        Equals `apply` with the run's own edits followed by `interventions`, as long as these reach nothing
        before `start_layer` or `start_pos`. The start layer may be traced (one compilation serves all layers);
        then forward- and jvp-mode derivatives only, for the loop is dynamic. Gradients go through `apply`.

        Args:
          run: from `model.run`.
          start_layer: the first block to recompute, 0 to n_layers (which leaves the unembedding alone); int or
            traced, and then taken as the nearest of these.
          start_pos: the first position to recompute; 0 for bidirectional models.
          capture: as in `apply`; arrays cover the positions from `start_pos` on, and layers that were not
            recomputed hold NaN.
          positions: where logits are wanted: an int, ints, or `ji.per_example`; None for all from `start_pos` on.
          columns: which columns of the unembedding are wanted: int[n] or int[batch, n]; None for all.

        Returns:
          logits [batch, positions, columns] and the cache.

        Raises:
          ValueError: an edit whose concrete coordinates lie before the start, a start out of range, an edit or
            capture of the embedding.

        Example:
          >>> run = model.run(params, tokens)
          >>> edit = {"z": ji.zero(ji.at(layer=1, pos=slice(2, None)))}
          >>> logits, _ = model.resume(params, run, edit, start_layer=1, start_pos=2, positions=-1)
          >>> logits.shape == (tokens.shape[0], 1, model.config.d_vocab)
          True
        """
        check_params(self.config, params)
        sites = self.sites
        geometry = Geometry.of(run.tokens, run.mask, start_pos)
        check_start(self.config, start_layer, start_pos, run.tokens.shape[1])
        check_interventions(sites, interventions or {}, geometry)
        check_reach(sites, interventions or {}, start_layer, geometry)
        named = check_capture(sites, capture, geometry)
        if early := [name for name in named if name in EMBEDDING_SITES]:
            raise ValueError(f"capture={early[0]!r} lies before every block: a resumption does not come past it")
        read = self.check_read(positions, columns, geometry)
        return _resume(self, params, run, joined(interventions), named, start_layer, start_pos, *read)

    def check_read(self, positions: Any, columns: Any, geometry: Geometry) -> tuple[Any, jax.Array | None]:
        """(positions, columns) of the logits that are wanted, checked."""
        if isinstance(positions, (int, list, tuple, np.ndarray)):
            positions = np.atleast_1d(np.asarray(positions))
        check_positions("positions= reads position", positions, geometry)
        if columns is not None and is_concrete(columns):
            wanted = np.asarray(columns)
            if wanted.min() < 0 or wanted.max() >= self.config.d_vocab_out:
                raise ValueError(
                    f"columns= reads {wanted.min()} to {wanted.max()} of {self.config.d_vocab_out} columns"
                )
        return positions, None if columns is None else jnp.asarray(columns)


@functools.partial(jax.jit, static_argnames=("model", "start_pos"))
def _resume(
    model: Transformer,
    params: Params,
    run: Run,
    edits: dict[str, Any],
    capture: dict[str, Where | None],
    start_layer: Any,
    start_pos: int,
    positions: Any,
    columns: jax.Array | None,
) -> tuple[jax.Array, Cache]:
    return resumed(model.config, model.sites, params, run, edits, capture, start_layer, start_pos, positions, columns)


def check_prompt(config: TransformerConfig, tokens: Any, mask: Any) -> tuple[jax.Array, jax.Array | None]:
    """Tokens and mask as arrays; raises for shapes, ids and masks that no prompt can have."""
    tokens, mask = unwrapped(tokens, mask)
    tokens = tokens if hasattr(tokens, "dtype") else np.asarray(tokens)
    mask = mask if mask is None or hasattr(mask, "dtype") else np.asarray(mask)
    shape = tokens.shape
    if len(shape) != 2:
        raise ValueError(f"tokens must be int[batch, pos], got shape {shape}")
    if 0 in shape:
        raise ValueError(f"empty prompt: tokens have shape {shape}")
    if not jnp.issubdtype(jnp.result_type(tokens), jnp.integer):
        raise TypeError(f"tokens must be integers, got {jnp.result_type(tokens)}")
    if config.positions in ("learned", "qk") and shape[1] > config.n_ctx:
        raise ValueError(f"tokens have {shape[1]} positions, the model has n_ctx = {config.n_ctx}")
    if is_concrete(tokens):
        ids = np.asarray(tokens)
        if ids.min() < 0 or ids.max() >= config.d_vocab:
            bad = int(ids.max() if ids.max() >= config.d_vocab else ids.min())
            raise ValueError(f"token id {bad} is out of vocabulary: ids run from 0 to {config.d_vocab - 1}")
    if mask is None:
        return _on_device(tokens), None
    if np.shape(mask) != shape:
        raise ValueError(f"mask has shape {np.shape(mask)}, tokens have {shape}")
    if jnp.result_type(mask) != bool:
        raise TypeError(f"mask must be boolean, True at tokens, got {jnp.result_type(mask)}")
    if is_concrete(mask):
        real = np.asarray(mask)
        if not real.any(axis=1).all():
            raise ValueError(f"empty prompt: row {int(np.argmin(real.any(axis=1)))} of mask has no token")
        edges = np.diff(real.astype(np.int8), axis=1)
        broken = ((edges == 1).sum(1) + real[:, 0] > 1) | ((edges == -1).sum(1) + real[:, -1] > 1)
        if broken.any():
            raise ValueError(f"row {int(np.argmax(broken))} of mask has padding inside the prompt")
    return _on_device(tokens), _on_device(mask)


def unwrapped(tokens: Any, mask: Any) -> tuple[Any, Any]:
    """Tokens and mask of what holds both, such as `ji.Prompts`; else as they are given."""
    if not (hasattr(tokens, "tokens") and hasattr(tokens, "mask")):
        return tokens, mask
    if mask is not None and tokens.mask is not None:
        raise ValueError("mask= is given beside prompts that have their own mask")
    return tokens.tokens, tokens.mask if mask is None else mask


def _on_device(array: Any) -> jax.Array:
    """As `jnp.asarray`, which compiles a program for each new shape of a numpy array."""
    return array if isinstance(array, jax.Array) else jax.device_put(array)


@functools.partial(jax.jit, static_argnames=("model", "keep_run", "unroll", "remat"))
def _forward(
    model: Transformer,
    params: Params,
    tokens: jax.Array,
    edits: dict[str, Any],
    capture: dict[str, Where | None],
    mask: jax.Array | None,
    key: jax.Array | None,
    positions: Any,
    columns: jax.Array | None,
    *,
    keep_run: bool,
    unroll: int = 1,
    remat: str | None = None,
) -> tuple[jax.Array, Cache, Run | None]:
    config, sites, geometry = model.config, model.sites, Geometry.of(tokens, mask)
    outside = Tap(sites, geometry, edits, capture)
    x, place = embed(config, params, tokens, token_positions(geometry), outside)
    if key is not None:
        key, embed_key = jax.random.split(key)
        x = dropout(embed_key, config.resid_dropout, x)

    inside = {name: where for name, where in capture.items() if sites[name].per_layer}
    by_layer, shared = split_layers(edits, sites)
    some_layers = {name: kept_layers(where, sites[name], geometry) for name, where in inside.items()}

    def step(x: jax.Array, scanned: Any) -> tuple[jax.Array, Any]:
        weights, data, layer_edits, layer, block_key = scanned
        tap = Tap(sites, geometry, at_layer(layer_edits, shared), inside, layer)
        after, kv = block(config, weights, data, x, place, geometry, tap, key=block_key)
        return after, (tap.captured, (x, *kv) if keep_run else None)

    if remat is not None:
        step = jax.checkpoint(step, policy=REMAT[remat], prevent_cse=False)
    scanned = (
        {name: params[name] for name in block_names(config)},
        {name: jnp.asarray(d) for name, d in layer_data(config).items()},
        by_layer,
        jnp.arange(config.n_layers),
        None if key is None else jax.random.split(key, config.n_layers),
    )
    selected = {name: layers for name, layers in some_layers.items() if layers is not None}
    if not selected:
        x, (cache, kept) = jax.lax.scan(step, x, scanned, unroll=unroll)
    else:
        # a capture of some layers is carried, so that the others are never stored
        shapes = jax.eval_shape(step, x, jax.tree.map(lambda leaf: leaf[0], scanned))[1][0]
        buffers = {name: blank_layers(shapes[name], layers.shape[0]) for name, layers in selected.items()}

        def step_carrying(carry: Any, scanned: Any) -> tuple[Any, Any]:
            x, buffers = carry
            x, (captured, kept) = step(x, scanned)
            buffers = {
                name: write_layer(buffer, selected[name], scanned[3], captured.pop(name))
                for name, buffer in buffers.items()
            }
            return (x, buffers), (captured, kept)

        (x, buffers), (cache, kept) = jax.lax.scan(step_carrying, (x, buffers), scanned, unroll=unroll)
        cache = {**cache, **buffers}

    run = None
    if keep_run:
        run = Run(tokens, mask, jnp.concatenate([kept[0], x[None]]), kept[1], kept[2], edits, {})
    logits = read_logits(config, params, outside, x, positions, columns)
    cache = {name: (cache | outside.captured)[name] for name in capture}
    return logits, cache, run if run is None else dataclasses.replace(run, cache=cache)
