"""The runs that a sweep continues: made once, with the activations that it patches in and the metric."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp.metrics import Metric, score_read
from jaxinterp.model.interventions import Intervention
from jaxinterp.model.layers import take_columns
from jaxinterp.model.sites import EMBEDDING_SITES
from jaxinterp.model.transformer import Transformer
from jaxinterp.model.where import Geometry
from jaxinterp.patching.batches import Batch, make_batches
from jaxinterp.patching.cost import RUN_BYTES, cost_of
from jaxinterp.patching.plain import captured, metric_values
from jaxinterp.patching.reach import n_layers
from jaxinterp.tasks.prompts import Prompts

#: What `observe` returns: a run to resume (None: take the plain path), the named sites' activations, the metric.
Observed = tuple[Any, Mapping[str, jax.Array], np.ndarray]


def can_resume(model: Any, metric: Metric, names: tuple[str, ...], edits: Any) -> bool:
    """Whether sweeps of these sites under this metric can start in the middle of a run."""
    return (
        hasattr(model, "run")
        and hasattr(model, "resume")
        and (isinstance(model, Transformer) or not edits)  # whose runs can stand under edits
        and not foreign(edits)
        and all(model.sites[name].row_axis is not None for name in names)
        and metric.positions is not None  # else every row's logits are read
        and not metric.capture  # activations that may lie before the start
        and not set(EMBEDDING_SITES) & set(names)
    )


def foreign(edits: Mapping[str, tuple[Intervention, ...]]) -> bool:
    """Whether any edit is a function of the caller's (`ji.apply_fn`), which may mix rows or prompts."""
    library = Intervention.__module__
    return any(
        getattr(one.fn, "__module__", None) != library and one.fn is not jax.lax.stop_gradient
        for p in edits.values()
        for one in p
    )


def observe(model: Any, params: Any, prompts: Prompts, edits: Any, metric: Metric, names: tuple[str, ...]) -> Observed:
    """(a run to resume if the model can; the named sites' activations; the metric, [batch]) of an edited run."""
    if not can_resume(model, metric, names, edits):
        cache = captured(model, params, prompts, edits, names)
        return None, cache, np.asarray(metric_values(model, params, prompts, edits, metric))
    if isinstance(model, Transformer) and not set(edits) - {"embed"}:
        names = _with_heads(names)
    run, cache, values = _observed(model, params, prompts.tokens, prompts.mask, edits, metric, names)
    return run, cache, np.asarray(values)


def observe_pair(
    model: Any, params: Any, base: Prompts, source: Prompts, metric: Metric, names: tuple[str, ...]
) -> tuple[Observed, Observed] | None:
    """What `observe` gives for a base and a source run without edits; None where they run apart.

    Many rows do: for them reading the weights once more is nothing, and both runs at once would take memory.
    """
    alike = np.shape(base.tokens) == np.shape(source.tokens) and (base.mask is None) == (source.mask is None)
    if not (isinstance(model, Transformer) and alike and can_resume(model, metric, names, {})):
        return None
    if run_bytes(model, 4, Geometry(*np.shape(base.tokens)), _with_heads(names)) > RUN_BYTES // 16:
        return None
    masks = None if base.mask is None else (base.mask, source.mask)
    both = _observed_together(model, params, (base.tokens, source.tokens), masks, metric, _with_heads(names))
    (run, cache, values), (theirs, their_values) = both
    return (run, cache, np.asarray(values)), (None, theirs, np.asarray(their_values))


def run_bytes(model: Any, itemsize: int, geometry: Geometry, names: Sequence[str]) -> int:
    """What a run of so many prompts, of so many tokens, keeps: what resuming needs, and the named sites."""
    sites, kept = model.sites, ("resid_pre", "k", "v", *names)
    return itemsize * sum(int(np.prod(sites[n].shape(geometry.batch, geometry.pos))) for n in kept if n in sites)


def whole_forwards(model: Any, params: Any, prompts: Prompts, edits: Any, metric: Metric) -> list[Batch]:
    """The prompts that one whole forward under some edits takes at a time."""
    one = Geometry(1, np.shape(prompts.tokens)[1])
    cost = cost_of(model, params, one, metric, (), resumes=False)
    size = len(prompts) if foreign(edits) else max(1, RUN_BYTES // cost.bytes(0))
    cut = metric.positions is not None and not metric.capture
    return make_batches(prompts, np.zeros(len(prompts), int), size, cut=cut)


@functools.partial(jax.jit, static_argnames=("model", "names"))
def _observed(
    model: Any, params: Any, tokens: Any, mask: Any, edits: Any, metric: Metric, names: tuple[str, ...]
) -> Any:
    """(a run that can be resumed, the named sites' activations, the metric)."""
    end = {"start_layer": n_layers(model.sites), "positions": metric.positions}
    if isinstance(model, Transformer):
        run = model.run(params, tokens, mask=mask, interventions=edits, capture=names)
        cache, (logits, _) = run.cache, model.resume(params, run, **end, columns=metric.columns)
    else:
        run, cache = model.run(params, tokens, mask=mask), model.apply(params, tokens, capture=names, mask=mask)[1]
        logits = take_columns(model.resume(params, run, **end)[0], metric.columns)
    return run, cache, score_read(metric, logits, {})


@functools.partial(jax.jit, static_argnames=("model", "names"))
def _observed_together(
    model: Any, params: Any, tokens: tuple[Any, Any], masks: Any, metric: Metric, names: tuple[str, ...]
) -> Any:
    """(a run, the named sites' activations, the metric) of the first batch and, of the second, the last two.

    Neither has edits; every weight is read once for both.
    """
    stacked = jnp.stack(tokens), None if masks is None else jnp.stack(masks)
    both = jax.vmap(lambda tokens, mask: _observed(model, params, tokens, mask, {}, metric, names))(*stacked)
    return jax.tree.map(lambda leaf: leaf[0], both), jax.tree.map(lambda leaf: leaf[1], both[1:])


def _with_heads(names: tuple[str, ...]) -> tuple[str, ...]:
    """Sites to capture: "z" too, so that branches start behind the heads."""
    return tuple(dict.fromkeys((*names, "z")))
