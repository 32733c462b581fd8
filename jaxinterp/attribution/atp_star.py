"""AtP*: attribution patching with its two known blind spots mended (Kramar et al. 2024).

Saturated attention: a query or key may be moved far along a softmax whose slope here is 0. The QK fix computes the
patched patterns themselves, and is linear only behind them. Of one query's row that is one more softmax; of a key,
which touches one entry of every later query's row, there is a closed form.

Cancellation: a direct and an indirect path may have gradients that cancel. GradDrop takes the gradient once more for
each layer, with what goes through that layer's additions to the stream left out, and averages absolute values.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxinterp.attribution.estimates import Estimates, Kept, Pair, nothing, observed, sum_to, toward
from jaxinterp.attribution.layerwise import OUTPUTS, can_go, layer_by_layer, through
from jaxinterp.attribution.softmax import KEYS, QUERIES, effects_of_patterns, moved_patterns
from jaxinterp.model.interventions import Intervention, add, joined, replace


@functools.partial(jax.jit, static_argnames=("model", "kept", "remat", "grad_drop"))
def with_fixes(
    model: Any,
    params: Any,
    pair: Pair,
    kept: Kept,
    remat: str | None,
    *,
    grad_drop: bool,
) -> Estimates:
    """Estimates with the QK fix; with GradDrop, the mean of their absolute values over the layers that are left out."""
    if can_go(model, pair.metric, kept, drop=grad_drop):
        return layer_by_layer(model, params, pair, kept, drop=grad_drop, fix=True)
    base, edits, source, source_edits, metric = pair
    names = tuple(name for name, _ in kept)
    fixed = tuple(name for name in names if name in (*QUERIES, *KEYS))
    source_metric, values = observed(model, params, source, source_edits, metric, names)
    linear = tuple((name, axes) for name, axes in kept if name not in fixed)
    moves = {}
    if fixed:
        _, ours = observed(model, params, base, edits, metric, ("resid_pre", "pattern", "scores"))
        standing = joined(edits, {"resid_pre": replace(ours["resid_pre"])})
        moves = moved_patterns(
            lambda added, site: observed(model, params, base, joined(standing, added), metric, (site,))[1][site],
            ours,
            {name: values[name] for name in fixed},
        )

    def total(probes: Mapping[str, Any], shares: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        probing = dict(toward(values, probes["amounts"]))
        if fixed:
            probing = joined(probing, {"pattern": add(probes["pattern"])})
        if shares is not None:
            shares = shares.reshape(-1, 1, 1, 1)
            drop = {name: Intervention(through, (shares,)) for name in OUTPUTS if name in model.sites}
            probing = joined(probing, drop)
        each, _ = observed(model, params, base, joined(edits, probing), metric, (), remat)
        return each.sum(), each

    zeros: dict[str, Any] = {"amounts": nothing(values, linear)}
    if fixed:
        zeros["pattern"] = jnp.zeros_like(moves["pattern"])

    def estimates(shares: jax.Array | None) -> tuple[dict[str, jax.Array], jax.Array]:
        grads, each = jax.grad(total, has_aux=True)(zeros, shares)
        found = dict(grads["amounts"])
        for name, axes in kept:
            if name in fixed:
                found[name] = sum_to(effects_of_patterns(moves, name, grads["pattern"], values[name].shape[3]), axes)
        return {name: found[name] for name in names}, each

    if not grad_drop:
        found, base_metric = estimates(None)
        return Estimates(found, base_metric, source_metric, {})
    n_layers = check_droppable(model)
    each, base_metrics = jax.vmap(estimates)(1.0 - jnp.eye(n_layers))  # leaving layers out changes gradients alone
    scores = {name: jnp.abs(several).sum(0) / (n_layers - 1) for name, several in each.items()}
    return Estimates(scores, base_metrics[0], source_metric, {})


def check_droppable(model: Any) -> int:
    """How many layers GradDrop has to leave out; raises where there are too few, or none that it knows."""
    if "attn_out" not in model.sites:
        raise ValueError("grad_drop=True leaves out what layers add to the stream: the model has no site 'attn_out'")
    n_layers = model.sites["attn_out"].sizes[0]
    if n_layers is None or n_layers < 2:
        raise ValueError(
            f"grad_drop=True averages over the other layers: it needs at least 2, the model has {n_layers}"
        )
    return n_layers
