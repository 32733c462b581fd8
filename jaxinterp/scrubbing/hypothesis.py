"""Hypotheses: which features of the input the nodes of a graph compute, and from which others.

An interpretation is a graph of features; a correspondence maps each to a node of the computational graph, edges to
edges. It unfolds to a tree, one place for each path from the output, each with a datum of its own.
"""

import copy
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxinterp.model.config import suggest
from jaxinterp.scrubbing.graph import Graph, naming
from jaxinterp.scrubbing.lookup import Place
from jaxinterp.scrubbing.samplers import SAMPLERS, Draw, Generator, Kernel, Partition, Sampler

#: More places than this are refused unless asked for.
MAX_PLACES = 10_000

#: Places that are described, and drawn, one by one.
DESCRIBED = 300


@dataclasses.dataclass(frozen=True, eq=False)
class Feature:
    """A node of an interpretation: a property of the input, and the features from which it is computed.

    Attributes:
      values: `values(dataset) -> [datum, ...]`, one value (a number, a row of numbers, anything hashable) for each
        datum; or these values themselves. None: the identity, on which only a datum agrees with itself.
      parents: names of the features that it is computed from. Without any it is computed from the input as a whole: the
        node that it stands for runs on one datum.

    Example:
      >>> first = ji.Feature(lambda data: data[:, 0])
      >>> ji.Feature(lambda data: data[:, 0] == data[:, 1], parents=("first", "second")).parents
      ('first', 'second')
    """

    values: Any = None
    parents: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.parents, str):
            raise TypeError(f"parents must be a tuple of names, got the string {self.parents!r}")
        object.__setattr__(self, "parents", tuple(self.parents))
        if self.values is None or callable(self.values):
            return
        if isinstance(self.values, str) or not hasattr(self.values, "__len__"):
            got = type(self.values).__name__
            raise TypeError(f"values must be a function of the dataset, or one value for each datum, got {got}")
        # classes are kept for each feature: later changes to an array of the caller's must not be in doubt
        object.__setattr__(self, "values", copy.copy(self.values))

    def partition(self, dataset: Any, n: int, name: str) -> Partition:
        """The classes into which it divides a dataset."""
        label = f"feature {name!r}"
        if self.values is None:
            return Partition.of(np.arange(n), n, label)
        if not callable(self.values):
            return Partition.of(self.values, n, label)
        with naming(label):
            values = self.values(dataset)
            if not hasattr(values, "__len__"):
                raise TypeError(f"expected one value for each datum, got {type(values).__name__}")
        return Partition.of(values, n, label)


@dataclasses.dataclass(frozen=True, eq=False)
class Hypothesis:
    """What a computational graph is claimed to do (Redwood's causal scrubbing, section 2).

    Scrubbing visits the output on the reference datum. At each node that the interpretation speaks of, every parent
    that it speaks of too is visited on a datum drawn at random among those that agree on the parent's feature; all
    other parents take the values that they have on one random datum.

    Attributes:
      graph: what is explained.
      interpretation: `{name: ji.Feature}` (or what `ji.Feature` takes as values); one, the root, is read by no other.
      correspondence: `{name: node of the graph}`, each its own; the root's is the output; where one feature is a parent
        of another, its node must be read by the other's.
      samplers: `{name: how a datum is drawn}`: "agree" on the feature (the default), "exact", the very datum (the
        root's default), "unconditional", any datum, "disagree", one with another value; a `Kernel`, which prefers some
        swaps to others; a `Generator`, which makes a datum that agrees.
      unimportant: whether parents that the interpretation does not speak of are run "together", on one datum for each
        visit, or "separately".

    Raises:
      TypeError, ValueError: what is no hypothesis about this graph, and why.

    Example:
      >>> graph = ji.Graph(
      ...     {
      ...         "a": ji.Node(lambda params, x: x[0] > 3, ("input",)),
      ...         "b": ji.Node(lambda params, x: x[1] > 3, ("input",)),
      ...         "either": ji.Node(lambda params, a, b: jnp.float32(a | b), ("a", "b")),
      ...     },
      ...     output="either",
      ... )
      >>> hypothesis = ji.Hypothesis(
      ...     graph,
      ...     interpretation={
      ...         "large": ji.Feature(lambda x: (x > 3).any(1), parents=("first",)),
      ...         "first": ji.Feature(lambda x: x[:, 0] > 3),
      ...     },
      ...     correspondence={"large": "either", "first": "a"},
      ... )
      >>> print(hypothesis.describe())
      either: large (exact)
        a: first (agree)
        at random together: b
    """

    graph: Graph
    interpretation: Mapping[str, Feature]
    correspondence: Mapping[str, str]
    samplers: Mapping[str, Sampler] = dataclasses.field(default_factory=dict[str, Sampler])
    unimportant: str = "together"

    def __post_init__(self) -> None:
        for argument in ("interpretation", "correspondence", "samplers"):
            if not isinstance(getattr(self, argument), Mapping):
                raise TypeError(
                    f"{argument} must be a mapping by feature, got {type(getattr(self, argument)).__name__}"
                )
        features = {
            name: given if isinstance(given, Feature) else Feature(given) for name, given in self.interpretation.items()
        }
        object.__setattr__(self, "interpretation", features)
        self._check_names()
        self._check_circles()
        root = self.root
        object.__setattr__(self, "samplers", dict.fromkeys(features, "agree") | {root: "exact"} | dict(self.samplers))
        self._check_edges()
        self._check_made()

    @functools.cached_property
    def bare(self) -> "Hypothesis":
        """The same about the bare graph, for compiled programs to keep."""
        bare = dataclasses.replace(self, graph=self.graph.bare)
        bare.__dict__["bare"] = bare
        return bare

    @property
    def root(self) -> str:
        """The feature that no other is computed from."""
        read = {parent for feature in self.interpretation.values() for parent in feature.parents}
        roots = [name for name in self.interpretation if name not in read]
        if len(roots) != 1:
            raise ValueError(
                "an interpretation has one root, that no other feature is computed from; "
                f"this one has {', '.join(map(repr, roots)) or 'none'}"
            )
        return roots[0]

    def places(self, *, max_places: int | None = MAX_PLACES, apart: bool = False) -> tuple[Place, list[Draw]]:
        """The tree to which it unfolds: (the root's place, what is drawn).

        Args:
          apart: whether everything has a draw of its own, with a table of its own named by the draw's label, so that
            one program serves for every way to draw: "exact" and unimportant nodes too.

        Raises:
          ValueError: more than `max_places`.
        """
        count = self.count_places()
        if max_places is not None and count > max_places:
            raise ValueError(
                f"the hypothesis unfolds to {count:,} places, one for each path from the output (limit "
                f"{max_places:,}): "
                "hide nodes that are not spoken of apart, or leave shared features of their readers out; "
                "max_places=None runs it anyway"
            )
        plan = [Draw("reference", 0, "", "reference", "", self.graph.output)]
        made: set[int] = set()

        def drawn(sampler: Sampler, given: int, feature: str, label: str, node: str) -> int:
            kind, table = str(sampler), feature
            # what is made is in no table
            if apart and kind in ("agree", "exact", "unconditional") and given not in made:
                kind, table = "agree", label
            if kind == "exact":
                return given
            plan.append(Draw(kind, given, table, label, feature, node))
            if kind == "generator":
                made.add(len(plan) - 1)
            return len(plan) - 1

        def visit(name: str, given: int, path: str) -> Place:
            feature, node = self.interpretation[name], self.correspondence[name]
            path = f"{path}/{name}" if path else name
            datum = drawn(self.samplers[name], given, name, path, node)
            if not feature.parents:
                return Place(node, datum, {}, {})
            spoken = {self.correspondence[parent] for parent in feature.parents}
            rest = [parent for parent in self.graph.parents(node) if parent not in spoken]
            if apart or self.unimportant == "separately":
                others = {parent: drawn("unconditional", datum, "", f"{path}: {parent}", parent) for parent in rest}
            else:
                number = drawn("unconditional", datum, "", f"{path}: others", node) if rest else 0
                others = dict.fromkeys(rest, number)
            parents = {self.correspondence[parent]: visit(parent, datum, path) for parent in feature.parents}
            return Place(node, datum, parents, others)

        return visit(self.root, 0, ""), plan

    def count_places(self) -> int:
        """How many places it unfolds to: paths from the root."""
        known: dict[str, int] = {}

        def count(name: str) -> int:
            if name not in known:
                known[name] = 1 + sum(count(parent) for parent in self.interpretation[name].parents)
            return known[name]

        return count(self.root)

    def describe(self) -> str:
        """The tree in words: what each node is claimed to compute, and what is run at random.

        Where there are more than `DESCRIBED` places, what was described already is so "as above".
        """
        lines = []
        seen: set[str] = set()
        is_long = self.count_places() > DESCRIBED

        def visit(name: str, depth: int) -> None:
            feature, node, indent = self.interpretation[name], self.correspondence[name], "  " * depth
            known = is_long and name in seen and bool(feature.parents)
            lines.append(f"{indent}{node}: {name} ({self.samplers[name]}){', as above' if known else ''}")
            if known:
                return
            seen.add(name)
            for parent in feature.parents:
                visit(parent, depth + 1)
            spoken = {self.correspondence[parent] for parent in feature.parents}
            rest = [parent for parent in self.graph.parents(node) if parent not in spoken]
            if feature.parents and rest:
                lines.append(f"{indent}  at random {self.unimportant}: {', '.join(rest)}")

        visit(self.root, 0)
        return "\n".join(lines)

    def _check_names(self) -> None:
        if not isinstance(self.graph, Graph):
            raise TypeError(f"graph must be a ji.Graph, got {type(self.graph).__name__}")
        if not self.interpretation:
            raise ValueError("the interpretation is empty; it needs at least the output's feature")
        for name, feature in self.interpretation.items():
            for parent in feature.parents:
                if parent not in self.interpretation:
                    raise ValueError(
                        f"parents of {name!r}: unknown feature {parent!r}; {suggest(parent, self.interpretation)}"
                    )
            if len(set(feature.parents)) < len(feature.parents):
                raise ValueError(f"parents of {name!r} name a feature twice: {feature.parents}")
        if missing := [name for name in self.interpretation if name not in self.correspondence]:
            raise ValueError(f"the correspondence lacks {missing[0]!r}")
        for argument, given in (("correspondence", self.correspondence), ("samplers", self.samplers)):
            for name in given:
                if name not in self.interpretation:
                    raise ValueError(f"{argument}: unknown feature {name!r}; {suggest(name, self.interpretation)}")
        for name, kind in self.samplers.items():
            if not isinstance(kind, Kernel | Generator) and kind not in SAMPLERS:
                raise ValueError(f"sampler of {name!r}: unknown {kind!r}; {suggest(str(kind), SAMPLERS)}")
        if self.unimportant not in ("together", "separately"):
            raise ValueError(f"unimportant must be 'together' or 'separately', got {self.unimportant!r}")
        owners: dict[str, str] = {}
        for name, node in self.correspondence.items():
            if node != self.graph.input:
                self.graph.check_node(node, f"correspondence of {name!r}")
            if node in owners:
                raise ValueError(
                    f"{owners[node]!r} and {name!r} stand for the same node {node!r}: two features on one path"
                )
            owners[node] = name

    def _check_edges(self) -> None:
        graph, of = self.graph, self.correspondence
        for name, node in of.items():
            if node in graph.hidden:
                raise ValueError(f"{name!r} stands for {node!r}, which is hidden in the nodes that read it")
        if of[self.root] != graph.output:
            raise ValueError(
                f"the root {self.root!r} stands for {of[self.root]!r}; it must be the graph's output {graph.output!r}"
            )
        for name, feature in self.interpretation.items():
            node = of[name]
            if node == graph.input:
                if feature.parents:
                    raise ValueError(f"{name!r} stands for the input, which is computed from nothing")
                continue
            read = graph.parents(node)
            for parent in feature.parents:
                if of[parent] in read:
                    continue
                problem = f"{of[parent]!r} ({parent}) is no parent of {node!r} ({name})"
                if of[parent] == graph.input or of[parent] in graph.upstream(node):
                    between = [
                        n for n in read if n != graph.input and of[parent] in (*graph.upstream(n), *graph.parents(n))
                    ]
                    raise ValueError(
                        f"not a homomorphism: {problem}, only upstream of it through {', '.join(between)}; speak of "
                        f"those too, or hide them: rewrites.hide(graph, {between}, reader={node!r})"
                    )
                if node in graph.upstream(of[parent]):
                    raise ValueError(f"not a homomorphism: {problem}; the edge runs the other way")
                raise ValueError(f"not a homomorphism: {problem}, nor upstream of it")

    def _check_made(self) -> None:
        """Raises a ValueError where a datum that was made would have to be found among the classes of a dataset."""
        needs_classes = [name for name, s in self.samplers.items() if str(s) in ("agree", "disagree", "kernel")]

        seen = set()

        def visit(name: str, maker: str | None) -> None:
            if (name, maker) in seen:
                return
            seen.add((name, maker))
            sampler = self.samplers[name]
            if maker and name in needs_classes:
                raise ValueError(
                    f"sampler of {name!r}: {str(sampler)!r} looks for data in the dataset, but {maker!r} above it "
                    "makes one that is in none; give it 'exact', 'unconditional' or a Generator"
                )
            if sampler == "unconditional":
                maker = None
            elif isinstance(sampler, Generator):
                maker = name
            for parent in self.interpretation[name].parents:
                visit(parent, maker)

        if any(isinstance(sampler, Generator) for sampler in self.samplers.values()):
            visit(self.root, None)

    def _check_circles(self) -> None:
        active: list[str] = []
        done: set[str] = set()

        def visit(name: str) -> None:
            if name in active:
                raise ValueError(f"a circle of features: {' <- '.join([*active[active.index(name) :], name])}")
            if name in done:
                return
            active.append(name)
            for parent in self.interpretation[name].parents:
                visit(parent)
            active.pop()
            done.add(name)

        for name in self.interpretation:
            visit(name)
