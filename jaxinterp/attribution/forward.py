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
    effects = {}
    for name, zero in zeros.items():
        batch = model.sites[name].axes.index("batch")
        entries = jnp.moveaxis(zero, batch, -1)  # [..., batch]: prompts do not mix, and go along together
        n_prompts, shape = entries.shape[-1], entries.shape[:-1]

        def of_entry(
            number: jax.Array, name: str = name, shape: Any = shape, n: int = n_prompts, dim: int = batch
        ) -> Any:
            here = jnp.arange(jnp.size(jnp.zeros(shape))).reshape(shape) == number
            tangent = jnp.moveaxis(jnp.broadcast_to(here[..., None], (*shape, n)), -1, dim).astype(zeros[name].dtype)
            return along({other: tangent if other == name else jnp.zeros_like(zeros[other]) for other in zeros})

        found = jax.lax.map(of_entry, jnp.arange(entries.size // n_prompts))
        effects[name] = jnp.moveaxis(found.reshape(*shape, n_prompts), -1, batch).astype(zero.dtype)
    return Estimates(effects, base_metric, source_metric, {})
