"""Causal scrubbing: one compiled program per hypothesis, many samples at a time."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from jaxinterp.model.sampling import check_key
from jaxinterp.scrubbing.hypothesis import MAX_PLACES, Feature, Hypothesis
from jaxinterp.scrubbing.lookup import take
from jaxinterp.scrubbing.program import Given, MadeTables, sampled, what_is_wanted
from jaxinterp.scrubbing.result import ScrubResult, Sums, summarise
from jaxinterp.scrubbing.samplers import COMPILED, Classes, Draw, Generator, Kernel, Partition, Swaps
from jaxinterp.scrubbing.tables import Tables, fingerprint, n_data, tables_for

#: Memory for the samples under way, unless said otherwise, and the most that are.
RUN_BYTES = 2**28
LARGEST = 2**15

#: As many as this, or fewer, have a smaller program of their own.
SMALL = 2**10

#: Draws that are made from a table.
DRAWN = ("agree", "disagree", "kernel")

#: On which all data agree, and on which a datum agrees with itself alone.
EVERYTHING, ITSELF = Feature(lambda data: np.zeros(n_data(data))), Feature()

#: Data for which it is checked that what a generator makes agrees with them.
CHECKED = 64

#: Into how many cells a chunk's samples are summed at least.
CELLS = 2**12

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
        about; they go when the graph goes.
      max_places: how many places the hypothesis may unfold to; None for any number.
      max_bytes: memory for the samples under way; by default 256 MiB. What a key draws depends on it. Tables may take
        2 GiB beside them; what has no room in them is computed.
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
    check_run(num_samples, key)
    _check_limits(clip, max_bytes)
    # tables of combinations cost about as much as a sample for each
    combine = num_samples >= 2 * n_data(dataset)
    ready = make_ready(hypothesis, params, dataset, tables=tables, max_places=max_places, combine=combine)
    return run_ready(
        ready, num_samples, key, clip=clip, keep_samples=keep_samples, max_bytes=max_bytes, progress=progress
    )


@dataclasses.dataclass(frozen=True)
class Ready:
    """A hypothesis and a dataset, with all that is looked up: to be run again and again, with other ways to draw.

    Attributes:
      plan: the draws. apart: whether each has a table of its own, as in `Hypothesis.places`.
      bits_of: int[draw], if apart: whose random bits each uses, so that what runs together has one datum.
      classes: what is drawn from, by the draws' `table`.
      known: the looked-up values. bytes_each: memory for a sample.
    """

    hypothesis: Hypothesis
    tables: Tables
    plan: list[Draw]
    apart: bool
    bits_of: np.ndarray | None
    partitions: dict[str, Partition]
    classes: dict[str, Classes | Swaps]
    known: dict[str, Any]
    bytes_each: int


def make_ready(
    hypothesis: Hypothesis,
    params: Any,
    dataset: Any,
    *,
    tables: Tables | None = None,
    max_places: int | None = MAX_PLACES,
    apart: bool = False,
    combine: bool = True,
) -> Ready:
    """All of a scrub that does not depend on the draws.

    Args:
      apart: as in `Hypothesis.places`. combine: whether tables of combinations are made, where there is room.
      Others, and errors, as of `scrub`.
    """
    if not isinstance(hypothesis, Hypothesis):
        raise TypeError(f"hypothesis must be a ji.Hypothesis, got {type(hypothesis).__name__}")
    if tables is None:
        tables = tables_for(hypothesis.graph, params, dataset)
    elif tables.graph is not hypothesis.graph.bare:
        raise ValueError("tables= are of another graph than the hypothesis")
    elif tables.fingerprint != fingerprint(params, dataset):
        raise ValueError("tables= are of other params or another dataset")
    _, plan = hypothesis.places(max_places=max_places, apart=apart)
    drawn = {name: str(sampler) for name, sampler in hypothesis.samplers.items()}
    partitions = {name: tables.partition(feature, name) for name, feature in hypothesis.interpretation.items()}
    for name, kind in drawn.items():
        if kind == "disagree" and len(partitions[name].sizes) < 2:
            raise ValueError(f"sampler of {name!r}: all data agree on it, so that none disagrees")
        if kind == "generator":
            _check_generator(hypothesis, tables, name)
    classes = {one.table: _drawn_from(hypothesis, tables, one) for one in plan if one.kind in DRAWN}
    bare = hypothesis.bare
    wanted = tables.plan(
        (bare, apart, combine), lambda: what_is_wanted(bare, tables, classes, apart=apart, combine=combine)
    )
    known: dict[str, Any] = {str(one): table for one, table in tables.values(wanted.terms).items()}
    known |= {f"distinct {one}": found for one, found in wanted.answers.items() if found is not None}
    known |= tables.combined(wanted.combinations)
    bits_of = _bits_of(hypothesis, plan) if apart else None
    return Ready(bare, tables, plan, apart, bits_of, partitions, classes, known, wanted.bytes_each)


def _bits_of(hypothesis: Hypothesis, plan: list[Draw]) -> np.ndarray:
    first: dict[int, int] = {}
    bits_of = np.arange(len(plan))
    for number, one in enumerate(plan):
        if not one.feature and one.kind != "reference" and hypothesis.unimportant == "together":
            bits_of[number] = first.setdefault(one.given, number)  # each place has a draw of its own
    return bits_of


def _drawn_from(hypothesis: Hypothesis, tables: Tables, one: Draw) -> Classes | Swaps:
    """What a draw is made from."""
    if not one.feature:
        return tables.classes(EVERYTHING, one.label)
    feature, sampler = hypothesis.interpretation[one.feature], hypothesis.samplers[one.feature]
    if isinstance(sampler, Kernel):
        return tables.swaps(feature, sampler, one.feature)
    chosen = {"exact": ITSELF, "unconditional": EVERYTHING}.get(str(sampler), feature)
    return tables.classes(chosen, one.feature)


def run_ready(
    ready: Ready,
    num_samples: int,
    key: jax.Array,
    *,
    classes: Mapping[str, Classes | Swaps] | None = None,
    bits_of: np.ndarray | None = None,
    clip: float = 10.0,
    keep_samples: bool = False,
    max_bytes: int | None = None,
    progress: bool | None = None,
) -> ScrubResult:
    """A scrub.

    Args:
      classes: what some draws are made from instead of their own. bits_of: as in `samplers.draw`.
      Others as of `scrub`.
    """
    _check_limits(clip, max_bytes)
    hypothesis, tables, apart = ready.hypothesis, ready.tables, ready.apart
    n = tables.n
    order_key, run_key = jax.random.split(key)
    order = jax.random.permutation(order_key, n)
    chunk = min(LARGEST, _power_of_two((RUN_BYTES if max_bytes is None else max_bytes) // ready.bytes_each))
    chunk = min(chunk, SMALL) if num_samples <= SMALL else chunk
    n_chunks = -(-num_samples // chunk)

    given = Given(
        tables.params, tables.data, ready.known, {**ready.classes, **(classes or {})}, order, run_key,
        ready.bits_of if bits_of is None else bits_of,
    )  # fmt: skip
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
            static = {"apart": apart, "size": chunk, "clip": clip}
            if keep_samples:
                part, draws = jax.device_get(_one_chunk(hypothesis, given, *where, **static))
                part, drawn = part[:left], np.stack(draws, axis=1)[:left]
                kept.append((part, drawn))
                np.add.at(sums, drawn[:, 0], part)
            else:
                count = np.int32(min(together, n_chunks - first))
                sums += _many_chunks(hypothesis, given, *where, np.int32(left), count, **static)
            bar.update(min(together * chunk, left))

    own = ready.partitions[hypothesis.root]
    samples = _as_dataset(kept, [one.label for one in ready.plan]) if keep_samples else None
    features = report(hypothesis, ready.partitions)
    return summarise(Sums(*sums.T), tables.bounds, clip, own, features, samples)


def check_run(num_samples: int, key: jax.Array) -> None:
    """Raises a TypeError or ValueError for what is no number of samples, or no key."""
    if type(num_samples) is not int or num_samples < 1:
        raise ValueError(f"num_samples must be an int of at least 1, got {num_samples!r}")
    check_key(key)


def _check_limits(clip: float, max_bytes: int | None) -> None:
    if not isinstance(clip, int | float) or not clip > 0:
        raise ValueError(f"clip must be a number above 0, got {clip!r}")
    if max_bytes is not None and (type(max_bytes) is not int or max_bytes < 1):
        raise ValueError(f"max_bytes must be an int of at least 1, or None, got {max_bytes!r}")


def check_tables(hypothesis: Hypothesis, who: str) -> None:
    """Raises a ValueError for a sampler that is part of the program, where all must be tables."""
    for name, sampler in hypothesis.samplers.items():
        if str(sampler) in COMPILED:
            raise ValueError(
                f"{who}: the sampler of {name!r} is {str(sampler)!r}; expected 'agree', 'exact', 'unconditional'"
            )


def report(hypothesis: Hypothesis, partitions: Mapping[str, Partition]) -> xr.Dataset:
    """What weakens a test, feature by feature.

    Returns:
      Over `feature`: `classes`, how many values there are (1: it says nothing); `smallest`, data in the smallest class;
      `singletons`, data that nothing else agrees with; `self`, the probability that a datum is drawn to stand for
      itself; `entropy` of its classes, in nats; `drift`, how far the data drawn are from the dataset's distribution (of
      1, in total variation: 0 but for kernels and "disagree"). Found in `ScrubResult.features`.
    """
    rows = {}
    for name, partition in partitions.items():
        share = partition.sizes / partition.sizes.sum()
        n, sampler, drift = partition.sizes.sum(), hypothesis.samplers[name], 0.0
        itself = {"exact": 1.0, "unconditional": 1 / n, "disagree": 0.0, "generator": np.nan}.get(
            str(sampler), len(share) / n
        )
        if str(sampler) == "disagree":
            # of all data that may be drawn for one of each class, those of each class
            swaps = np.where(np.eye(len(share), dtype=bool), 0, share) / (1 - share)[:, None]
            drift = abs(share @ swaps - share).sum() / 2
        elif isinstance(sampler, Kernel):
            swaps = partition.probabilities(sampler, name)
            itself = (share * swaps.diagonal() / partition.sizes).sum()
            drift = abs(share @ swaps - share).sum() / 2
        rows[name] = (
            len(share), int(partition.sizes.min()), int((partition.sizes == 1).sum()), float(itself),
            float(-(share * np.log(share)).sum()), float(drift),
        )  # fmt: skip
    columns = zip(*rows.values(), strict=True)
    names = ("classes", "smallest", "singletons", "self", "entropy", "drift")
    return xr.Dataset(
        {name: ("feature", np.array(column)) for name, column in zip(names, columns, strict=True)},
        coords={"feature": list(rows)},
    )


def _check_generator(hypothesis: Hypothesis, tables: Tables, name: str) -> None:
    """Raises a ValueError if what a generator makes for the first data does not agree with them on its feature."""
    feature, generator = hypothesis.interpretation[name], hypothesis.samplers[name]
    assert isinstance(generator, Generator)
    if not callable(feature.values):
        raise ValueError(
            f"sampler of {name!r}: a generator's data are in no dataset, so that the feature must be a function"
        )
    few = jax.tree.map(lambda leaf: leaf[:CHECKED], tables.data)
    n = n_data(few)
    made = jax.vmap(generator.make)(jax.random.split(jax.random.key(0), n), few)
    expected, found = (jax.tree.map(lambda leaf: (np.shape(leaf), np.result_type(leaf)), tree) for tree in (few, made))
    if expected != found:
        raise ValueError(f"sampler of {name!r}: the generator makes data of another structure: {found}, not {expected}")
    both = jax.tree.map(lambda a, b: np.concatenate([a, b]), few, made)
    codes = feature.partition(both, 2 * n, name).codes
    if (differ := codes[:n] != codes[n:]).any():
        raise ValueError(
            f"sampler of {name!r}: what the generator makes for datum {int(differ.argmax())} does not agree with it"
        )


def _chunk(
    hypothesis: Hypothesis, given: Given, offset: Any, number: Any, *, apart: bool, size: int, clip: float
) -> tuple[jax.Array, list[jax.Array]]:
    """What `sampled` gives for `size` samples; the first is about the datum at `offset` of the order."""
    references = take(given.order, (offset + jnp.arange(size)) % len(given.order))

    key = jax.random.fold_in(given.key, number)
    return sampled(hypothesis, given, MadeTables(given.tables), references, key, apart=apart, clip=clip)


_one_chunk = jax.jit(_chunk, static_argnames=("hypothesis", "apart", "size", "clip"))


@functools.partial(jax.jit, static_argnames=("hypothesis", "apart", "size", "clip"))
def _many_chunks(
    hypothesis: Hypothesis,
    given: Given,
    offset: Any,
    first: Any,
    left: Any,
    count: Any,
    *,
    apart: bool,
    size: int,
    clip: float,
) -> jax.Array:
    """[datum, what `Sums` holds] of `count` chunks, of which `left` samples count."""

    n, width = len(given.order), len(dataclasses.fields(Sums))
    # float32 sums: few addends in each cell, and what each step loses is carried along (Kahan)
    side = max(1, math.isqrt(CELLS // n))
    row = jnp.arange(size)

    def step(i: jax.Array, carried: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        sums, lost = carried
        where = (offset + i * size) % n, first + i
        part, draws = _chunk(hypothesis, given, *where, apart=apart, size=size, clip=clip)
        own = jnp.zeros((side**2 * n, width)).at[row % side**2 * n + draws[0]]
        part = (
            own.add(jnp.where((i * size + row < left)[:, None], part, 0)).reshape(side, side, n, width).sum(1).sum(0)
            - lost
        )
        total = sums + part
        return total, total - sums - part

    zeros = jnp.zeros((n, width))
    return jax.lax.fori_loop(0, count, step, (zeros, zeros))[0]


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
