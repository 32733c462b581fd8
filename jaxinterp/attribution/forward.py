"""Forward mode: what a few patches do, to first order, to any number of outputs at once.

A backward pass gives the derivative of one number with respect to all activations; a tangent that is carried forward
gives the derivative of every output with respect to one patch. Few patches and many outputs: this way is cheaper.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxinterp.attribution.estimates import Estimates, Kept, nothing, observed, toward
from jaxinterp.metrics import Metric
from jaxinterp.model.interventions import joined
from jaxinterp.tasks.prompts import Prompts


@functools.partial(jax.jit, static_argnames=("model", "kept", "remat"))
def in_forward_mode(
    model: Any,
    params: Any,
    base: Prompts,
    edits: Any,
    source: Prompts,
    source_edits: Any,
    metric: Metric,
    kept: Kept,
    remat: str | None,
) -> Estimates:
    """Estimates from the derivative of the base run along each patch, one after another."""
    source_metric, values = observed(model, params, source, source_edits, metric, tuple(name for name, _ in kept))
    zeros = nothing(values, kept)

    def each(amounts: dict[str, jax.Array]) -> jax.Array:
        return observed(model, params, base, joined(edits, toward(values, amounts)), metric, (), remat)[0]

    base_metric, along = jax.linearize(each, zeros)

    def of_site(name: str) -> jax.Array:
        batch = model.sites[name].axes.index("batch")
        *shape, n_prompts = jnp.moveaxis(zeros[name], batch, -1).shape  # prompts do not mix, and go along together
        n_entries = zeros[name].size // n_prompts

        def of_entry(number: jax.Array) -> jax.Array:
            here = (jnp.arange(n_entries) == number).reshape(*shape, 1)
            tangent = jnp.moveaxis(jnp.broadcast_to(here, (*shape, n_prompts)), -1, batch)
            nothing_else = {other: jnp.zeros_like(zero) for other, zero in zeros.items()}
            return along(nothing_else | {name: tangent.astype(zeros[name].dtype)})

        found = jax.lax.map(of_entry, jnp.arange(n_entries)).reshape(*shape, n_prompts)
        return jnp.moveaxis(found, -1, batch)

    return Estimates({name: of_site(name) for name in zeros}, base_metric, source_metric, {})
