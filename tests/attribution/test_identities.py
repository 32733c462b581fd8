"""Identities that estimates must keep, over random architectures in double precision; each says of which it is true."""

import jax
import numpy as np
import pytest
from architectures import altered, apply, budget, configs, masks, random_params, random_tokens
from hypothesis import given
from hypothesis import strategies as st

import jaxinterp as ji

METRIC = ji.logit_diff([0, 1, 0], [1, 0, 1])

#: Blocks that add what they compute to the stream, smoothly.
ADDITIVE = {"act_fn": "gelu", "norm_position": "pre", "embed_norm": False, "n_experts": None, "experts_per_token": None}

#: Models whose logits are affine in every value once attention patterns are held.
AFFINE = {
    "attn_only": True, "parallel": False, "normalization": None, "embed_norm": False, "qk_norm": None,
    "final_norm": False, "final_act_fn": None, "logit_softcap": None, "n_experts": None, "experts_per_token": None,
}  # fmt: skip


def setting(config, side=None):
    """(model, params, base, source, mask)."""
    model = ji.Transformer(config)
    base = random_tokens(config)
    return model, random_params(model), base, altered(config, base), masks(side)


def check_sums(config, side):
    """Heads add up to attention, neurons to the MLP, and what was written before to a residual stream."""
    model, params, base, source, mask = setting(config, side)
    sites = ("z", "attn_out", "resid_pre") + (() if config.attn_only else ("mlp_post", "mlp_out"))
    found = ji.attribution_patching(model, params, base, source, sites=sites, metric=METRIC, mask=mask)
    scale = max(1.0, *(float(abs(effects).max()) for effects in found.values()))
    close = {"rtol": 0, "atol": 1e-9 * scale}
    np.testing.assert_allclose(found["z"].sum("head"), found["attn_out"], **close)
    if not config.attn_only:
        np.testing.assert_allclose(found["mlp_post"].sum("d_mlp"), found["mlp_out"], **close)
    grads = ji.gradients(model, params, base, sites=("resid_pre",), metric=METRIC, mask=mask)["resid_pre"]
    names = ("embed", "attn_out") + (() if config.attn_only else ("mlp_out",))
    ours, theirs = (apply(model, params, tokens, mask=mask, capture=names)[1] for tokens in (base, source))
    change = {name: theirs[name] - ours[name] for name in names}
    for layer in range(config.n_layers):
        parts = [change["embed"], *(part for name in names[1:] for part in change[name][:layer])]
        worth = sum((part * grads[layer]).sum(-1).mean(0) for part in parts)
        np.testing.assert_allclose(found["resid_pre"].sel(layer=layer), worth, **close)


def check_affine(config, side, sites):
    """Where the metric is affine in an activation, the estimate is the exact effect."""
    model, params, base, source, mask = setting(config, side)
    pattern = apply(model, params, base, mask=mask, capture=("pattern",))[1]["pattern"]
    run = {"metric": METRIC, "mask": mask, "base_interventions": {"pattern": ji.replace(pattern)}}
    estimates = ji.attribution_patching(model, params, base, source, sites=sites, over=("layer",), **run)
    for site, estimate in estimates.items():
        exact = ji.activation_patching(model, params, base, source, site=site, over=("layer",), **run)
        scale = max(1.0, float(abs(exact).max()))
        np.testing.assert_allclose(estimate, exact, rtol=0, atol=1e-9 * scale)
    if sites == ("z",):
        return
    # the last layer's effect is affine in its pattern too
    last = {"layer": [config.n_layers - 1], "head": None}
    run["base_interventions"] = {}
    estimate = ji.attribution_patching(model, params, base, source, site="pattern", over=last, **run)
    exact = ji.activation_patching(model, params, base, source, site="pattern", over=last, **run)
    np.testing.assert_allclose(estimate, exact, rtol=0, atol=1e-9 * max(1.0, float(abs(exact).max())))


def check_null_direction(config, side):
    """The derivative of a LayerNorm along its own centred input is 0, and is not once its scale is frozen."""
    model, params, base, _, mask = setting(config, side)
    stream = apply(model, params, base, mask=mask, capture=("resid_final",))[1]["resid_final"]
    centred = stream - stream.mean(-1, keepdims=True)
    run = {"sites": ("resid_final",), "metric": METRIC, "mask": mask}
    free, frozen = (
        (ji.gradients(model, params, base, base_interventions=edits, **run)["resid_final"] * centred).sum((-2, -1))
        for edits in ({}, ji.freeze_norms(model))
    )
    scale = max(1.0, float(abs(frozen).max()))
    np.testing.assert_allclose(free, 0, atol=1e-9 * scale)
    assert (abs(frozen) > 1e-6).any()


def check_integral(config, side, path):
    """Integrals add up to the whole difference, and what they miss falls with the square of a midpoint rule's step."""
    model, params, base, source, mask = setting(config, side)
    # tokens that differ little, so that no norm comes near 0 on the way and few steps tell the order
    common = np.random.default_rng(1).normal(size=config.d_model)
    params |= {"W_E": common + 0.1 * params["W_E"]}
    site = "embed" if path == "inputs" else "resid_pre"
    run = {"site": site, "over": ("layer",) if path == "activations" else (), "metric": METRIC, "method": "ig"}
    whole = {
        steps: ji.attribution_patching(
            model, params, base, source, mask=mask, rule="midpoint", path=path, steps=steps, **run
        )
        for steps in (16, 32)
    }
    errors = [whole[steps].completeness_error for steps in (16, 32)]
    exact = ji.activation_patching(model, params, base, source, site=site, over=run["over"], metric=METRIC, mask=mask)
    scale = max(1.0, float(abs(exact).max()))
    assert abs(whole[32] - exact).max() <= errors[1] + 1e-9 * scale
    if errors[1] > 1e-10 * scale:  # else the integrand is a straight line
        np.testing.assert_allclose(np.log2(errors[0] / errors[1]), 2, atol=0.3)


def check_remainder(config, side):
    """What an estimate leaves out of a step of size t shrinks with its square."""
    model, params, base, source, mask = setting(config, side)
    theirs = apply(model, params, source, mask=mask, capture=("attn_out",))[1]["attn_out"]
    run = {"metric": METRIC, "mask": mask}
    estimate = float(ji.attribution_patching(model, params, base, source, site="attn_out", over=(), **run))

    def remainder(t):
        effect = ji.evaluate(model, params, base, {"attn_out": ji.lerp(theirs, t)}, **run)
        return float(effect) - t * estimate

    # a small step, so that cubes are out of sight; if less is left out, the metric is affine along the way
    if abs(remainder(1e-4)) > 1e-11 * max(1.0, abs(estimate)):
        np.testing.assert_allclose(remainder(1e-4) / remainder(5e-5), 4, rtol=0.1)


SIDES = st.sampled_from([None, "left"])
PATHS = st.sampled_from(["inputs", "activations"])
LAYER_NORMED = {**ADDITIVE, "normalization": "layer", "final_norm": True, "final_act_fn": None, "eps": 1e-30}


@budget(1)
@given(configs(**ADDITIVE, n_layers=2), SIDES)
def test_parts_add_up_to_wholes(config, side):
    with jax.enable_x64(True):
        check_sums(config, side)


@budget(1)
@given(configs(**AFFINE, n_layers=2), SIDES)
def test_estimates_are_exact_where_everything_is_affine(config, side):
    with jax.enable_x64(True):
        check_affine(config, side, ("z",))


@budget(1)
@given(configs(**LAYER_NORMED), SIDES)
def test_a_layer_norm_hides_the_streams_own_direction(config, side):
    with jax.enable_x64(True):
        check_null_direction(config, side)


MANY = {
    check_sums: (configs(**ADDITIVE), SIDES),
    check_affine: (configs(**AFFINE), SIDES, st.just(("v", "z", "resid_pre"))),
    check_null_direction: (configs(**LAYER_NORMED), SIDES),
    check_remainder: (configs(**ADDITIVE), SIDES),
    check_integral: (configs(**ADDITIVE), SIDES, PATHS),
}


@pytest.mark.slow
@pytest.mark.parametrize("check", MANY)
def test_identities_hold_in_many(check):
    @budget(30 if check is check_integral else 40)
    @given(st.tuples(*MANY[check]))
    def holds(drawn):
        jax.clear_caches()  # a process may map only so many programs
        with jax.enable_x64(True):
            check(*drawn)

    holds()
