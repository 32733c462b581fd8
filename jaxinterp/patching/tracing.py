"""Causal tracing: corrupt the subject with noise, restore one activation at a time (Meng et al. 2022, ROME)."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from jaxinterp.metrics import Metric, prob
from jaxinterp.model.interventions import Interventions, add, joined
from jaxinterp.model.sites import SiteSpec, check_site
from jaxinterp.model.where import Geometry, Where, at, selection
from jaxinterp.patching.activation import check_run
from jaxinterp.patching.cells import grid, joint_sets
from jaxinterp.patching.effects import effect_array
from jaxinterp.patching.engine import observe, patched_values
from jaxinterp.patching.plain import captured, metric_values
from jaxinterp.tasks.prompts import Prompts, as_prompts


def causal_tracing(
    model: Any,
    params: Any,
    base: Any,
    *,
    subject: Any,
    key: jax.Array,
    site: str = "resid_post",
    over: Sequence[str] = ("layer", "pos"),
    window: int = 1,
    sets: Any = None,
    noise: float | str = "3sigma",
    num_samples: int = 10,
    metric: Metric | None = None,
    normalize: bool = False,
    per_example: bool = False,
    mask: Any = None,
    base_interventions: Interventions | None = None,
    source_interventions: Interventions | None = None,
    mesh: jax.sharding.Mesh | None = None,
    max_bytes: int | None = None,
    progress: bool | None = None,
) -> xr.DataArray:
    """The indirect effect of restoring activations in a run whose subject tokens are noised.

    Noise is added to the token embedding of the subject's tokens alone, before the position embedding; the same
    draws are used in every cell, and scores are averaged over draws after the softmax (ROME, Section 2.1).

    Args:
      base: the clean prompts, tokens int[batch, pos] or `ji.Prompts`.
      subject: the subject's positions: `ji.at(pos=...)`, an int, a slice, ints, or `ji.per_example(int[batch, n])`.
      key: of the noise; consumed.
      site: what is restored; "mlp_out" or "attn_out" in windows, "resid_post" singly, in the paper.
      sets: joint restorations instead of `over`, as in `activation_patching` (sets of neurons, say).
      window: layers restored together around each centre (`ji.layer_windows`); 1 is a single layer.
      noise: standard deviation: a number (0.1 in the paper's code), or "3sigma", three times that of the subject
        tokens' embeddings (the paper's text).
      num_samples: draws of the noise.
      metric: by default the probability of the clean run's most likely next token.
      base_interventions: edits under which the noised runs stand, and the clean one unless it has its own,
        `source_interventions`.
      Others as in `activation_patching`.

    Returns:
      metric(restored) - metric(noised), averaged over draws, over the axes in `over`. In `.attrs`: `base_metric`
      (noised), `source_metric` (clean), `total_effect` (their difference) and `noise`.

    Example:
      >>> effects = ji.causal_tracing(model, params, tokens, subject=1, key=jax.random.key(0), num_samples=2)
      >>> effects.dims
      ('layer', 'pos')
    """
    base = as_prompts(base, mask)
    check_site(model.sites, site)
    if not isinstance(window, int) or window < 1:
        raise ValueError(f"window must be an int of at least 1, got {window!r}")
    if noise != "3sigma" and (isinstance(noise, str) or not 0 <= noise < float("inf")):
        raise ValueError(f"noise must be a standard deviation or '3sigma', got {noise!r}")
    if key is None:
        raise ValueError("noise is drawn at random: give key=jax.random.key(seed)")
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")
    where = subject if isinstance(subject, Where) else at(pos=subject)
    if "pos" not in where.axes:
        raise ValueError("subject= selects no positions: give ji.at(pos=...), or the positions themselves")
    edits = joined(base_interventions)
    clean_metric = metric or prob(_top_token(model, params, base, edits))
    geometry = check_run(model, base, joined(edits, {"embed": add(np.zeros((1, 1, 1)), where)}), clean_metric)
    if sets is None:
        cells = grid(model.sites, (site,), over, geometry, base.roles, window)
    elif window > 1:
        raise ValueError("give sets= or window=, not both: a set names its own layers")
    else:
        cells = joint_sets(model.sites, (site,), sets, geometry)
    names = tuple(cells.wheres)

    run = Prompts(base.tokens, base.mask)
    clean_edits = edits if source_interventions is None else joined(source_interventions)
    embedded = captured(model, params, run, edits, ("embed",))["embed"]
    cache = captured(model, params, run, clean_edits, names)
    sigma = 3 * _subject_deviation(embedded, where, base) if noise == "3sigma" else float(noise)
    clean = np.asarray(metric_values(model, params, run, clean_edits, clean_metric))
    restored, noised = np.zeros((len(cells), geometry.batch)), np.zeros(geometry.batch)
    for draw in jax.random.split(key, num_samples):
        drawn = sigma * jax.random.normal(draw, embedded.shape, embedded.dtype)
        corrupt = joined(edits, {"embed": add(drawn, where)})
        observed = observe(model, params, base, corrupt, clean_metric, names)
        noised = noised + observed[2] / num_samples
        edited = patched_values(
            model, params, base, corrupt, observed, cache, cells, clean_metric,
            mesh=mesh, max_bytes=max_bytes, progress=progress,
        )  # fmt: skip
        restored = restored + edited / num_samples
    total = float(clean.mean() - noised.mean())
    return effect_array(
        restored, noised, clean, cells.axes, base, normalize=normalize, per_example=per_example,
        total_effect=total, noise=sigma, window=window, site=site, method="causal_tracing",
    )  # fmt: skip


def _top_token(model: Any, params: Any, base: Prompts, edits: Any) -> np.ndarray:
    """int[batch]: the most likely token after each prompt's last."""
    last = Metric(_argmax_last, positions=-1)
    return np.asarray(metric_values(model, params, Prompts(base.tokens, base.mask), edits, last)).astype(np.int32)


def _argmax_last(logits: jax.Array, cache: Any) -> jax.Array:
    return jnp.argmax(logits[:, 0], axis=-1)


def _subject_deviation(embedded: jax.Array, where: Where, base: Prompts) -> float:
    """The standard deviation of the subject tokens' embeddings, over tokens and dimensions."""
    spec = SiteSpec(("batch", "pos", "d_model"), (None, None, embedded.shape[-1]))
    mask = None if base.mask is None else jnp.asarray(base.mask)
    chosen = selection(where, spec, Geometry.of(base.tokens, mask))
    rows = np.broadcast_to(np.asarray(chosen)[..., 0], np.shape(base.tokens))
    return float(np.asarray(embedded)[rows].std())
