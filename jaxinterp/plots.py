"""Figures of results: readable at a glance, token strings as ticks."""

import textwrap
from typing import Any

import numpy as np
import xarray as xr

from jaxinterp.scrubbing.hypothesis import DESCRIBED, Hypothesis

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


#: Features of one reader that are drawn each; of more, the first and the last.
MAX_SIBLINGS = 8


def hypothesis_figure(hypothesis: Hypothesis, *, title: str = "") -> Any:
    """A drawing of what a hypothesis claims: the output on top, below each node those that it is computed from.

    Boxes hold a node of the graph and the feature that it is claimed to compute; edges say how its datum is drawn,
    where that is not by agreement on the feature. Grey boxes are what is run at random. Of a tree with hundreds of
    places, what was drawn before is not drawn again.

    Returns:
      The matplotlib figure; `figure.savefig(path)` writes it.

    Example:
      >>> graph = ji.scrubbing.transformer_graph(model, params, tokens)
      >>> features = {"next token": ji.Feature(None, ("last layer",)), "last layer": ji.Feature(lambda x: x[:, -1])}
      >>> claim = ji.Hypothesis(graph, features, {"next token": "logits", "last layer": "m1"})
      >>> figure = ji.hypothesis_figure(claim, title="only the last MLP matters")
    """
    from matplotlib.figure import Figure

    graph, of = hypothesis.graph, hypothesis.correspondence
    boxes: list[tuple[float, int, str, bool]] = []  # place across, depth, text, whether it is claimed
    edges: list[tuple[int, int, str]] = []
    taken = [0.0]  # width so far
    seen: set[str] = set()
    is_long = hypothesis.count_places() > DESCRIBED

    def leaf(depth: int, text: str, *, claimed: bool) -> int:
        boxes.append((taken[0] + 0.5, depth, text, claimed))
        taken[0] += 1
        return len(boxes) - 1

    def visit(name: str, depth: int) -> int:
        feature, text = hypothesis.interpretation[name], f"{of[name]}\n{_wrapped(name)}"
        if not feature.parents:
            return leaf(depth, text, claimed=True)
        if is_long and name in seen:
            return leaf(depth, f"{text}\n(as before)", claimed=True)
        seen.add(name)
        parents, below = list(feature.parents), []
        several = len(parents) > MAX_SIBLINGS and [p for p in parents if not hypothesis.interpretation[p].parents]
        for parent in parents:
            if several and parent in several[1:-1]:
                if parent == several[1]:
                    below.append((leaf(depth + 1, f"… {len(several) - 2} more", claimed=True), ""))
                continue
            below.append((visit(parent, depth + 1), str(hypothesis.samplers[parent])))
        spoken = {of[parent] for parent in parents}
        if rest := [node for node in graph.parents(of[name]) if node not in spoken]:
            some = ", ".join(rest) if len(rest) <= 3 else f"{len(rest)} others"
            below.append((leaf(depth + 1, f"at random\n{_wrapped(some)}", claimed=False), ""))
        boxes.append((float(np.mean([boxes[i][0] for i, _ in below])), depth, text, True))
        edges.extend((len(boxes) - 1, i, sampler) for i, sampler in below)
        return len(boxes) - 1

    visit(hypothesis.root, 0)
    depth = max(box[1] for box in boxes)
    figure = Figure(figsize=(1.0 + 1.45 * taken[0], 1.2 + 1.35 * (depth + 1)), layout="constrained")
    axes = figure.add_subplot()
    for reader, read, sampler in edges:
        (x0, y0, *_), (x1, y1, *_) = boxes[reader], boxes[read]
        axes.plot([x0, x1], [-y0, -y1], color="0.6", linewidth=1, zorder=0)
        if sampler not in ("", "agree"):
            axes.text((x0 + x1) / 2, -(y0 + y1) / 2, sampler, fontsize=7, ha="center", color="C3")
    for x, y, text, claimed in boxes:
        colours = {"facecolor": "#dcebf7", "edgecolor": "C0"} if claimed else {"facecolor": "0.93", "edgecolor": "0.6"}
        axes.text(x, -y, text, ha="center", va="center", fontsize=8, bbox={"boxstyle": "round,pad=0.4", **colours})
    axes.set(xlim=(-0.1, taken[0] + 0.1), ylim=(-depth - 0.6, 0.6), title=title)
    axes.set_axis_off()
    return figure


def _wrapped(text: str, width: int = 18) -> str:
    return "\n".join(textwrap.wrap(text, width))
