"""What scrubs of one graph on one dataset share: looked-up values, classes, the model's own losses."""

import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp.scrubbing.expressions import Combined, Look, Terms, evaluated
from jaxinterp.scrubbing.graph import Graph, check_shapes, values
from jaxinterp.scrubbing.hypothesis import Feature
from jaxinterp.scrubbing.lookup import COMBINATIONS, size, take
from jaxinterp.scrubbing.result import Bounds
from jaxinterp.scrubbing.samplers import Classes, Kernel, Partition, Swaps

#: Memory for tables, unless said otherwise; and data in one step of the pass that fills them.
TABLE_BYTES = 2**31
PASS = 256

#: Of a datum: whether larger values have few different ones is not asked.
DISTINCT_BYTES = 2048


class Tables:
    """Values of a graph's nodes on every datum, and all else that hypotheses about it share; filled as it is asked for.

    Args:
      graph, params, dataset: as in `ji.scrub`.
      max_bytes: memory for the values, by default 2 GiB; what has no room is computed whenever it is needed.

    Raises:
      ValueError: a dataset that is empty, or whose leaves have different lengths.

    Example:
      >>> graph = ji.scrubbing.transformer_graph(model, params, tokens, loss=lambda logits, datum: -logits[3])
      >>> tables = ji.scrubbing.Tables(graph, params, tokens)
      >>> whole = ji.Hypothesis(graph, {"all": ji.Feature()}, {"all": "logits"})
      >>> result = ji.scrub(whole, params, tokens, num_samples=4, key=jax.random.key(0), tables=tables)
      >>> result.loss == result.model_loss
      True
    """

    def __init__(self, graph: Graph, params: Any, dataset: Any, *, max_bytes: int | None = None) -> None:
        self.n = n_data(dataset)
        # neither tables nor programs hold on to the graph that holds the tables
        self.graph, self.dataset = graph.bare, dataset
        # NumPy arrays cannot be indexed by what is traced
        self.params = jax.tree.map(lambda leaf: jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf, params)
        self.data = jax.tree.map(jnp.asarray, dataset)
        self.max_bytes = TABLE_BYTES if max_bytes is None else max_bytes
        if graph.check is not None:
            graph.check(dataset)
        self.shapes = node_shapes(graph, self.params, self.data)
        check_shapes(graph, self.shapes)
        self.fingerprint = fingerprint(params, dataset)
        self._output: Terms = ((graph.output, None),)
        self._values: dict[Terms, jax.Array] = {}
        self._partitions: dict[Feature, Partition] = {}
        self._classes: dict[Feature, Classes] = {}
        self._swaps: dict[tuple[Feature, Kernel], Swaps] = {}
        self._plans: dict[Any, Any] = {}
        self._distinct: dict[tuple[Terms, ...], tuple[np.ndarray, np.ndarray] | None] = {}
        self._combined: dict[str, jax.Array] = {}

    def values(self, terms: Sequence[Terms]) -> dict[Terms, jax.Array]:
        """Tables [datum, ...] of these terms, as far as there is room."""
        room, new, output = self.room, [], self._output
        unknown = [one for one in terms if one not in self._values]
        for one in sorted(unknown, key=self.bytes_of):
            room -= 0 if one == output else self.n * self.bytes_of(one)
            if room >= 0 or (one == output and self.n * self.bytes_of(one) <= self.max_bytes):
                new.append(one)
        if new:
            self._values |= dict(zip(new, _pass(self.graph, self.params, self.data, tuple(new)), strict=True))
        return {one: self._values[one] for one in terms if one in self._values}

    def holds(self, what: Terms | str) -> bool:
        """Whether there is a table of these terms, or of this combination, already."""
        return what in self._combined if isinstance(what, str) else what in self._values

    @property
    def room(self) -> int:
        """Bytes that are left for tables; some are always kept for the output, without which nothing is scored."""
        taken = [table.nbytes for one, table in self._values.items() if one != self._output]
        combined = sum(table.nbytes for table in self._combined.values())
        return self.max_bytes - self.n * self.bytes_of(self._output) - sum(taken) - combined

    def is_small(self, terms: tuple[Terms, ...]) -> bool:
        """Whether it is worth asking if these have few different values."""
        reads_input = any(name == self.graph.input for one in terms for name, _ in one)
        return not reads_input and sum(map(self.bytes_of, terms)) <= DISTINCT_BYTES

    def distinct(self, terms: tuple[Terms, ...]) -> tuple[np.ndarray, np.ndarray] | None:
        """(the number of each datum's value, a datum for each value), if these have few different values together."""
        if terms not in self._distinct:
            self._distinct[terms] = self._found_distinct(terms) if self.is_small(terms) else None
        return self._distinct[terms]

    def _found_distinct(self, terms: tuple[Terms, ...]) -> tuple[np.ndarray, np.ndarray] | None:
        tables = self.values(terms)
        if len(tables) < len(terms):
            return None
        rows = np.concatenate([np.asarray(table).reshape(self.n, -1).view(np.uint8) for table in tables.values()], 1)
        whole = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.shape[1])))[:, 0]
        _, representatives, codes = np.unique(whole, return_index=True, return_inverse=True)
        if len(representatives) > COMBINATIONS:
            return None
        return codes.astype(np.int32), representatives.astype(np.int32)

    def sizes(self, what: Combined) -> list[int]:
        """How many data or values there are of each draw of a combination."""
        few = [None if terms is None else self.distinct(terms) for terms in what.distinct]
        return [self.n if one is None else len(one[1]) for one in few]

    def shape(self, what: Combined) -> jax.ShapeDtypeStruct:
        """Of one combination's value."""
        datum = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), self.data)
        return jax.eval_shape(
            lambda data: _of_data(self.graph, self.params, [what], data)[0], [datum] * len(what.distinct)
        )

    def combined(self, wanted: dict[str, Combined]) -> dict[str, jax.Array]:
        """Tables of combinations by name, as far as they were not made before."""
        new: dict[Any, list[str]] = {}
        for name, what in wanted.items():
            if name not in self._combined:
                new.setdefault(what.distinct, []).append(name)
        for distinct, names in new.items():
            of = [np.arange(self.n) if terms is None else self.distinct(terms)[1] for terms in distinct]  # type: ignore[index]
            at = np.stack([grid.reshape(-1) for grid in np.meshgrid(*of, indexing="ij")], axis=1).astype(np.int32)
            found = _combine(self.graph, self.params, self.data, at, tuple(wanted[name] for name in names))
            self._combined |= dict(zip(names, found, strict=True))
        return {name: self._combined[name] for name in wanted}

    def bytes_of(self, terms: Terms) -> int:
        """For one datum."""
        shape = shape_of(self.shapes, terms)
        return size(shape.shape, shape.dtype)

    def partition(self, feature: Feature, name: str) -> Partition:
        """The classes of a feature."""
        if feature not in self._partitions:
            self._partitions[feature] = feature.partition(self.dataset, self.n, name)
        return self._partitions[feature]

    def classes(self, feature: Feature, name: str) -> Classes:
        """The same, as tables to draw from."""
        if feature not in self._classes:
            self._classes[feature] = jax.device_put(self.partition(feature, name).classes())
        return self._classes[feature]

    def swaps(self, feature: Feature, kernel: Kernel, name: str) -> Swaps:
        """A kernel over the classes of a feature, as tables to draw from."""
        if (feature, kernel) not in self._swaps:
            partition = self.partition(feature, name)
            swaps = partition.swaps(partition.probabilities(kernel, f"sampler of {name!r}"))
            self._swaps[feature, kernel] = jax.device_put(swaps)
        return self._swaps[feature, kernel]

    def plan(self, key: Any, make: Callable[[], Any]) -> Any:
        """What was made for this key before, or is now."""
        if key not in self._plans:
            self._plans[key] = make()
        return self._plans[key]

    def check_bounds(self, who: str) -> None:
        """Raises a ValueError where recovered performance means nothing, so that no search can compare it."""
        bounds = self.bounds
        for name, losses in (("as it is", bounds.model_loss), ("with outputs of other data", bounds.random_loss)):
            if count := int((~np.isfinite(losses)).sum()):
                raise ValueError(
                    f"{who}: {count} of {self.n} losses of the graph {name} are not finite: no score can be compared"
                )

    @functools.cached_property
    def bounds(self) -> Bounds:
        """Losses of the graph as it is, and with the outputs of other data."""
        output = self.values([self._output])
        if not output:
            raise ValueError(f"max_bytes={self.max_bytes} leaves no room for the output of every datum")
        (outputs,) = output.values()
        rounds = self.n if self.n <= 512 else int(np.clip(2**20 // self.n, 8, 64))
        found = _compared(self.graph, outputs, self.data, rounds=rounds)
        return Bounds(*(np.asarray(each, np.float64) for each in found))


def tables_for(graph: Graph, params: Any, dataset: Any) -> Tables:
    """The tables that the graph keeps of the last params and dataset it was asked about, or new ones."""
    kept = graph.__dict__.get("_tables")
    if kept is None or kept.fingerprint != fingerprint(params, dataset):
        kept = Tables(graph, params, dataset)
        object.__setattr__(graph, "_tables", kept)
    return kept


def fingerprint(*trees: Any) -> tuple[Any, ...]:
    """Equal only for the same values: JAX arrays by identity, for they never change, all else by content."""
    leaves, structure = jax.tree.flatten(trees)
    return structure, *(_Same(leaf) if isinstance(leaf, jax.Array) else _content(leaf) for leaf in leaves)


class _Same:
    """An array that is equal to itself alone; held, so that no other takes its place."""

    def __init__(self, array: jax.Array) -> None:
        self.array = array

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.array is self.array

    __hash__ = None  # type: ignore[assignment]


def _content(leaf: Any) -> tuple[Any, ...]:
    array = np.ascontiguousarray(leaf)
    return array.shape, array.dtype.str, hashlib.blake2b(array.tobytes()).digest()


def n_data(dataset: Any) -> int:
    """How many data a dataset holds.

    Raises:
      ValueError: none, or leaves that disagree.
    """
    lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(dataset)}
    if len(lengths) != 1 or lengths == {()}:
        told = sorted(length[0] if length else "none" for length in lengths)
        raise ValueError(f"every leaf of the dataset must lead with one datum axis of the same length, got {told}")
    ((n,),) = lengths
    if not n:
        raise ValueError("the dataset is empty")
    return n


def node_shapes(graph: Graph, params: Any, data: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of each node's value, for one datum."""
    names = list(graph.nodes)
    found = jax.eval_shape(lambda: values(graph, params, first(data), [(name, None) for name in names]))
    return dict(zip(names, found, strict=True))


def shape_of(shapes: dict[str, jax.ShapeDtypeStruct], terms: Terms) -> jax.ShapeDtypeStruct:
    """Of a sum of rows of nodes; those of fewer axes are broadcast."""
    each = []
    for name, rows in terms:
        shape = shapes[name].shape
        each.append(shape if rows is None or name_is_free(shapes, terms, name) else (len(rows), *shape[1:]))
    return jax.ShapeDtypeStruct(
        jnp.broadcast_shapes(*each), jnp.result_type(*(shapes[name].dtype for name, _ in terms))
    )


def name_is_free(shapes: dict[str, jax.ShapeDtypeStruct], terms: Terms, name: str) -> bool:
    """Whether a term has no rows to choose from, for it is the same at all of them."""
    return len(shapes[name].shape) < max(len(shapes[other].shape) for other, _ in terms)


def first(data: Any) -> Any:
    """The first datum."""
    return jax.tree.map(lambda leaf: leaf[0], data)


@functools.partial(jax.jit, static_argnames=("graph", "terms"))
def _pass(graph: Graph, params: Any, data: Any, terms: tuple[Terms, ...]) -> list[jax.Array]:
    """An ordinary pass over the dataset."""
    parts = list(dict.fromkeys(part for one in terms for part in one))

    def one(datum: Any) -> list[jax.Array]:
        known = dict(zip(parts, values(graph, params, datum, parts), strict=True))
        return [functools.reduce(jnp.add, [known[part] for part in one]) for one in terms]

    return _stepwise(one, data)


def in_steps(n: int) -> tuple[np.ndarray, np.ndarray]:
    """(the numbers 0 to n - 1 in steps of one size, [step, number of it]; which count, for some stand twice)."""
    steps = -(-n // PASS)
    at = np.arange(steps * -(-n // steps), dtype=np.int32).reshape(steps, -1)
    return at % n, at < n


def _stepwise(fn: Callable[[Any], list[jax.Array]], data: Any) -> list[jax.Array]:
    """A function of every datum. (`jax.lax.map(batch_size=)` compiles it twice, once for what is left over.)"""
    at, _ = in_steps(n_data(data))
    found = jax.lax.map(jax.vmap(fn), jax.tree.map(lambda leaf: leaf[at], data))
    return [table.reshape(-1, *table.shape[2:])[: n_data(data)] for table in found]


@functools.partial(jax.jit, static_argnames=("graph", "wanted"))
def _combine(graph: Graph, params: Any, data: Any, at: jax.Array, wanted: tuple[Combined, ...]) -> list[jax.Array]:
    """What is wanted of combinations of data `at`, int[combination, draw]."""

    def one(at: jax.Array) -> list[jax.Array]:
        data_of = [jax.tree.map(lambda leaf, i=i: take(leaf, i), data) for i in at]
        return _of_data(graph, params, wanted, data_of)

    return _stepwise(one, at)


def _of_data(graph: Graph, params: Any, wanted: Sequence[Combined], data: Sequence[Any]) -> list[jax.Array]:
    """What is wanted of one combination: everything that is of one datum in one pass."""
    looks = dict.fromkeys(look for what in wanted for look in what.expression.looks)
    found: dict[Look, Any] = {}
    for place in (None, *range(len(data))):
        own = [look for look in looks if look.datum == place]
        parts = list(dict.fromkeys(part for look in own for part in look.terms))
        known = dict(zip(parts, values(graph, params, None if place is None else data[place], parts), strict=True))
        found |= {look: functools.reduce(jnp.add, [known[part] for part in look.terms]) for look in own}
    return [evaluated(graph, params, what.expression, found) for what in wanted]


def scored(graph: Graph, outputs: jax.Array, about: Any) -> tuple[jax.Array, jax.Array]:
    """(loss, whether it is right) of outputs [sample, ...], for the data that they are about."""
    losses = outputs if graph.loss is None else jax.vmap(graph.loss)(outputs, about)
    if losses.ndim != 1:
        raise ValueError(
            f"a loss must be one number for each sample, got shape {losses.shape[1:]}; give the graph loss="
        )
    # 0-1 losses may be truth values, and halves would overflow in sums
    losses = losses.astype(jnp.promote_types(losses.dtype, jnp.float32))
    correct = jnp.full(losses.shape, jnp.nan) if graph.correct is None else jax.vmap(graph.correct)(outputs, about)
    return losses, correct


@functools.partial(jax.jit, static_argnames=("graph", "rounds"))
def _compared(graph: Graph, outputs: jax.Array, data: Any, *, rounds: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    n = len(outputs)
    loss, correct = scored(graph, outputs, data)

    def shifted(i: jax.Array, total: jax.Array) -> jax.Array:
        # all pairs if there are few; else outputs permuted against data, again and again
        other = (jnp.arange(n) + i) % n if rounds == n else jax.random.permutation(jax.random.key(i), n)
        return total + scored(graph, take(outputs, other), data)[0]

    return loss, correct, jax.lax.fori_loop(0, rounds, shifted, jnp.zeros_like(loss)) / rounds
