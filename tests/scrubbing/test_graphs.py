"""Graphs: a transformer's equals its forward, rewrites change nothing, and what is wrong is told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import apply, budget, configs, masks, random_params, random_tokens
from hypothesis import given
from hypothesis import strategies as st

import jaxinterp as ji
from jaxinterp.scrubbing import rewrites, transformer_graph


def check_forward(config, side, heads, inputs):
    """A transformer's graph gives its logits, whole and at one position, and rewrites leave them as they are."""
    model = ji.Transformer(config)
    params, tokens, mask = random_params(model), random_tokens(config), masks(side)
    data = {"tokens": jnp.asarray(tokens)} | ({} if mask is None else {"mask": jnp.asarray(mask)})
    heads = heads and config.qk_norm != "all"
    expected, _ = apply(model, params, tokens, mask=mask)
    close = {"rtol": 0, "atol": 1e-9 * max(1.0, float(abs(expected).max()))}
    whole = transformer_graph(model, params, data, read=None, heads=heads, inputs=inputs)
    np.testing.assert_allclose(jax.jit(jax.vmap(lambda datum: whole(params, datum)))(data), expected, **close)
    graph = transformer_graph(model, params, data, read=-1, heads=heads, inputs=inputs)
    graph = rewrites.split_positions(graph, "embed", {"some": [3, 1]})
    first = "a0.h0" if heads else "a0"
    last = f"a{config.n_layers - 1}" + (f".h{config.n_heads - 1}" if heads else "")
    graph = rewrites.split_sources(graph, first, {"current": 0, "next": -1})
    graph = graph if first == last else rewrites.split_identity(graph, last)
    last = jax.jit(jax.vmap(lambda datum: graph(params, datum)))(data)
    np.testing.assert_allclose(last, expected[:, -1], **close)


ARGUMENTS = configs(), st.sampled_from([None, "left"]), st.booleans(), st.sampled_from([None, "stream", "qkv"])


@budget(1)
@given(*ARGUMENTS)
def test_a_transformers_graph_is_its_forward(config, side, heads, inputs):
    with jax.enable_x64(True):
        check_forward(config, side, heads, inputs)


@pytest.mark.slow
@budget(60)
@given(*ARGUMENTS)
def test_a_transformers_graph_is_its_forward_in_many(config, side, heads, inputs):
    jax.clear_caches()
    with jax.enable_x64(True):
        check_forward(config, side, heads, inputs)


@pytest.fixture(scope="module")
def stream():
    """x -> y -> z, of three rows."""
    nodes = {
        "x": ji.Node(
            lambda params, datum, *, rows=None: datum if rows is None else datum[rows], ("input",), by_row=(False,)
        ),
        "y": ji.Node(lambda params, x: x * (x + params), ("x",)),
        "z": ji.Node(lambda params, y: y.sum(), ("y",)),
    }
    data = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3, 2)), jnp.float32)
    return ji.Graph(nodes, "z", examples=(jnp.float32(2), data)), data


def test_rewrites_make_nodes_of_parts(stream):
    graph, data = stream
    rewritten = {
        ("y.linear", "y.square"): rewrites.split_terms(
            graph, "y", {"linear": lambda params, x: params * x, "square": lambda params, x: x * x}
        ),
        ("y.here", "y.there"): rewrites.split_factors(
            graph, "y", {"here": lambda params, x: x, "there": lambda params, x: x + params}
        ),
        ("y.along", "y.rest"): rewrites.split_direction(graph, "y", jnp.array([1.0, 2.0])),
        ("y.guess", "y.rest"): rewrites.split_estimate(graph, "y", lambda params, x: 2 * x, ["x"], "guess"),
        ("y@0", "y@rest"): rewrites.split_positions(graph, "y", {"0": [0]}),
        ("x",): rewrites.hide(graph, ["y"]),
    }
    for parents, changed in rewritten.items():
        assert changed.parents("z") == parents
        for datum in data:
            np.testing.assert_allclose(changed(jnp.float32(2), datum), graph(jnp.float32(2), datum), rtol=1e-5)
    along = rewritten["y.along", "y.rest"]
    part = along.value(jnp.float32(2), data[0], "y.along")
    np.testing.assert_allclose(part[:, 1], 2 * part[:, 0], rtol=1e-5)


def test_rewrites_that_change_something_are_refused(stream):
    graph, _ = stream
    with pytest.raises(ValueError, match=r"the rewrite changes 'y' by .* on the examples"):
        rewrites.split_terms(graph, "y", {"linear": lambda params, x: x})
    with pytest.raises(ValueError, match="row 3 of 'y', which has 3 rows"):
        rewrites.split_positions(graph, "y", {"late": [3]})
    with pytest.raises(ValueError, match="name a row twice"):
        rewrites.split_positions(graph, "y", {"a": [0], "b": [0]})
    with pytest.raises(ValueError, match="only nodes before it"):
        rewrites.split_terms(graph, "z", {"a": lambda params, y: y.sum()})
    with pytest.raises(ValueError, match="has been rewritten already"):
        rewrites.split_positions(rewrites.split_positions(graph, "y"), "y")
    with pytest.raises(ValueError, match="no examples"):
        rewrites.split_positions(ji.Graph(graph.nodes, "z"), "y")
    with pytest.raises(ValueError, match="unknown node 'w'"):
        rewrites.hide(graph, ["w"])


def test_nodes_that_are_read_together_can_be_one(stream):
    graph, data = stream
    split = rewrites.split_terms(
        graph, "y", {"one": lambda p, x: x * x, "two": lambda p, x: p * x - x, "three": lambda p, x: x}
    )
    grouped = rewrites.group(split, ["y.one", "y.three"], "y.both")
    assert grouped.parents("z") == ("y.two", "y.both")
    two, x = jnp.float32(2), data[0]
    np.testing.assert_allclose(grouped.value(two, x, "y.both"), x * x + x, rtol=1e-6)
    np.testing.assert_allclose(grouped(two, x), graph(two, x), rtol=1e-5)
    apart = ji.Graph({**split.nodes, "w": ji.Node(lambda p, x: x, ("y.one",))}, "z", examples=graph.examples)
    with pytest.raises(ValueError, match=r"'w' does not read the sum of y\.one, y\.three"):
        rewrites.group(apart, ["y.one", "y.three"], "y.both")
    with pytest.raises(ValueError, match="expected two nodes or more"):
        rewrites.group(split, ["y.one"], "y.both")


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"kind": "row", "parents": ("a",)}, "unknown kind 'row'; did you mean 'rows'"),
        ({"kind": "sum"}, "a sum needs parents"),
        ({"kind": "rows", "parents": ("a",)}, "has rows= and one parent"),
        ({"kind": "rows", "parents": ("a",), "rows": (2, 0)}, "in ascending order"),
        ({"kind": "rows", "parents": ("a",), "rows": (-1,)}, "in ascending order"),
        ({"kind": "joined", "parents": ("a", "b"), "places": ((0,),)}, "where its rows stand"),
        ({"kind": "joined", "parents": ("a", "b"), "places": ((0,), (2,))}, "each place once"),
    ],
)
def test_what_no_kind_of_node_is_told(node, message):
    with pytest.raises(ValueError, match=message):
        ji.Node(**node)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ({"b": ji.Node(lambda p, x: x[0], ("input",))}, r"'b' has \(2,\), the sum \(3, 2\)"),
        ({"b": ji.Node(None, ("a",), "rows", rows=(3,))}, r"'b' is row 3 of a value of shape \(3, 2\)"),
        ({"b": ji.Node(lambda p, a: jnp.ones(7), ("a",))}, "in node 'sum'|shape"),
    ],
)
def test_what_does_not_fit_together_is_told(stream, nodes, message):
    _, data = stream
    graph = ji.Graph(
        {"a": ji.Node(lambda p, x: x, ("input",)), **nodes, "sum": ji.Node(None, ("a", "b"), "sum"),
         "out": ji.Node(lambda p, x: x.sum(), ("sum",))}, "out",
    )  # fmt: skip
    claim = ji.Hypothesis(graph, {"f": None}, {"f": "out"})
    with pytest.raises((ValueError, TypeError), match=message):
        ji.scrub(claim, None, data, num_samples=4, key=jax.random.key(0))


def test_constants_are_the_same_at_all_rows():
    x = jnp.arange(6.0).reshape(3, 2)
    nodes = {
        "x": ji.Node(lambda p, x, *, rows=None: x if rows is None else x[rows], ("input",), by_row=(False,)),
        "c": ji.Node(lambda p: p), "s": ji.Node(None, ("x", "c"), "sum"),
        "last": ji.Node(None, ("s",), "rows", rows=(2,)), "out": ji.Node(lambda p, s: s.sum(), ("last",)),
    }  # fmt: skip
    graph = ji.Graph(nodes, "out")
    assert float(graph(jnp.array([10.0, 20.0]), x)) == 4 + 5 + 30
    with pytest.raises(ValueError, match=r"'c' has no parents, .* let it read the input"):
        graph(jnp.ones((3, 2)), x)


def test_errors_name_the_node():
    graph = ji.Graph({"a": ji.Node(lambda x: x, ("input",)), "b": ji.Node(lambda p, a: a, ("a",))}, "b")
    with pytest.raises(TypeError) as error:
        graph(None, 1.0)
    assert error.value.__notes__ == ["in node 'a'"]


def test_a_dataset_is_checked_against_the_examples(small):
    model, params, tokens = small
    data = {"tokens": np.asarray(tokens), "label": np.asarray(tokens[:, 0])}
    graph = transformer_graph(model, params, data, read=-1)
    claim, run = ji.Hypothesis(graph, {"f": None}, {"f": "logits"}), {"num_samples": 4, "key": jax.random.key(0)}
    for change, message in (
        ({"mask": np.ones((3, 6), bool)}, "without a mask, as in its examples; got .* with one"),
        ({"tokens": data["tokens"][:, :5]}, r"\[datum, 6\] tokens .* got \(3, 5\)"),
        ({"tokens": data["tokens"] + 50}, "is out of vocabulary: ids run from 0 to 49"),
        ({"label": data["label"] - 50}, "labels run from .* expected 0 to 49"),
    ):
        with pytest.raises(ValueError, match=message):
            ji.scrub(claim, params, data | change, **run)


@pytest.mark.parametrize(
    ("nodes", "output", "message"),
    [
        ({"a": ji.Node(lambda _, b: b, ("b",)), "b": ji.Node(lambda _, a: a, ("a",))}, "a", "a circle: a <- b <- a"),
        ({"a": ji.Node(lambda _, b: b, ("inptu",))}, "a", "parents of 'a': unknown node 'inptu'"),
        ({"a": ji.Node(lambda _, x: x, ("input",))}, "b", "output: unknown node 'b'"),
        ({"input": ji.Node(lambda _: 1)}, "input", "stands for the datum"),
        ({"a": ji.Node(None, ("input",), "rows", rows=(0,))}, "a", "reads rows of the datum itself"),
    ],
)
def test_what_is_no_graph_is_told(nodes, output, message):
    with pytest.raises(ValueError, match=message):
        ji.Graph(nodes, output)


def test_what_is_no_node_is_told():
    with pytest.raises(TypeError, match="got the string 'input'"):
        ji.Node(lambda _, x: x, "input")
    with pytest.raises(ValueError, match="needs fn"):
        ji.Node(None, ("input",))
    with pytest.raises(ValueError, match="by_row has 2 entries for 1 parents"):
        ji.Node(lambda _, x: x, ("input",), by_row=(True, False))


def test_attention_comes_apart_by_source():
    """Parts are the forward's with the rest of the pattern at zero, and the identity's with the pattern replaced."""
    config = ji.TransformerConfig(n_layers=2, d_model=16, n_heads=4, n_kv_heads=2, d_vocab=11, n_ctx=6)
    model = ji.Transformer(config)
    params = random_params(model)
    tokens = np.random.default_rng(0).integers(0, 11, (3, 6))
    graph = transformer_graph(model, params, tokens)
    parts = rewrites.split_sources(graph, "a1.h1")
    ones = rewrites.split_identity(graph, "a1.h1")
    place = np.arange(6)
    before = place[:, None] - place

    def result(change):
        edits = {"pattern": ji.apply_fn(change, where=ji.at(layer=1, head=1))}
        return model.apply(params, tokens, interventions=edits, capture=("result",))[1]["result"][1, :, :, 1]

    for graph, name, expected in (
        (parts, "current", lambda pattern: pattern * (before == 0)),
        (parts, "previous", lambda pattern: pattern * (before == 1)),
        (parts, "rest", lambda pattern: pattern * (before > 1)),
        (ones, "identity", lambda pattern: jnp.broadcast_to(jnp.eye(6), pattern.shape)),
    ):
        found = jax.vmap(lambda datum, name=name, graph=graph: graph.value(params, datum, f"a1.h1.{name}"))(tokens)
        np.testing.assert_allclose(found, result(expected), atol=1e-5, err_msg=name)


def test_what_has_no_sources_is_told():
    model = ji.Transformer(ji.TransformerConfig(n_layers=1, d_model=8, n_heads=2, d_vocab=5, n_ctx=4))
    graph = transformer_graph(model, model.init(jax.random.key(0)), np.zeros((2, 4), int))
    with pytest.raises(ValueError, match="'m0' is no attention"):
        rewrites.split_identity(graph, "m0")
    with pytest.raises(ValueError, match="'rest' is what no other source names"):
        rewrites.split_sources(graph, "a0.h0", {"rest": 2})
    with pytest.raises(ValueError, match="different whole numbers"):
        rewrites.split_sources(graph, "a0.h0", {"a": 1, "b": 1})
    parts = rewrites.split_sources(graph, "a0.h0")
    with pytest.raises(ValueError, match="already a part of attention"):
        rewrites.split_sources(parts, "a0.h0.rest")
