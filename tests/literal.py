"""Causal scrubbing as the paper's pseudocode has it, one sample at a time, and random graphs and hypotheses."""

import itertools

import jax.numpy as jnp
import numpy as np

import jaxinterp as ji


def local(graph, params, reader, given, some):
    """What a visible node computes from the values of its visible parents: hidden nodes whole, one after another.

    `some` is any datum, for its shapes.
    """

    def value(name):
        if name != reader and (name == graph.input or not graph.is_inside(name, reader)):
            # rows that the reader does not come to read may be anything
            return given[name] if name in given else jnp.full_like(graph.value(params, some, name), jnp.nan)
        node = graph.nodes[name]
        arguments = [value(parent) for parent in node.parents]
        if node.kind == "sum":
            return sum(arguments[1:], arguments[0])
        if node.kind == "rows":
            return arguments[0][np.array(node.rows)]
        if node.kind == "joined":
            out = [None] * sum(map(len, node.places))
            for places, argument in zip(node.places, arguments, strict=True):
                for place, row in zip(places, argument, strict=True):
                    out[place] = row
            return jnp.stack(out)
        return node.fn(params, *arguments)

    return value(reader)


def scrubbed(hypothesis, params, data, feature, drawn, path=""):
    """The value of a feature's node, its own datum and those of all below given by `drawn[path]`."""
    graph, of = hypothesis.graph, hypothesis.correspondence
    own, path = hypothesis.interpretation[feature], f"{path}/{feature}" if path else feature
    node = of[feature]
    if not own.parents:
        datum = data[drawn(path)]
        return datum if node == graph.input else graph.value(params, datum, node)
    spoken = {of[parent]: parent for parent in own.parents}
    given = {}
    for parent in graph.parents(node):
        if parent in spoken:
            given[parent] = scrubbed(hypothesis, params, data, spoken[parent], drawn, path)
        else:
            together = hypothesis.unimportant == "together"
            other = data[drawn(f"{path}: others" if together else f"{path}: {parent}")]
            given[parent] = other if parent == graph.input else graph.value(params, other, parent)
    return local(graph, params, node, given, data[0])


def chances(hypothesis, data, feature, given):
    """How likely each datum is to stand in for `given` at a feature: [datum]."""
    kind, n = hypothesis.samplers[feature], len(data)
    if kind == "exact":
        return np.eye(n)[given]
    if kind == "unconditional":
        return np.ones(n) / n
    values = np.asarray(hypothesis.interpretation[feature].values).reshape(n, -1)
    if isinstance(kind, ji.scrubbing.Kernel):
        weights = np.exp([float(kind.log_weights(kind.parameters, values[[given, i]])[0, 1]) for i in range(n)])
        return weights / weights.sum()
    same = (values == values[given]).all(axis=1)
    allowed = same if kind == "agree" else ~same
    return allowed / allowed.sum()


def expected(hypothesis, params, data):
    """The mean over all references and all draws, by enumeration."""
    graph, of = hypothesis.graph, hypothesis.correspondence
    plain = {}

    def value(node, datum):
        if (node, datum) not in plain:
            plain[node, datum] = data[datum] if node == graph.input else graph.value(params, data[datum], node)
        return plain[node, datum]

    known = {}

    def outcomes(feature, given):
        """[(probability, value)] of a feature's node, given the datum of its reader."""
        if (feature, given) not in known:
            found, own = [], hypothesis.interpretation[feature]
            each = chances(hypothesis, data, feature, given)
            for datum in np.flatnonzero(each):
                if not own.parents:
                    found.append((each[datum], value(of[feature], int(datum))))
                    continue
                spoken = {of[parent]: outcomes(parent, int(datum)) for parent in own.parents}
                rest = [p for p in graph.parents(of[feature]) if p not in spoken]
                apart = len(rest) if hypothesis.unimportant == "separately" else min(1, len(rest))
                for others in itertools.product(range(len(data)), repeat=apart):
                    at = dict(zip(rest, others if apart == len(rest) else others * len(rest), strict=True))
                    for combination in itertools.product(*spoken.values()):
                        given_values = {p: value(p, datum) for p, datum in at.items()}
                        given_values |= {p: v for p, (_, v) in zip(spoken, combination, strict=True)}
                        chance = np.prod([c for c, _ in combination]) * each[datum] / len(data) ** apart
                        found.append((chance, local(graph, params, of[feature], given_values, data[0])))
            known[feature, given] = found
        return known[feature, given]

    root = hypothesis.root
    return float(np.mean([sum(chance * float(v) for chance, v in outcomes(root, x)) for x in range(len(data))]))


def random_hypothesis(rng, *, n, width=3):
    """(hypothesis, params, data): rows that are mixed, summed, split and hidden at random, and a tree of claims."""
    params = {"w": jnp.asarray(rng.normal(size=(4, width, width)), jnp.float32)}
    data = jnp.asarray(rng.integers(0, 3, (n, 3, width)), jnp.float32)

    def mix(i):
        return lambda params, *values: jnp.tanh(sum(values) @ params["w"][i]) * values[0].mean(0)

    def each_row(i):
        return lambda params, *values, rows=None: jnp.tanh(sum(values) @ params["w"][i])

    def attend(params, q, k, *, rows=None):
        return jnp.exp(-jnp.square(q[:, None] - k[None]).sum(-1)) @ k

    nodes = {
        "x": ji.Node(
            lambda params, datum, *, rows=None: datum if rows is None else datum[rows], ("input",), by_row=(False,)
        )
    }
    for number in range(rng.integers(3, 6)):
        names = list(nodes)
        chosen = tuple(rng.permutation(names)[: rng.integers(1, 3)].tolist())
        kind = rng.integers(4)
        if kind == 0:
            nodes[f"n{number}"] = ji.Node(mix(number % 4), chosen)
        elif kind == 1:
            nodes[f"n{number}"] = ji.Node(each_row(number % 4), chosen, by_row=(True,) * len(chosen))
        elif kind == 2:
            nodes[f"n{number}"] = ji.Node(None, chosen, "sum")
        else:
            nodes[f"n{number}"] = ji.Node(attend, (chosen[0], chosen[-1]), by_row=(True, False))
    last = tuple(nodes)[-2:]
    nodes["out"] = ji.Node(lambda params, *values: sum(v[0].sum() * (i + 1) for i, v in enumerate(values)), last)
    graph = ji.Graph(nodes, "out", examples=(params, data[:2]))
    for name in list(nodes)[:-1]:
        if rng.random() < 0.3:
            graph = ji.scrubbing.rewrites.split_positions(graph, name, {"a": [int(rng.integers(3))]})
        elif rng.random() < 0.25:
            graph = ji.scrubbing.rewrites.hide(graph, [name])

    interpretation, correspondence, samplers = {}, {}, {}

    def claim(node, depth):
        name = f"f {node}"
        if name in interpretation:
            return name
        correspondence[name] = node
        interpretation[name] = None
        below = [p for p in graph.parents(node) if p != "input"] if node != "input" else []
        chosen = [p for p in below if depth < 2 and rng.random() < 0.6][:2]
        values = rng.integers(0, 2, (n, int(rng.integers(1, 3))))
        interpretation[name] = ji.Feature(values, tuple(claim(p, depth + 1) for p in chosen))
        if node != "out":
            samplers[name] = str(rng.choice(["agree", "agree", "agree", "exact", "unconditional", "disagree", "near"]))
        return name

    claim("out", 0)
    for name, kind in samplers.items():
        if kind == "near":
            samplers[name] = ji.scrubbing.gaussian_kernel(float(rng.choice([0.3, 1.0, 3.0])))
        if kind == "disagree" and len(np.unique(interpretation[name].values, axis=0)) < 2:
            samplers[name] = "agree"
    unimportant = str(rng.choice(["together", "separately"]))
    return ji.Hypothesis(graph, interpretation, correspondence, samplers, unimportant), params, data
