"""Edge attribution: what each connection between two components carries of an effect, estimated for all at once.

Writers add to the residual stream: the input, each head, each MLP. Readers read it, each its own copy before its norm:
the queries, keys and values of each head, each MLP, the logits. To first order, the effect of letting one reader see a
writer's source output in place of its base output is (Syed et al. 2023, EAP; Hanna et al. 2024, EAP-IG)

    score(writer -> reader) = sum over positions of (out_source - out_base) . d metric / d (the reader's copy)
"""

import dataclasses
import functools
import heapq
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from jaxinterp.attribution.contraction import Change, Scores, change_of, contract
from jaxinterp.attribution.derivatives import check_differentiable
from jaxinterp.attribution.estimates import Pair, even_batches, observed, part_of, toward
from jaxinterp.attribution.integrated import quadrature
from jaxinterp.metrics import Metric
from jaxinterp.model.config import TransformerConfig, suggest
from jaxinterp.model.interventions import Interventions, joined, lerp
from jaxinterp.model.transformer import Transformer
from jaxinterp.patching.activation import check_pair
from jaxinterp.patching.cells import Axis
from jaxinterp.patching.cost import RUN_BYTES
from jaxinterp.patching.effects import effect_array
from jaxinterp.patching.engine import Options
from jaxinterp.patching.observe import foreign
from jaxinterp.patching.paths import check_standing
from jaxinterp.patching.tally import Tally
from jaxinterp.tasks.prompts import as_prompts

if TYPE_CHECKING:
    import networkx

METHODS = ("eap", "eap_ig")

#: Where gradients are taken: along the input embedding, along each writer's own output, or at the two ends alone.
PATHS = ("inputs", "activations", "clean-corrupted")


@dataclasses.dataclass(frozen=True)
class EdgeScores:
    """Estimated effects of edges, by writer and reader. Made by `ji.edge_attribution`.

    Attributes:
      scores: [writer, reader], or [pos, writer, reader]; NaN where there is no such edge. Mean over prompts, with its
        standard error as the coordinate `standard_error`, or each prompt's, along a last axis `batch`; metrics in
        `.attrs`. Writers are called "input", "a0.h1" (head 1 of layer 0) and "m0", readers "a1.h2<q>", "a1.h0<k>" (the
        key/value head), "m1" and "logits".
    """

    scores: xr.DataArray

    def top(self, n: int) -> xr.DataArray:
        """The `n` edges of largest absolute score (summed over positions), as an array over `edge`.

        Raises:
          ValueError: fewer edges than that.
        """
        flat = self._flat()
        if type(n) is not int or not 0 < n <= len(flat):
            raise ValueError(f"n must lie between 1 and {len(flat)} edges, got {n!r}")
        return flat[np.argsort(-np.abs(flat.values), kind="stable")[:n]]

    def greedy(self, n: int) -> xr.DataArray:
        """`n` edges, the largest first, each of which leads to the logits through edges that are already in.

        Unlike `top` this leaves no edge in the air: it begins at the logits and adds, of all edges into what is
        reached, the one of largest absolute score. Fewer than `n` where no other leads there.
        """
        flat = self._flat()
        if type(n) is not int or not 0 < n <= len(flat):
            raise ValueError(f"n must lie between 1 and {len(flat)} edges, got {n!r}")
        order = np.argsort(-np.abs(flat.values), kind="stable")
        into: dict[str, list[int]] = {}  # the places in the order of the edges into each component
        for place, edge in enumerate(order):
            into.setdefault(node_of(str(flat.reader.values[edge])), []).append(place)
        open_places, chosen = into.pop("logits"), list[int]()  # in the order, which makes it a heap
        while open_places and len(chosen) < n:
            edge = order[heapq.heappop(open_places)]
            chosen.append(edge)
            for place in into.pop(str(flat.writer.values[edge]), ()):
                heapq.heappush(open_places, place)
        return flat[np.array(chosen, int)]

    def graph(self, n: int | None = None) -> "networkx.MultiDiGraph":
        """The edges as a graph of components, with `score` and `reader` on each; the `n` largest, or all.

        Raises:
          ImportError: networkx is not installed (`pip install 'jaxinterp[graph]'`).
        """
        import networkx  # an extra: nothing else needs it

        graph: networkx.MultiDiGraph = networkx.MultiDiGraph()
        for edge in self._flat() if n is None else self.top(n):
            writer, reader = str(edge.writer.item()), str(edge.reader.item())
            graph.add_edge(writer, node_of(reader), key=reader, reader=reader, score=float(edge))
        return graph

    def dot(self, n: int) -> str:
        """The `n` largest edges in Graphviz's language: red raises the metric, blue lowers it."""
        chosen = self.top(n)
        widest = float(np.abs(chosen.values).max()) or 1.0
        lines = []
        for edge in chosen:
            reader, score = str(edge.reader.item()), float(edge)
            colour, width = "firebrick" if score > 0 else "royalblue", 0.5 + 3 * abs(score) / widest
            label = reader[-2] if reader.endswith(">") else ""
            lines.append(
                f'  "{edge.writer.item()}" -> "{node_of(reader)}" '
                f'[label="{label}", color={colour}, penwidth={width:.2f}, tooltip="{score:.4g}"];'
            )
        return "\n".join(["digraph {", "  rankdir=BT;", *lines, "}"])

    def _flat(self) -> xr.DataArray:
        """Every edge's mean score, over `edge`."""
        scores = self.scores.sum("pos", skipna=False) if "pos" in self.scores.dims else self.scores
        if "batch" in scores.dims:
            scores = scores.mean("batch", skipna=False)
        scores = scores.drop_vars("standard_error", errors="ignore")
        flat = scores.stack(edge=("writer", "reader"))
        return flat[~np.isnan(flat.values)]


def node_of(reader: str) -> str:
    """The component that a reader belongs to: "a1.h2" of "a1.h2<q>".

    Example:
      >>> node_of("a1.h2<q>"), node_of("m0"), node_of("logits")
      ('a1.h2', 'm0', 'logits')
    """
    return reader.partition("<")[0]


def edge_attribution(
    model: Transformer,
    params: Any,
    base: Any,
    source: Any,
    *,
    metric: Metric,
    method: str = "eap",
    steps: int | None = None,
    rule: str = "right",
    path: str = "inputs",
    by_position: bool = False,
    per_example: bool = False,
    mask: Any = None,
    base_interventions: Interventions | None = None,
    source_interventions: Interventions | None = None,
    mesh: jax.sharding.Mesh | None = None,
    max_bytes: int | None = None,
    progress: bool | None = None,
) -> EdgeScores:
    """The effect of each edge on its own, estimated: one reader sees one writer's source output, all else stays.

    `ji.edge_effects` gives exact ones. One writer's edges add up to the attribution of its output, one
    reader's to that of its input.

    Args:
      base, source: as in `activation_patching`: base is the run that would be edited.
      method: "eap", one gradient, of the base run; "eap_ig", an average of gradients on a path to the source run.
      path: for "eap_ig": "inputs", the embedding goes from base to source; "activations", the output of each writer's
        layer does, for the edges that begin there; "clean-corrupted", the two runs themselves.
      steps, rule: for "eap_ig": how many gradients (by default 5) and where, as in `attribution_patching`.
      by_position: keep positions apart. per_example: keep prompts apart.
      Others as in `attribution_patching`.

    Returns:
      `EdgeScores`, in the metric's units.

    Raises:
      TypeError, ValueError: at the call; for models whose sublayers' outputs do not add up in the stream as they are.

    Example:
      >>> corrupted = tokens.at[:, 2].set(7)
      >>> edges = ji.edge_attribution(model, params, corrupted, tokens, metric=ji.logit_diff(3, 4))
      >>> edges.scores.dims, len(edges.top(5))
      (('writer', 'reader'), 5)
    """
    if not isinstance(model, Transformer):
        raise TypeError(f"edge_attribution needs a ji.Transformer, whose weights it knows, got {type(model).__name__}")
    config = model.config
    if config.has_output_norm or config.has_post_norm:
        raise ValueError(
            f"norm_position={config.norm_position!r}: what heads and MLPs add to the stream is normed together, so "
            "that what one of them writes is not defined without the others"
        )
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; {suggest(str(method), METHODS)}")
    if path not in PATHS:
        raise ValueError(f"unknown path {path!r}; {suggest(str(path), PATHS)}")
    if method == "eap" and (steps is not None or rule != "right" or path != "inputs"):
        raise ValueError("steps=, rule= and path= mean nothing for method='eap'; they are for 'eap_ig'")
    if path == "clean-corrupted" and (steps is not None or rule != "right"):
        raise ValueError("path='clean-corrupted' takes both runs' gradients: steps= and rule= mean nothing")
    if method == "eap":
        points = np.zeros(1), np.ones(1)
    elif path == "clean-corrupted":
        points = np.array([0.0, 1.0]), np.array([0.5, 0.5])
    else:
        points = quadrature(rule, 5 if steps is None else steps)
    base, source = as_prompts(base, mask), as_prompts(source, mask)
    options = Options(mesh, max_bytes, progress)
    check_pair(model, base, source, base_interventions, source_interventions, metric)
    check_differentiable(model, params, base, base_interventions, metric)
    edits, source_edits = joined(base_interventions), joined(source_interventions)
    check_standing(model, edits)
    if "result" in source_edits:
        raise ValueError("source_interventions edit 'result', what edges begin with: edit 'z' instead")

    n_pos = np.shape(base.tokens)[1]
    whole = Pair(base, edits, source, source_edits, metric)
    together = foreign(edits) or foreign(source_edits)
    size = None if together else _prompts_at_a_time(config, n_pos, options)
    batches = even_batches(base, metric, size, options, by_position=by_position)
    run = functools.partial(BY_PATH[path], by_position=by_position)
    writers, readers, there = nodes(config)
    shape = (n_pos,) * by_position + there.shape
    tally = Tally.fresh((), int(np.prod(shape)), len(base), per_example=per_example)
    with tqdm(total=len(base), desc="prompts", unit="prompt", delay=1, disable=options.hidden) as bar:
        for batch in batches:
            scores, base_metric, source_metric = run(
                model, params, part_of(whole, batch, model.sites, options), *points
            )
            effects = _table(jax.device_get(scores)).reshape(-1, len(batch.rows))
            tally.add_batch(
                batch, np.asarray(base_metric), np.asarray(source_metric), np.arange(len(effects)), effects,
                per_prompt=False,
            )  # fmt: skip
            bar.update(batch.n)

    axes = [Axis("pos", "pos", list(range(n_pos)), None)] * by_position
    axes += [Axis(name, name, labels, None) for name, labels in (("writer", writers), ("reader", readers))]
    scores = effect_array(
        tally, tuple(axes), base, normalize=False, per_example=per_example, method=f"edge_attribution ({method})"
    )
    exists = xr.DataArray(there, dims=("writer", "reader"))
    if not per_example:
        scores["standard_error"] = scores.standard_error.where(exists)
    return EdgeScores(scores.where(exists))


@functools.partial(jax.jit, static_argnames=("model", "by_position"))
def _by_inputs(
    model: Any, params: Any, pair: Pair, fractions: jax.Array, weights: jax.Array, *, by_position: bool
) -> tuple[Scores, jax.Array, jax.Array]:
    """(scores, the metrics of base and source), with gradients while the embedding goes from base to source."""
    base, edits, source, source_edits, metric = pair
    change, base_metric, source_metric = change_of(model, params, pair)
    _, there = observed(model, params, source, source_edits, metric, ("embed",))

    def at(fraction: jax.Array) -> Scores:
        on_the_way = joined(edits, {"embed": lerp(there["embed"], fraction)})
        return contract(model, params, base, on_the_way, metric, change, by_position=by_position)

    return _weighted_sum(at, (fractions,), weights), base_metric, source_metric


@functools.partial(jax.jit, static_argnames=("model", "by_position"))
def _by_activations(
    model: Any, params: Any, pair: Pair, fractions: jax.Array, weights: jax.Array, *, by_position: bool
) -> tuple[Scores, jax.Array, jax.Array]:
    """The same, with gradients while the output of the edges' own writers goes from base to source, layer by layer."""
    base, edits, source, source_edits, metric = pair
    change, base_metric, source_metric = change_of(model, params, pair)
    names = ("embed", "z") if change.mlp_out is None else ("embed", "z", "mlp_out")
    _, there = observed(model, params, source, source_edits, metric, names)
    n_layers = model.config.n_layers

    def at(fraction: jax.Array, kind: jax.Array, layer: jax.Array) -> Scores:
        here = (jnp.arange(n_layers) == layer)[:, None, None, None]
        chosen = {
            "embed": (kind == 0)[None, None, None],
            "z": (kind == 1) & here[..., None],
            "mlp_out": (kind == 2) & here,
        }
        on_the_way = joined(edits, toward(there, {name: fraction * chosen[name] for name in names}))
        own = Change(
            change.entering * chosen["embed"], change.z * chosen["z"],
            None if change.mlp_out is None else change.mlp_out * chosen["mlp_out"],
        )  # fmt: skip
        return contract(model, params, base, on_the_way, metric, own, by_position=by_position)

    blocks = [(0, 0)] + [(kind, layer) for layer in range(n_layers) for kind in range(1, len(names))]
    kinds, layers = np.array(blocks).T
    n = len(fractions)
    points = jnp.tile(fractions, len(blocks)), jnp.repeat(kinds, n), jnp.repeat(layers, n)
    return _weighted_sum(at, points, jnp.tile(weights, len(blocks))), base_metric, source_metric


@functools.partial(jax.jit, static_argnames=("model", "by_position"))
def _by_ends(
    model: Any, params: Any, pair: Pair, fractions: jax.Array, weights: jax.Array, *, by_position: bool
) -> tuple[Scores, jax.Array, jax.Array]:
    """The same, with the mean of the gradients of the two runs themselves."""
    base, edits, source, source_edits, metric = pair
    change, base_metric, source_metric = change_of(model, params, pair)
    ends = [
        contract(model, params, prompts, own, metric, change, by_position=by_position)
        for prompts, own in ((base, edits), (source, source_edits))
    ]
    scores = jax.tree.map(lambda one, other: weights[0] * one + weights[1] * other, *ends)
    return scores, base_metric, source_metric


#: What gradients are taken along.
BY_PATH = {"inputs": _by_inputs, "activations": _by_activations, "clean-corrupted": _by_ends}


def _weighted_sum(at: Callable[..., Scores], points: tuple[jax.Array, ...], weights: jax.Array) -> Scores:
    """The sum of weights times what is found at each point, one after the other."""

    def add_one(total: Scores, point: Any) -> tuple[Scores, None]:
        weight, *where = point
        return jax.tree.map(lambda sum_, one: sum_ + weight.astype(one.dtype) * one, total, at(*where)), None

    shapes = jax.eval_shape(at, *(leaf[0] for leaf in points))
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add_one, nothing, (weights, *points))[0]


def nodes(config: TransformerConfig) -> tuple[list[str], list[str], np.ndarray]:
    """(names of writers, names of readers, bool[writer, reader]: which edges there are)."""
    writers, readers = ["input"], []
    born, read = [-1], []  # half-layers: heads write at 2l and read before it, MLPs at 2l + 1
    for layer in range(config.n_layers):
        for kind, n in (("q", config.n_heads), ("k", config.n_kv_heads), ("v", config.n_kv_heads)):
            readers += [f"a{layer}.h{head}<{kind}>" for head in range(n)]
            read += [2 * layer] * n
        writers += [f"a{layer}.h{head}" for head in range(config.n_heads)]
        born += [2 * layer] * config.n_heads
        if not config.attn_only:
            writers.append(f"m{layer}")
            readers.append(f"m{layer}")
            born.append(2 * layer + 1)
            read.append(2 * layer + (not config.parallel))
    return writers, [*readers, "logits"], np.array(born)[:, None] < np.array([*read, 2 * config.n_layers])


def _table(scores: Scores) -> np.ndarray:
    """Scores as [(pos,) writer, reader, batch], in the order of `nodes`."""
    return np.moveaxis(np.concatenate([*scores.layers, scores.logits], axis=-1), 0, -1)


def _prompts_at_a_time(config: TransformerConfig, n_pos: int, options: Options) -> int:
    """How many prompts fit the budget with both runs' outputs, the gradients and what a backward pass keeps."""
    widths = 14 * config.d_model + 8 * config.n_heads * config.d_head + 2 * (config.d_mlp or 0)
    each = n_pos * config.n_layers * (widths + 3 * config.n_heads * n_pos)
    return max(1, (options.max_bytes or RUN_BYTES) // (np.dtype(config.dtype).itemsize * each))
