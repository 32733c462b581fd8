"""AtP*: patched patterns against an explicit softmax, GradDrop against one gradient for each layer left out."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import POS, altered, apply, budget, configs, masks, random_params, random_tokens
from hypothesis import given
from hypothesis import strategies as st

import jaxinterp as ji
from jaxinterp.attribution.atp_star import with_fixes
from jaxinterp.attribution.estimates import Pair
from jaxinterp.attribution.layerwise import known, layer_by_layer, through
from jaxinterp.attribution.softmax import KEYS, QUERIES, share_moved

METRIC = ji.logit_diff([0, 1, 0], [1, 0, 1])
SMOOTH = {"act_fn": "gelu", "n_experts": None, "experts_per_token": None}


def check_fix(config, side, node):
    """One query (or key) patched in its own layer, everything before it as in the base, linear behind patterns."""
    model = ji.Transformer(config)
    params, base, mask = random_params(model), random_tokens(config), masks(side)
    source = altered(config, base)
    names = tuple(name for name in (*QUERIES, *KEYS) if name in model.sites)
    _, ours = apply(model, params, base, mask=mask, capture=("resid_pre", "pattern"))
    _, theirs = apply(model, params, source, mask=mask, capture=names)
    found = ji.attribution_patching(
        model, params, base, source, sites=names, metric=METRIC, method="atp_star", grad_drop=False,
        mask=mask, per_example=True,
    )  # fmt: skip
    grad = np.asarray(ji.gradients(model, params, base, sites=("pattern",), metric=METRIC, mask=mask)["pattern"])
    layer, pos = node % config.n_layers, node % POS
    for site in names:
        head = node % (config.n_heads if site in QUERIES else config.n_kv_heads)
        edits = {
            "resid_pre": ji.replace(ours["resid_pre"]),
            site: ji.replace(theirs[site], ji.at(layer=layer, head=head, pos=ji.per_example([pos] * len(base)))),
        }
        _, patched = apply(model, params, base, edits, mask=mask, capture=("pattern",))
        effect = ((patched["pattern"] - ours["pattern"]) * grad)[layer].sum((1, 2, 3))
        one = found[site].sel(layer=layer, pos=pos, **{"head" if site in QUERIES else "kv_head": head})
        np.testing.assert_allclose(one, effect, rtol=0, atol=1e-9 * max(1, np.abs(grad).max()))


def check_grad_drop(config):
    """The mean of absolute estimates, each with the gradient of a model in which a layer adds constants."""
    model = ji.Transformer(config)
    params, base = random_params(model), random_tokens(config)
    source = altered(config, base)
    sites = ("embed", "z", "resid_pre", "resid_final") if config.attn_only else ("embed", "mlp_post", "resid_final")
    standing = {"resid_post": ji.scale(0.5, ji.at(layer=0))}
    run = {"sites": sites, "metric": METRIC, "per_example": True}
    scores = ji.attribution_patching(model, params, base, source, method="atp_star", base_interventions=standing, **run)
    expected = dict.fromkeys(sites, 0.0)
    for layer in range(config.n_layers):
        frozen = {name: ji.stop_gradient(ji.at(layer=layer)) for name in ("attn_out", "mlp_out") if name in model.sites}
        one = ji.attribution_patching(model, params, base, source, base_interventions=standing | frozen, **run)
        expected = {site: expected[site] + abs(one[site]) / (config.n_layers - 1) for site in sites}
    for site in sites:
        scale = max(1.0, float(abs(expected[site]).max()))
        np.testing.assert_allclose(scores[site], expected[site], rtol=0, atol=1e-9 * scale)


@budget(2)
@given(configs(**SMOOTH), st.sampled_from([None, "left"]), st.integers(0, 99))
def test_patched_queries_and_keys_are_those_of_an_explicit_softmax(config, side, node):
    with jax.enable_x64(True):
        check_fix(config, side, node)


@budget(1)
@given(configs(**SMOOTH).filter(lambda config: config.n_layers > 1))
def test_grad_drop_leaves_out_one_layer_at_a_time(config):
    with jax.enable_x64(True):
        check_grad_drop(config)


@pytest.mark.slow
@budget(40)
@given(configs(**SMOOTH), st.sampled_from([None, "left"]), st.integers(0, 99))
def test_patched_queries_and_keys_of_many(config, side, node):
    jax.clear_caches()  # a process may map only so many programs
    with jax.enable_x64(True):
        check_fix(config, side, node)
        if config.n_layers > 1:
            check_grad_drop(config)


def test_an_entry_moves_as_a_softmax_does_and_never_overflows():
    scores, delta = jnp.array([0.3, -1.0, 2.0]), 1.7
    before, after = jax.nn.softmax(scores), jax.nn.softmax(scores.at[1].add(delta))
    np.testing.assert_allclose(share_moved(before[1], delta), (after[1] - before[1]) / (1 - before[1]), rtol=1e-5)
    far = share_moved(jnp.array([0.5, 0.5, 1.0, 0.0, 1e-30]), jnp.array([1e4, -1e4, -1e4, 1e4, 1e4]))
    np.testing.assert_allclose(far, [1, -1, 0, 0, 1], atol=1e-6)


def test_one_way_down_for_all_layers_left_out_equals_one_for_each():
    """Where layers are summed in the result, or the metric reads an activation, every gradient is taken by itself."""
    config = ji.TransformerConfig(n_layers=5, d_model=16, n_heads=2, d_vocab=13, positions="qk", n_ctx=8)
    with jax.enable_x64(True):
        model = ji.Transformer(dataclasses.replace(config, dtype="float64"))
        params, base = random_params(model), random_tokens(config)
        source, kept = altered(config, base), {"q": (True,) * 4 + (False,), "k": (True,) * 4 + (False,)}
        kept |= {"pos_embed": (True, True, False), "mlp_post": (True, True, False, True)}
        pair = Pair(ji.Prompts(base), {}, ji.Prompts(source), {}, METRIC)
        shared = layer_by_layer(model, params, pair, tuple(kept.items()), drop=True, fix=True)
        same = ji.Metric(
            METRIC.fn, *METRIC.data, positions=METRIC.positions, columns=METRIC.columns, capture=("resid_final",)
        )
        each = with_fixes(model, params, pair._replace(metric=same), tuple(kept.items()), None, grad_drop=True)
        for found, expected in zip(jax.tree.leaves(shared), jax.tree.leaves(each), strict=True):
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_custom_derivatives_are_slopes():
    with jax.enable_x64(True):
        x, direction = jnp.array([0.3, -1.2]), jnp.array([0.5, 2.0])
        for share in (0.0, 1.0, 0.25):  # with a share of 1 nothing is held still, with 0 everything is
            slope = jax.grad(lambda x, share=share: jnp.sin(through(x, jnp.array(share)) * x).sum())(x) @ direction

            def moved(t, share=share):  # a share of the value goes along
                return jnp.sin((x + share * t * direction) * (x + t * direction)).sum()

            np.testing.assert_allclose(slope, (moved(1e-5) - moved(-1e-5)) / 2e-5, rtol=1e-8)
        slope = jax.grad(lambda x: (known(jnp.sin(x), jnp.sin(x)) ** 2).sum())(x) @ direction  # told what it is
        moved = [(jnp.sin(x + t * direction) ** 2).sum() for t in (1e-5, -1e-5)]
        np.testing.assert_allclose(slope, (moved[0] - moved[1]) / 2e-5, rtol=1e-8)


def test_grad_drop_needs_another_layer():
    model = ji.Transformer(ji.TransformerConfig(n_layers=1, d_model=8, n_heads=2, d_vocab=11))
    params = model.init(jax.random.key(0))
    with pytest.raises(ValueError, match="at least 2, the model has 1"):
        ji.attribution_patching(
            model, params, [[1, 2]], [[1, 3]], site="z", metric=ji.logit_diff(3, 4), method="atp_star"
        )
