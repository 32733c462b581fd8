"""Localisation: the verified are exact, and the bound on the rest covers the truth as often as it says."""

import jax
import numpy as np
import pytest
import xarray as xr
from architectures import altered, random_params, random_tokens

import jaxinterp as ji
from jaxinterp.attribution.localize import Localization

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


def test_what_is_measured_whole_leaves_nothing():
    rng = np.random.default_rng(0)
    result, missed = drawn(rng.normal(size=30), 10, 20, rng)
    assert result.missed(1.0) == missed == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"verify": -1}, "verify must be an int of at least 0, got -1"),
        ({"confidence": 1.0}, "confidence must lie between 0 and 1"),
        ({"sites": None}, "which activations"),
    ],
)
def test_what_cannot_be_meant_is_told(small, arguments, message):
    model, params, tokens = small
    run = {"sites": ("z",), "metric": ji.logit_diff(3, 4), "key": jax.random.key(0)} | arguments
    with pytest.raises(ValueError, match=message):
        ji.localize(model, params, tokens, tokens, **run)
