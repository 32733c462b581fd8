"""Localisation: the verified are exact, and the bound on the rest covers the truth as often as it says."""

import jax
import numpy as np
import pytest
import xarray as xr
from architectures import altered, random_params, random_tokens

import jaxinterp as ji
from jaxinterp.attribution.localize import Localization, _halves, _with_and_without

METRIC = ji.logit_diff([0, 1, 0], [1, 0, 1])


def test_the_verified_are_exact_and_the_rest_is_not_known():
    config = ji.TransformerConfig(n_layers=2, d_model=8, n_heads=2, d_vocab=11, n_ctx=8)
    model = ji.Transformer(config)
    params, base = random_params(model), random_tokens(config)
    source = altered(config, base)
    sites = ("z", "mlp_out")
    result = ji.localize(
        model, params, base, source, sites=sites, metric=METRIC, verify=5, sample=4, key=jax.random.key(0)
    )
    estimates = ji.attribution_patching(model, params, base, source, sites=sites, metric=METRIC)
    exact = {
        "z": ji.activation_patching(
            model, params, base, source, site="z", over=("layer", "pos", "head"), metric=METRIC
        ),
        "mlp_out": ji.activation_patching(
            model, params, base, source, site="mlp_out", over=("layer", "pos"), metric=METRIC
        ),
    }
    nodes = result.nodes
    assert nodes.sizes["node"] == sum(one.size for one in estimates.values())
    assert (np.diff(np.abs(nodes.estimate.values)) <= 0).all()
    assert int((~np.isnan(nodes.effect)).sum()) == 9
    assert not nodes.sampled[:5].any()
    for i in range(nodes.sizes["node"]):
        node = nodes.isel(node=i)
        where = {axis: int(node[axis]) for axis in ("layer", "pos", "head") if int(node[axis]) >= 0}
        site = str(node.site.item())
        np.testing.assert_allclose(node.estimate, estimates[site].sel(where))
        if not np.isnan(node.effect):
            np.testing.assert_allclose(node.effect, exact[site].sel(where), atol=1e-6)
    found = result.found()
    assert (np.diff(np.abs(found.effect.values)) <= 0).all()


def drawn(effects, n_ranked, sample, rng, confidence=0.95):
    """A localisation of nodes with these effects, ranked by nothing, and a random sample of the others."""
    rest = n_ranked + rng.permutation(len(effects) - n_ranked)[:sample]
    sampled = np.isin(np.arange(len(effects)), rest)
    known = sampled | (np.arange(len(effects)) < n_ranked)
    nodes = xr.Dataset({
        "estimate": ("node", np.zeros(len(effects))), "effect": ("node", np.where(known, effects, np.nan)),
        "sampled": ("node", sampled),
    })  # fmt: skip
    return Localization(nodes, n_ranked, confidence), int((np.abs(effects[~known]) >= 1).sum())


@pytest.mark.parametrize("large", [0, 3, 20, 60])
def test_the_bound_covers_the_truth_as_often_as_it_says(large):
    rng = np.random.default_rng(large)
    covered = 0
    for _ in range(400):
        effects = np.zeros(110)
        effects[10 + rng.permutation(100)[:large]] = rng.choice([-2, 2], large)
        result, missed = drawn(effects, 10, 40, rng)
        covered += result.missed(1.0) >= missed
    assert covered >= 0.95 * 400 - 3 * np.sqrt(400 * 0.95 * 0.05)


PLANTED = ji.TransformerConfig(n_layers=3, d_model=12, n_heads=3, d_vocab=11, n_ctx=8, d_mlp=8, act_fn="gelu")
SITES = ("q", "z", "mlp_out")


def planted(seed):
    """Random weights: as they are; with heads that cancel others of their layer; with patterns near 0 and 1."""
    params = dict(random_params(ji.Transformer(PLANTED), seed=seed))
    kind = seed % 3
    if kind == 1:
        for name, weights in params.items():
            if name[:2] in ("W_", "b_") and name[2:] in ("Q", "K", "V", "O") and name != "b_O":
                copied = weights[:, 0] * (-1 if name == "W_O" else 1) * (0.999 if name == "W_V" else 1)
                params[name] = weights.at[:, 1].set(copied)
    if kind == 2:
        params["W_Q"] = 60 * params["W_Q"]
    return params


@pytest.mark.slow
def test_bounds_cover_the_truth_in_200_planted_models():
    """How many nodes are left that do something, of three kinds of random models."""
    model = ji.Transformer(PLANTED)
    covered, said_something = 0, 0
    for seed in range(200):
        params, base = planted(seed), random_tokens(PLANTED, seed=seed)
        run = {"sites": SITES, "metric": METRIC, "key": jax.random.key(seed), "progress": False}
        source = altered(PLANTED, base)
        result = ji.localize(model, params, base, source, verify=8, sample=25, **run)
        everything = ji.localize(model, params, base, source, verify=10_000, sample=0, **run)
        effects = np.abs(everything.nodes.effect.values)
        assert (everything.nodes.estimate.values == result.nodes.estimate.values).all()
        left = np.isnan(result.nodes.effect.values)
        threshold = 0.2 * effects.max()
        bound = result.missed(threshold)
        covered += bound >= (effects[left] >= threshold).sum()
        said_something += bound < left.sum()
    assert covered >= 190
    assert said_something >= 190


def test_saturated_attention_is_missed_by_slopes_and_found_by_patched_patterns():
    """Patterns are exactly 0 or 1: no query has a slope, though it decides alone what its head copies to the logits."""
    config = ji.TransformerConfig(
        n_layers=2, d_model=8, n_heads=2, d_vocab=11, n_ctx=8, attn_only=True, final_norm=False
    )  # fmt: skip
    model, base = ji.Transformer(config), random_tokens(config)
    params = dict(random_params(model))
    params["W_Q"] = 1e4 * params["W_Q"]
    source, run = altered(config, base), {"site": "q", "metric": METRIC}
    exact = ji.activation_patching(model, params, base, source, over=("layer", "pos", "head"), **run)
    assert float(abs(exact.sel(layer=1)).max()) > 0.1
    assert float(abs(ji.attribution_patching(model, params, base, source, **run)).max()) == 0
    fixed = ji.attribution_patching(model, params, base, source, method="atp_star", grad_drop=False, **run)
    np.testing.assert_allclose(fixed.sel(layer=1), exact.sel(layer=1), atol=1e-5)
    found = {}
    for method in ("grad", "atp_star"):
        result = ji.localize(
            model, params, base, source, method=method, verify=3, sample=0, key=jax.random.key(0), **run
        )
        found[method] = float(abs(result.found(1).effect).max())
    assert found["atp_star"] > 2 * found["grad"]
    assert found["atp_star"] >= float(abs(exact.sel(layer=1)).max()) - 1e-5


def test_halves_tell_what_each_node_does():
    """Where effects add up, the difference of means is the effect, and the limit covers it."""
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        effects = rng.normal(size=40) * (rng.random(40) < 0.2)
        halves = _halves(jax.random.key(seed), 40, 40)
        assert (halves.sum(axis=0) == 20).all()
        difference, bound = _with_and_without(halves, halves @ effects, 0.95)
        assert (bound >= np.abs(difference)).all()
        covered += bound.max() >= np.abs(effects).max()
    assert covered >= 190


def test_halves_are_patched_whole():
    """In one layer, without a norm behind it, what heads do adds up."""
    config = ji.TransformerConfig(
        n_layers=1, d_model=8, n_heads=4, d_vocab=11, n_ctx=8, attn_only=True, final_norm=False
    )  # fmt: skip
    model, base = ji.Transformer(config), random_tokens(config)
    params, key = random_params(model), jax.random.key(0)
    run = {"site": "z", "metric": METRIC, "over": ("role", "head"), "roles": {"END": [5, 5, 5], "EARLY": [1, 2, 3]}}
    result = ji.localize(
        model, params, base, altered(config, base), verify=2, sample=6, subsets=8, key=key, **run
    )  # fmt: skip
    rest = result.nodes.isel(node=slice(2, None))
    halves = _halves(jax.random.split(key)[1], 8, 6)
    difference, bound = _with_and_without(halves, halves @ rest.effect.values, 0.95)
    np.testing.assert_allclose(rest.joint_effect, difference, atol=1e-5)
    np.testing.assert_allclose(rest.joint_bound, bound, atol=1e-5)
    assert result.largest_hidden() == rest.joint_bound.max() > 0
    assert result.nodes.joint_effect[:2].isnull().all()
    few = ji.localize(model, params, base, altered(config, base), verify=6, sample=0, subsets=8, key=key, **run)
    assert not _halves(jax.random.split(key)[1], 8, 2).any(axis=1).all()  # a half that holds none of the two
    assert few.nodes.joint_bound[6:].notnull().all()


def test_what_is_measured_whole_leaves_nothing():
    rng = np.random.default_rng(0)
    result, missed = drawn(rng.normal(size=30), 10, 20, rng)
    assert result.missed(1.0) == missed == 0
    assert drawn(rng.normal(size=30), 30, 0, rng)[0].missed(1.0) == 0
    with pytest.raises(ValueError, match=r"no random halves were patched: give localize\(..., subsets=40\)"):
        result.largest_hidden()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"verify": -1}, "verify must be an int of at least 0, got -1"),
        ({"confidence": 1.0}, "confidence must lie between 0 and 1"),
        ({"sites": None}, "which activations"),
        ({"subsets": 3}, "subsets must be 0, or at least 4"),
    ],
)
def test_what_cannot_be_meant_is_told(small, arguments, message):
    model, params, tokens = small
    run = {"sites": ("z",), "metric": ji.logit_diff(3, 4), "key": jax.random.key(0)} | arguments
    with pytest.raises(ValueError, match=message):
        ji.localize(model, params, tokens, tokens, **run)
