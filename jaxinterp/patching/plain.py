"""The definition of a patch, batched: the forward with an intervention, `vmap`ped over cells.

Every faster path is held to this one. It asks nothing of a model but `apply` and `sites`.
"""

import functools
from typing import Any

import jax

from jaxinterp.metrics import Metric, score
from jaxinterp.model.interventions import Intervention, apply_fn, joined, replace
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


@functools.partial(jax.jit, static_argnames=("model", "renormalise"))
def patched_metric(
    model: Any,
    params: Any,
    prompts: Prompts,
    edits: Any,
    values: Any,
    wheres: Any,
    metric: Metric,
    renormalise: bool,
) -> jax.Array:
    """The metric of each cell's run, the edited base run with `values` at the cell's coordinates: [cell, batch]."""

    def one(wheres: Any) -> jax.Array:
        patches = cell_edits(values, wheres, renormalise)
        return metric_values(model, params, prompts, joined(edits, patches), metric)

    return jax.vmap(one)(wheres)


def cell_edits(values: Any, wheres: Any, renormalise: bool) -> dict[str, tuple[Intervention, ...]]:
    """One cell's edits: each site's value at the cell's coordinates."""
    patches: dict[str, tuple[Intervention, ...]] = {s: (replace(values[s], where),) for s, where in wheres.items()}
    if renormalise:
        patches["pattern"] += (apply_fn(_rows_sum_to_one),)
    return patches


def _rows_sum_to_one(pattern: jax.Array) -> jax.Array:
    return pattern / pattern.sum(axis=-1, keepdims=True)
