"""Integrated gradients: completeness, the order at which its error falls, and exactness where it must be exact."""

import jax
import numpy as np
import pytest
from architectures import altered, random_params, random_tokens

import jaxinterp as ji
from jaxinterp.attribution.integrated import quadrature

METRIC = ji.logit_diff([0, 1, 0], [1, 0, 1])


@pytest.fixture(scope="module")
def exact():
    config = ji.TransformerConfig(n_layers=2, d_model=8, n_heads=2, d_vocab=11, n_ctx=8, dtype="float64")
    model = ji.Transformer(config)
    with jax.enable_x64(True):
        params = jax.tree.map(lambda w: 0.5 * w, random_params(model))
        yield model, params, random_tokens(config), altered(config, random_tokens(config), first=4)


def test_rules_integrate_what_they_say():
    for rule, degree in (("left", 0), ("right", 0), ("midpoint", 1), ("gauss-legendre", 5)):
        points, weights = quadrature(rule, 3)
        for power in range(degree + 1):
            np.testing.assert_allclose((weights * points**power).sum(), 1 / (power + 1), atol=1e-14)


def test_a_layers_entries_add_up_to_the_effect_of_patching_all_of_it(exact):
    model, params, base, source = exact
    found = ji.attribution_patching(
        model, params, base, source, site="z", metric=METRIC, method="ig", rule="gauss-legendre", steps=12
    )
    patched = ji.activation_patching(model, params, base, source, site="z", over=("layer",), metric=METRIC)
    np.testing.assert_allclose(found.sum(("pos", "head")), patched, atol=1e-7)
    assert found.completeness_error < 1e-7
    run = {"site": "z", "metric": METRIC, "per_example": True}
    rough = ji.attribution_patching(model, params, base, source, method="ig", steps=1, **run)
    each = ji.activation_patching(model, params, base, source, over=("layer",), **run)
    missing = np.abs(rough.sum(("pos", "head")) - each).mean("batch")  # errors of different prompts do not cancel
    np.testing.assert_allclose(rough.completeness_error, missing.max(), rtol=1e-6)
    whole = ji.attribution_patching(
        model, params, base, source, site="z", over=(), metric=METRIC, method="ig", rule="gauss-legendre", steps=12
    )
    np.testing.assert_allclose(whole, found.sum(), atol=1e-12)


@pytest.mark.parametrize(
    ("rule", "order", "path"),
    [
        ("right", 1, "activations"),
        ("midpoint", 2, "inputs"),
        pytest.param("left", 1, "inputs", marks=pytest.mark.slow),
        pytest.param("midpoint", 2, "activations", marks=pytest.mark.slow),
    ],
)
def test_the_error_falls_at_the_order_of_the_rule(exact, rule, order, path):
    model, params, base, source = exact
    site = "mlp_out" if path == "activations" else "embed"
    errors = [
        ji.attribution_patching(
            model, params, base, source, site=site, metric=METRIC, method="ig", rule=rule, path=path, steps=steps
        ).completeness_error
        for steps in (32, 64)
    ]
    assert errors[0] > 1e-9
    np.testing.assert_allclose(np.log2(errors[0] / errors[1]), order, atol=0.25)


def test_along_inputs_the_embedding_adds_up_to_the_whole_difference(exact):
    model, params, base, source = exact
    found = ji.attribution_patching(
        model, params, base, source, sites=("embed", "resid_pre"), metric=METRIC, method="ig", path="inputs",
        rule="gauss-legendre", steps=16,
    )  # fmt: skip
    difference = found["embed"].source_metric - found["embed"].base_metric
    np.testing.assert_allclose(found["embed"].sum(), difference, atol=1e-6)
    np.testing.assert_allclose(found["resid_pre"].sel(layer=0), found["embed"], atol=1e-12)


def test_one_step_of_the_left_rule_is_the_gradient_of_the_base(exact):
    model, params, base, source = exact
    run = {"sites": ("q", "mlp_post"), "metric": METRIC, "per_example": True}
    plain = ji.attribution_patching(model, params, base, source, **run)
    for path in ("activations", "inputs"):
        first = ji.attribution_patching(
            model, params, base, source, method="ig", rule="left", steps=1, path=path, **run
        )
        for site in run["sites"]:
            np.testing.assert_allclose(first[site], plain[site], atol=1e-12)
