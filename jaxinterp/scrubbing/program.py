"""The program that a scrub runs on some samples, and what of it is looked up, found by tracing it."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp.scrubbing.expressions import Combined, Terms
from jaxinterp.scrubbing.hypothesis import Hypothesis
from jaxinterp.scrubbing.lookup import Evaluator, Library, size, take
from jaxinterp.scrubbing.samplers import Classes, Generator, Made, Swaps, draw
from jaxinterp.scrubbing.tables import Tables, node_shapes, scored, shape_of


class Given(NamedTuple):
    """What all chunks of a scrub share; `order` says which data the samples are about, one after another."""

    params: Any
    data: Any
    tables: Mapping[str, Any]
    classes: Mapping[str, Classes | Swaps]
    order: jax.Array
    key: jax.Array
    bits_of: Any


def sampled(
    hypothesis: Hypothesis,
    given: Given,
    library: Library,
    references: jax.Array,
    key: jax.Array,
    *,
    apart: bool,
    clip: float,
) -> tuple[jax.Array, list[jax.Array]]:
    """([sample, what `Sums` holds], the data drawn, -1 for those that were made)."""
    graph, params, data = hypothesis.graph, given.params, given.data
    root, plan = hypothesis.places(max_places=None, apart=apart)
    generators = {name: made for name, made in hypothesis.samplers.items() if isinstance(made, Generator)}
    draws = draw(plan, given.classes, generators, data, references, key, given.bits_of)
    shapes = node_shapes(graph, params, data)
    outputs = Evaluator(graph, params, data, draws, library, shapes).output(root)
    about = jax.tree.map(lambda leaf: take(leaf, references), data)
    losses, correct = scored(graph, outputs, about)
    finite = jnp.isfinite(losses)
    clipped = jnp.where(finite, jnp.minimum(losses, clip), losses)
    columns = [jnp.ones_like(losses), losses, clipped, correct, ~finite]
    numbers = jnp.stack([column.astype(jnp.float32) for column in columns], axis=1)
    return numbers, [jnp.full_like(references, -1) if isinstance(one, Made) else one for one in draws]


class MadeTables(NamedTuple):
    """A library whose tables have been made, by name."""

    tables: Mapping[str, Any]

    def table(self, terms: Terms) -> jax.Array | None:
        """As in `Library`."""
        return self.tables.get(str(terms))

    def distinct(self, terms: tuple[Terms, ...]) -> tuple[Any, Any] | None:
        """As in `Library`."""
        return self.tables.get(f"distinct {terms}")

    def combined(self, name: str, what: Combined) -> jax.Array | None:
        """As in `Library`."""
        return self.tables.get(name)


class Wanted(NamedTuple):
    """What a hypothesis looks up: sums of rows of nodes, what is told apart, combinations; bytes for each sample."""

    terms: list[Terms]
    answers: dict[tuple[Terms, ...], tuple[Any, Any] | None]
    combinations: dict[str, Combined]
    bytes_each: int


class _Asked:
    """A library that notes what it is asked for, and gives zeros; what is told apart it knows only from `answers`."""

    def __init__(self, tables: Tables, answers: Mapping[tuple[Terms, ...], tuple[Any, Any] | None]) -> None:
        self.tables, self.room, self.answers = tables, tables.room, answers
        self.terms: dict[Terms, None] = {}
        self.questions: dict[tuple[Terms, ...], None] = {}
        self.combinations: dict[str, Combined] = {}

    def table(self, terms: Terms) -> jax.Array:
        if terms not in self.terms:
            self.terms[terms] = None
            self.room -= 0 if self.tables.holds(terms) else self.tables.n * self.tables.bytes_of(terms)
        value = shape_of(self.tables.shapes, terms)
        return jnp.zeros((self.tables.n, *value.shape), value.dtype)

    def distinct(self, terms: tuple[Terms, ...]) -> tuple[Any, Any] | None:
        if terms in self.answers:
            return self.answers[terms]
        if self.tables.is_small(terms):
            self.questions[terms] = None
        return None

    def combined(self, name: str, what: Combined) -> jax.Array | None:
        value, n = self.tables.shape(what), math.prod(self.tables.sizes(what))
        if name not in self.combinations:
            left = self.room - (0 if self.tables.holds(name) else n * size(value.shape, value.dtype))
            if left < 0:
                return None
            self.room, self.combinations[name] = left, what
        return jnp.zeros((n, *value.shape), value.dtype)


def what_is_wanted(
    hypothesis: Hypothesis, tables: Tables, classes: Mapping[str, Classes | Swaps], *, apart: bool, combine: bool
) -> Wanted:
    """What a hypothesis looks up, found by tracing the program."""
    few = 127

    def traced(asked: _Asked) -> Any:
        def program(references: jax.Array, key: jax.Array) -> Any:
            given = Given(tables.params, tables.data, {}, classes, references, key, None)
            return sampled(hypothesis, given, asked, references, key, apart=apart, clip=0.0)

        return jax.make_jaxpr(program)(jax.ShapeDtypeStruct((few,), jnp.int32), jax.random.key(0))

    # what has few different values decides what is looked up, and so what else may have: asked until nothing is new
    answers: dict[tuple[Terms, ...], tuple[Any, Any] | None] = {}
    while (jaxpr := traced(asked := _Asked(tables, answers))) and asked.questions and combine:
        tables.values([*asked.terms, *dict.fromkeys(one for terms in asked.questions for one in terms)])
        answers |= {terms: tables.distinct(terms) for terms in asked.questions}
    shapes = [var.aval for eqn in jaxpr.eqns for var in eqn.outvars if few in getattr(var.aval, "shape", ())]
    asked.table(((hypothesis.graph.output, None),))  # for the graph as it is
    bytes_each = max(1, sum(size(one.shape, np.uint32) for one in shapes) // few)
    return Wanted(list(asked.terms), answers, asked.combinations, bytes_each)
