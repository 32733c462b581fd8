"""The scores of all edges from one backward pass: writers' changes against readers' gradients, layer by layer.

No stream is ever copied for a reader in the model's own passes: those give gradients of queries, keys and values, which
go back through `W_Q`, `W_K`, `W_V` and the norm's derivative one layer at a time (Nanda 2023; Syed et al. 2023).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxinterp.attribution.estimates import Pair, observed
from jaxinterp.metrics import Metric
from jaxinterp.model.interventions import add, at_layer, joined, split_layers
from jaxinterp.model.layers import norm
from jaxinterp.model.params import Params, block_names
from jaxinterp.model.tap import Tap
from jaxinterp.model.transformer import Transformer
from jaxinterp.model.where import Geometry
from jaxinterp.tasks.prompts import Prompts


class Change(NamedTuple):
    """What writers put out on the source run, minus what they do on the base run.

    Attributes:
      entering: the input's, [batch, pos, d_model].
      z: the heads' before `W_O`, [layer, batch, pos, head, d_head].
      mlp_out: [layer, batch, pos, d_model]; None without MLPs.
    """

    entering: jax.Array
    z: jax.Array
    mlp_out: jax.Array | None


class Scores(NamedTuple):
    """Scores of the edges into each reader, by writer.

    Attributes:
      layers: [layer, batch, (pos,) writer, reader]: a layer's queries by head, keys and values by key/value head, its
        MLP. logits: [batch, (pos,) writer, 1]. Writers are the input, then layer by layer the heads and the MLP. Scores
        of writers that come too late for a reader mean nothing.
    """

    layers: jax.Array
    logits: jax.Array


def change_of(model: Transformer, params: Params, pair: Pair) -> tuple[Change, jax.Array, jax.Array]:
    """(the change of every writer; the metrics of base and source, [batch])."""
    base, edits, source, source_edits, metric = pair
    names = ("resid_pre", "z") if model.config.attn_only else ("resid_pre", "z", "mlp_out")
    base_metric, ours = observed(model, params, base, edits, metric, names)
    source_metric, theirs = observed(model, params, source, source_edits, metric, names)
    change = {name: theirs[name] - ours[name] for name in names}
    return Change(change["resid_pre"][0], change["z"], change.get("mlp_out")), base_metric, source_metric


def contract(
    model: Transformer,
    params: Params,
    prompts: Prompts,
    edits: Any,
    metric: Metric,
    change: Change,
    *,
    by_position: bool,
) -> Scores:
    """The scores of every edge with the gradients of one run, under some edits.

    Of the gradients one layer's at a time are as wide as the stream; of the writers all, for these prompts.
    """
    config, sites = model.config, model.sites
    geometry = Geometry.of(prompts.tokens, prompts.mask)
    readers = {"q": "q_norm_in" if config.qk_norm else "q", "k": "k_norm_in" if config.qk_norm else "k", "v": "v"}
    probed = (*readers.values(), *(() if config.attn_only else ("mlp_in",)), "resid_final")
    dtype = change.z.dtype

    def total(probes: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        probing = {name: add(probe) for name, probe in probes.items()}
        # before the edits that stand, whose own derivatives lie on the way from queries, keys and values on
        each, cache = observed(model, params, prompts, joined(probing, edits), metric, ("resid_pre",), "blocks")
        return each.sum(), cache["resid_pre"]

    zeros = {name: jnp.zeros(sites[name].shape(geometry.batch, geometry.pos), dtype) for name in probed}
    grads, streams = jax.grad(total, has_aux=True)(zeros)
    blocks = {name: params[name] for name in block_names(config)}
    by_layer, shared = split_layers(edits, sites)
    written = _written(change, blocks["W_O"])
    if not by_position:  # in the order of the products once for all, not copied into it for each layer of readers
        written = jax.lax.optimization_barrier(written.reshape(*written.shape[:2], -1))

    def dot(wanted: jax.Array) -> jax.Array:
        """All writers against readers [batch, reader, pos, d_model]."""
        if by_position:
            return jnp.einsum("bwpd,brpd->bpwr", written, wanted)
        return jnp.einsum("bwc,brc->bwr", written, wanted.reshape(*wanted.shape[:2], -1))

    def readers_of(layer: jax.Array, scanned: Any) -> tuple[jax.Array, jax.Array]:
        weights, layer_edits, x, own = scanned
        tap = Tap(sites, geometry, at_layer(layer_edits, shared), {}, layer)
        _, pull = jax.vjp(lambda x: norm(config, "ln1", weights, x, tap.edit) if config.has_pre_norm else x, x)
        seen = [jnp.einsum("bphf,hdf->hbpd", own[s], weights[f"W_{name.upper()}"]) for name, s in readers.items()]
        wanted = jax.vmap(pull)(jnp.concatenate(seen))[0]
        if not config.attn_only:
            wanted = jnp.concatenate([wanted, own["mlp_in"][None]])
        return layer + 1, dot(jnp.swapaxes(wanted, 0, 1))  # all at once: every writer is read once for each layer

    scanned = blocks, by_layer, streams, {name: grads[name] for name in probed if name != "resid_final"}
    _, found = jax.lax.scan(readers_of, jnp.zeros((), int), scanned)
    return Scores(found, dot(grads["resid_final"][:, None]))


def _written(change: Change, W_O: jax.Array) -> jax.Array:
    """What each writer's change adds to the stream: [batch, writer, pos, d_model]."""
    n_layers, batch, pos, n_heads, _ = change.z.shape
    per_layer = n_heads + (change.mlp_out is not None)
    written = jnp.zeros((batch, 1 + n_layers * per_layer, pos, W_O.shape[-1]), change.z.dtype)

    def put_layer(written: jax.Array, scanned: Any) -> tuple[jax.Array, None]:
        layer, z, weights, mlp_out = scanned
        own = jnp.einsum("bphf,hfd->bhpd", z, weights)
        if mlp_out is not None:
            own = jnp.concatenate([own, mlp_out[:, None]], axis=1)
        return jax.lax.dynamic_update_slice_in_dim(written, own, 1 + layer * per_layer, axis=1), None

    layers = jnp.arange(n_layers), change.z, W_O, change.mlp_out
    return jax.lax.scan(put_layer, written.at[:, 0].set(change.entering), layers)[0]
