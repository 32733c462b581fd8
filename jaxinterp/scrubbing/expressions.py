"""How a value follows from others, as data: what is looked up, and the functions, rows and sums that come after it.

An expression can be worked out for one datum of each draw, said of other draws, and told by a name, so that a table of
it can be made once and found again.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxinterp.scrubbing.graph import Graph, Rows, computed, summed

#: What a table holds: the sum of some rows of nodes, `((name, rows), ...)`.
Terms = tuple[tuple[str, Rows], ...]


class Look(NamedTuple):
    """A value that stands in a table; `datum` is the number of the draw that says where, None for any."""

    terms: Terms
    datum: int | None


@dataclasses.dataclass(frozen=True, eq=False)
class Expression:
    """How a value follows from others: a `Look`, a node's function, rows put together or chosen, a sum."""

    what: Look | tuple[Any, ...]
    arguments: tuple["Expression", ...]
    looks: tuple[Look, ...]


class Combined(NamedTuple):
    """What a table of combinations holds, and of which data.

    Attributes:
      expression: the value, for one datum of each draw; its looks are told by the draw's place among them.
      distinct: for each draw, by what its data are told apart; None where each counts.
    """

    expression: Expression
    distinct: tuple[tuple[Terms, ...] | None, ...]


def arranged(what: tuple[Any, ...], arguments: Sequence[Any], axis: int) -> Any:
    """Rows (along an axis) put together or chosen, or a sum."""
    if what[0] == "sum":
        return summed(arguments)
    if what[0] == "rows":
        return jnp.take(arguments[0], np.array(what[1]), axis=axis)
    order = [row for rows in what[1] for row in rows]
    wide = max((argument.shape for argument in arguments), key=len)
    parts = [
        jnp.broadcast_to(argument, (*wide[:axis], len(rows), *wide[axis + 1 :]))
        for argument, rows in zip(arguments, what[1], strict=True)
    ]
    return jnp.take(jnp.concatenate(parts, axis=axis), np.argsort(order), axis=axis)


def evaluated(graph: Graph, params: Any, expression: Expression, looks: Mapping[Look, Any]) -> Any:
    """An expression's value for one datum of each draw, from the values of its looks."""

    def found(expression: Expression, arguments: list[Any]) -> Any:
        what = expression.what
        if isinstance(what, Look):
            return looks[what]
        if what[0] == "node":
            return computed(graph.nodes[what[1]], params, arguments, what[2])
        return arranged(what, arguments, axis=0)

    return _bottom_up(expression, found)


def placed(expression: Expression, place: Mapping[int, int]) -> Expression:
    """The same expression, with other numbers for the draws."""

    def renumbered(look: Look) -> Look:
        return Look(look.terms, None if look.datum is None else place[look.datum])

    def found(expression: Expression, arguments: list[Expression]) -> Expression:
        what = renumbered(expression.what) if isinstance(expression.what, Look) else expression.what
        return Expression(what, tuple(arguments), tuple(map(renumbered, expression.looks)))

    return _bottom_up(expression, found)


def name_of(expression: Expression) -> str:
    """The same for expressions that do the same."""

    def found(expression: Expression, arguments: list[str]) -> str:
        return hashlib.blake2b(f"{expression.what} {arguments}".encode(), digest_size=16).hexdigest()

    return _bottom_up(expression, found)


def _bottom_up(expression: Expression, found: Callable[[Expression, list[Any]], Any]) -> Any:
    """`found(expression, what was found for its arguments)`, once for each expression."""
    known: dict[Expression, Any] = {}

    def of(expression: Expression) -> Any:
        if expression not in known:
            known[expression] = found(expression, [of(argument) for argument in expression.arguments])
        return known[expression]

    return of(expression)
