"""Rewrites: graphs that compute the same with other nodes, so that a hypothesis can be about those.

Each takes a graph and gives a new one, checked equal to the old one on the graph's examples.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from jaxinterp.scrubbing.graph import Graph, Node, check_equal
from jaxinterp.scrubbing.transformer import Attention


def hide(graph: Graph, names: Iterable[str], *, reader: str | None = None) -> Graph:
    """Groups nodes into those that read them: each reader computes its own copy.

    Args:
      names: the nodes; their own parents become parents of their readers.
      reader: the only node for which they are hidden, so that every path through them counts as its own; None: for all.

    Example:
      >>> from jaxinterp.scrubbing import rewrites
      >>> nodes = {"a": ji.Node(lambda _, x: x, ("input",)), "b": ji.Node(lambda _, a: 2 * a, ("a",)),
      ...          "c": ji.Node(lambda _, a, b: a + b, ("a", "b"))}
      >>> rewrites.hide(ji.Graph(nodes, "c"), ["b"]).parents("c")
      ('a',)
    """
    chosen = frozenset([names] if isinstance(names, str) else names)
    for name in chosen:
        graph.check_node(name, "names")
    if reader is None:
        return dataclasses.replace(graph, hidden=graph.hidden | chosen)
    graph.check_node(reader, "reader")
    through = {**graph.through, reader: graph.through.get(reader, frozenset()) | chosen}
    return dataclasses.replace(graph, through=through)


def group(graph: Graph, names: Iterable[str], name: str) -> Graph:
    """Several nodes as one, their sum `name`, of which a hypothesis can speak: all that is in it then has one datum.

    Args:
      names: nodes that are terms of the same sums, and that nothing else reads (heads of one layer, say); they become
        hidden. name: of the node that holds them.

    Raises:
      ValueError: nodes that are read apart from one another.

    Example:
      >>> from jaxinterp.scrubbing import rewrites
      >>> graph = ji.scrubbing.transformer_graph(model, params, tokens)
      >>> rewrites.group(graph, ["a1.h0", "a1.h1"], "a1.both").parents("m1")[5:]
      ('m0', 'a1.h2', 'a1.h3', 'a1.both')
    """
    chosen = tuple(dict.fromkeys(names))
    for one in chosen:
        graph.check_node(one, "names")
    if len(chosen) < 2:
        raise ValueError(f"names: expected two nodes or more, got {list(chosen)}")
    if name in graph.nodes:
        raise ValueError(f"there is a node {name!r} already")
    nodes = {**graph.nodes, name: Node(None, chosen, "sum")}
    for reader, node in graph.nodes.items():
        if not set(node.parents) & set(chosen):
            continue
        if node.kind != "sum" or not set(chosen) <= set(node.parents):
            raise ValueError(
                f"{reader!r} does not read the sum of {', '.join(chosen)}, so that they cannot be one node"
            )
        rest = tuple(parent for parent in node.parents if parent not in chosen)
        nodes[reader] = dataclasses.replace(node, parents=(*rest, name))
    grouped = dataclasses.replace(graph, nodes=nodes, hidden=graph.hidden | set(chosen))
    check_equal(graph, grouped, graph.output)
    return grouped


def split_positions(graph: Graph, name: str, parts: Mapping[str, Iterable[int]] | None = None) -> Graph:
    """A node as its rows put together: nodes `name@part`, each some of its rows.

    Args:
      name: a node whose value leads with an axis of rows (positions).
      parts: `{part: rows}`, each row once; "rest" holds those that no part names. None: each row its own part, by
        number.

    Example:
      >>> from jaxinterp.scrubbing import rewrites
      >>> nodes = {"x": ji.Node(lambda _, x: x, ("input",)), "y": ji.Node(lambda _, x: x.sum(), ("x",))}
      >>> graph = ji.Graph(nodes, "y", examples=(None, jnp.ones((2, 3))))
      >>> rewrites.split_positions(graph, "x", {"first": [0]}).parents("y")
      ('x@first', 'x@rest')
    """
    n = _rows_of(graph, name)
    chosen: dict[str, tuple[int, ...]] = (
        {str(i): (i,) for i in range(n)} if parts is None else {k: tuple(sorted(v)) for k, v in parts.items()}
    )
    named = [row for rows in chosen.values() for row in rows]
    if wrong := [row for row in named if not 0 <= row < n]:
        raise ValueError(f"parts: row {wrong[0]} of {name!r}, which has {n} rows")
    if len(set(named)) < len(named):
        raise ValueError("parts name a row twice")
    if rest := tuple(row for row in range(n) if row not in named):
        if "rest" in chosen:
            raise ValueError(f"parts: 'rest' is what no part names, here rows {rest}")
        chosen["rest"] = rest
    nodes = {f"{name}@{part}": Node(None, (f"{name} whole",), "rows", rows=rows) for part, rows in chosen.items()}
    return _replaced(graph, name, nodes, Node(None, tuple(nodes), "joined", places=tuple(chosen.values())))


def split_terms(graph: Graph, name: str, terms: Mapping[str, Callable[..., Any]]) -> Graph:
    """A node as a sum of terms `name.term`, each a function of what the node reads.

    Args:
      terms: `{term: fn(params, *values of the parents)}`.

    Raises:
      ValueError: terms that do not add up on the examples.

    Example:
      >>> from jaxinterp.scrubbing import rewrites
      >>> graph = ji.Graph({"y": ji.Node(lambda _, x: 3 * x, ("input",)), "z": ji.Node(lambda _, y: y**2, ("y",))},
      ...                  "z", examples=(None, jnp.arange(4.0)))
      >>> rewrites.split_terms(graph, "y", {"one": lambda _, x: x, "two": lambda _, x: 2 * x}).parents("z")
      ('y.one', 'y.two')
    """
    graph.check_node(name, "name")
    nodes = {f"{name}.{term}": Node(fn, graph.nodes[name].parents) for term, fn in terms.items()}
    return _replaced(graph, name, nodes, Node(None, tuple(nodes), "sum"), keep=False)


def split_factors(graph: Graph, name: str, factors: Mapping[str, Callable[..., Any]]) -> Graph:
    """A node as a product of factors `name.factor`, each a function of what the node reads.

    Raises:
      ValueError: factors whose product differs from the node on the examples.

    Example:
      >>> from jaxinterp.scrubbing import rewrites
      >>> graph = ji.Graph({"y": ji.Node(lambda _, x: x * (x + 1), ("input",)), "z": ji.Node(lambda _, y: y, ("y",))},
      ...                  "z", examples=(None, jnp.arange(4.0)))
      >>> rewrites.split_factors(graph, "y", {"here": lambda _, x: x, "next": lambda _, x: x + 1}).parents("z")
      ('y.here', 'y.next')
    """
    graph.check_node(name, "name")
    nodes = {f"{name}.{factor}": Node(fn, graph.nodes[name].parents) for factor, fn in factors.items()}
    return _replaced(graph, name, nodes, Node(_product, tuple(nodes)), keep=False)


def split_direction(graph: Graph, name: str, direction: Any) -> Graph:
    """A node as its projection on a direction, `name.along`, plus the rest, `name.rest`.

    Args:
      direction: array [d] along the value's last axis, or [n, d]: the space that several span.

    Example:
      >>> from jaxinterp.scrubbing import rewrites
      >>> graph = ji.Graph({"y": ji.Node(lambda _, x: x, ("input",)), "z": ji.Node(lambda _, y: y.sum(), ("y",))},
      ...                  "z", examples=(None, jnp.ones((2, 3, 4))))
      >>> split = rewrites.split_direction(graph, "y", jnp.array([1.0, 0, 0, 0]))
      >>> split.parents("z")
      ('y.along', 'y.rest')
    """
    rows = np.atleast_2d(np.asarray(direction, np.float64))
    if np.linalg.matrix_rank(rows) < len(rows):
        raise ValueError(f"direction: {len(rows)} directions span only {np.linalg.matrix_rank(rows)} dimensions")
    given = jax.numpy.atleast_2d(jax.numpy.asarray(direction))
    basis, _ = jax.numpy.linalg.qr(given.astype(jax.numpy.result_type(given, jax.numpy.float32)).T)

    def along(params: Any, x: Any, *, rows: Any = None) -> Any:
        return (x @ basis) @ basis.T

    return _estimate(graph, name, "along", along, (f"{name} whole",), by_row=True)


def split_estimate(
    graph: Graph, name: str, estimate: Callable[..., Any], parents: Iterable[str], label: str = "estimate"
) -> Graph:
    """A node as an estimate of it, `name.estimate`, plus what the estimate leaves out, `name.rest`.

    Args:
      estimate: `fn(params, *values of the parents)`, of the node's shape.
      parents: what the estimate reads; nodes upstream, or the input.
      label: the estimate's name behind the dot.

    Example:
      >>> from jaxinterp.scrubbing import rewrites
      >>> graph = ji.Graph({"y": ji.Node(lambda _, x: x**2, ("input",)), "z": ji.Node(lambda _, y: y + 1, ("y",))},
      ...                  "z", examples=(None, jnp.arange(4.0)))
      >>> rewrites.split_estimate(graph, "y", lambda _, x: 2 * x, ("input",)).parents("z")
      ('y.estimate', 'y.rest')
    """
    return _estimate(graph, name, label, estimate, tuple(parents), by_row=False)


def split_sources(graph: Graph, name: str, sources: Mapping[str, int] | None = None) -> Graph:
    """A head's output as a sum over where it attends to: nodes `name.source`, each with the whole pattern's weights.

    Args:
      name: a node of `transformer_graph` for attention, of a head or of a layer.
      sources: `{source: offset}`, how many positions before the query each is; by default "current" 0 and "previous" 1.
        "rest" is all other positions.

    Example:
      >>> from jaxinterp.scrubbing import rewrites
      >>> graph = rewrites.split_sources(ji.scrubbing.transformer_graph(model, params, tokens), "a0.h1")
      >>> graph.parents("a1.h0")[:5]
      ('embed', 'a0.h0', 'a0.h1.current', 'a0.h1.previous', 'a0.h1.rest')
    """
    attention = _attention(graph, name)
    sources = {"current": 0, "previous": 1} if sources is None else sources
    if "rest" in sources:
        raise ValueError("sources: 'rest' is what no other source names")
    if len(set(sources.values())) < len(sources) or any(type(offset) is not int for offset in sources.values()):
        raise ValueError(f"sources must be different whole numbers of positions, got {dict(sources)}")
    place = np.arange(attention.parts.n_pos)
    before = place[:, None] - place
    kept = {source: before == offset for source, offset in sources.items()}
    kept["rest"] = ~np.isin(before, list(sources.values()))
    old = graph.nodes[name]
    nodes = {
        f"{name}.{source}": dataclasses.replace(old, fn=dataclasses.replace(attention, kept=own))
        for source, own in kept.items()
    }
    return _replaced(graph, name, nodes, Node(None, tuple(nodes), "sum"), keep=False)


def split_identity(graph: Graph, name: str) -> Graph:
    """A head's output as what it would be if each position attended to itself, `name.identity`, plus `name.rest`.

    Args:
      name: a node of `transformer_graph` for attention, of a head or of a layer.

    Example:
      >>> from jaxinterp.scrubbing import rewrites
      >>> graph = rewrites.split_identity(ji.scrubbing.transformer_graph(model, params, tokens), "a0.h1")
      >>> graph.parents("a1.h0")[:4]
      ('embed', 'a0.h0', 'a0.h1.identity', 'a0.h1.rest')
    """
    attention = _attention(graph, name)
    value = graph.nodes[name].parents[2]
    return _estimate(graph, name, "identity", attention.identity, (value,), by_row=True)


def _attention(graph: Graph, name: str) -> Attention:
    graph.check_node(name, "name")
    fn = graph.nodes[name].fn
    if not isinstance(fn, Attention):
        raise ValueError(f"{name!r} is no attention of a transformer_graph")
    if fn.kept is not None:
        raise ValueError(f"{name!r} is already a part of attention; split the head itself")
    return fn


def _estimate(
    graph: Graph, name: str, label: str, fn: Callable[..., Any], parents: tuple[str, ...], *, by_row: bool
) -> Graph:
    graph.check_node(name, "name")
    whole, ours, rest = f"{name} whole", f"{name}.{label}", f"{name}.rest"
    nodes = {
        ours: Node(fn, parents, by_row=(True,) if by_row else None),
        rest: Node(_difference, (whole, ours), by_row=(True, True)),
    }
    graph = _replaced(graph, name, nodes, Node(None, (ours, rest), "sum"))
    # what is left out is computed from what the node reads: the estimate in it is its own copy
    return hide(graph, [ours], reader=rest)


def _product(params: Any, *values: Any) -> Any:
    out = values[0]
    for value in values[1:]:
        out = out * value
    return out


def _difference(params: Any, x: Any, estimate: Any, *, rows: Any = None) -> Any:
    return x - estimate


def _rows_of(graph: Graph, name: str) -> int:
    """How many rows a node's value has."""
    graph.check_node(name, "name")
    if graph.examples is None:
        raise ValueError("the graph has no examples=(params, data) that would tell how many rows there are")
    params, data = graph.examples
    datum = jax.tree.map(lambda leaf: leaf[0], data)
    shape = jax.eval_shape(lambda: graph.value(params, datum, name)).shape
    if not shape:
        raise ValueError(f"{name!r} is a scalar and has no rows")
    return int(shape[0])


def _replaced(graph: Graph, name: str, nodes: Mapping[str, Node], node: Node, *, keep: bool = True) -> Graph:
    """The graph with a node made of new ones, and hidden; what it was is kept (hidden) as `name whole`."""
    graph.check_node(name, "name")
    if name == graph.output:
        raise ValueError(f"{name!r} is the output; only nodes before it can be rewritten")
    if name in graph.hidden and f"{name} whole" in graph.nodes:
        raise ValueError(f"{name!r} has been rewritten already; rewrite what it is made of")
    added = dict(nodes) | ({f"{name} whole": graph.nodes[name]} if keep else {})
    if taken := [new for new in added if new in graph.nodes]:
        raise ValueError(f"there is a node {taken[0]!r} already")
    hidden = graph.hidden | {name} | ({f"{name} whole"} if keep else set())
    through = {reader: names | (set(nodes) if name in names else set()) for reader, names in graph.through.items()}
    rewritten = dataclasses.replace(
        graph, nodes={**graph.nodes, **added, name: node}, hidden=hidden,
        through={reader: frozenset(names) for reader, names in through.items()},
    )  # fmt: skip
    check_equal(graph, rewritten, name)
    return rewritten
