"""Gradients of a metric with respect to activations.

At each site a probe of zeros is added, and the metric differentiated with respect to it: one backward pass for all
sites, none for weights. A probe that moves a site towards other values, with one coefficient for each entry of the axes
that are kept, gives the product of gradient and difference, already summed over all other axes.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxinterp.attribution.derivatives import check_differentiable
from jaxinterp.attribution.estimates import Estimates, Kept, Pair, check_sites, nothing, observed, toward
from jaxinterp.attribution.layerwise import can_go, layer_by_layer
from jaxinterp.metrics import Metric
from jaxinterp.model.interventions import Interventions, add, joined
from jaxinterp.patching.activation import check_run
from jaxinterp.tasks.prompts import Prompts, as_prompts


def gradients(
    model: Any,
    params: Any,
    base: Any,
    *,
    sites: Sequence[str],
    metric: Metric,
    mask: Any = None,
    base_interventions: Interventions | None = None,
    remat: str | None = None,
) -> dict[str, jax.Array]:
    """The gradient of each prompt's metric with respect to activations: d metric / d activation.

    Args:
      base: tokens int[batch, pos] or `ji.Prompts`.
      sites: whose activations; one backward pass serves all of them.
      mask: as in `apply`, for tokens given as arrays.
      base_interventions: edits under which the run stands; at a site that they edit, the gradient is with respect to
        the edited activation. `ji.stop_gradient` at other sites (norm scales, patterns) lets nothing through.
      remat: as in `apply`.

    Returns:
      `{site: array}` of the shapes that a cache has, in the metric's units by the activation's. Prompts do not mix: the
      entries of a prompt are the gradient of its own metric. May be called inside `jit`.

    Raises:
      TypeError, ValueError: for what does not fit together, and what cannot be differentiated.

    Example:
      >>> grads = ji.gradients(model, params, tokens, sites=("z", "mlp_post"), metric=ji.logit_diff(3, 4))
      >>> grads["z"].shape == model.sites["z"].shape(*tokens.shape)
      True
    """
    base = as_prompts(base, mask)
    names = check_sites(model, sites)
    check_run(model, base, base_interventions, metric)
    check_differentiable(model, params, base, base_interventions, metric)
    prompts = Prompts(base.tokens, base.mask)
    return _gradients(model, params, prompts, joined(base_interventions), metric, names, remat)


@functools.partial(jax.jit, static_argnames=("model", "names", "remat"))
def _gradients(
    model: Any, params: Any, prompts: Prompts, edits: Any, metric: Metric, names: tuple[str, ...], remat: str | None
) -> dict[str, jax.Array]:
    shapes = jax.eval_shape(lambda: observed(model, params, prompts, edits, metric, names)[1])

    def total(probes: Mapping[str, jax.Array]) -> jax.Array:
        probed = joined(edits, {name: add(probe) for name, probe in probes.items()})
        return observed(model, params, prompts, probed, metric, (), remat)[0].sum()

    return jax.grad(total)({name: jnp.zeros(shapes[name].shape, shapes[name].dtype) for name in names})


@functools.partial(jax.jit, static_argnames=("model", "kept", "remat"))
def at_base(
    model: Any,
    params: Any,
    pair: Pair,
    kept: Kept,
    remat: str | None,
) -> Estimates:
    """Estimates from the gradient of the base run."""
    if can_go(model, pair.metric, kept, drop=False):
        return layer_by_layer(model, params, pair, kept, drop=False, fix=False)
    base, edits, source, source_edits, metric = pair
    source_metric, values = observed(model, params, source, source_edits, metric, tuple(name for name, _ in kept))

    def total(amounts: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        each, _ = observed(model, params, base, joined(edits, toward(values, amounts)), metric, (), remat)
        return each.sum(), each

    effects, base_metric = jax.grad(total, has_aux=True)(nothing(values, kept))
    return Estimates(effects, base_metric, source_metric, {})
