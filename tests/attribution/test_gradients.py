"""Gradients and attribution patching against slopes of the plain forward, and the identities that must hold exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import altered, apply, budget, configs, masks, random_params, random_tokens
from hypothesis import given
from hypothesis import strategies as st

import jaxinterp as ji
from jaxinterp.metrics import score
from jaxinterp.model.where import Geometry

#: Activations through which no derivative is continuous: experts are chosen by rank.
SMOOTH = {"act_fn": "gelu", "n_experts": None, "experts_per_token": None}


def metric_along(model, params, base, mask, metric, site, toward, standing):
    """The metric, [batch], of the base run with one site moved by t * toward, as a function of t."""
    geometry = Geometry.of(base, mask)

    def value(t):
        edits = ji.joined(standing, {site: ji.add(t * toward)})
        logits, cache = apply(model, params, base, edits, mask=mask, capture=tuple(metric.capture))
        return np.asarray(score(metric, logits, cache, geometry))

    return value


def check_slopes(config, side, site, standing, metric, seed):
    """Gradients and estimates against central differences; the remainder of the estimate shrinks quadratically."""
    model = ji.Transformer(config)
    params, base, mask = random_params(model), random_tokens(config), masks(side)
    source = altered(config, base)
    site = list(model.sites)[site % len(model.sites)]
    metric = [
        ji.logit_diff([0, 1, 0], [1, 0, 1]),
        ji.log_prob([0, 1, 1]),
        ji.Metric(_norm_of_the_stream, capture=("resid_final",)),
    ][metric]
    edits = {"attn_out": ji.scale(0.7, ji.at(layer=0))} if standing else {}
    rng = np.random.default_rng(seed)
    shape = model.sites[site].shape(*base.shape)
    _, ours = apply(model, params, base, edits, mask=mask, capture=(site,))
    _, theirs = apply(model, params, source, mask=mask, capture=(site,))
    difference = theirs[site] - ours[site]

    grads = ji.gradients(model, params, base, sites=(site,), metric=metric, mask=mask, base_interventions=edits)[site]
    direction = rng.normal(size=shape)
    along = metric_along(model, params, base, mask, metric, site, direction, edits)
    batch = model.sites[site].axes.index("batch")
    rest = tuple(i for i in range(len(shape)) if i != batch)
    slope = (along(1e-5) - along(-1e-5)) / 2e-5
    scale = max(1.0, np.abs(slope).max())
    np.testing.assert_allclose((np.asarray(grads) * direction).sum(rest), slope, rtol=0, atol=1e-6 * scale)

    estimate = ji.attribution_patching(
        model, params, base, source, site=site, over=(), metric=metric, mask=mask, per_example=True,
        base_interventions=edits,
    )  # fmt: skip
    np.testing.assert_allclose(estimate, (np.asarray(grads) * difference).sum(rest), rtol=0, atol=1e-9 * scale)
    parts = ji.attribution_patching(
        model, params, base, source, site=site, metric=metric, mask=mask, per_example=True, base_interventions=edits
    )
    assert parts.dims[-1] == "batch"
    np.testing.assert_allclose(parts.sum(parts.dims[:-1]), estimate, rtol=0, atol=1e-9 * scale)


TINY = ji.TransformerConfig(n_layers=1, d_model=8, n_heads=2, d_vocab=11)


def _constant(logits, cache):
    return jnp.ones(logits.shape[0])


def _loop(logits, cache):
    return jax.lax.while_loop(lambda x: x.sum() > 1, lambda x: x / 2, logits[:, -1, 0])


def _sign(logits, cache):
    return jnp.sign(cache["z"]).sum((0, 2, 3, 4))


def _sign_of_the_stream(logits, cache):
    return jnp.sign(cache["resid_final"][:, -1, 0])


def _norm_of_the_stream(logits, cache):
    return jnp.square(cache["resid_final"][:, -1]).sum(-1)


ARGUMENTS = {
    "config": configs(**SMOOTH), "side": st.sampled_from([None, "left"]), "site": st.integers(0, 40),
    "standing": st.booleans(), "metric": st.integers(0, 2), "seed": st.integers(0, 99),
}  # fmt: skip


@budget(1)
@given(**ARGUMENTS)
def test_gradients_are_slopes_of_the_plain_forward(**drawn):
    with jax.enable_x64(True):
        check_slopes(**drawn)


@pytest.mark.slow
@budget(60)
@given(**ARGUMENTS)
def test_gradients_are_slopes_of_the_plain_forward_of_many(**drawn):
    with jax.enable_x64(True):
        check_slopes(**drawn)


@pytest.fixture(scope="module")
def exact():
    """(model, params, base, source): three layers in double precision."""
    config = ji.TransformerConfig(n_layers=3, d_model=12, n_heads=3, n_kv_heads=3, d_vocab=11, n_ctx=8, dtype="float64")
    model = ji.Transformer(config)
    with jax.enable_x64(True):
        yield model, random_params(model), random_tokens(config), altered(config, random_tokens(config))


METRIC = ji.logit_diff([0, 1, 0], [1, 0, 1])


def test_what_the_estimate_leaves_out_shrinks_with_the_square_of_the_step(exact):
    model, params, base, source = exact
    estimate = float(ji.attribution_patching(model, params, base, source, site="mlp_out", over=(), metric=METRIC))
    _, cache = model.apply(params, source, capture=("mlp_out",))

    def remainder(t):
        return float(ji.evaluate(model, params, base, {"mlp_out": ji.lerp(cache["mlp_out"], t)}, metric=METRIC)) - (
            t * estimate
        )

    assert abs(remainder(1e-3)) > 1e-9
    np.testing.assert_allclose(remainder(1e-3) / remainder(5e-4), 4, rtol=0.02)


def test_forward_mode_and_batches_of_one_give_the_same(exact):
    model, params, base, source = exact
    run = {"sites": ("q", "pattern", "embed"), "metric": METRIC}
    found = ji.attribution_patching(model, params, base, source, **run)
    one_by_one = ji.attribution_patching(model, params, base, source, max_bytes=1, **run)
    forward = ji.attribution_patching(model, params, base, source, method="jvp", **run)
    for site in run["sites"]:
        np.testing.assert_allclose(one_by_one[site], found[site], atol=1e-12)
        np.testing.assert_allclose(one_by_one[site].standard_error, found[site].standard_error, atol=1e-12)
        np.testing.assert_allclose(forward[site], found[site], atol=1e-12)


def test_effects_on_logits_are_those_on_each_logit(exact):
    model, params, base, source = exact
    roles = {"here": [1, 2, 3], "END": [-1, -1, -1]}
    run = {"site": "z", "over": {"role": None, "layer": [2, 0]}, "roles": roles}
    found = ji.attribution_to_logits(model, params, base, source, max_bytes=1, **run)
    assert found.dims == ("role", "layer", "token")
    for token in range(model.config.d_vocab):
        metric = ji.Metric(_first, positions=-1, columns=[token])
        each = ji.attribution_patching(model, params, base, source, metric=metric, **run)
        np.testing.assert_allclose(found.sel(token=token), each, atol=1e-12)
        np.testing.assert_allclose(found.sel(token=token).standard_error, each.standard_error, atol=1e-12)
    some = ji.attribution_to_logits(model, params, base, source, tokens=[7, 2], pos=ji.per_example([5, 5, 5]), **run)
    np.testing.assert_allclose(some, found.sel(token=[7, 2]), atol=1e-12)
    for wrong, message in (({"tokens": [99]}, "column 99"), ({"pos": [0, 1]}, "pos must be one position")):
        with pytest.raises(ValueError, match=message):
            ji.attribution_to_logits(model, params, base, source, **run, **wrong)


def _first(logits, cache):
    return logits[:, 0, 0]


def test_roles_and_chosen_entries_are_those_of_the_whole(exact):
    model, params, base, source = exact
    run = {"site": "z", "metric": METRIC, "per_example": True}
    whole = ji.attribution_patching(model, params, base, source, over=("pos", "layer", "head"), **run)
    some = ji.attribution_patching(model, params, base, source, over={"head": [2], "layer": [2, 0]}, **run)
    np.testing.assert_allclose(some, whole.sel(head=[2], layer=[2, 0]).sum("pos").transpose("head", "layer", ...))
    roles = {"here": [1, 2, 3], "END": [-1, -1, -1]}
    by_role = ji.attribution_patching(model, params, base, source, over=("role", "layer"), roles=roles, **run)
    for prompt, pos in enumerate(roles["here"]):
        np.testing.assert_allclose(
            by_role.sel(role="here", batch=prompt), whole.sel(pos=pos, batch=prompt).sum("head"), atol=1e-14
        )


def test_ablations_are_slopes_of_scaling_and_of_the_way_to_the_mean(exact):
    model, params, base, _ = exact
    zero = float(ji.attribution_ablation(model, params, base, site="mlp_out", over=(), metric=METRIC))
    slope = (
        float(ji.evaluate(model, params, base, {"mlp_out": ji.scale(1 - 1e-5)}, metric=METRIC))
        - float(ji.evaluate(model, params, base, {"mlp_out": ji.scale(1 + 1e-5)}, metric=METRIC))
    ) / 2e-5
    np.testing.assert_allclose(zero, slope, rtol=1e-6)
    mean = model.apply(params, base, capture=("z",))[1]["z"].mean(1, keepdims=True)
    found = float(ji.attribution_ablation(model, params, base, site="z", over=(), kind="mean", metric=METRIC))
    slope = (
        float(ji.evaluate(model, params, base, {"z": ji.lerp(mean, 1e-5)}, metric=METRIC))
        - float(ji.evaluate(model, params, base, {"z": ji.lerp(mean, -1e-5)}, metric=METRIC))
    ) / 2e-5
    np.testing.assert_allclose(found, slope, rtol=1e-6)


def test_inside_attention_everything_adds_up(exact):
    model, params, base, source = exact
    routes = ji.value_attribution(model, params, base, source, metric=METRIC)
    values = ji.attribution_patching(model, params, base, source, site="v", metric=METRIC)
    np.testing.assert_allclose(routes.sum("query").values.transpose(0, 2, 1), values, atol=1e-12)
    worth = ji.attention_attribution(model, params, base, metric=METRIC, sign="importance")
    removal = ji.attribution_ablation(model, params, base, site="pattern", metric=METRIC)
    np.testing.assert_allclose(worth, -removal, atol=1e-12)
    ablation = ji.attention_attribution(model, params, base, metric=METRIC, sign="ablation", over=("layer", "head"))
    np.testing.assert_allclose(ablation, removal.sum(("query", "key")), atol=1e-12)


def test_routes_of_values_add_up_on_top_of_edits(exact):
    model, params, base, source = exact
    run = {"metric": METRIC, "base_interventions": {"z": ji.zero(ji.at(layer=1, head=1)), "pattern": ji.scale(0.5)}}
    routes = ji.value_attribution(model, params, base, source, **run)
    values = ji.attribution_patching(model, params, base, source, site="v", **run)
    np.testing.assert_allclose(routes.sum("query").values.transpose(0, 2, 1), values, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sites": ("resid_prev",)}, "unknown site 'resid_prev'; did you mean 'resid_pre'"),
        ({"sites": ()}, "sites is empty"),
        ({}, "which activations"),
        ({"site": "z", "method": "atp"}, "unknown method 'atp'; expected one of: grad, ig, atp_star, jvp"),
        ({"site": "z", "steps": 3}, "mean nothing for method='grad'"),
        ({"site": "z", "method": "ig", "steps": 0}, "steps must be an int of at least 1, got 0"),
        ({"site": "z", "method": "ig", "rule": "simpson"}, "unknown rule 'simpson'"),
        ({"site": "mlp_out", "over": ("head",)}, "site 'mlp_out' has no such axis"),
        ({"site": "z", "metric": ji.Metric(lambda logits, cache: logits)}, "must return one number per prompt"),
        ({"site": "z", "metric": ji.rank(3)}, "metric changes in steps: its derivative is 0 everywhere"),
        ({"site": "z", "metric": ji.Metric(_constant)}, "metric does not depend on what it is given"),
        ({"site": "z", "metric": ji.Metric(_loop)}, "metric cannot be differentiated"),
        (
            {"site": "z", "metric": ji.Metric(_sign, capture={"z": ji.at(layer=0)})},
            "metric changes in steps",
        ),
        (
            {"site": "k", "method": "atp_star", "base_interventions": ji.freeze_attention(ji.Transformer(TINY))},
            "base_interventions edit 'pattern', which 'atp_star'",
        ),
        ({"site": "z", "metric": ji.Metric(_sign_of_the_stream, capture=("resid_final",))}, "metric changes in steps"),
        (
            {"site": "z", "base_interventions": {"z": ji.apply_fn(jnp.round)}},
            "the function at 'z' in base_interventions changes in steps",
        ),
        (
            {"site": "z", "base_interventions": {"z": ji.apply_fn(lambda x: jax.pure_callback(np.sin, x, x))}},
            "the function at 'z' in base_interventions cannot be differentiated",
        ),
    ],
)
def test_what_cannot_be_meant_is_told(small, arguments, message):
    model, params, tokens = small
    with pytest.raises(ValueError, match=message):
        ji.attribution_patching(model, params, tokens, tokens, **({"metric": ji.logit_diff(3, 4)} | arguments))
