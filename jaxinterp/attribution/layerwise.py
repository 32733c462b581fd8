"""Estimates from one way up and one way down, layer by layer, of which little is kept.

Of the base run it is what enters each block and what its MLP adds, so that a block's last product is not computed again
on the way down; of the source run what enters, what is added, and what cannot be had from these by an MLP's first half.

GradDrop leaves the additions of one layer after another out of the gradient, which changes nothing in the layers above
that one. So its way down begins with one gradient, and each layer adds one more, its own: half of what a backward pass
for every layer would take, if it were done layer by layer. Layers go in a few segments, whose gradients go down
together (12 layers in 4: two thirds).
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxinterp.attribution.estimates import Estimates, Kept, Pair, nothing, sum_to, toward
from jaxinterp.attribution.softmax import KEYS, QUERIES, effects_of_patterns, moved_patterns
from jaxinterp.metrics import Metric, score_read
from jaxinterp.model.attention import layer_data
from jaxinterp.model.block import after_heads, block
from jaxinterp.model.interventions import Intervention, add, at_layer, joined, replace, split_layers
from jaxinterp.model.layers import embed, token_positions
from jaxinterp.model.params import block_names
from jaxinterp.model.resume import entry, read_logits
from jaxinterp.model.sites import EMBEDDING_SITES
from jaxinterp.model.tap import Tap
from jaxinterp.model.transformer import Transformer
from jaxinterp.model.where import Geometry

#: Into how many segments the layers go: more of them waste less, and take longer to compile.
SEGMENTS = 4

#: What layers add to the stream.
OUTPUTS = ("attn_out", "mlp_out")

#: Sites whose source values are computed again, from what enters a block and what is added in it.
AGAIN = ("resid_mid", "resid_post", "mlp_in", "mlp_pre", "mlp_post")


@jax.custom_vjp
def through(x: jax.Array, share: jax.Array) -> jax.Array:
    """`x`; of its gradient a share goes on. On the way up the share is not read: many shares have one forward."""
    return x


through.defvjp(
    lambda x, share: (x, share), lambda share, grad: (grad * share.astype(grad.dtype), jnp.zeros_like(share))
)


@jax.custom_vjp
def known(x: jax.Array, value: jax.Array) -> jax.Array:
    """`value`, which is what `x` is known to be; the gradient goes on to `x`, which need not be computed."""
    return value


known.defvjp(lambda x, value: (value, None), lambda _, grad: (grad, None))


def can_go(model: Any, metric: Metric, kept: Kept, *, drop: bool) -> bool:
    """Whether `layer_by_layer` serves: a metric of the logits alone; with `drop`, layers apart in the result."""
    own = isinstance(model, Transformer) and not metric.capture
    return own and (not drop or all(axes[0] for name, axes in kept if model.sites[name].per_layer))


@functools.partial(jax.jit, static_argnames=("model", "kept", "drop", "fix", "segments"))
def layer_by_layer(
    model: Transformer,
    params: Any,
    pair: Pair,
    kept: Kept,
    *,
    drop: bool,
    fix: bool,
    segments: int = SEGMENTS,
) -> Estimates:
    """Estimates from the gradient of the base run.

    Args:
      drop: whether they are means of absolute estimates over the layers that are left out. fix: whether those of
        queries and keys are by the patterns they lead to.
    """
    base, edits, source, source_edits, metric = pair
    config, sites = model.config, model.sites
    n_layers, geometry = config.n_layers, Geometry.of(base.tokens, base.mask)
    all_edits = {"base": edits, "source": source_edits}
    split = {run: split_layers(each, sites) for run, each in all_edits.items()}
    blocks = {name: params[name] for name in block_names(config)}
    data = {name: jnp.asarray(each) for name, each in layer_data(config).items()}
    layers = (blocks, data, {run: by_layer for run, (by_layer, _) in split.items()}, jnp.arange(n_layers))

    outputs = tuple(name for name in OUTPUTS if name in sites)
    axes_of = dict(kept)
    first = tuple(name for name in axes_of if name in EMBEDDING_SITES)
    inside = tuple(name for name in axes_of if sites[name].per_layer)
    last = tuple(name for name in axes_of if name not in (*first, *inside))
    again = tuple(name for name in inside if name in AGAIN)
    stored = tuple(n for n in dict.fromkeys((*inside, *(("resid_pre", *outputs) if again else ()))) if n not in again)
    fixed = tuple(name for name in inside if fix and name in (*QUERIES, *KEYS))

    def enter(
        run: str, tokens: jax.Array, added: Any, capture: tuple[str, ...] = ()
    ) -> tuple[Any, dict[str, jax.Array]]:
        tap = Tap(sites, geometry, joined(all_edits[run], added), dict.fromkeys(capture))
        return embed(config, params, tokens, token_positions(geometry), tap), tap.captured

    def layer_tap(run: str, scanned: Any, added: Any, capture: tuple[str, ...]) -> Tap:
        _, _, by_layer, layer = scanned
        return Tap(
            sites, geometry, joined(at_layer(by_layer[run], split[run][1]), added), dict.fromkeys(capture), layer
        )

    def ahead(
        run: str, scanned: Any, x: jax.Array, place: Any, added: Any, capture: tuple[str, ...] = ()
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """(the stream after a block, what is captured), under the run's edits and others."""
        tap = layer_tap(run, scanned, added, capture)
        return block(config, scanned[0], scanned[1], x, place, geometry, tap)[0], tap.captured

    def leave(
        run: str, x: jax.Array, added: Any, capture: tuple[str, ...] = ()
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        tap = Tap(sites, geometry, joined(all_edits[run], added), dict.fromkeys(capture))
        read = model.check_read(metric.positions, metric.columns, geometry)
        return score_read(metric, read_logits(config, params, tap, x, *read), {}), tap.captured

    def up(streams: Any, scanned: Any) -> tuple[Any, Any]:
        x, y = streams
        after_x, ours = ahead("base", scanned, x, place, {}, outputs[-1:])
        after_y, theirs = ahead("source", scanned, y, their_place, {}, stored)
        return (after_x, after_y), (x, ours, theirs)

    # both runs go up together, so that a layer's weights are fetched once
    (y, their_place), early = enter("source", source.tokens, {}, first)
    amounts = nothing(early, tuple((name, axes_of[name]) for name in first))
    (x, place), pull_embedding = jax.vjp(lambda to: enter("base", base.tokens, toward(early, to))[0], amounts)
    (x, y), streams = jax.lax.scan(up, (x, y), layers)
    source_metric, late = leave("source", y, {}, last)

    def end(x: jax.Array, amounts: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        each, _ = leave("base", x, toward(late, amounts))
        return each.sum(), each

    amounts = nothing(late, tuple((name, axes_of[name]) for name in last))
    (grad, found), base_metric = jax.grad(end, argnums=(0, 1), has_aux=True)(x, amounts)
    if drop:
        found = {name: jnp.abs(effects) * n_layers / (n_layers - 1) for name, effects in found.items()}

    def of_rows(rows: jax.Array, below: int) -> jax.Array:
        """What is told of estimates with layers left out; with each of the first `below`, they are the first row."""
        return (jnp.abs(rows[1:]).sum(0) + below * jnp.abs(rows[0])) / (n_layers - 1) if drop else rows[0]

    linear = tuple((name, axes[1:]) for name, axes in kept if name in inside and name not in fixed)
    # the rows of the gradients: with nothing left out, then with each layer, the last one first
    grads = grad[None], None if place is None else jnp.zeros_like(place)[None]
    parts: list[dict[str, jax.Array]] = []
    for low, high in reversed(_cut(n_layers, segments if drop else 1)):
        dropped = jnp.array([-1, *(range(n_layers - 1, low - 1, -1) if drop else ())])
        more = len(dropped) - len(grads[0])
        grads = jax.tree.map(lambda rows, n=more: jnp.concatenate([rows, jnp.repeat(rows[:1], n, 0)]), grads)

        def down(grads: Any, layer: jax.Array, dropped: jax.Array = dropped, low: int = low) -> tuple[Any, Any]:
            grads_x, grads_place = grads
            scanned, (x, ours, own) = entry((layers, streams), layer)
            if again:
                tap = layer_tap("source", scanned, {name: replace(own[name]) for name in outputs}, again)
                z = jnp.zeros(sites["z"].shape(geometry.batch, geometry.pos)[1:], x.dtype)  # what it adds is known
                after_heads(config, scanned[0], own["resid_pre"], z, tap)
                own = own | tap.captured
            probes = {"amounts": nothing(own, linear), "patterns": {}}
            if fixed:
                pattern = sites["pattern"].shape(geometry.batch, geometry.pos)[1:]
                probes["patterns"] = {"pattern": jnp.zeros(pattern, x.dtype)}

            def after(x: Any, place: Any, probes: Any, share: jax.Array) -> jax.Array:
                added = joined(
                    {name: Intervention(known, (value,)) for name, value in ours.items()},
                    toward(own, probes["amounts"]),
                    {name: add(probe) for name, probe in probes["patterns"].items()},
                    {name: Intervention(through, (share,)) for name in outputs if drop},
                )
                return ahead("base", scanned, x, place, added)[0]

            def back(grad: jax.Array, share: jax.Array) -> Any:
                return jax.vjp(functools.partial(after, share=share), x, place, probes)[1](grad)

            shares = (dropped != layer).astype(x.dtype).reshape(-1, 1, 1, 1)
            to_x, to_place, to_probes = jax.vmap(back)(grads_x, shares)
            effects = to_probes["amounts"]
            if fixed:
                _, standing = ahead("base", scanned, x, place, {}, ("pattern", "scores"))
                moves = moved_patterns(
                    lambda added, site: ahead("base", scanned, x, place, added, (site,))[1][site],
                    standing,
                    {name: own[name] for name in fixed},
                )
                for name in fixed:
                    by_head = effects_of_patterns(moves, name, to_probes["patterns"]["pattern"], own[name].shape[2])
                    effects[name] = sum_to(by_head, axes_of[name])
            grads_place = None if place is None else grads_place + to_place
            return (to_x, grads_place), {name: of_rows(rows, low) for name, rows in effects.items()}

        grads, scores = jax.lax.scan(down, grads, jnp.arange(low, high), reverse=True)
        parts.insert(0, scores)
    for name in inside:
        layers_apart = jnp.concatenate([part[name] for part in parts])
        found[name] = layers_apart if axes_of[name][0] else layers_apart.sum(0, keepdims=True)
    if first:
        for name, rows in jax.vmap(lambda *grad: pull_embedding(grad)[0])(*grads).items():
            found[name] = of_rows(rows, 0)
    return Estimates({name: found[name] for name in axes_of}, base_metric, source_metric, {})


def _cut(n_layers: int, segments: int) -> list[tuple[int, int]]:
    """Layers in runs of about equal length, from the first on."""
    ends = [round(n_layers * (number + 1) / segments) for number in range(segments)]
    return [(low, high) for low, high in zip([0, *ends], ends, strict=False) if low < high]
