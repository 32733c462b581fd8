"""GradDrop with one way up and one way down: what backward passes have in common is computed once.

Leaving a layer's additions out of the gradient changes nothing in the layers above it. So the way down begins with one
gradient, and each layer adds one more, its own: half of what a backward pass for every layer would take, if it were
done layer by layer. Layers go in a few segments, whose gradients go down together (12 layers in 4: two thirds). A block
of the base run is computed again on the way down, and only its input is kept.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxinterp.attribution.estimates import Estimates, Kept, nothing, observed, sum_to, toward
from jaxinterp.attribution.softmax import effects_of_patterns, moved_patterns
from jaxinterp.metrics import Metric, score_read
from jaxinterp.model.attention import layer_data
from jaxinterp.model.block import block
from jaxinterp.model.interventions import Intervention, add, at_layer, joined, split_layers
from jaxinterp.model.layers import embed, token_positions
from jaxinterp.model.params import block_names
from jaxinterp.model.resume import entry, read_logits
from jaxinterp.model.sites import EMBEDDING_SITES
from jaxinterp.model.tap import Tap
from jaxinterp.model.transformer import Transformer
from jaxinterp.model.where import Geometry
from jaxinterp.tasks.prompts import Prompts

#: Into how many segments the layers go: more of them waste less, and take longer to compile.
SEGMENTS = 4

#: What layers add to the stream.
OUTPUTS = ("attn_out", "mlp_out")


@jax.custom_vjp
def through(x: jax.Array, share: jax.Array) -> jax.Array:
    """`x`; of its gradient a share goes on. On the way up the share is not read: many shares have one forward."""
    return x


through.defvjp(
    lambda x, share: (x, share), lambda share, grad: (grad * share.astype(grad.dtype), jnp.zeros_like(share))
)


def can_share(model: Any, metric: Metric, kept: Kept) -> bool:
    """Whether `with_layers_dropped` serves: layers apart in the result, and a metric of the logits alone."""
    own = isinstance(model, Transformer) and not metric.capture
    return own and all(axes[0] for name, axes in kept if model.sites[name].per_layer)


@functools.partial(jax.jit, static_argnames=("model", "kept", "segments"))
def with_layers_dropped(
    model: Transformer,
    params: Any,
    base: Prompts,
    edits: Any,
    source: Prompts,
    source_edits: Any,
    metric: Metric,
    kept: Kept,
    segments: int = SEGMENTS,
) -> Estimates:
    """The mean of the absolute estimates, with the QK fix, over the layers that are left out."""
    config, sites = model.config, model.sites
    n_layers, geometry = config.n_layers, Geometry.of(base.tokens, base.mask)
    source_metric, values = observed(model, params, source, source_edits, metric, tuple(name for name, _ in kept))
    inside = {name: value for name, value in values.items() if sites[name].per_layer}
    fixed = tuple(name for name in inside if name in ("q", "k"))

    by_layer, shared = split_layers(edits, sites)
    blocks = {name: params[name] for name in block_names(config)}
    data = {name: jnp.asarray(each) for name, each in layer_data(config).items()}
    layers = (blocks, data, by_layer, jnp.arange(n_layers))

    def run(scanned: Any, x: jax.Array, place: Any, added: Any, capture: tuple[str, ...] = ()) -> tuple[Any, Any]:
        """(the stream after a block, what is captured), under the base's edits and others."""
        weights, data, layer_edits, layer = scanned
        under = joined(at_layer(layer_edits, shared), added)
        tap = Tap(sites, geometry, under, dict.fromkeys(capture), layer)
        return block(config, weights, data, x, place, geometry, tap)[0], tap.captured

    def enter(amounts: Mapping[str, jax.Array]) -> tuple[jax.Array, Any]:
        tap = Tap(sites, geometry, joined(edits, toward(values, amounts)), {})
        return embed(config, params, base.tokens, token_positions(geometry), tap)

    def leave(x: jax.Array, amounts: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        tap = Tap(sites, geometry, joined(edits, toward(values, amounts)), {})
        read = model.check_read(metric.positions, metric.columns, geometry)
        each = score_read(metric, read_logits(config, params, tap, x, *read), {})
        return each.sum(), each

    first = nothing(values, tuple((name, axes) for name, axes in kept if name in EMBEDDING_SITES))
    last = nothing(values, tuple((n, axes) for n, axes in kept if n not in inside and n not in EMBEDDING_SITES))
    (x, place), pull_embedding = jax.vjp(enter, first)
    x, streams = jax.lax.scan(lambda x, scanned: (run(scanned, x, place, {})[0], x), x, layers)
    (grad, found), base_metric = jax.grad(leave, argnums=(0, 1), has_aux=True)(x, last)
    found = {name: jnp.abs(effects) * n_layers for name, effects in found.items()}

    axes_of = dict(kept)
    linear = tuple((name, axes_of[name]) for name in inside if name not in fixed)
    amounts = {name: zeros[0] for name, zeros in nothing(inside, linear).items()}  # one layer's
    # the rows of the gradients: with nothing left out, then with each layer, the last one first
    grads = grad[None], None if place is None else jnp.zeros_like(place)[None]
    parts: list[dict[str, jax.Array]] = []
    for low, high in reversed(_cut(n_layers, segments)):
        dropped = jnp.array([-1, *range(n_layers - 1, low - 1, -1)])
        grads = jax.tree.map(lambda rows, n=high - low: jnp.concatenate([rows, jnp.repeat(rows[:1], n, 0)]), grads)

        def down(grads: Any, layer: jax.Array, dropped: jax.Array = dropped, low: int = low) -> tuple[Any, Any]:
            grads_x, grads_place = grads
            weights, x, own = entry((layers, streams, inside), layer)
            fixing = {"pattern": jnp.zeros(sites["pattern"].shape(geometry.batch, geometry.pos)[1:], x.dtype)}

            def ahead(x: Any, place: Any, amounts: Any, fixing: Any, share: jax.Array) -> jax.Array:
                added = joined(toward(own, amounts), {name: add(zeros) for name, zeros in fixing.items()})
                drop = {name: Intervention(through, (share,)) for name in OUTPUTS if name in sites}
                return run(weights, x, place, joined(added, drop))[0]

            def back(grad: jax.Array, share: jax.Array) -> Any:
                ahead_of = functools.partial(ahead, share=share)
                return jax.vjp(ahead_of, x, place, amounts, fixing if fixed else {})[1](grad)

            shares = (dropped != layer).astype(x.dtype).reshape(-1, 1, 1, 1)
            to_x, to_place, effects, of_patterns = jax.vmap(back)(grads_x, shares)
            if fixed:
                _, ours = run(weights, x, place, {}, ("pattern", "scores"))
                moves = moved_patterns(
                    lambda added, site: run(weights, x, place, added, (site,))[1][site],
                    ours,
                    {name: own[name] for name in fixed},
                )
                for name in fixed:
                    by_head = effects_of_patterns(moves, name, of_patterns["pattern"], own[name].shape[2])
                    effects[name] = sum_to(by_head, axes_of[name])
            grads_place = None if place is None else grads_place + to_place
            return (to_x, grads_place), {name: _score(rows, low) for name, rows in effects.items()}

        grads, scores = jax.lax.scan(down, grads, jnp.arange(low, high), reverse=True)
        parts.insert(0, scores)
    for name in inside:
        found[name] = jnp.concatenate([part[name] for part in parts])
    if first:
        for name, rows in jax.vmap(lambda *grad: pull_embedding(grad)[0])(*grads).items():
            found[name] = _score(rows, 0)
    scores = {name: found[name] / (n_layers - 1) for name, _ in kept}
    return Estimates(scores, base_metric, source_metric, {})


def _score(rows: jax.Array, below: int) -> jax.Array:
    """The sum of absolute estimates over the layers left out: the last of `rows`, and the first for each `below`."""
    return jnp.abs(rows[1:]).sum(0) + below * jnp.abs(rows[0])


def _cut(n_layers: int, segments: int) -> list[tuple[int, int]]:
    """Layers in runs of about equal length, from the first on."""
    ends = [round(n_layers * (number + 1) / segments) for number in range(segments)]
    return [(low, high) for low, high in zip([0, *ends], ends, strict=False) if low < high]
