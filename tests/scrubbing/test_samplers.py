"""Swaps that are preferred, and data that are made: generalised scrubbing, and its reduction to the plain one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxinterp as ji
from jaxinterp.scrubbing import Generator, Kernel, gaussian_kernel

KEY = jax.random.key(0)
DATA = np.random.default_rng(0).normal(size=(50, 2)).round(1).astype(np.float32)


def claim(sampler="agree", feature=None):
    """f = x0 + x1, of which x0 is claimed, to within its first digit."""
    graph = ji.Graph(
        {
            "a": ji.Node(lambda params, x: x[0], ("input",)),
            "b": ji.Node(lambda params, x: x[1], ("input",)),
            "sum": ji.Node(lambda params, a, b: a + b, ("a", "b")),
        },
        output="sum",
        loss=lambda total, x: jnp.square(total - x.sum()),
    )
    feature = feature or (lambda x: np.asarray(x)[:, 0].round())
    features = {"out": ji.Feature(None, ("first",)), "first": ji.Feature(feature)}
    return ji.Hypothesis(graph, features, {"out": "sum", "first": "a"}, {"first": sampler})


def datum_of(hypothesis, n=4000):
    return ji.scrub(hypothesis, None, DATA, num_samples=n, key=KEY, keep_samples=True).samples.datum


def test_a_kernel_that_only_knows_agreement_is_the_plain_sampler():
    same = Kernel(lambda _, values: jnp.where(values[:, None] == values, 0.0, -jnp.inf))
    plain = datum_of(claim())
    for kernel in (same, gaussian_kernel(1e-3)):
        np.testing.assert_array_equal(datum_of(claim(kernel)), plain)
    anything = datum_of(claim(gaussian_kernel(1e6))).sel(draw="out/first").values
    counts = np.bincount(anything, minlength=50)
    assert ((counts - 80) ** 2 / 80).sum() < 50 + 4 * np.sqrt(100)


def test_swaps_have_the_probabilities_of_the_kernel():
    kernel = gaussian_kernel(0.7)
    drawn = datum_of(claim(kernel), n=200_000)
    values = DATA[:, 0].round()
    weights = np.exp(-((values[:, None] - values) ** 2) / (2 * 0.7**2))
    expected = weights / weights.sum(1, keepdims=True)
    reference, datum = drawn.sel(draw="reference").values, drawn.sel(draw="out/first").values
    counts = np.zeros((50, 50))
    np.add.at(counts, (reference, datum), 1)
    expected *= counts.sum(1, keepdims=True)
    large = expected > 5
    assert ((counts - expected) ** 2 / expected)[large].sum() < large.sum() + 5 * np.sqrt(2 * large.sum())
    features = ji.scrub(claim(kernel), None, DATA, num_samples=10, key=KEY).features.sel(feature="first")
    chance = weights / weights.sum(1, keepdims=True)
    np.testing.assert_allclose(features["self"], chance.diagonal().mean(), rtol=1e-5)
    np.testing.assert_allclose(features.drift, abs(chance.mean(0) - 1 / 50).sum() / 2, rtol=1e-5)
    assert ji.scrub(claim(), None, DATA, num_samples=10, key=KEY).features.drift.sel(feature="first") == 0


def test_a_kernel_may_be_over_data_themselves():
    near = abs(DATA[:, None, 1] - DATA[None, :, 1]) < 0.15
    hypothesis = claim(Kernel(lambda _, values: np.where(near, 0, -np.inf)), feature=lambda x: np.arange(len(x)))
    drawn = datum_of(hypothesis)
    assert near[drawn.sel(draw="reference").values, drawn.sel(draw="out/first").values].all()


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (Kernel(lambda _, values: values), r"log_weights have shape"),
        (Kernel(lambda _, values: jnp.full((len(values),) * 2, jnp.nan)), "hold NaN"),
        (Kernel(lambda _, values: jnp.full((len(values),) * 2, -jnp.inf)), "lets nothing stand in for"),
        ("near", "unknown 'near'"),
    ],
)
def test_what_is_no_kernel_is_told(kernel, message):
    with pytest.raises(ValueError, match=message):
        ji.scrub(claim(kernel), None, DATA, num_samples=10, key=KEY)
    with pytest.raises(ValueError, match="scale must be above 0"):
        gaussian_kernel([1.0, 0.0])


def test_made_data_are_run_themselves():
    def shifted(key, x):
        return x.at[1].set(10 * jax.random.normal(key))

    # a's value is x0 alone: whatever is made keeps it, and b's is any datum's
    made = ji.scrub(claim(Generator(shifted)), None, DATA, num_samples=5000, key=KEY, keep_samples=True)
    found = ji.scrub(claim("exact"), None, DATA, num_samples=5000, key=KEY, keep_samples=True)
    assert (made.samples.datum.sel(draw="out/first") == -1).all()
    others = (result.samples.datum.sel(draw="out: others").values for result in (made, found))
    references = made.samples.datum.sel(draw="reference").values
    for datum, result in zip(others, (made, found), strict=True):
        expected = np.square(DATA[datum, 1] - DATA[references, 1])
        np.testing.assert_allclose(result.samples.loss, expected, rtol=1e-4, atol=1e-5)


def test_what_is_made_may_be_read_further_down():
    nodes = {
        "a": ji.Node(lambda params, x: x, ("input",)), "b": ji.Node(lambda params, a, x: a[0] * x[1], ("a", "input")),
        "out": ji.Node(lambda params, b: b, ("b",)),
    }  # fmt: skip
    graph = ji.Graph(nodes, "out", loss=lambda out, x: jnp.square(out - x.prod()))
    features = {"out": ji.Feature(None, ("b",)), "b": ji.Feature(lambda x: x[:, 0], ("a",)), "a": None}
    of = {name: name for name in features}
    generator = Generator(lambda key, x: x.at[1].set(100.0))

    def of_samplers(**samplers):
        return ji.Hypothesis(graph, features, of, {"b": generator, **samplers})

    result = ji.scrub(of_samplers(a="exact"), None, DATA, num_samples=500, key=KEY, keep_samples=True)
    about, other = (result.samples.datum.sel(draw=name).values for name in ("reference", "out/b: others"))
    expected = np.square(DATA[about, 0] * DATA[other, 1] - DATA[about].prod(1))
    np.testing.assert_allclose(result.samples.loss, expected, rtol=1e-4, atol=1e-5)
    assert ji.scrub(of_samplers(a="unconditional"), None, DATA, num_samples=10, key=KEY).n_samples == 10
    with pytest.raises(ValueError, match="'a': 'agree' looks for data in the dataset, but 'b' above it makes one"):
        of_samplers()


def test_what_is_made_must_agree():
    wrong = Generator(lambda key, x: x + 1)
    with pytest.raises(ValueError, match="what the generator makes for datum 0 does not agree"):
        ji.scrub(claim(wrong), None, DATA, num_samples=10, key=KEY)
    with pytest.raises(ValueError, match="data of another structure"):
        ji.scrub(claim(Generator(lambda key, x: x[:1])), None, DATA, num_samples=10, key=KEY)
    fixed = claim(wrong)
    values = {"out": fixed.interpretation["out"], "first": ji.Feature(np.zeros(50))}
    with pytest.raises(ValueError, match="the feature must be a function"):
        ji.scrub(dataclasses.replace(fixed, interpretation=values), None, DATA, num_samples=10, key=KEY)
