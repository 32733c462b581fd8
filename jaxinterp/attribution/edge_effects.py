"""Exact effects of edges, of some or of all: what `edge_attribution` estimates.

An edge is the path from one writer straight into what one reader reads of the stream (`path_patching`, direct).
"""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
import xarray as xr

from jaxinterp.attribution.edges import EdgeScores, nodes
from jaxinterp.metrics import Metric
from jaxinterp.model.config import TransformerConfig, suggest
from jaxinterp.model.interventions import Interventions
from jaxinterp.model.transformer import Transformer
from jaxinterp.model.where import at
from jaxinterp.patching.paths import path_patching
from jaxinterp.tasks.prompts import as_prompts

#: The axes of each reader's site.
READERS = {
    "q_input": ("layer", "head"),
    "k_input": ("layer", "kv_head"),
    "v_input": ("layer", "kv_head"),
    "mlp_in": ("layer",),
    "resid_final": (),
}


def edge_effects(
    model: Transformer,
    params: Any,
    base: Any,
    source: Any,
    *,
    metric: Metric,
    edges: Iterable[tuple[str, str]] | xr.DataArray | None = None,
    per_example: bool = False,
    mask: Any = None,
    base_interventions: Interventions | None = None,
    source_interventions: Interventions | None = None,
    mesh: jax.sharding.Mesh | None = None,
    max_bytes: int | None = None,
    progress: bool | None = None,
) -> EdgeScores:
    """The exact effect of each edge on its own: one reader sees one writer's source output, all else stays.

    Args:
      base, source: as in `activation_patching`: base is the run that would be edited.
      edges: `(writer, reader)` names as `EdgeScores` has them, or what its `top` and `greedy` return; None for all.
      per_example: keep prompts apart.
      Others as in `path_patching`.

    Returns:
      `EdgeScores` with exact effects, in the metric's units; NaN where there is no such edge, or it was not asked for.

    Raises:
      TypeError, ValueError: at the call; for edges that do not exist, and as `path_patching` does.

    Example:
      >>> corrupted = tokens.at[:, 2].set(7)
      >>> estimates = ji.edge_attribution(model, params, corrupted, tokens, metric=ji.logit_diff(3, 4))
      >>> exact = ji.edge_effects(
      ...     model, params, corrupted, tokens, metric=ji.logit_diff(3, 4), edges=estimates.top(3))
      >>> int(exact.scores.notnull().sum())
      3
    """
    if not isinstance(model, Transformer):
        raise TypeError(f"edge_effects needs a ji.Transformer, whose weights it knows, got {type(model).__name__}")
    config = model.config
    writers, readers, there = nodes(config)
    asked = there if edges is None else _asked(edges, writers, readers, there)
    n = len(as_prompts(base, mask)) if per_example else 1
    found, error = np.full((*there.shape, n), np.nan), np.full(there.shape, np.nan)
    run: dict[str, Any] = {
        "metric": metric, "mask": mask, "base_interventions": base_interventions,
        "source_interventions": source_interventions, "mesh": mesh, "max_bytes": max_bytes, "progress": progress,
        "per_example": per_example,
    }  # fmt: skip
    attrs: dict[str, Any] = {}
    for senders, sender_axes, rows in _writers(config, writers):
        for site, columns in _readers(config, readers):
            block = np.ix_(rows.reshape(-1), columns.reshape(-1))
            if not asked[block].any():
                continue
            over = (*(f"sender_{axis}" for axis in sender_axes), *(f"receiver_{axis}" for axis in READERS[site]))
            effects = path_patching(
                model, params, base, source, senders=dict.fromkeys(senders, at()), receivers={site: at()},
                over=over, only=asked[block].reshape(rows.shape + columns.shape), **run,
            )  # fmt: skip
            found[block] = effects.values.reshape(rows.size, columns.size, n)
            if not per_example:
                error[block] = effects.standard_error.values.reshape(rows.size, columns.size)
            attrs = {name: effects.attrs[name] for name in ("base_metric", "source_metric", "n_prompts")}
    dims = ("writer", "reader")
    coords: dict[str, Any] = {"writer": writers, "reader": readers}
    attrs["method"] = "exact"
    if per_example:
        return EdgeScores(xr.DataArray(found, dims=(*dims, "batch"), coords=coords, name="effect", attrs=attrs))
    coords["standard_error"] = (dims, error)
    return EdgeScores(xr.DataArray(found[..., 0], dims=dims, coords=coords, name="effect", attrs=attrs))


def _asked(edges: Any, writers: list[str], readers: list[str], there: np.ndarray) -> np.ndarray:
    """bool[writer, reader]: the edges that were named."""
    if isinstance(edges, xr.DataArray) and edges.dims == ("edge",):
        edges = zip(edges.writer.values.tolist(), edges.reader.values.tolist(), strict=True)
    if isinstance(edges, (str, xr.DataArray)) or not isinstance(edges, Iterable):
        raise TypeError(
            "edges must be (writer, reader) pairs of names, or what EdgeScores' top or greedy returns, got "
            f"{type(edges).__name__}"
        )
    asked = np.zeros(there.shape, bool)
    for edge in edges:
        if not isinstance(edge, (tuple, list)) or len(edge) != 2:
            raise TypeError(f"edges must be (writer, reader) pairs of names, got {edge!r}")
        for kind, name, names in (("writer", edge[0], writers), ("reader", edge[1], readers)):
            if name not in names:
                raise ValueError(f"unknown {kind} {name!r}; {suggest(str(name), names)}")
        place = writers.index(edge[0]), readers.index(edge[1])
        if not there[place]:
            raise ValueError(f"there is no edge from {edge[0]!r} to {edge[1]!r}, which reads before that is written")
        asked[place] = True
    if not asked.any():
        raise ValueError("edges is empty")
    return asked


def _writers(config: TransformerConfig, names: list[str]) -> list[tuple[tuple[str, ...], tuple[str, ...], np.ndarray]]:
    """(the sites that send together, the axes of the result, the writers' numbers over these) of each kind."""
    entering: tuple[str, ...] = ("embed", "pos_embed") if config.positions == "learned" else ("embed",)
    if config.embed_norm:
        entering = ("ln_embed.normalized",)
    numbers = np.arange(1, len(names)).reshape(config.n_layers, -1)
    kinds: list[tuple[tuple[str, ...], tuple[str, ...], np.ndarray]] = [
        (entering, (), np.zeros((), int)),
        (("z",), ("layer", "head"), numbers[:, : config.n_heads]),
    ]
    return kinds if config.attn_only else [*kinds, (("mlp_out",), ("layer",), numbers[:, -1])]


def _readers(config: TransformerConfig, names: list[str]) -> list[tuple[str, np.ndarray]]:
    """(site, the readers' numbers over its axes) of each kind."""
    numbers = np.arange(len(names) - 1).reshape(config.n_layers, -1)
    heads = np.cumsum([config.n_heads, config.n_kv_heads, config.n_kv_heads])
    queries, keys, values, rest = np.split(numbers, heads, axis=1)
    found = [("q_input", queries), ("k_input", keys), ("v_input", values), ("resid_final", np.array(len(names) - 1))]
    return found if config.attn_only else [*found, ("mlp_in", rest[:, 0])]
