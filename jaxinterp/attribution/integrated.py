"""Integrated gradients: the gradient averaged on the way from base to source (Sundararajan et al. 2017).

Of activations: one site at one layer goes from its base to its source values while the others respond; the average,
times the difference, becomes the effect of patching all of it as the steps grow (Hanna et al. 2024; Marks et al. 2024).
Of inputs: the embedding goes from one prompt to the other, and every site's own difference is weighted by the average
gradient.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp.attribution.estimates import Estimates, Kept, Pair, nothing, observed, toward
from jaxinterp.model.config import suggest
from jaxinterp.model.interventions import Intervention, joined, lerp

#: Where on the way gradients are taken.
RULES = ("left", "right", "midpoint", "gauss-legendre")


def quadrature(rule: str, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """(fractions of the way, their weights), float64[steps] each, of an integral from 0 to 1.

    The error of "left" and "right" falls as 1 / steps, of "midpoint" as 1 / steps^2; "gauss-legendre" integrates
    polynomials of degree 2 steps - 1 exactly.

    Raises:
      ValueError: no such rule, fewer steps than one.

    Example:
      >>> fractions, weights = quadrature("midpoint", 2)
      >>> fractions.tolist(), weights.tolist()
      ([0.25, 0.75], [0.5, 0.5])
    """
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}; {suggest(str(rule), RULES)}")
    if type(steps) is not int or steps < 1:
        raise ValueError(f"steps must be an int of at least 1, got {steps!r}")
    if rule == "gauss-legendre":
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        return (nodes + 1) / 2, weights / 2
    offset = {"left": 0.0, "right": 1.0, "midpoint": 0.5}[rule]
    return (np.arange(steps) + offset) / steps, np.full(steps, 1 / steps)


@functools.partial(jax.jit, static_argnames=("model", "kept", "remat"))
def along_activations(
    model: Any,
    params: Any,
    pair: Pair,
    kept: Kept,
    remat: str | None,
    fractions: jax.Array,
    weights: jax.Array,
) -> Estimates:
    """Estimates with one site, at one layer, on its way from base to source, and the others responding.

    The steps of a layer run together, layers one after another.
    """
    base, edits, source, source_edits, metric = pair
    source_metric, values = observed(model, params, source, source_edits, metric, tuple(name for name, _ in kept))
    base_metric, _ = observed(model, params, base, edits, metric, ())

    def edited_metric(name: str, amount: jax.Array) -> jax.Array:
        return observed(model, params, base, joined(edits, toward(values, {name: amount})), metric, (), remat)[0]

    def of_site(name: str, axes: tuple[bool, ...]) -> tuple[jax.Array, jax.Array]:
        """(the estimates; [batch] or [layer, batch]: their sum beyond what patching all of the site does)."""
        spec, shape = model.sites[name], values[name].shape
        n_layers = shape[0] if spec.per_layer else 1
        axes = (False, *axes[1:]) if spec.per_layer else axes
        zeros = nothing(values, ((name, axes),))[name]
        rest = tuple(dim for dim, axis in enumerate(spec.axes) if axis != "batch")

        def of_layer(layer: jax.Array) -> tuple[jax.Array, jax.Array]:
            here = jnp.arange(n_layers).reshape(-1, *[1] * (len(shape) - 1)) == layer if spec.per_layer else 1

            def gradient(fraction: jax.Array) -> jax.Array:
                return jax.grad(lambda amount: edited_metric(name, here * (fraction + amount)).sum())(zeros)

            estimate = jnp.einsum("k,k...->...", weights.astype(zeros.dtype), jax.vmap(gradient)(fractions))
            whole_way = edited_metric(name, here * jnp.ones((1,) * len(shape), zeros.dtype)) - base_metric
            return estimate, estimate.sum(rest) - whole_way

        if not spec.per_layer:
            return of_layer(jnp.zeros((), int))
        by_layer, errors = jax.lax.map(of_layer, jnp.arange(n_layers))
        return by_layer.squeeze(1), errors

    found = {name: of_site(name, axes) for name, axes in kept}
    effects = {
        name: found[name][0] if axes[0] or not model.sites[name].per_layer else found[name][0].sum(0, keepdims=True)
        for name, axes in kept
    }
    return Estimates(effects, base_metric, source_metric, {name: errors for name, (_, errors) in found.items()})


@functools.partial(jax.jit, static_argnames=("model", "kept", "remat"))
def along_inputs(
    model: Any,
    params: Any,
    pair: Pair,
    kept: Kept,
    remat: str | None,
    fractions: jax.Array,
    weights: jax.Array,
) -> Estimates:
    """Estimates with the embedding on its way from base to source; each site's difference is that of the two ends."""
    base, edits, source, source_edits, metric = pair
    names = tuple(name for name, _ in kept)
    with_embed = tuple(dict.fromkeys((*names, "embed")))
    source_metric, values = observed(model, params, source, source_edits, metric, with_embed)
    base_metric, ours = observed(model, params, base, edits, metric, with_embed)
    difference = {name: values[name] - ours[name] for name in with_embed}
    kept = kept if "embed" in names else (*kept, ("embed", (True, False, False)))

    def gradient(fraction: jax.Array) -> dict[str, jax.Array]:
        on_the_way = joined(edits, {"embed": lerp(values["embed"], fraction)})

        def total(amounts: dict[str, jax.Array]) -> jax.Array:
            probes = {name: Intervention(_add_share, (difference[name], amounts[name])) for name in amounts}
            return observed(model, params, base, joined(on_the_way, probes), metric, (), remat)[0].sum()

        return jax.grad(total)(nothing(values, kept))

    estimates = jax.tree.map(
        lambda several: jnp.einsum("k,k...->...", weights.astype(several.dtype), several), jax.vmap(gradient)(fractions)
    )
    error = estimates["embed"].sum((1, 2)) - (source_metric - base_metric)
    return Estimates({name: estimates[name] for name in names}, base_metric, source_metric, dict.fromkeys(names, error))


def _add_share(x: jax.Array, difference: jax.Array, amount: jax.Array) -> jax.Array:
    return x + amount * difference
