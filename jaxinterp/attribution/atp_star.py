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

from jaxinterp.attribution.estimates import Estimates, Kept, nothing, observed, sum_to, toward
from jaxinterp.metrics import Metric
from jaxinterp.model.interventions import Intervention, add, joined, replace
from jaxinterp.tasks.prompts import Prompts


@functools.partial(jax.jit, static_argnames=("model", "kept", "remat", "grad_drop"))
def with_fixes(
    model: Any,
    params: Any,
    base: Prompts,
    edits: Any,
    source: Prompts,
    source_edits: Any,
    metric: Metric,
    kept: Kept,
    remat: str | None,
    *,
    grad_drop: bool,
) -> Estimates:
    """Estimates with the QK fix; with GradDrop, the mean of their absolute values over the layers that are left out."""
    names = tuple(name for name, _ in kept)
    fixed = tuple(name for name in names if name in ("q", "k"))
    source_metric, values = observed(model, params, source, source_edits, metric, names)
    linear = tuple((name, axes) for name, axes in kept if name not in fixed)
    moves = _pattern_changes(model, params, base, edits, metric, values, fixed) if fixed else {}
    outputs = [name for name in ("attn_out", "mlp_out") if name in model.sites]

    def total(probes: Mapping[str, Any], through: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        probing = dict(toward(values, probes["amounts"]))
        if fixed:
            probing = joined(probing, {"pattern": add(probes["pattern"])})
        if through is not None:
            shape = (-1, 1, 1, 1)
            dropping = {name: Intervention(_through, (through.reshape(shape),)) for name in outputs}
            probing = joined(probing, dropping)
        each, _ = observed(model, params, base, joined(edits, probing), metric, (), remat)
        return each.sum(), each

    zeros: dict[str, Any] = {"amounts": nothing(values, linear)}
    if fixed:
        zeros["pattern"] = jnp.zeros_like(moves["pattern"])

    def estimates(through: jax.Array | None) -> tuple[dict[str, jax.Array], jax.Array]:
        grads, each = jax.grad(total, has_aux=True)(zeros, through)
        found = dict(grads["amounts"])
        for name, axes in kept:
            if name in fixed:
                found[name] = sum_to(_fixed(moves, name, grads["pattern"], values[name].shape[3]), axes)
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


@jax.custom_vjp
def _through(x: jax.Array, share: jax.Array) -> jax.Array:
    """`x`; of its gradient a share goes on. On the way up the share is not read: many shares have one forward."""
    return x


_through.defvjp(
    lambda x, share: (x, share), lambda share, grad: (grad * share.astype(grad.dtype), jnp.zeros_like(share))
)


def _pattern_changes(
    model: Any,
    params: Any,
    base: Prompts,
    edits: Any,
    metric: Metric,
    values: Mapping[str, jax.Array],
    fixed: tuple[str, ...],
) -> dict[str, jax.Array]:
    """What patching queries, and keys, does to the patterns of the same layer, [layer, batch, head, query, key].

    "q": the pattern with all queries patched minus the base's; rows do not mix. "k": the share of the rest of its row
    that each entry takes when its key alone is patched.
    """
    _, ours = observed(model, params, base, edits, metric, ("resid_pre", "pattern", "scores"))
    found = {"pattern": ours["pattern"]}
    standing = joined(edits, {"resid_pre": replace(ours["resid_pre"])})
    if "q" in fixed:
        patched = joined(standing, {"q": replace(values["q"])})
        found["q"] = observed(model, params, base, patched, metric, ("pattern",))[1]["pattern"] - ours["pattern"]
    if "k" in fixed:
        patched = joined(standing, {"k": replace(values["k"])})
        moved = observed(model, params, base, patched, metric, ("scores",))[1]["scores"]
        found["k"] = share_moved(ours["pattern"], moved - ours["scores"])
    return found


def share_moved(pattern: jax.Array, delta: jax.Array) -> jax.Array:
    """How much of its row's remaining weight an entry takes when its score alone changes: (p' - p) / (1 - p).

    With p' = softmax after the change, p expm1(delta) / (1 + p expm1(delta)), written so that nothing overflows. An
    entry that has all the weight has nothing to take: 0.

    Example:
      >>> bool(abs(share_moved(jnp.float32(0.5), jnp.log(3.0)) - 0.5) < 1e-6)  # 1/2 becomes 3/4
      True
    """
    rising = pattern * -jnp.expm1(-jnp.abs(delta)) / (jnp.exp(-jnp.abs(delta)) * (1 - pattern) + pattern)
    falling = pattern * jnp.expm1(-jnp.abs(delta)) / ((1 - pattern) + pattern * jnp.exp(-jnp.abs(delta)))
    return jnp.where((pattern <= 0) | (pattern >= 1), 0, jnp.where(delta > 0, rising, falling))


def _fixed(moves: Mapping[str, jax.Array], name: str, grad: jax.Array, n: int) -> jax.Array:
    """Each query's (or key's) effect by the patched patterns: [layer, batch, pos, head or kv_head, 1]."""
    if name == "q":
        effects = (moves["q"] * grad).sum(-1)  # [layer, batch, head, query]
    else:
        ahead = grad - (moves["pattern"] * grad).sum(-1, keepdims=True)
        effects = (moves["k"] * ahead).sum(-2)  # [layer, batch, head, key]
        effects = effects.reshape(*effects.shape[:2], n, -1, effects.shape[-1]).sum(3)  # a key's heads together
    return jnp.swapaxes(effects, 2, 3)[..., None]
