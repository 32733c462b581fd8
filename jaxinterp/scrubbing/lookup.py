"""What a scrubbed run computes, and what it only looks up.

A value that depends on a single datum is in a table, made by one ordinary pass over the dataset; only what mixes
several data is computed. Values stay unfinished until somebody needs their numbers: `Look` (found in a table, as a sum
of rows of nodes), `Parts` (rows of different origin), `Sum` (terms of different origin), `Joint` (of several data, of
which all but one have few different values, such as the embedding at a position that holds one of two tokens: in a
table as well, of all combinations), or `Known` (numbers). Functions that work row by row pass through `Parts`, so that
of a stream in which one position is resampled only that position's keys are computed anew.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp.scrubbing.expressions import Combined, Expression, Look, Terms, arranged, name_of, placed
from jaxinterp.scrubbing.graph import FREE, Graph, Node, Rows, computed, naming, needs, summed, values

#: Data of a `Joint` have at most so many different values together, but for the one that may have any number.
COMBINATIONS = 16


class Known(NamedTuple):
    """A value for each sample: [sample, ...]."""

    array: Any


class Parts(NamedTuple):
    """Rows of different origin: ((their numbers, what they are), ...)."""

    groups: tuple[tuple[tuple[int, ...], Any], ...]


class Joint(NamedTuple):
    """A value that follows from the data of several draws, in ascending order."""

    expression: Expression
    data: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Sum:
    """A sum of values of different origin, which a sum that it is a term of takes apart again."""

    terms: tuple["Lazy", ...]


Lazy = Look | Known | Parts | Joint | Sum


class Library(Protocol):
    """Where tables come from."""

    def table(self, terms: Terms) -> jax.Array | None:
        """[datum, ...], or None where there is none and the value is computed from the datum."""

    def distinct(self, terms: tuple[Terms, ...]) -> tuple[Any, Any] | None:
        """(the number of each datum's value, a datum for each value), if these terms have few different values."""

    def combined(self, name: str, what: Combined) -> jax.Array | None:
        """[combination, ...], the last draw's datum fastest; None where there is none and the value is computed."""


class Place(NamedTuple):
    """One visit to a node of the graph, in the tree that a hypothesis unfolds to.

    Attributes:
      node: which. datum: the number of the draw that stands for it; a place without parents is looked up there.
      parents: `{parent: place}` of what is claimed to matter. others: `{parent: draw}` of what is not.
    """

    node: str
    datum: int
    parents: Mapping[str, "Place"]
    others: Mapping[str, int]


class Evaluator:
    """Evaluates a tree of places for many samples at once, while a program is traced.

    Args:
      data: leaves lead with datum. draws: int[sample], or `Made` data, for each number of a draw.
      library: where tables come from.
      shapes: `{node: shape and dtype}` for one datum.
      constants: values that nodes have wherever they are not claimed to matter, whatever was drawn.
    """

    def __init__(
        self,
        graph: Graph,
        params: Any,
        data: Any,
        draws: Sequence[Any],
        library: Library,
        shapes: Mapping[str, Any],
        constants: Mapping[str, Any] | None = None,
    ) -> None:
        self.graph, self.params, self.data, self.draws = graph, params, data, draws
        self.library, self.shapes, self.constants = library, shapes, constants or {}
        self.values: dict[tuple[int, str, Rows], Lazy] = {}
        self.found: dict[Look | Expression | Sum, Any] = {}
        self.expressions: dict[Any, Expression] = {}

    def output(self, root: Place) -> jax.Array:
        """The root's value: [sample, ...]."""
        return self.numbers(self.at(root, root.node, None))

    def at(self, place: Place, name: str, rows: Rows) -> Lazy:
        """The value, as it is at one place, of the place's node or of one that is hidden in it."""
        key = id(place), name, rows
        if key not in self.values:
            self.values[key] = self._at(place, name, rows)
        return self.values[key]

    def _at(self, place: Place, name: str, rows: Rows) -> Lazy:
        if name == place.node:
            if not place.parents and not place.others:
                return Look(((name, rows),), place.datum)
        elif name == self.graph.input or not self.graph.is_inside(name, place.node):
            if name in place.parents:
                parent = place.parents[name]
                return self.at(parent, parent.node, rows)
            if name in self.constants:
                constant = self.constants[name] if rows is None else self.constants[name][np.array(rows)]
                return Known(jnp.broadcast_to(constant, (len(self.draws[0]), *constant.shape)))
            return Look(((name, rows),), place.others[name])
        node = self.graph.nodes[name]
        arguments = [self.at(place, parent, share) for parent, share in needs(node, rows)]
        if node.kind == "rows":
            assert node.rows is not None
            own = {row: i for i, row in enumerate(node.rows)}
            return _renumbered(arguments[0], own)
        data = {argument.datum for argument in arguments if isinstance(argument, Look)} - {None}
        if all(isinstance(argument, Look) for argument in arguments) and len(data) <= 1:
            return Look(((name, rows),), data.pop() if data else None)
        if node.kind == "joined":
            return self._joined(node, arguments, rows)
        return self._row_by_row(name, node, arguments, rows)

    def _joined(self, node: Node, arguments: Sequence[Lazy], rows: Rows) -> Lazy:
        groups: list[tuple[tuple[int, ...], Lazy]] = []
        places = node.places if rows is None else [tuple(r for r in rows if r in own) for own in node.places]
        shares = [own for own in places if own]
        whole = dict(zip(node.parents, node.places, strict=True))
        for (parent, _), own, argument in zip(needs(node, rows), shares, arguments, strict=True):
            if isinstance(argument, Parts):
                groups += [(tuple(whole[parent][i] for i in some), part) for some, part in argument.groups]
            else:
                groups.append((own, argument))
        return Parts(tuple(groups))

    def _row_by_row(self, name: str, node: Node, arguments: Sequence[Lazy], rows: Rows) -> Lazy:
        """A function or a sum, apart for rows of different origin where it works row by row."""
        by_row = [True] * len(arguments) if node.kind == "sum" else list(node.by_row or [False] * len(arguments))
        splits = [a for a, own in zip(arguments, by_row, strict=True) if own and isinstance(a, Parts)]
        if not splits:
            return self._computed(name, node, arguments, rows)
        have = rows if rows is not None else tuple(range(self.shapes[name].shape[0]))
        groups = [have]
        for split in splits:
            groups = [g for one in groups for some, _ in split.groups if (g := tuple(r for r in one if r in some))]
        found: list[tuple[tuple[int, ...], Lazy]] = []
        mixed: list[int] = []
        for group in groups:
            own = [self._restrict(a, have, group) if s else a for a, s in zip(arguments, by_row, strict=True)]
            data = {a.datum for a in own if isinstance(a, Look)} - {None}
            if all(isinstance(a, Look) for a in own) and len(data) <= 1:
                found.append((group, Look(((name, group),), data.pop() if data else None)))
            elif joint := self._joint(("node", name, group), own):
                found.append((group, joint))
            else:
                mixed += group
        if mixed:
            rest = tuple(row for row in have if row in mixed)
            own = [self._restrict(a, have, rest) if s else a for a, s in zip(arguments, by_row, strict=True)]
            found.append((rest, self._computed(name, node, own, rest)))
        return found[0][1] if len(found) == 1 else Parts(tuple(found))

    def _computed(self, name: str, node: Node, arguments: Sequence[Lazy], rows: Rows) -> Known | Joint | Sum:
        if joint := self._joint(("node", name, rows), arguments):
            return joint
        if node.kind == "sum":
            return Sum(tuple(term for one in arguments for term in (one.terms if isinstance(one, Sum) else (one,))))
        return Known(self._of_samples(name, arguments, rows))

    def _of_samples(self, name: str, arguments: Sequence[Lazy], rows: Rows) -> Any:
        node = self.graph.nodes[name]
        batched = [None if isinstance(a, Look) and a.datum is None else 0 for a in arguments]
        numbers = [self.numbers(argument) for argument in arguments]

        def one(*arguments: Any) -> Any:
            return computed(node, self.params, arguments, rows)

        with naming(f"node {name!r}"):
            return jax.vmap(one, in_axes=batched)(*numbers)

    def _joint(self, what: tuple[Any, ...], arguments: Sequence[Lazy]) -> Joint | None:
        """A value that follows from data of which all but one have few different values; else None."""
        found = [self._expression_of(argument) for argument in arguments]
        if None in found:
            return None
        expression = self._expression(what, tuple(one for one in found if one is not None))
        data = tuple(sorted({look.datum for look in expression.looks if look.datum is not None}))
        return Joint(expression, data) if len(data) > 1 and self._distinct(expression, data) else None

    def _distinct(self, expression: Expression, data: Sequence[int]) -> tuple[tuple[Terms, ...] | None, ...] | None:
        """By what each draw's data are told apart; None if too many have many values."""
        if len(data) > 1 + math.log2(COMBINATIONS) or not all(self._is_found(datum) for datum in data):
            return None
        told: list[tuple[Terms, ...] | None] = []
        combinations = 1
        for datum in data:
            terms = tuple(sorted({look.terms for look in expression.looks if look.datum == datum}, key=str))
            few = self.library.distinct(terms)
            told.append(None if few is None else terms)
            combinations *= 1 if few is None else len(few[1])
        return tuple(told) if told.count(None) <= 1 and combinations <= COMBINATIONS else None

    def _expression_of(self, lazy: Lazy) -> Expression | None:
        if isinstance(lazy, Look):
            return self._expression(lazy, ())
        if isinstance(lazy, Joint):
            return lazy.expression
        if isinstance(lazy, Known):
            return None
        whole = lazy.terms if isinstance(lazy, Sum) else [part for _, part in lazy.groups]
        parts = [self._expression_of(part) for part in whole]
        if None in parts:
            return None
        what = ("sum",) if isinstance(lazy, Sum) else ("parts", tuple(rows for rows, _ in lazy.groups))
        return self._expression(what, tuple(part for part in parts if part is not None))

    def _expression(self, what: Any, arguments: tuple[Expression, ...]) -> Expression:
        """One object for equal expressions."""
        key = what, *map(id, arguments)
        if key not in self.expressions:
            looks = (what,) if isinstance(what, Look) else dict.fromkeys(look for a in arguments for look in a.looks)
            self.expressions[key] = Expression(what, arguments, tuple(looks))
        return self.expressions[key]

    def _by_datum(self, terms: Sequence[Lazy]) -> list[Lazy]:
        """The terms of a sum, those of one datum together, or of one combination, so that a table holds their sum."""
        together: dict[int | None, Terms] = {}
        others: list[Lazy] = []
        for term in terms:
            if isinstance(term, Look):
                together[term.datum] = (*together.get(term.datum, ()), *term.terms)
            else:
                others.append(term)
        if None in together and len(together) > 1:
            free = together.pop(None)
            first = next(iter(together))
            together[first] = (*together[first], *free)
        left: list[Lazy] = [Look(tuple(sorted(terms, key=str)), datum) for datum, terms in together.items()]
        for joint in [other for other in others if isinstance(other, Joint)]:
            others.remove(joint)
            for term in list(left):
                data = {term.datum} if isinstance(term, Look) else set(term.data) if isinstance(term, Joint) else {-1}
                if data <= {None, *joint.data} and (both := self._joint(("sum",), [joint, term])):
                    left.remove(term)
                    joint = both
            left.append(joint)
        return left + others

    def _restrict(self, lazy: Lazy, have: tuple[int, ...], wanted: tuple[int, ...]) -> Lazy:
        """Some of the rows of a value that holds rows `have`."""
        if wanted == have:
            return lazy
        where = [have.index(row) for row in wanted]
        if isinstance(lazy, Look):
            if lazy.datum is None:
                if rowed := [name for name, _ in lazy.terms if len(self.shapes[name].shape) > 1]:
                    raise ValueError(f"{rowed[0]!r} follows from nothing, and yet is read by row: {FREE}")
                return lazy
            terms = tuple(
                (name, tuple(where) if rows is None else tuple(rows[i] for i in where)) for name, rows in lazy.terms
            )
            return Look(terms, lazy.datum)
        if isinstance(lazy, Known):
            return Known(lazy.array[:, np.array(where)])
        if isinstance(lazy, Joint):
            return Joint(self._expression(("rows", tuple(where)), (lazy.expression,)), lazy.data)
        if isinstance(lazy, Sum):
            return Sum(tuple(self._restrict(term, have, wanted) for term in lazy.terms))
        groups = []
        for some, part in lazy.groups:
            if own := tuple(row for row in some if row in wanted):
                groups.append((own, self._restrict(part, some, own)))
        return groups[0][1] if len(groups) == 1 and groups[0][0] == wanted else Parts(tuple(groups))

    def numbers(self, lazy: Lazy) -> Any:
        """A value's numbers: [sample, ...]; without the sample axis for what depends on no datum."""
        if isinstance(lazy, Known):
            return lazy.array
        if isinstance(lazy, Parts):
            return self._together(lazy)
        if isinstance(lazy, Joint):
            if lazy.expression not in self.found:
                self.found[lazy.expression] = self._combined(lazy)
            return self.found[lazy.expression]
        if lazy not in self.found:
            if isinstance(lazy, Sum):
                self.found[lazy] = summed([self.numbers(term) for term in self._by_datum(lazy.terms)])
            else:
                self.found[lazy] = self._looked_up(lazy)
        return self.found[lazy]

    def _combined(self, joint: Joint) -> Any:
        distinct = self._distinct(joint.expression, joint.data)
        assert distinct is not None
        moved = placed(joint.expression, {datum: i for i, datum in enumerate(joint.data)})
        table = self.library.combined(name_of(moved), Combined(moved, distinct))
        if table is None:
            return self._of_expression(joint.expression)
        at: Any = 0
        for datum, terms in zip(joint.data, distinct, strict=True):
            if terms is None:
                at = at * len(jax.tree.leaves(self.data)[0]) + self.draws[datum]
                continue
            few = self.library.distinct(terms)
            assert few is not None
            at = at * len(few[1]) + take(jnp.asarray(few[0]), self.draws[datum])
        return take(table, at)

    def _of_expression(self, expression: Expression) -> Any:
        """Its numbers where no table holds them: [sample, ...]."""
        if isinstance(expression.what, Look):
            return self.numbers(expression.what)
        if expression not in self.found:
            arguments: list[Lazy] = [
                each.what if isinstance(each.what, Look) else Known(self._of_expression(each))
                for each in expression.arguments
            ]
            if expression.what[0] == "node":
                _, name, rows = expression.what
                self.found[expression] = self._of_samples(name, arguments, rows)
            elif expression.what[0] == "parts":
                self.found[expression] = self._together(Parts(tuple(zip(expression.what[1], arguments, strict=True))))
            else:
                numbers = [self.numbers(argument) for argument in arguments]
                self.found[expression] = arranged(expression.what, numbers, axis=1)
        return self.found[expression]

    def _looked_up(self, look: Look) -> Any:
        if look.datum is None:
            return summed(values(self.graph, self.params, None, look.terms))
        at = self.draws[look.datum]
        found = self._is_found(look.datum)
        whole = look.terms == ((self.graph.input, None),)
        if found and not whole and (table := self.library.table(look.terms)) is not None:
            return take(table, at)
        data = jax.tree.map(lambda leaf: take(leaf, at), self.data) if found else at.data
        if whole:
            return data
        return jax.vmap(lambda datum: summed(values(self.graph, self.params, datum, look.terms)))(data)

    def _is_found(self, datum: int) -> bool:
        """Whether a draw is of data that the dataset holds, not of data made."""
        return isinstance(self.draws[datum], jax.Array)

    def _together(self, parts: Parts) -> Any:
        """Rows of different origin as one array, in the order of their numbers."""
        arrays: list[Any] = []
        order: list[int] = []
        by_node: dict[str, list[tuple[tuple[int, ...], Look]]] = {}
        for rows, part in parts.groups:
            single = isinstance(part, Look) and part.datum is not None and len(part.terms) == 1
            if single and len(rows) == 1 and part.terms[0][1] is not None and self._is_found(part.datum):
                by_node.setdefault(part.terms[0][0], []).append((rows, part))
                continue
            array = self.numbers(part)
            if isinstance(part, Look) and part.datum is None:
                own = array.shape if array.ndim > 1 else (len(rows), *array.shape)
                array = jnp.broadcast_to(array, (len(self.draws[0]), *own))
            arrays.append(array)
            order += rows
        for name, looks in by_node.items():
            # rows of one table at different data: one gather
            own = tuple(look.terms[0][1][0] for _, look in looks)  # type: ignore[index]
            table = self.library.table(((name, own),))
            if table is None:
                arrays += [self.numbers(look) for _, look in looks]
            else:
                where = [self.draws[look.datum or 0] * len(own) + i for i, (_, look) in enumerate(looks)]
                arrays.append(take(table.reshape(-1, *table.shape[2:]), jnp.stack(where, axis=1)))
            order += [row for rows, _ in looks for row in rows]
        joined = arrays[0] if len(arrays) == 1 else jnp.concatenate(arrays, axis=1)
        target = sorted(order)
        return joined if order == target else joined[:, np.array([order.index(row) for row in target])]


def _renumbered(lazy: Lazy, own: Mapping[int, int]) -> Lazy:
    if not isinstance(lazy, Parts):
        return lazy
    return Parts(tuple((tuple(own[row] for row in rows), part) for rows, part in lazy.groups))


def take(table: jax.Array, at: jax.Array) -> jax.Array:
    """Rows of a table; the indices are known to lie in it."""
    return table.at[at].get(mode="promise_in_bounds")


def size(shape: Sequence[int], dtype: Any) -> int:
    """Bytes of an array."""
    return math.prod(shape) * np.dtype(dtype).itemsize
