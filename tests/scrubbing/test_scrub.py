"""Scrubbing against the paper's pseudocode, draw by draw, and enumeration; identities that must hold exactly."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from literal import chances, expected, random_hypothesis, scrubbed

import jaxinterp as ji
from jaxinterp.scrubbing.result import recovered_above
from jaxinterp.scrubbing.runner import make_ready, run_ready
from jaxinterp.scrubbing.samplers import Draw, Partition, draw

KEY = jax.random.key(0)


def check_draw_by_draw(seed, n=24, *, apart=False):
    """Each sample's value is that of the recursion with the same draws, and each draw is one that may be."""
    hypothesis, params, data = random_hypothesis(np.random.default_rng(seed), n=9)
    ready = make_ready(hypothesis, params, data, apart=apart)
    result = run_ready(ready, n, jax.random.key(seed), keep_samples=True)
    labels = list(result.samples.draw.values)
    for sample in range(n):
        drawn = dict(zip(labels, result.samples.datum.values[sample], strict=True))
        if apart and hypothesis.unimportant == "together":
            for label, datum in list(drawn.items()):
                place, _, node = label.partition(": ")
                assert not node or drawn.setdefault(f"{place}: others", datum) == datum

        def of(path, drawn=drawn):
            # an exact draw is that of the reader
            while path not in drawn:
                path = path.rpartition("/")[0] or "reference"
            return int(drawn[path])

        value = scrubbed(hypothesis, params, data, hypothesis.root, of)
        np.testing.assert_allclose(result.samples.loss[sample], value, rtol=1e-4, atol=1e-5)
        for path in places(hypothesis):
            reader = path.rpartition("/")[0]
            assert chances(hypothesis, data, path.rpartition("/")[2], of(reader or "reference"))[of(path)] > 0


def places(hypothesis, feature=None, path=""):
    feature = feature or hypothesis.root
    path = f"{path}/{feature}" if path else feature
    yield path
    for parent in hypothesis.interpretation[feature].parents:
        yield from places(hypothesis, parent, path)


def check_expectation(seed):
    """Monte Carlo's mean is that of all draws, within 4 standard errors."""
    rng = np.random.default_rng(seed)
    hypothesis, params, data = random_hypothesis(rng, n=3)
    while hypothesis.count_places() > 6:  # too many draws to enumerate
        hypothesis, params, data = random_hypothesis(rng, n=3)
    result = ji.scrub(hypothesis, params, data, num_samples=20_000, key=KEY, keep_samples=True)
    error = result.samples.loss.values.std() / np.sqrt(20_000)
    assert abs(result.loss - expected(hypothesis, params, data)) <= 4 * error + 1e-5


@pytest.mark.parametrize(("seed", "apart"), [(1, False), (2, True), (3, False)])
def test_samples_are_those_of_the_recursion(seed, apart):
    check_draw_by_draw(seed, apart=apart)


@pytest.mark.parametrize("seed", [4, 5])
def test_the_mean_is_that_of_all_draws(seed):
    check_expectation(seed)


def either_of(data):
    """(graph, hypothesis): f = (z1 > 3) or (z2 > 3), each of the two a node and a feature."""
    graph = ji.Graph(
        {
            "a": ji.Node(lambda params, x: x[0] > 3, ("input",)),
            "b": ji.Node(lambda params, x: x[1] > 3, ("input",)),
            "either": ji.Node(lambda params, a, b: jnp.float32(a | b), ("a", "b")),
        },
        output="either",
        loss=lambda either, x: jnp.square(either - (x > 3).any()) + x[0],
    )
    features = {
        "large": ji.Feature(lambda x: (x > 3).any(1), ("first", "second")),
        "first": ji.Feature(lambda x: x[:, 0] > 3),
        "second": ji.Feature(lambda x: x[:, 1] > 3),
    }
    return graph, features, {"large": "either", "first": "a", "second": "b"}


@pytest.fixture(scope="module")
def toy():
    data = np.random.default_rng(0).integers(0, 7, (60, 2)).astype(np.float32)
    return *either_of(data), data


def test_what_is_true_keeps_every_sample(toy):
    graph, features, of, data = toy
    claim = ji.Hypothesis(graph, features, of)
    result = ji.scrub(claim, None, data, num_samples=500, key=KEY, keep_samples=True)
    references = result.samples.datum.sel(draw="reference").values
    np.testing.assert_array_equal(result.samples.loss, data[references, 0])
    assert (result.recovered, result.recovered_error) == (1, 0)
    assert np.bincount(references).max() - np.bincount(references).min() <= 1


def test_nothing_is_lost_if_all_matters_and_all_if_nothing_does(toy):
    graph, _, _, data = toy
    whole = ji.Hypothesis(graph, {"f": ji.Feature()}, {"f": "either"})
    assert ji.scrub(whole, None, data, num_samples=300, key=KEY).recovered == 1
    nothing = ji.Hypothesis(graph, {"f": ji.Feature()}, {"f": "either"}, {"f": "unconditional"})
    result = ji.scrub(nothing, None, data, num_samples=60_000, key=KEY)
    assert abs(result.recovered) < 3 * result.recovered_error
    either = (data > 3).any(1)
    pairs = np.square(either[:, None].astype(float) - either[None]).mean() + data[:, 0].mean()
    np.testing.assert_allclose(result.random_loss, pairs, rtol=1e-5)
    injective = dict.fromkeys(("large", "first", "second"), ji.Feature(lambda x: np.arange(len(x))))
    injective["large"] = ji.Feature(lambda x: np.arange(len(x)), ("first", "second"))
    same = ji.Hypothesis(graph, injective, {"large": "either", "first": "a", "second": "b"})
    assert ji.scrub(same, None, data, num_samples=300, key=KEY).recovered == 1


def test_swaps_that_shall_not_preserve_do_not(toy):
    graph, features, of, data = toy
    claim = ji.Hypothesis(graph, features, of, {"second": "disagree"})
    result = ji.scrub(claim, None, data, num_samples=400, key=KEY, keep_samples=True)
    second = data[result.samples.datum.sel(draw="large/second").values, 1] > 3
    reference = data[result.samples.datum.sel(draw="reference").values]
    assert (second != (reference[:, 1] > 3)).all()
    expected = ((reference[:, 0] > 3) | second) != (reference > 3).any(1)
    np.testing.assert_allclose(result.samples.loss - reference[:, 0], expected)


def test_samples_do_not_depend_on_what_is_kept_or_looked_up(toy):
    graph, features, _, data = toy
    claim = ji.Hypothesis(
        graph, {"large": ji.Feature(features["large"].values, ("first",)), "first": features["first"]},
        {"large": "either", "first": "a"},
    )  # fmt: skip
    run = {"num_samples": 900, "key": KEY}
    one, two = ji.scrub(claim, None, data, **run), ji.scrub(claim, None, data, **run, keep_samples=True)
    np.testing.assert_allclose(one.loss, two.loss, rtol=1e-6)
    np.testing.assert_allclose(two.loss, two.samples.loss.mean(), rtol=1e-6)
    room = 4 * len(data)  # for the output alone
    computed = ji.scrub(claim, None, data, **run, tables=ji.scrubbing.Tables(graph, None, data, max_bytes=room))
    np.testing.assert_allclose(computed.loss, one.loss, rtol=1e-6)
    assert {"classes": 2, "singletons": 0}.items() <= {
        k: int(v) for k, v in one.features.sel(feature="first").data_vars.items()
    }.items()


def test_errors_are_clustered_by_what_samples_are_about(toy):
    graph, _, _, data = toy
    whole = ji.Hypothesis(graph, {"f": ji.Feature()}, {"f": "either"})
    once, often = (ji.scrub(whole, None, data, num_samples=n, key=KEY) for n in (60, 6000))
    np.testing.assert_allclose(once.loss_error, often.loss_error, rtol=1e-5)
    np.testing.assert_allclose(once.loss_error, data[:, 0].std(ddof=1) / np.sqrt(60), rtol=1e-5)


def test_losses_that_are_not_finite_are_counted(toy):
    graph, features, of, data = toy
    broken = ji.Graph(graph.nodes, "either", loss=lambda either, x: jnp.where(x[0] == 0, jnp.nan, either))
    result = ji.scrub(ji.Hypothesis(broken, features, of), None, data, num_samples=120, key=KEY)
    assert result.non_finite == 2 * (data[:, 0] == 0).sum() > 0
    assert np.isnan(result.loss)
    assert "NOT FINITE" in str(result)


def first_of_two(loss, sampler="unconditional", n=4000):
    nodes = {
        "a": ji.Node(lambda _, x: x[0], ("input",)), "b": ji.Node(lambda _, x: 0.1 * x[1], ("input",)),
        "out": ji.Node(lambda _, a, b: a + b, ("a", "b")),
    }  # fmt: skip
    claim = ji.Hypothesis(
        ji.Graph(nodes, "out", loss=loss), {"out": ji.Feature(None, ("a",)), "a": ji.Feature(lambda x: x[:, 0])},
        {"out": "out", "a": "a"}, {"a": sampler},
    )  # fmt: skip
    data = np.random.default_rng(1).integers(0, 2, (400, 2)).astype(np.float32)
    return ji.scrub(claim, None, data, num_samples=n, key=KEY)


def test_what_another_scrub_leaves_can_be_zero():
    floor, agree = (first_of_two(lambda out, x: jnp.abs(out - x[0]), how) for how in ("unconditional", "agree"))
    share, error = recovered_above(agree, floor)
    np.testing.assert_allclose(share, (floor.loss - agree.loss) / (floor.loss - agree.model_loss), rtol=1e-5)
    assert 0 < error < 0.1
    assert recovered_above(floor, floor) == (0, recovered_above(floor, floor)[1])
    with pytest.raises(ValueError, match="about the same references, as often"):
        recovered_above(agree, first_of_two(lambda out, x: jnp.abs(out - x[0]), n=500))


def test_losses_of_any_kind_are_numbers():
    exact = first_of_two(lambda out, x: jnp.float32((out > 0.5) != (x[0] > 0.5)))
    for kind in (jnp.bool_, jnp.uint8):
        found = first_of_two(lambda out, x, kind=kind: ((out > 0.5) != (x[0] > 0.5)).astype(kind))
        assert found.recovered == exact.recovered
        assert found.random_loss == exact.random_loss
    half = first_of_two(lambda out, x: (jnp.abs(out - x[0]) * 400 + 2).astype(jnp.float16))
    assert abs(half.random_loss - 202) < 20


@pytest.mark.parametrize("loss", [lambda out, x: jnp.where(jnp.abs(out - x[0]) < 0.5, 0.0, jnp.inf), None])
def test_nothing_is_recovered_where_there_is_nothing_to_recover(loss):
    result = first_of_two(loss)
    assert np.isnan(result.recovered)
    assert ("NOT FINITE" in str(result)) or ("no loss lies between" in str(result))


def test_what_no_feature_is_told():
    with pytest.raises(TypeError, match="one value for each datum, got int"):
        ji.Feature(3)
    with pytest.raises(TypeError, match="expected one value for each datum, got int"):
        ji.Feature(lambda data: 3).partition(np.zeros(4), 4, "f")
    graph = ji.Graph({"out": ji.Node(lambda _, x: x, ("input",))}, "out")
    with pytest.raises(TypeError, match="interpretation must be a mapping by feature, got list"):
        ji.Hypothesis(graph, ["out"], {"out": "out"})
    values = np.arange(4)
    feature = ji.Feature(values)
    values[:] = 0
    assert len(feature.partition(np.zeros(4), 4, "f").sizes) == 4


def test_trees_that_are_too_large_are_described_all_the_same():
    nodes, n = {"l0": ji.Node(lambda _, x: x, ("input",))}, 25
    for i in range(1, n):
        nodes |= {f"{side}{i}": ji.Node(lambda _, a: a, (f"l{i - 1}",)) for side in "uv"}
        nodes[f"l{i}"] = ji.Node(None, (f"u{i}", f"v{i}"), "sum")
    features = {name: ji.Feature(None, tuple(p for p in node.parents if p != "input")) for name, node in nodes.items()}
    claim = ji.Hypothesis(ji.Graph(nodes, f"l{n - 1}"), features, {name: name for name in nodes})
    assert claim.count_places() > 10_000_000
    assert claim.describe().count("as above") == n - 2
    assert ji.hypothesis_figure(claim).axes
    with pytest.raises(ValueError, match="unfolds to"):
        ji.scrub(claim, None, np.zeros(3, np.float32), num_samples=10, key=KEY)


def test_tables_go_when_the_graph_goes():
    held = np.random.default_rng(0).random((500, 300)).astype(np.float32)
    graph = ji.Graph({"wide": ji.Node(lambda _, x: 2 * x, ("input",)), "sum": ji.Node(lambda _, x: x.sum(), ("wide",))},
                     "sum")  # fmt: skip
    claim = ji.Hypothesis(graph, {"all": ji.Feature(None, ("part",)), "part": ji.Feature(lambda x: x[:, 0] > 0.5)},
                          {"all": "sum", "part": "wide"})  # fmt: skip
    ji.scrub(claim, None, held, num_samples=100, key=KEY)
    tables, of_graph = weakref.ref(graph._tables), weakref.ref(graph)
    assert tables().values([(("wide", None),)])
    del graph, claim
    gc.collect()  # programs stay compiled, and keep what they were made of
    assert tables() is None
    assert of_graph() is None


def test_equal_draws_everywhere_are_uniform():
    codes = Partition.of([0, 1, 1, 1, 0, 2, 2, 2, 2, 2], 10, "").classes()
    plan = [
        Draw("reference", 0, "", "", "", ""),
        Draw("agree", 0, "f", "", "", ""),
        Draw("disagree", 0, "f", "", "", ""),
        Draw("unconditional", 0, "", "", "", ""),
    ]
    n = 40_000
    for reference, own in ((1, {1, 2, 3}), (7, {5, 6, 7, 8, 9})):
        _, agree, other, any_ = draw(plan, {"f": jax.device_put(codes)}, {}, jnp.zeros(10), jnp.full(n, reference), KEY)
        for found, allowed in ((agree, own), (other, set(range(10)) - own), (any_, set(range(10)))):
            counts = np.bincount(found, minlength=10)
            assert set(np.flatnonzero(counts)) == allowed
            mean = n / len(allowed)
            assert ((counts[list(allowed)] - mean) ** 2 / mean).sum() < 30


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"interpretation": {}}, "the interpretation is empty"),
        ({"correspondence": {"large": "either", "first": "a"}}, "the correspondence lacks 'second'"),
        ({"correspondence": {"large": "either", "first": "a", "second": "a"}}, "stand for the same node 'a'"),
        ({"correspondence": {"large": "either", "first": "a", "second": "c"}}, "unknown node 'c'"),
        ({"correspondence": {"large": "a", "first": "either", "second": "b"}}, "it must be the graph's output"),
        ({"samplers": {"frist": "exact"}}, "unknown feature 'frist'; did you mean 'first'"),
        ({"samplers": {"first": "agrees"}}, "unknown 'agrees'; did you mean 'agree'"),
        ({"unimportant": "apart"}, "unimportant must be 'together' or 'separately'"),
        ({"interpretation": {"large": ji.Feature(None, ("frist",)), "first": None}}, "unknown feature 'frist'"),
        (
            {"interpretation": {"large": None, "first": None}, "correspondence": {"large": "either", "first": "a"}},
            "has one root",
        ),
        ({"interpretation": {"a": ji.Feature(None, ("b",)), "b": ji.Feature(None, ("a",))},
          "correspondence": {"a": "either", "b": "a"}}, "a circle of features"),
    ],
)  # fmt: skip
def test_what_is_no_hypothesis_is_told(toy, change, message):
    graph, features, of, _ = toy
    arguments = {"interpretation": features, "correspondence": of} | change
    with pytest.raises(ValueError, match=message):
        ji.Hypothesis(graph, **arguments)


def test_edges_must_be_edges():
    nodes = {
        "a": ji.Node(lambda _, x: x, ("input",)), "b": ji.Node(lambda _, a: a, ("a",)),
        "c": ji.Node(lambda _, b: b, ("b",)), "d": ji.Node(lambda _, x, c: x + c, ("input", "c")),
        "e": ji.Node(lambda _, x: x, ("input",)), "out": ji.Node(lambda _, c, d: c + d, ("c", "d")),
    }  # fmt: skip
    graph = ji.Graph(nodes, "out")

    def claim(reader, parent, graph=graph):
        features = {"out": ji.Feature(None, ("r",)), "r": ji.Feature(None, ("p",)), "p": None}
        return ji.Hypothesis(graph, features, {"out": "out", "r": reader, "p": parent})

    with pytest.raises(
        ValueError, match=r"only upstream of it through b; .* rewrites.hide\(graph, \['b'\], reader='c'\)"
    ):
        claim("c", "a")
    assert claim("c", "a", ji.scrubbing.rewrites.hide(graph, ["b"], reader="c")).count_places() == 3
    with pytest.raises(ValueError, match="the edge runs the other way"):
        claim("c", "d")
    with pytest.raises(ValueError, match="nor upstream of it"):
        claim("c", "e")
    with pytest.raises(ValueError, match="is hidden in the nodes that read it"):
        claim("c", "b", ji.scrubbing.rewrites.hide(graph, ["b", "c"]))


@pytest.mark.parametrize(
    ("values", "dataset", "message"),
    [
        (np.array([0, np.nan, 1, 0]), np.zeros((4, 2)), "feature 'f': NaN for datum 1"),
        (np.arange(3), np.zeros((4, 2)), "expected a value for each of 4 data"),
        ([{1}, {2}, {3}, {4}], np.zeros((4, 2)), "values must be hashable"),
        (None, {"x": np.zeros((4, 2)), "y": np.zeros(3)}, "one datum axis of the same length, got .3, 4."),
        (None, np.zeros((0, 2)), "the dataset is empty"),
    ],
)
def test_what_is_no_data_is_told(values, dataset, message):
    graph = ji.Graph({"out": ji.Node(lambda _, x: jax.tree.leaves(x)[0].sum(), ("input",))}, "out")
    claim = ji.Hypothesis(graph, {"f": ji.Feature(values)}, {"f": "out"})
    with pytest.raises((ValueError, TypeError), match=message):
        ji.scrub(claim, None, dataset, num_samples=10, key=KEY)


def test_what_cannot_be_run_is_told(toy):
    graph, features, of, data = toy
    claim = ji.Hypothesis(graph, features, of)
    run = {"num_samples": 10, "key": KEY}
    with pytest.raises(ValueError, match="unfolds to 3 places"):
        ji.scrub(claim, None, data, **run, max_places=2)
    with pytest.raises(ValueError, match="num_samples must be an int of at least 1"):
        ji.scrub(claim, None, data, num_samples=0, key=KEY)
    with pytest.raises(ValueError, match="max_bytes must be an int of at least 1, or None, got 0"):
        ji.scrub(claim, None, data, **run, max_bytes=0)
    with pytest.raises(ValueError, match="clip must be a number above 0, got None"):
        ji.scrub(claim, None, data, **run, clip=None)
    constant = ji.Hypothesis(graph, features | {"first": ji.Feature(np.zeros(60))}, of, {"first": "disagree"})
    with pytest.raises(ValueError, match="all data agree on it"):
        ji.scrub(constant, None, data, **run)
    with pytest.raises(ValueError, match="of another graph"):
        ji.scrub(claim, None, data, **run, tables=ji.scrubbing.Tables(either_of(data)[0], None, data))
    vague = ji.Graph({"out": ji.Node(lambda _, x: x, ("input",))}, "out")
    with pytest.raises(ValueError, match="a loss must be one number"):
        ji.scrub(ji.Hypothesis(vague, {"f": None}, {"f": "out"}), None, data, **run)


@pytest.mark.slow
def test_samples_are_those_of_the_recursion_in_many():
    for seed in range(100, 160):
        jax.clear_caches()
        check_draw_by_draw(seed, apart=bool(seed % 2))


@pytest.mark.slow
def test_the_mean_is_that_of_all_draws_in_many():
    for seed in range(200, 240):
        jax.clear_caches()
        check_expectation(seed)


def test_what_has_few_different_values_is_looked_up_in_all_combinations():
    """A product of a datum's value and another's, of which there are two, is in a table; samples are the same."""

    def product(params, a, b):
        return jnp.tanh(a * b)

    nodes = {
        "a": ji.Node(lambda params, x: x[0], ("input",)), "b": ji.Node(lambda params, x: jnp.floor(x[1]), ("input",)),
        "c": ji.Node(product, ("a", "b")), "d": ji.Node(lambda params, x: x[1], ("input",)),
        "out": ji.Node(lambda params, c, d: c + d, ("c", "d")),
    }  # fmt: skip
    graph = ji.Graph(nodes, "out")
    features = {"out": ji.Feature(None, ("c",)), "c": ji.Feature(lambda x: x[:, 0] > 0, ("b",))}
    features["b"] = ji.Feature(lambda x: x[:, 1] > 0)
    claim = ji.Hypothesis(graph, features, {name: name for name in features})
    data = np.random.default_rng(0).uniform(-1, 1, (40, 2)).astype(np.float32)
    plain, combined = (make_ready(claim, None, data, combine=combine) for combine in (False, True))
    (table,) = (combined.known[name] for name in set(combined.known) - set(plain.known) if len(name) == 32)
    assert table.shape == (40 * 2,)
    one, two = (run_ready(ready, 500, KEY, keep_samples=True).samples for ready in (plain, combined))
    np.testing.assert_allclose(one.loss, two.loss, rtol=1e-6)
    a, b, d = data[:, 0], np.floor(data[:, 1]), data[:, 1]
    drawn = [one.datum.sel(draw=name).values for name in ("out/c: others", "out/c/b", "out: others")]
    np.testing.assert_allclose(one.loss, np.tanh(a[drawn[0]] * b[drawn[1]]) + d[drawn[2]], rtol=1e-5, atol=1e-6)


def test_sums_of_many_samples_are_not_rounded_away():
    graph = ji.Graph({"out": ji.Node(lambda params, x: 0.1 + 0 * x, ("input",))}, "out")
    claim = ji.Hypothesis(graph, {"f": ji.Feature()}, {"f": "out"})
    for n in (2, 100):
        result = ji.scrub(claim, None, np.zeros(n, np.float32), num_samples=1_000_000, key=KEY)
        np.testing.assert_allclose(result.loss, np.float32(0.1), rtol=1e-6)


def test_values_that_differ_are_told_apart():
    def sizes(values):
        return sorted(Partition.of(values, len(values), "f").sizes.tolist())

    assert sizes([0, "0", 0]) == [1, 2]
    assert sizes([[0, 1], [0, 1], [1, 1]]) == sizes(np.array([[0, 1], [0, 1], [1, 1]])) == [1, 2]
    assert sizes([(0,), (0, 1), (0,)]) == [1, 2]
    with pytest.raises(ValueError, match="NaN for datum 1"):
        Partition.of([(0.0, 1), (float("nan"), 1)], 2, "f")
    with pytest.raises(ValueError, match=r"got shape \(2, 0\)"):
        Partition.of(np.zeros((2, 0)), 2, "f")
