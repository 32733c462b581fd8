"""Figures of results: readable at a glance, token strings as ticks."""

from typing import Any

import numpy as np
import xarray as xr

#: Rows beyond which a heatmap keeps only those with the largest effects.
MAX_ROWS = 64


def effects_heatmap(effects: xr.DataArray, *, title: str = "", ticks: Any = None) -> Any:
    """A heatmap of effects: the last axis across, the others down (`L3 H2`). Red raises the metric, blue lowers it.

    Args:
      effects: from a sweep, of one axis or more, without `batch`.
      title: above the figure.
      ticks: labels of the last axis; by default its token strings where known, else its coordinates.

    Returns:
      The matplotlib figure; `figure.savefig(path)` writes it.

    Example:
      >>> effects = ji.ablation(model, params, tokens, site="z", over=("layer", "head"), metric=ji.logit_diff(3, 4))
      >>> figure = ji.effects_heatmap(effects, title="zero ablation")
    """
    from matplotlib.figure import Figure

    if not effects.dims or "batch" in effects.dims:
        raise ValueError(f"a heatmap needs axes other than batch, got {effects.dims}")
    *down, across = map(str, effects.dims)
    if across == "head" and down == ["layer"]:
        row_labels = [f"layer {n}" for n in effects.layer.values]
    else:
        row_labels = [_row_label(down, index, effects) for index in np.ndindex(*(effects.sizes[d] for d in down))]
    values = effects.values.reshape(len(row_labels), -1)
    if len(row_labels) > MAX_ROWS:
        kept = np.sort(np.argsort(-abs(values).max(axis=1), kind="stable")[:MAX_ROWS])
        title += f" (the {MAX_ROWS} rows of {len(row_labels)} with the largest effects)"
        values, row_labels = values[kept], [row_labels[i] for i in kept]
    if ticks is None:
        tokens = f"{across}_token"
        ticks = effects.coords[tokens if tokens in effects.coords else across].values
    n_rows, n_columns = values.shape
    figure = Figure(figsize=(2.2 + max(3.0, 0.34 * n_columns), 1.6 + max(1.0, 0.2 * n_rows)), layout="constrained")
    axes = figure.add_subplot()
    limit = float(np.nanmax(abs(values))) if np.isfinite(values).any() else 0.0
    image = axes.imshow(
        values, cmap="RdBu_r", vmin=-limit or -1, vmax=limit or 1, aspect="auto", interpolation="nearest"
    )
    axes.set_xticks(
        range(n_columns), [str(t) for t in ticks], rotation=90 if max(len(str(t)) for t in ticks) > 2 else 0
    )
    axes.set_yticks(range(n_rows), row_labels, fontsize=7 if n_rows > 20 else 9)
    axes.set_title(title, fontsize=10)
    note = " (the first prompt's tokens; … where prompts differ)" if any("…" in str(t) for t in ticks) else ""
    axes.set_xlabel(("position" if across == "pos" else across) + note)
    axes.set_ylabel(" and ".join(down))
    unit = "effect (1 = source run)" if effects.attrs.get("normalized") else "effect on the metric"
    figure.colorbar(image, ax=axes, label=unit, pad=0.02)
    return figure


def _row_label(down: list[str], index: tuple[int, ...], effects: xr.DataArray) -> str:
    short = {"layer": "L", "head": "H", "kv_head": "KV", "neuron": "N", "d_mlp": "N", "expert": "E"}
    return " ".join(f"{short.get(d, f'{d} ')}{effects.coords[d].values[i]}" for d, i in zip(down, index, strict=True))
