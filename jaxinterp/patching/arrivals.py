"""What arrives: the change of the stream that a sender makes at each layer, by itself or through MLPs."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp.model.block import mlp_output
from jaxinterp.model.config import TransformerConfig
from jaxinterp.model.interventions import Intervention, at_layer, joined, replace, split_layers
from jaxinterp.model.layers import norm
from jaxinterp.model.params import Params, block_names
from jaxinterp.model.sites import EMBEDDING_SITES
from jaxinterp.model.tap import Tap
from jaxinterp.model.transformer import Transformer
from jaxinterp.model.where import Geometry, Where
from jaxinterp.patching.sides import MLP_SENDERS, RECEIVERS
from jaxinterp.tasks.prompts import Prompts


@functools.partial(jax.jit, static_argnames=("model", "ioi"))
def arriving(
    model: Transformer,
    params: Params,
    prompts: Prompts,
    base: Mapping[str, jax.Array],
    source: Mapping[str, jax.Array],
    standing: Mapping[str, tuple[Intervention, ...]],
    wheres: Any,
    slots: Mapping[str, jax.Array],
    *,
    ioi: bool,
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """(the change that arrives from each sender, where it is not 0).

    Args:
      base, source: activations of the two runs. standing: edits of the base run, which hold inside MLPs.
      wheres: `{site: Where}`, leaves leading with sender. slots: layers at which changes are kept.

    Returns:
      `{"pre": [sender, slot, batch, pos, d_model], "mid": the same, "final": with a single slot}`.
    """
    config, sites = model.config, model.sites
    geometry = Geometry.of(prompts.tokens, prompts.mask)

    def one(wheres: Mapping[str, Where]) -> dict[str, jax.Array]:
        sent = {site: (replace(source[site], where),) for site, where in wheres.items()}
        outside = Tap(sites, geometry, sent, {})
        change: Any = 0.0
        for site in EMBEDDING_SITES:
            if site in sent:
                sent_here = outside.edit(site, base[site]) - base[site]
                if site == "ln_embed.normalized":  # its gain stands between it and the stream
                    sent_here = sent_here * (params["ln_embed.w"] + config.norm_plus_one)
                change = change + sent_here
        shape = (*prompts.tokens.shape, config.d_model)
        change = jnp.broadcast_to(jnp.asarray(change, params["W_E"].dtype), shape)
        first_of_mlp = ("ln2.scale", "ln2.normalized", "router")
        inside = {name: p for name, p in standing.items() if name in first_of_mlp or "mlp" in name}
        by_layer, shared = split_layers(sent, sites)
        both, both_shared = split_layers(joined(inside, {s: p for s, p in sent.items() if s in MLP_SENDERS}), sites)
        stood, stood_shared = split_layers(inside, sites)

        def step(change: jax.Array, scanned: Any) -> tuple[jax.Array, Any]:
            weights, kept, layer_edits, both_edits, stood_edits, layer = scanned
            tap = Tap(sites, geometry, at_layer(layer_edits, shared), {}, layer)

            def sent_by(site: str) -> jax.Array:
                return tap.edit(site, kept[site]) - kept[site]

            def through_norm(name: str, site: str, change: jax.Array) -> jax.Array:
                if not config.has_output_norm:
                    return change
                before, after = (
                    norm(config, name, weights, kept[site] + c, lambda _, x: x)
                    for c in (jnp.zeros_like(change), change)
                )
                return after - before

            heads = jnp.zeros_like(change)
            if "result" in sent:
                results = kept["result"]
                if "z" in sent:  # a head named by both sends once
                    results = results + jnp.einsum("bphf,hfd->bphd", sent_by("z"), weights["W_O"])
                heads = (tap.edit("result", results) - kept["result"]).sum(axis=2)
            elif "z" in sent:
                heads = jnp.einsum("bphf,hfd->bpd", sent_by("z"), weights["W_O"])
            heads = through_norm("ln1_post", "attn_out_pre_norm", heads)
            if "attn_out" in sent:
                heads = tap.edit("attn_out", kept["attn_out"] + heads) - kept["attn_out"]
            mid = change if config.parallel else change + heads
            mlp = jnp.zeros_like(change)
            if ioi and not config.attn_only:
                taps = (
                    Tap(sites, geometry, at_layer(stood_edits, stood_shared), {}, layer),
                    Tap(sites, geometry, at_layer(both_edits, both_shared), {}, layer),
                )
                before, after = (
                    mlp_output(config, weights, kept["mlp_in"] + c, t)
                    for c, t in zip((jnp.zeros_like(mid), mid), taps, strict=True)
                )
                moved = jnp.any(mid != 0, axis=-1, keepdims=True)
                for site in set(MLP_SENDERS) & set(sent):
                    by_row = sent_by(site).reshape(*mid.shape[:2], -1)
                    moved |= jnp.any(by_row != 0, axis=-1, keepdims=True)
                mlp = jnp.where(moved, after - before, 0)
            else:
                if "mlp_post" in sent:
                    mlp = through_norm("ln2_post", "mlp_out_pre_norm", sent_by("mlp_post") @ weights["W_out"])
                elif "expert_out" in sent:
                    mlp = through_norm("ln2_post", "mlp_out_pre_norm", sent_by("expert_out").sum(axis=2))
                if "mlp_out" in sent:
                    mlp = tap.edit("mlp_out", kept["mlp_out"] + mlp) - kept["mlp_out"]
            return change + heads + mlp, {"pre": change, "mid": mid}

        per_layer = {site: value for site, value in base.items() if sites[site].per_layer}
        weights = {name: params[name] for name in block_names(config)}
        scanned = weights, per_layer, by_layer, both, stood, jnp.arange(config.n_layers)
        final, found = jax.lax.scan(step, change, scanned)
        return {kind: found[kind][layers] for kind, layers in slots.items()} | {"final": final[None]}

    changes = jax.vmap(one)(wheres)
    moved = {kind: jnp.any(change != 0, axis=-1) for kind, change in changes.items()}
    if prompts.mask is not None:  # what stands in rows of padding reaches nothing
        moved = {kind: there & prompts.mask for kind, there in moved.items()}
    return changes, moved


def arrivals(
    config: TransformerConfig,
    group: tuple[str, ...],
    reads: Mapping[str, np.ndarray],
    at_rows: Mapping[str, np.ndarray],
    slots: Mapping[str, np.ndarray],
    moved: Mapping[str, np.ndarray],
    seen: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """(bool[sender, receiver]: whether anything arrives that the metric can see, int: the first row where it does).

    Args:
      reads: bool[receiver, layer]. at_rows: bool[receiver, pos], or one column for all positions.
      moved: bool[sender, slot, batch, pos], where a change is not 0. seen: bool[batch, pos], what the metric reads.
    """
    hit: Any = 0
    for site in group:
        kind = RECEIVERS[site]
        here, layers = moved[kind], slots.get(kind, np.zeros(1, int))
        if seen is not None and site in ("q_input", "mlp_in", "resid_final"):
            # behind the last block's heads no position hears of another
            last = (layers == config.n_layers - 1) | (kind == "final")
            here = here & (seen | ~last[:, None, None])
        rows = here.any(axis=2).astype(np.float32)  # [sender, slot, pos]
        chosen = reads[site] if kind == "final" else reads[site][:, layers]
        hit = hit + np.einsum("slp,rl->srp", rows, chosen.astype(np.float32), optimize=True) * at_rows[site]
    return hit.any(axis=-1), (hit > 0).argmax(axis=-1).astype(np.int32)
