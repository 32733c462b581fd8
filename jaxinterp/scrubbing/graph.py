"""Computational graphs: named pure functions of one datum, wired to one another.

A hypothesis speaks of the *visible* nodes of a graph. Hidden nodes are private to whoever reads them: each visible
reader computes its own copy from the visible nodes behind it, so that hiding the sums of a residual stream makes every
earlier writer a direct parent of every later reader.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp.model.config import suggest

#: Rows of a value, by number; None: all.
Rows = tuple[int, ...] | None

KINDS = ("fn", "sum", "rows", "joined")

#: What to do about constants with rows.
FREE = "let it read the input, so that its rows can be told apart"


@dataclasses.dataclass(frozen=True)
class Node:
    """One step of a computation.

    Attributes:
      fn: `fn(params, *values of the parents) -> value`, pure JAX, of a single datum. None for the other kinds.
      parents: the nodes that it reads, in the order of its arguments.
      kind: "fn"; "sum", of all parents; "rows", the parent's rows `rows`; "joined", the parents' rows put together,
        the first parent's at `places[0]` and so on. Terms of a sum have one shape; a node without parents is the same
        at all rows, and has none.
      by_row: for a function whose value has rows (its leading axis): for each parent, whether row i of the value reads
        only row i of it. Then `fn` takes `rows=` (int[n], or None for all) and computes these alone, from as many rows
        of those parents. None: a function that is computed whole.

    Raises:
      TypeError, ValueError: parents that are a string, a kind without what it needs.

    Example:
      >>> double = ji.Node(lambda params, x, *, rows=None: 2 * x, ("stream",), by_row=(True,))
      >>> double.parents
      ('stream',)
    """

    fn: Callable[..., Any] | None = None
    parents: tuple[str, ...] = ()
    kind: Literal["fn", "sum", "rows", "joined"] = "fn"
    by_row: tuple[bool, ...] | None = None
    rows: Rows = None
    places: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.parents, str):
            raise TypeError(f"parents must be a tuple of names, got the string {self.parents!r}")
        object.__setattr__(self, "parents", tuple(self.parents))
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind {self.kind!r}; {suggest(str(self.kind), KINDS)}")
        if (self.fn is None) == (self.kind == "fn"):
            raise ValueError(f"a node of kind {self.kind!r} {'needs' if self.kind == 'fn' else 'has no'} fn")
        if self.by_row is not None and len(self.by_row) != len(self.parents):
            raise ValueError(f"by_row has {len(self.by_row)} entries for {len(self.parents)} parents")
        if self.kind == "sum" and not self.parents:
            raise ValueError("a sum needs parents")
        if (self.rows is not None) != (self.kind == "rows") or (self.kind == "rows" and len(self.parents) != 1):
            raise ValueError(
                f"a node of kind 'rows' has rows= and one parent, and no other has rows=, got {self.rows!r}"
            )
        for rows in (self.rows or (), *self.places):
            if any(row < 0 for row in rows) or any(b <= a for a, b in itertools.pairwise(rows)):
                raise ValueError(f"rows are told in ascending order, from 0, each once, got {rows}")
        together = sorted(row for rows in self.places for row in rows)
        if self.kind == "joined" and (len(self.places) != len(self.parents) or together != list(range(len(together)))):
            raise ValueError(f"places must say of each parent where its rows stand, each place once: {self.places}")


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """A computation from one datum to one output, and the behaviour that is to be explained.

    Attributes:
      nodes: `{name: Node}`; parents may stand in any order, without circles.
      output: the node whose value the behaviour is about.
      input: the name that stands for the datum itself: what functions that read it get, a pytree.
      loss: `loss(output's value, datum) -> scalar`, in nats or what you like; None if the output is a scalar itself.
      correct: `correct(output's value, datum) -> bool`; None where there is no right and wrong.
      check: `check(dataset)` raises for what the functions cannot take.
      examples: (params, data whose leaves lead with an example axis): on which rewrites are checked, and which tell
        how many rows there are.
      hidden: nodes of which a hypothesis cannot speak.
      through: `{reader: nodes}` that are hidden to this reader alone.

    Raises:
      TypeError, ValueError: unknown parents, circles, an output that is no node.

    Example:
      >>> graph = ji.Graph(
      ...     {
      ...         "a": ji.Node(lambda params, x: x[0] > 3, ("input",)),
      ...         "b": ji.Node(lambda params, x: x[1] > 3, ("input",)),
      ...         "either": ji.Node(lambda params, a, b: jnp.float32(a | b), ("a", "b")),
      ...     },
      ...     output="either",
      ... )
      >>> graph.parents("either")
      ('a', 'b')
      >>> graph(None, jnp.array([1.0, 5.0]))
      Array(1., dtype=float32)
    """

    nodes: Mapping[str, Node]
    output: str
    input: str = "input"
    loss: Callable[[Any, Any], Any] | None = None
    correct: Callable[[Any, Any], Any] | None = None
    check: Callable[[Any], None] | None = None
    examples: Any = None
    hidden: frozenset[str] = frozenset()
    through: Mapping[str, frozenset[str]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.input in self.nodes:
            raise ValueError(f"{self.input!r} stands for the datum and cannot be a node; rename one of the two")
        for name, node in self.nodes.items():
            if not isinstance(node, Node):
                raise TypeError(f"nodes[{name!r}] must be a ji.Node, got {type(node).__name__}")
            for i, parent in enumerate(node.parents):
                if parent != self.input:
                    self.check_node(parent, f"parents of {name!r}")
                elif node.kind == "rows" or (node.by_row or (False,) * (i + 1))[i]:
                    raise ValueError(f"{name!r} reads rows of the datum itself; make them a node first")
        self.check_node(self.output, "output")
        for name in (*self.hidden, *self.through, *(n for names in self.through.values() for n in names)):
            self.check_node(name, "hidden, through")
        if self.output in self.hidden:
            raise ValueError(f"the output {self.output!r} cannot be hidden")
        self._check_circles()

    @functools.cached_property
    def bare(self) -> "Graph":
        """The same without examples: compiled programs keep their graph, and nothing large may hang on that."""
        bare = dataclasses.replace(self, examples=None)
        bare.__dict__["bare"] = bare
        return bare

    def __call__(self, params: Any, datum: Any) -> Any:
        """The output's value on one datum."""
        return self.value(params, datum, self.output)

    def value(self, params: Any, datum: Any, name: str, rows: Rows = None) -> Any:
        """A node's value (or some rows of it) on one datum: the plain computation."""
        return values(self, params, datum, [(name, rows)])[0]

    def parents(self, name: str) -> tuple[str, ...]:
        """The visible nodes (or the input) that a visible node reads, directly or through what is hidden to it."""
        self.check_node(name, "name")
        return self._visible_parents(name)

    def upstream(self, name: str) -> frozenset[str]:
        """Every visible node from which a path leads to this one."""
        found: set[str] = set()
        stack = [name]
        while stack:
            for parent in self.parents(stack.pop()):
                if parent != self.input and parent not in found:
                    found.add(parent)
                    stack.append(parent)
        return frozenset(found)

    @property
    def visible(self) -> tuple[str, ...]:
        """The nodes of which a hypothesis can speak."""
        return tuple(name for name in self.nodes if name not in self.hidden)

    def check_node(self, name: str, argument: str) -> None:
        """Raises a ValueError that suggests what is near for a name that is no node."""
        if name not in self.nodes:
            raise ValueError(f"{argument}: unknown node {name!r}; {suggest(str(name), self.nodes)}")

    def is_inside(self, name: str, reader: str) -> bool:
        """Whether a node is a private part of what a visible reader computes."""
        return name in self.hidden or name in self.through.get(reader, ())

    def _check_circles(self) -> None:
        state: dict[str, int] = {}
        for start in self.nodes:
            stack = [(start, iter(self.nodes[start].parents))] if start not in state else []
            state.setdefault(start, 1)
            while stack:
                name, rest = stack[-1]
                for parent in rest:
                    if state.get(parent) == 1:
                        circle = [name for name, _ in stack]
                        raise ValueError(f"a circle: {' <- '.join([*circle[circle.index(parent) :], parent])}")
                    if parent != self.input and parent not in state:
                        state[parent] = 1
                        stack.append((parent, iter(self.nodes[parent].parents)))
                        break
                else:
                    state[name] = 2
                    stack.pop()

    def _visible_parents(self, reader: str) -> tuple[str, ...]:
        found: dict[str, None] = {}
        seen: set[tuple[str, Rows]] = set()

        def visit(name: str, rows: Rows) -> None:
            if name == self.input or (name != reader and not self.is_inside(name, reader)):
                found.setdefault(name)
                return
            if (name, rows) in seen:
                return
            seen.add((name, rows))
            for parent, wanted in needs(self.nodes[name], rows):
                visit(parent, wanted)

        visit(reader, None)
        return tuple(found)


def needs(node: Node, rows: Rows) -> list[tuple[str, Rows]]:
    """(parent, its rows) for each parent that some rows of a node read."""
    if node.kind == "rows":
        assert node.rows is not None
        return [(node.parents[0], node.rows if rows is None else tuple(node.rows[row] for row in rows))]
    if node.kind == "joined":
        if rows is None:
            return [(parent, None) for parent in node.parents]
        shares = [tuple(places.index(row) for row in rows if row in places) for places in node.places]
        return [(parent, share) for parent, share in zip(node.parents, shares, strict=True) if share]
    by_row = [True] * len(node.parents) if node.kind == "sum" else node.by_row or [False] * len(node.parents)
    return [(parent, rows if own else None) for parent, own in zip(node.parents, by_row, strict=True)]


def values(graph: Graph, params: Any, datum: Any, wanted: Sequence[tuple[str, Rows]]) -> list[Any]:
    """Values of some nodes, or of some of their rows, on one datum: each node is computed once, at all rows needed.

    Args:
      wanted: (name, rows) of each.
    """
    # readers before what they read, so that all demands on a node are known when its own are made
    order: dict[str, None] = {}

    def visit(name: str) -> None:
        if name != graph.input and name not in order:
            for parent in graph.nodes[name].parents:
                visit(parent)
            order[name] = None

    for name, _ in wanted:
        visit(name)
    demands: dict[str, Rows] = {}

    def demand(name: str, rows: Rows) -> None:
        before = demands.get(name, ())
        demands[name] = None if rows is None or before is None else tuple(sorted({*before, *rows}))

    for name, rows in wanted:
        demand(name, rows)
    for name in reversed(order):
        if name in demands:
            for parent, share in needs(graph.nodes[name], demands[name]):
                demand(parent, share)

    known: dict[str, Any] = {graph.input: datum}

    def rows_of(name: str, rows: Rows) -> Any:
        at = demands[name]
        if name == graph.input or (rows == at and graph.nodes[name].parents):
            return known[name]
        if not graph.nodes[name].parents:
            if rows is not None and jnp.ndim(known[name]) > 1:
                raise ValueError(
                    f"{name!r} has no parents, so that it is the same at all rows, and yet has rows: {FREE}"
                )
            return known[name]
        assert rows is not None
        return known[name][np.array(rows if at is None else [at.index(row) for row in rows])]

    for name in (name for name in order if name in demands):
        node, rows = graph.nodes[name], demands[name]
        arguments = [rows_of(parent, share) for parent, share in needs(node, rows)]
        with naming(f"node {name!r}"):
            known[name] = computed(node, params, arguments, rows)
    return [rows_of(name, rows) for name, rows in wanted]


@contextlib.contextmanager
def naming(what: str) -> Iterator[None]:
    """Errors of a function that somebody gave say whose it was."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in {what}")
        raise


def check_shapes(graph: Graph, shapes: Mapping[str, Any]) -> None:
    """Raises a ValueError for nodes whose values, of these shapes for one datum, cannot be taken apart by row."""
    for name, node in graph.nodes.items():
        own = shapes[name].shape
        if node.kind == "rows" and node.rows and node.rows[-1] >= (*shapes[node.parents[0]].shape, 0)[0]:
            raise ValueError(f"{name!r} is row {node.rows[-1]} of a value of shape {shapes[node.parents[0]].shape}")
        for parent in node.parents if node.kind == "sum" else ():
            shape, is_free = shapes[parent].shape, not graph.nodes[parent].parents
            if shape != own and not (is_free and len(shape) < len(own)):
                raise ValueError(
                    f"terms of {name!r} must have one shape: {parent!r} has {shape}, the sum {own} (a node without "
                    "parents may lack the rows)"
                )


def computed(node: Node, params: Any, arguments: Sequence[Any], rows: Rows) -> Any:
    """A node's value at some rows, from what `needs` says it reads."""
    if node.kind == "sum":
        return summed(arguments)
    if node.kind == "rows":
        return arguments[0]
    if node.kind == "joined":
        places = node.places if rows is None else [[r for r in rows if r in own] for own in node.places]
        order = [place for own in places for place in own]
        target = sorted(order) if rows is None else list(rows)
        joined = jnp.concatenate(arguments)
        return joined if order == target else joined[np.array([order.index(row) for row in target])]
    assert node.fn is not None
    if node.by_row is None:
        out = node.fn(params, *arguments)
        return out if rows is None or not node.parents else out[np.array(rows)]
    return node.fn(params, *arguments, rows=None if rows is None else np.array(rows))


def summed(terms: Sequence[Any]) -> Any:
    """The sum of terms of one shape, or that broadcast along rows."""
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def check_equal(old: Graph, new: Graph, name: str, tolerance: float = 1e-4) -> None:
    """Raises a ValueError unless a node has the same values in two graphs, on the examples of the first.

    Args:
      tolerance: times the largest absolute value there is.
    """
    if old.examples is None:
        raise ValueError("the graph has no examples=(params, data) on which the rewrite could be checked")
    params, data = old.examples
    ours, theirs = (
        np.asarray(jax.vmap(lambda datum, graph=graph: graph.value(params, datum, name))(data)) for graph in (old, new)
    )
    if ours.shape != theirs.shape:
        raise ValueError(f"the rewrite changes {name!r}: shape {ours.shape[1:]} becomes {theirs.shape[1:]}")
    scale = max(1e-6, float(np.abs(ours).max(initial=0)))
    distance = float(np.abs(ours - theirs).max(initial=0))
    if not distance <= tolerance * scale:
        raise ValueError(f"the rewrite changes {name!r} by {distance:.3g} on the examples (largest value {scale:.3g})")
