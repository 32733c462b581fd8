"""The same claim under coarser tests: what it leaves out set to zero, to its mean, or resampled."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from jaxinterp.scrubbing.graph import Graph, values
from jaxinterp.scrubbing.hypothesis import MAX_PLACES, Hypothesis
from jaxinterp.scrubbing.lookup import Evaluator, take
from jaxinterp.scrubbing.program import MadeTables
from jaxinterp.scrubbing.result import ScrubResult, Sums, summarise
from jaxinterp.scrubbing.runner import ITSELF, Ready, check_run, check_tables, make_ready, run_ready
from jaxinterp.scrubbing.tables import Tables, first, in_steps, n_data, node_shapes, scored

ABLATIONS = ("zero", "mean")


def ablations(
    hypothesis: Hypothesis,
    params: Any,
    dataset: Any,
    *,
    num_samples: int,
    key: jax.Array,
    tables: Tables | None = None,
    max_places: int | None = MAX_PLACES,
    **run: Any,
) -> xr.Dataset:
    """What is recovered if a hypothesis's nodes are kept as they are and all others ablated, beside its scrub.

    Ablations test only which nodes matter, not what they compute: every feature's node is run on the reference itself.

    Args:
      Others as in `ji.scrub`.

    Returns:
      Over `test`: `recovered` with its `error`, `loss`, `accuracy`. "scrubbed": the hypothesis. "resampled": what it
      leaves out on a random datum. "mean": at its mean over the dataset, at each position. "zero": at zero. Nodes whose
      values are no real numbers, and the input, stay those of the reference under the last two, which are exact means
      over the dataset, whatever `num_samples` is.

    Example:
      >>> graph = ji.Graph(
      ...     {
      ...         "a": ji.Node(lambda params, x: 2 * x[0], ("input",)),
      ...         "b": ji.Node(lambda params, x: x[1], ("input",)),
      ...         "sum": ji.Node(lambda params, a, b: a + b, ("a", "b")),
      ...     },
      ...     output="sum",
      ...     loss=lambda total, x: jnp.square(total - 2 * x[0] - x[1]),
      ... )
      >>> claim = ji.Hypothesis(graph, {"out": ji.Feature(None, ("a",)), "a": None}, {"out": "sum", "a": "a"})
      >>> data = jax.random.normal(jax.random.key(0), (400, 2)) + 1
      >>> table = ji.scrubbing.ablations(claim, None, data, num_samples=4000, key=jax.random.key(1))
      >>> table.recovered.to_series().round(1).to_dict()
      {'scrubbed': 0.8, 'resampled': 0.8, 'mean': 0.9, 'zero': 0.8}
    """
    check_run(num_samples, key)
    check_tables(hypothesis, "ablations")
    ready = make_ready(hypothesis, params, dataset, tables=tables, apart=True, max_places=max_places)
    itself = ready.tables.classes(ITSELF, "")
    kept = {one.table: itself for one in ready.plan if one.feature}
    found = {
        "scrubbed": run_ready(ready, num_samples, key, **run),
        "resampled": run_ready(ready, num_samples, key, classes=kept, **run),
        "mean": _ablated(ready, zero=False),
        "zero": _ablated(ready, zero=True),
    }
    return xr.Dataset(
        {
            name: ("test", [getattr(result, attribute) for result in found.values()])
            for name, attribute in (("recovered", "recovered"), ("error", "recovered_error"), ("loss", "loss"),
                                    ("accuracy", "accuracy"))
        },
        coords={"test": list(found)},
    )  # fmt: skip


def _ablated(ready: Ready, *, zero: bool) -> ScrubResult:
    """Every datum once, with what the hypothesis leaves out at a constant."""
    hypothesis, tables = ready.hypothesis, ready.tables
    nodes = tuple(sorted({one.node for one in ready.plan if not one.feature and one.kind != "reference"}))
    nodes = tuple(
        node for node in nodes
        if node != hypothesis.graph.input and jnp.issubdtype(tables.shapes[node].dtype, jnp.floating)
    )  # fmt: skip
    if zero:
        constants = {node: jnp.zeros(tables.shapes[node].shape, tables.shapes[node].dtype) for node in nodes}
    else:
        constants = _means(hypothesis.graph, tables.params, tables.data, nodes)
    losses, correct = _with_constants(hypothesis, tables.params, tables.data, ready.known, constants)
    loss = np.asarray(losses, np.float64)
    sums = Sums(np.ones(tables.n), loss, loss, np.asarray(correct, np.float64), ~np.isfinite(loss))
    return summarise(sums, tables.bounds, np.inf, ready.partitions[hypothesis.root], xr.Dataset(), None)


@functools.partial(jax.jit, static_argnames=("graph", "nodes"))
def _means(graph: Graph, params: Any, data: Any, nodes: tuple[str, ...]) -> dict[str, jax.Array]:
    """Of nodes' values over a dataset."""

    def one(datum: Any) -> dict[str, jax.Array]:
        return dict(zip(nodes, values(graph, params, datum, [(node, None) for node in nodes]), strict=True))

    def step(sums: Any, part: Any) -> tuple[Any, None]:
        at, counts = part
        found = jax.vmap(one)(jax.tree.map(lambda leaf: take(leaf, at), data))
        return jax.tree.map(
            lambda total, each: total + jnp.einsum("n,n...->...", counts.astype(each.dtype), each), sums, found
        ), None

    at, counts = in_steps(n_data(data))
    shapes = jax.eval_shape(one, first(data))
    zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
    sums, _ = jax.lax.scan(step, zeros, (at, counts.astype(np.float32)))
    return jax.tree.map(lambda total: total / counts.sum(), sums)


@functools.partial(jax.jit, static_argnames=("hypothesis",))
def _with_constants(
    hypothesis: Hypothesis, params: Any, data: Any, known: Any, constants: dict[str, jax.Array]
) -> tuple[jax.Array, ...]:
    """(loss, whether it is right) of each datum."""
    graph = hypothesis.graph
    root, plan = hypothesis.places(max_places=None, apart=True)
    shapes, n = node_shapes(graph, params, data), n_data(data)

    def step(at: jax.Array) -> tuple[jax.Array, jax.Array]:
        draws = [at] * len(plan)
        evaluator = Evaluator(graph, params, data, draws, MadeTables(known), shapes, constants)
        return scored(graph, evaluator.output(root), jax.tree.map(lambda leaf: take(leaf, at), data))

    return tuple(part.reshape(-1)[:n] for part in jax.lax.map(step, jnp.asarray(in_steps(n)[0])))
