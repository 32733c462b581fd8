"""The scores of all edges from one backward pass: writers' changes against readers' gradients, layer by layer.

No stream is ever copied for a reader in the model's own passes: those give gradients of queries, keys and values, which
go back through `W_Q`, `W_K`, `W_V` and the norm's derivative one layer at a time, to meet the writers of one layer at a
time (Nanda 2023; Syed et al. 2023).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxinterp.attribution.estimates import observed
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
      q, k, v: [layer, batch, (pos,) head or kv_head, writer]. mlp: [layer, batch, (pos,) 1, writer], or None.
      logits: [batch, (pos,) 1, writer]. Writers are the input, then layer by layer the heads and the MLP; what a
        reader cannot read is 0.
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    mlp: jax.Array | None
    logits: jax.Array


def change_of(
    model: Transformer, params: Params, base: Prompts, edits: Any, source: Prompts, source_edits: Any, metric: Metric
) -> tuple[Change, jax.Array, jax.Array]:
    """(the change of every writer; the metrics of base and source, [batch])."""
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

    Layers are gone through one by one, and for each reader's the writers' before it, so that what is held at a time is
    one layer's gradients and one layer's outputs, in the width of the stream.
    """
    config, sites = model.config, model.sites
    geometry = Geometry.of(prompts.tokens, prompts.mask)
    readers = {"q": "q_norm_in" if config.qk_norm else "q", "k": "k_norm_in" if config.qk_norm else "k", "v": "v"}
    probed = (*readers.values(), *(() if config.attn_only else ("mlp_in",)), "resid_final")
    dtype = change.z.dtype

    def total(probes: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        probing = {name: add(probe) for name, probe in probes.items()}
        each, cache = observed(model, params, prompts, joined(edits, probing), metric, ("resid_pre",), "products")
        return each.sum(), cache["resid_pre"]

    zeros = {name: jnp.zeros(sites[name].shape(geometry.batch, geometry.pos), dtype) for name in probed}
    grads, streams = jax.grad(total, has_aux=True)(zeros)
    blocks = {name: params[name] for name in block_names(config)}
    by_layer, shared = split_layers(edits, sites)
    n_writers = config.n_heads + (not config.attn_only)

    def dot(out: jax.Array, wanted: jax.Array) -> jax.Array:
        """Writers [batch, pos, writer, d_model] against readers [batch, pos, reader, d_model]."""
        return jnp.einsum(f"bpwd,bprd->{'bprw' if by_position else 'brw'}", out, wanted)

    def from_writers(wanted: jax.Array, until: Any) -> jax.Array:
        """[batch, pos, reader, d_model] -> [batch, (pos,) reader, writer], of writers below a layer."""

        def of_layer(layer: Any, scores: jax.Array) -> jax.Array:
            z, W_O = change.z[layer], blocks["W_O"][layer]
            out = jnp.einsum("bphf,hfd->bphd", z, W_O)
            if change.mlp_out is not None:
                out = jnp.concatenate([out, change.mlp_out[layer][:, :, None]], axis=2)
            return jax.lax.dynamic_update_index_in_dim(scores, dot(out, wanted), layer, scores.ndim - 2)

        first = dot(change.entering[:, :, None], wanted)
        nothing = jnp.zeros((*first.shape[:-1], config.n_layers, n_writers), first.dtype)
        later = jax.lax.fori_loop(0, until, of_layer, nothing)
        return jnp.concatenate([first, later.reshape(*first.shape[:-1], -1)], axis=-1)

    def readers_of(layer: jax.Array, scanned: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        weights, layer_edits, x, own = scanned
        tap = Tap(sites, geometry, at_layer(layer_edits, shared), {}, layer)
        _, pull = jax.vjp(lambda x: norm(config, "ln1", weights, x, tap.edit) if config.has_pre_norm else x, x)
        wanted = []
        for name, site in readers.items():
            seen = jnp.einsum("bphf,hdf->hbpd", own[site], weights[f"W_{name.upper()}"])
            wanted.append(jnp.moveaxis(jax.vmap(pull)(seen)[0], 0, 2))
        sizes = [part.shape[2] for part in wanted]
        scores = from_writers(jnp.concatenate(wanted, axis=2), layer)
        ends = [sum(sizes[: n + 1]) for n in range(2)]
        found = dict(zip(readers, jnp.split(scores, ends, axis=-2), strict=True))
        if not config.attn_only:
            # behind the heads of its own layer, unless it stands beside them
            of_mlp = from_writers(own["mlp_in"][:, :, None], layer + (not config.parallel))
            number = jnp.arange(config.n_layers * n_writers + 1) - 1
            found["mlp"] = jnp.where(number == layer * n_writers + config.n_heads, 0, of_mlp)
        return layer + 1, found

    scanned = blocks, by_layer, streams, {name: grads[name] for name in probed if name != "resid_final"}
    _, found = jax.lax.scan(readers_of, jnp.zeros((), int), scanned)
    logits = from_writers(grads["resid_final"][:, :, None], config.n_layers)
    return Scores(found["q"], found["k"], found["v"], found.get("mlp"), logits)
