"""Causal tracing: corrupt the subject with noise, restore one activation at a time (Meng et al. 2022, ROME)."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from jaxinterp.metrics import Metric, prob
from jaxinterp.model.interventions import Interventions, add, joined
from jaxinterp.model.sampling import check_key
from jaxinterp.model.sites import SiteSpec, check_site
from jaxinterp.model.where import Geometry, Where, at, selection
from jaxinterp.patching.ablation import normal_noise
from jaxinterp.patching.activation import check_run
from jaxinterp.patching.batches import Batch, edits_of, prompts_of
from jaxinterp.patching.cells import Over, grid, joint_sets
from jaxinterp.patching.effects import effect_array
from jaxinterp.patching.endurance import Folder
from jaxinterp.patching.engine import Options, run_sweep
from jaxinterp.patching.nodes import Draw, node_sweep
from jaxinterp.patching.observe import foreign, whole_forwards
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
    over: Over = ("layer", "pos"),
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
    resume: Folder | None = None,
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
    check_key(key)
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")
    where = subject if isinstance(subject, Where) else at(pos=subject)
    if "pos" not in where.axes:
        raise ValueError("subject= selects no positions: give ji.at(pos=...), or the positions themselves")
    edits = joined(base_interventions)
    options = Options(mesh, max_bytes, progress, resume)
    clean_metric = metric or prob(_top_tokens(model, params, base, edits))
    noised = {"embed": add(np.zeros((1, 1, 1)), where)}
    geometry = check_run(model, base, joined(edits, noised), clean_metric)
    if sets is None:
        cells = grid(model.sites, (site,), over, geometry, base.roles, window)
    elif window > 1:
        raise ValueError("give sets= or window=, not both: a set names its own layers")
    else:
        cells = joint_sets(model.sites, (site,), sets, geometry)
    names = tuple(cells.masks)
    clean_edits = edits if source_interventions is None else joined(source_interventions)
    subject_rows = _rows(where, base)
    sigma = 3 * _subject_deviation(model, params, base, edits, subject_rows) if noise == "3sigma" else float(noise)
    keys = list(jax.random.split(key, num_samples))

    def draws(batch: Batch, prompts: Prompts, metric: Metric) -> list[Callable[[], Draw]]:
        own, theirs = (edits_of(e, model.sites, batch, base) for e in (edits, clean_edits))
        subject = edits_of(joined(noised), model.sites, batch, base)["embed"][0].where

        @functools.cache
        def clean() -> tuple[Any, np.ndarray]:
            clean_values = np.asarray(metric_values(model, params, prompts, theirs, metric))
            return captured(model, params, prompts, theirs, names), clean_values

        def draw(key: jax.Array) -> Draw:
            drawn = sigma * normal_noise(key, model.sites["embed"], geometry, batch)
            return Draw(joined(own, {"embed": add(drawn, subject)}), *clean())

        return [functools.partial(draw, key) for key in keys]

    first = subject_rows.argmax(axis=1) if source_interventions is None else None
    identity = "causal_tracing", sigma, keys, clean_edits, subject_rows
    standing = joined(edits, noised)  # what a run stands under decides which path serves it
    sweep = node_sweep(
        model, params, base, cells, clean_metric, standing, draws,
        n_draws=num_samples, first=first, whole=foreign(clean_edits), identity=identity,
    )  # fmt: skip
    tally = run_sweep(sweep, options, per_example=per_example, per_prompt=False)
    return effect_array(
        tally, cells.axes, base, normalize=normalize, per_example=per_example,
        total_effect=float(tally.source_each.mean() - tally.base_each.mean()), noise=sigma, window=window, site=site,
        method="causal_tracing",
    )  # fmt: skip


def _top_tokens(model: Any, params: Any, base: Prompts, edits: Any) -> np.ndarray:
    """int[batch]: the most likely token after each prompt's last."""
    last, out = Metric(_argmax_last, positions=-1), np.zeros(len(base), np.int32)
    for batch in whole_forwards(model, params, base, edits, last):
        own = edits_of(edits, model.sites, batch, base)
        values = metric_values(model, params, prompts_of(base, batch), own, last)
        out[batch.rows] = np.asarray(values).astype(np.int32)
    return out


def _argmax_last(logits: jax.Array, cache: Any) -> jax.Array:
    return jnp.argmax(logits[:, 0], axis=-1)


def _rows(where: Where, base: Prompts) -> np.ndarray:
    """bool[batch, pos]: the positions that are selected."""
    spec = SiteSpec(("batch", "pos"), (None, None))
    mask = None if base.mask is None else jnp.asarray(base.mask)
    chosen = np.asarray(selection(where, spec, Geometry.of(base.tokens, mask)))
    return np.broadcast_to(chosen, np.shape(base.tokens))


def _subject_deviation(model: Any, params: Any, base: Prompts, edits: Any, rows: np.ndarray) -> float:
    """The standard deviation of the subject tokens' embeddings, over tokens and dimensions."""
    count, total, squares = 0, 0.0, 0.0
    for batch in whole_forwards(model, params, base, edits, Metric(_argmax_last)):
        own = edits_of(edits, model.sites, batch, base)
        embedded = np.asarray(captured(model, params, prompts_of(base, batch), own, ("embed",))["embed"])
        chosen = embedded[: batch.n][rows[batch.rows[: batch.n]]].astype(np.float64)
        count, total, squares = count + chosen.size, total + chosen.sum(), squares + np.square(chosen).sum()
    return float(np.sqrt(max(0.0, squares / count - (total / count) ** 2)))
