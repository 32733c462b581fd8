"""The definition of a patch, batched: the forward with an intervention, `vmap`ped over cells.

Every faster path is held to this one. It asks nothing of a model but `apply` and `sites`.
"""

import functools
from typing import Any

import jax

from jaxinterp.metrics import Metric, score
from jaxinterp.model.interventions import joined, replace
from jaxinterp.model.where import Geometry
from jaxinterp.tasks.prompts import Prompts


@functools.partial(jax.jit, static_argnames=("model",))
def metric_values(model: Any, params: Any, prompts: Prompts, edits: Any, metric: Metric) -> jax.Array:
    """The metric of an edited run: [batch]."""
    logits, cache = model.apply(params, prompts.tokens, edits, capture=metric.capture, mask=prompts.mask)
    return score(metric, logits, cache, Geometry.of(prompts.tokens, prompts.mask))


@functools.partial(jax.jit, static_argnames=("model", "names"))
def captured(model: Any, params: Any, prompts: Prompts, edits: Any, names: tuple[str, ...]) -> Any:
    """The named sites' activations on an edited run, as `{site: array}`."""
    return model.apply(params, prompts.tokens, edits, capture=names, mask=prompts.mask)[1]


@functools.partial(jax.jit, static_argnames=("model",))
def patched_metric(
    model: Any, params: Any, prompts: Prompts, edits: Any, values: Any, wheres: Any, metric: Metric
) -> jax.Array:
    """The metric of each cell's run, the edited base run with `values` at the cell's coordinates: [cell, batch]."""

    def one(wheres: Any) -> jax.Array:
        patches = {site: replace(values[site], where) for site, where in wheres.items()}
        return metric_values(model, params, prompts, joined(edits, patches), metric)

    return jax.vmap(one)(wheres)
