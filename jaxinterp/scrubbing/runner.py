"""Causal scrubbing: one compiled program per hypothesis, many samples at a time."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from jaxinterp.model.sampling import check_key
from jaxinterp.scrubbing.hypothesis import MAX_PLACES, Hypothesis
from jaxinterp.scrubbing.lookup import Evaluator, Terms, size, take
from jaxinterp.scrubbing.result import ScrubResult, Sums, summarise
from jaxinterp.scrubbing.samplers import Classes, Partition, draw
from jaxinterp.scrubbing.tables import Tables, fingerprint, node_shapes, scored, shape_of, tables_for

#: Memory for the samples under way, unless said otherwise, and the most that are.
RUN_BYTES = 2**28
LARGEST = 2**15

#: As many as this, or fewer, have a smaller program of their own.
SMALL = 2**10

#: Chunks of samples between two looks at the clock.
CHUNKS = 16


def scrub(
    hypothesis: Hypothesis,
    params: Any,
    dataset: Any,
    *,
    num_samples: int,
    key: jax.Array,
    clip: float = 10.0,
    keep_samples: bool = False,
    tables: Tables | None = None,
    max_places: int | None = MAX_PLACES,
    max_bytes: int | None = None,
    progress: bool | None = None,
) -> ScrubResult:
    """How much of a behaviour is left when all that a hypothesis does not speak of is resampled.

    Samples go through the dataset as references in random order, over and over, so that each datum is the reference
    equally often but for one. Draws are independent, with replacement.

    Args:
      params: what the graph's functions are given.
      dataset: a pytree whose leaves lead with a datum axis.
      num_samples: how many.
      key: for the draws; it is consumed.
      clip: what a loss counts at most in `clipped_loss`.
      keep_samples: whether each sample's loss and the data drawn for it are kept (`.samples`).
      tables: values to look up; by default those that the graph keeps of the last params and dataset it was asked
        about (in `graph._tables`, for as long as the graph lives).
      max_places: how many places the hypothesis may unfold to; None for any number.
      max_bytes: memory for the samples under way; by default 256 MiB. Tables may take 2 GiB beside them; what has no
        room in them is computed.
      progress: a bar with rate and time left; by default shown if it takes more than a second.

    Raises:
      TypeError, ValueError: at the call, for features that are NaN or of another length, data of different lengths, a
        "disagree" where nothing disagrees, a hypothesis that unfolds to too many places.

    Example:
      >>> graph = ji.Graph(
      ...     {
      ...         "a": ji.Node(lambda params, x: x[0] > 3, ("input",)),
      ...         "b": ji.Node(lambda params, x: x[1] > 3, ("input",)),
      ...         "either": ji.Node(lambda params, a, b: jnp.float32(a | b), ("a", "b")),
      ...     },
      ...     output="either",
      ...     loss=lambda either, x: jnp.abs(either - (x > 3).any()),
      ... )
      >>> claim = ji.Hypothesis(
      ...     graph,
      ...     interpretation={
      ...         "large": ji.Feature(lambda x: (x > 3).any(1), parents=("first",)),
      ...         "first": ji.Feature(lambda x: x[:, 0] > 3),
      ...     },
      ...     correspondence={"large": "either", "first": "a"},
      ... )
      >>> data = jax.random.randint(jax.random.key(0), (500, 2), 0, 7)
      >>> result = ji.scrub(claim, None, data, num_samples=10_000, key=jax.random.key(1))
      >>> 0.3 < result.recovered < 0.7
      True
    """
    if not isinstance(hypothesis, Hypothesis):
        raise TypeError(f"hypothesis must be a ji.Hypothesis, got {type(hypothesis).__name__}")
    if type(num_samples) is not int or num_samples < 1:
        raise ValueError(f"num_samples must be an int of at least 1, got {num_samples!r}")
    check_key(key)
    if tables is None:
        tables = tables_for(hypothesis.graph, params, dataset)
    elif tables.graph is not hypothesis.graph:
        raise ValueError("tables= are of another graph than the hypothesis")
    elif tables.fingerprint != fingerprint(params, dataset):
        raise ValueError("tables= are of other params or another dataset")
    _, plan = hypothesis.places(max_places=max_places)
    features = {
        name: feature
        for name, feature in hypothesis.interpretation.items()
        if hypothesis.samplers[name] in ("agree", "disagree") or name == hypothesis.root
    }
    partitions = {name: tables.partition(feature, name) for name, feature in features.items()}
    for name, kind in hypothesis.samplers.items():
        if kind == "disagree" and len(partitions[name].sizes) < 2:
            raise ValueError(f"sampler of {name!r}: all data agree on it, so that none disagrees")
    used = {one.feature for one in plan if one.kind in ("agree", "disagree")}
    classes = {name: tables.classes(features[name], name) for name in used}
    terms, bytes_each = tables.plan(hypothesis, lambda: _program(hypothesis, tables))
    known = {str(one): table for one, table in tables.values(terms).items()}
    n = tables.n
    order_key, run_key = jax.random.split(key)
    order = jax.random.permutation(order_key, n)
    chunk = min(LARGEST, _power_of_two((max_bytes or RUN_BYTES) // bytes_each))
    chunk = min(chunk, SMALL) if num_samples <= SMALL else chunk
    n_chunks = -(-num_samples // chunk)

    given = _Given(tables.params, tables.data, known, classes, order, run_key)
    sums = np.zeros((n, len(dataclasses.fields(Sums))))
    kept: list[Any] = []
    with tqdm(
        total=num_samples, desc="samples", unit="sample", unit_scale=True, delay=1,
        disable=None if progress is None else not progress,
    ) as bar:  # fmt: skip
        together = 1 if keep_samples else CHUNKS
        for first in range(0, n_chunks, together):
            left = min(num_samples - first * chunk, 2**31 - 1)
            where = np.int32((first * chunk) % n), np.int32(first)
            if keep_samples:
                part, draws = jax.device_get(_one_chunk(hypothesis, given, *where, size=chunk, clip=clip))
                part, drawn = part[:left], np.stack(draws, axis=1)[:left]
                kept.append((part, drawn))
                np.add.at(sums, drawn[:, 0], part)
            else:
                count = np.int32(min(together, n_chunks - first))
                sums += _many_chunks(hypothesis, given, *where, np.int32(left), count, size=chunk, clip=clip)
            bar.update(min(together * chunk, left))

    own = partitions[hypothesis.root]
    samples = _as_dataset(kept, [one.label for one in plan]) if keep_samples else None
    return summarise(Sums(*sums.T), tables.bounds, clip, own, report(hypothesis, partitions), samples)


def report(hypothesis: Hypothesis, partitions: Mapping[str, Partition]) -> xr.Dataset:
    """What weakens a test, feature by feature.

    Returns:
      Over `feature`: `classes`, how many values there are (1: it says nothing); `smallest`, data in the smallest class;
      `singletons`, data that nothing else agrees with; `self`, the probability that a datum is drawn to stand for
      itself; `entropy` of its classes, in nats. Found in `ScrubResult.features`.
    """
    rows = {}
    for name, partition in partitions.items():
        share = partition.sizes / partition.sizes.sum()
        rows[name] = (
            len(share), int(partition.sizes.min()), int((partition.sizes == 1).sum()),
            float(len(share) / partition.sizes.sum()), float(-(share * np.log(share)).sum()),
        )  # fmt: skip
    columns = zip(*rows.values(), strict=True)
    names = ("classes", "smallest", "singletons", "self", "entropy")
    return xr.Dataset(
        {name: ("feature", np.array(column)) for name, column in zip(names, columns, strict=True)},
        coords={"feature": list(rows)},
    )


def _sampled(
    hypothesis: Hypothesis,
    params: Any,
    data: Any,
    table: Any,
    shapes: Any,
    classes: dict[str, Classes],
    references: jax.Array,
    key: jax.Array,
    clip: float,
) -> tuple[jax.Array, list[jax.Array]]:
    """([sample, what `Sums` holds], the data drawn)."""
    graph = hypothesis.graph
    root, plan = hypothesis.places(max_places=None)
    draws = draw(plan, classes, len(jax.tree.leaves(data)[0]), references, key)
    outputs = Evaluator(graph, params, data, draws, table, shapes).output(root)
    about = jax.tree.map(lambda leaf: take(leaf, references), data)
    losses, correct = scored(graph, outputs, about)
    columns = [jnp.ones_like(losses), losses, jnp.minimum(losses, clip), correct, ~jnp.isfinite(losses)]
    return jnp.stack([column.astype(jnp.float32) for column in columns], axis=1), draws


class _Given(NamedTuple):
    """What all chunks of a scrub share; `order` says which data the samples are about, one after another."""

    params: Any
    data: Any
    tables: Mapping[str, jax.Array]
    classes: dict[str, Classes]
    order: jax.Array
    key: jax.Array


def _chunk(
    hypothesis: Hypothesis,
    given: _Given,
    offset: Any,
    number: Any,
    *,
    size: int,
    clip: float,
) -> tuple[jax.Array, list[jax.Array]]:
    """What `_sampled` gives for `size` samples; the first is about the datum at `offset` of the order."""
    params, data, tables, classes, order, key = given
    references = take(order, (offset + jnp.arange(size)) % len(order))
    shapes = node_shapes(hypothesis.graph, params, data)

    def table(terms: Terms) -> jax.Array | None:
        return tables.get(str(terms))

    chunk_key = jax.random.fold_in(key, number)
    return _sampled(hypothesis, params, data, table, shapes, classes, references, chunk_key, clip)


_one_chunk = jax.jit(_chunk, static_argnames=("hypothesis", "size", "clip"))


@functools.partial(jax.jit, static_argnames=("hypothesis", "size", "clip"))
def _many_chunks(
    hypothesis: Hypothesis,
    given: _Given,
    offset: Any,
    first: Any,
    left: Any,
    count: Any,
    *,
    size: int,
    clip: float,
) -> jax.Array:
    """[datum, what `Sums` holds] of `count` chunks, of which `left` samples count."""

    n = len(given.order)

    def step(i: jax.Array, sums: jax.Array) -> jax.Array:
        part, draws = _chunk(hypothesis, given, (offset + i * size) % n, first + i, size=size, clip=clip)
        return sums.at[draws[0]].add(jnp.where((i * size + jnp.arange(size) < left)[:, None], part, 0))

    return jax.lax.fori_loop(0, count, step, jnp.zeros((n, len(dataclasses.fields(Sums)))))


def _program(hypothesis: Hypothesis, tables: Tables) -> tuple[list[Terms], int]:
    """(the values that a hypothesis looks up, bytes of memory for each sample): found by tracing the program."""
    wanted: dict[Terms, None] = {}
    n, few = tables.n, 127

    def table(terms: Terms) -> jax.Array:
        wanted.setdefault(terms)
        value = shape_of(tables.shapes, terms)
        return jnp.zeros((n, *value.shape), value.dtype)

    classes = {
        name: tables.classes(hypothesis.interpretation[name], name)
        for name, kind in hypothesis.samplers.items() if kind in ("agree", "disagree")
    }  # fmt: skip

    def program(references: jax.Array, key: jax.Array) -> Any:
        return _sampled(
            hypothesis, tables.params, tables.data, table, tables.shapes, classes, references, key, clip=0.0
        )

    jaxpr = jax.make_jaxpr(program)(jax.ShapeDtypeStruct((few,), jnp.int32), jax.random.key(0))
    shapes = [var.aval for eqn in jaxpr.eqns for var in eqn.outvars if few in getattr(var.aval, "shape", ())]
    wanted.setdefault(((hypothesis.graph.output, None),))  # for the graph as it is
    return list(wanted), max(1, sum(size(one.shape, np.uint32) for one in shapes) // few)


def _power_of_two(n: int) -> int:
    """The largest power of two up to n, at least 8."""
    return max(8, 1 << (max(1, n).bit_length() - 1))


def _as_dataset(kept: list[Any], labels: list[str]) -> xr.Dataset:
    numbers = np.concatenate([part for part, _ in kept])
    draws = np.concatenate([draws for _, draws in kept])
    return xr.Dataset(
        {"loss": ("sample", numbers[:, 1]), "correct": ("sample", numbers[:, 3]), "datum": (("sample", "draw"), draws)},
        coords={"draw": labels},
    )
