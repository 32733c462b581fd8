"""The definition of a patch, batched: the forward with an intervention, `vmap`ped over cells.

Every faster path is held to this one. It asks nothing of a model but `apply` and `sites`.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxinterp.metrics import Metric, score
from jaxinterp.model.interventions import Intervention, apply_fn, joined, replace
from jaxinterp.model.where import Geometry, Where
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


@functools.partial(jax.jit, static_argnames=("model", "write"))
def patched_metric(
    model: Any,
    params: Any,
    prompts: Prompts,
    edits: Any,
    values: Any,
    cells: Any,
    metric: Metric,
    write: Callable[[Any, Any], Any],
) -> jax.Array:
    """The metric of each cell's run, the edited base run with the cell's own edits behind: [cell, batch].

    Args:
      write: `(values, one cell's coordinates) -> its edits`.
    """

    def one(cell: Any) -> jax.Array:
        return metric_values(model, params, prompts, joined(edits, write(values, cell)), metric)

    return jax.vmap(one)(cells)


def cell_edits(values: Any, wheres: Any) -> dict[str, tuple[Intervention, ...]]:
    """One cell's edits: each site's value at the cell's coordinates."""
    return {site: (replace(values[site], where),) for site, where in wheres.items()}


def cell_edits_renormalised(values: Any, wheres: Any) -> dict[str, tuple[Intervention, ...]]:
    """The same, after which the rows of "pattern" that were written to are scaled to sum to 1."""
    edits, where = cell_edits(values, wheres), wheres["pattern"]
    mask = None if where.mask is None else jnp.any(where.mask, axis=-1, keepdims=True)  # whole rows, over all keys
    rows = Where({name: index for name, index in where.index.items() if name != "key"}, (), mask)
    return edits | {"pattern": (*edits["pattern"], apply_fn(_rows_sum_to_one, where=rows))}


def _rows_sum_to_one(pattern: jax.Array) -> jax.Array:
    return pattern / pattern.sum(axis=-1, keepdims=True)
