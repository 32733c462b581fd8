import dataclasses

import architectures
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import apply, budget, random_params, random_tokens
from hypothesis import given
from hypothesis import strategies as st

import jaxinterp as ji

CONFIG = ji.TransformerConfig(2, 16, 4, 11, 8, n_kv_heads=2, d_head=6, d_mlp=12)
REWRITES = (ji.fold_layer_norm, ji.center_writing_weights, ji.center_unembedding, ji.fold_value_biases)


def allowed(rewrite, config):
    """Whether a rewriting says that it keeps what such a model computes."""
    if rewrite is ji.fold_layer_norm:
        routed = config.n_experts is not None and config.norm_bias and config.normalization == "layer"
        return not (config.has_pre_norm and (config.positions == "qk" or routed))
    if rewrite is ji.center_writing_weights:
        plain = config.final_act_fn is None and not config.embed_norm
        return config.normalization == "layer" and config.norm_position == "pre" and config.final_norm and plain
    if rewrite is ji.center_unembedding:
        return config.logit_softcap is None and config.unembed
    return True


def assert_rewritten(config, model, weights, done):
    """What the weights promise after some rewritings."""
    changed = model.config
    if ji.fold_layer_norm in done:
        folded = [n for n in ("ln1", "ln2") if config.has_pre_norm] + ["ln_final"] * config.unembed
        for name in folded:
            for part, identity in (("w", 0 if config.norm_plus_one else 1), ("b", 0)):
                assert (weights.get(f"{name}.{part}", np.full(1, identity)) == identity).all()
    if ji.center_writing_weights in done:
        for name in ("W_E", "W_O", "W_out", "b_O", "b_out"):
            assert abs(weights.get(name, np.zeros(1)).mean(-1)).max() < 1e-12
    if ji.center_unembedding in done:
        assert abs(weights["W_U"].mean(-1)).max() < 1e-12
        assert not changed.tie_embeddings
    if ji.fold_value_biases in done and ji.fold_layer_norm not in done[done.index(ji.fold_value_biases) :]:
        assert (weights.get("b_V", np.zeros(1)) == 0).all()


def check_outputs_stay(config, order, side):
    with jax.enable_x64(True):
        model = ji.Transformer(config)
        params, tokens, mask = random_params(model), random_tokens(config), architectures.masks(side)
        before = apply(model, params, tokens, mask=mask)[0]
        other, weights, done = model, params, []
        for rewrite in order:
            if allowed(rewrite, config):
                other, weights = rewrite(other, weights)
                done.append(rewrite)
            else:
                with pytest.raises(
                    ValueError, match=r"logit_softcap|positions='qk'|normalization|unembed=False|router"
                ):
                    rewrite(other, weights)
        assert_rewritten(config, other, weights, done)
        after = apply(other, weights, tokens, mask=mask)[0]
        if ji.center_unembedding in done:
            assert abs(after.mean(-1)).max() <= 1e-9 * abs(before).max()
            before = before - before.mean(-1, keepdims=True)
        assert abs(after - before).max() <= 1e-9 * abs(before).max()


@budget(7)
@given(architectures.configs(), st.permutations(REWRITES), st.sampled_from([None, "left"]))
def test_rewritten_models_compute_the_same(config, order, side):
    check_outputs_stay(config, order, side)


@pytest.mark.parametrize(
    "fields",
    [
        {"n_experts": 3, "experts_per_token": 2, "normalization": "rms", "positions": "rotary"},
        {"n_experts": 3, "experts_per_token": 2},
        {"unembed": False, "tie_embeddings": False, "d_vocab_out": 16, "normalization": "rms"},
        {"final_act_fn": "gelu", "tie_embeddings": False},
        {"final_act_fn": "gelu", "norm_position": "post", "embed_norm": True, "n_token_types": 2, "causal": False},
        {"n_token_types": 2},
    ],
)
def test_mixtures_and_models_with_other_heads(fields):
    config = dataclasses.replace(CONFIG, **fields, dtype="float64")
    check_outputs_stay(config, REWRITES, "left")


@pytest.mark.slow
@budget(150)
@given(
    architectures.configs(normalization="layer", norm_position="pre", final_norm=True, logit_softcap=None),
    st.permutations(REWRITES),
    st.sampled_from([None, "left", "right"]),
)
def test_rewritten_models_compute_the_same_at_length(config, order, side):
    check_outputs_stay(config, order, side)


def test_everything_at_once_in_float32_and_bfloat16():
    model = ji.Transformer(dataclasses.replace(CONFIG, unembed_bias=True))
    params, tokens = random_params(model), random_tokens(CONFIG)
    before = jax.nn.log_softmax(apply(model, params, tokens)[0])
    for dtype, tolerance in (("float32", 1e-5), ("bfloat16", 0.5)):
        other, weights = model, {name: weight.astype(dtype) for name, weight in params.items()}
        for rewrite in REWRITES:
            other, weights = rewrite(other, weights)
        assert {weight.dtype for weight in weights.values()} == {jnp.dtype(dtype)}
        after = jax.nn.log_softmax(apply(other, weights, tokens)[0])
        assert abs(after - before).max() <= tolerance * abs(before).max()


def test_twice_is_as_once():
    model = ji.Transformer(CONFIG)
    params = random_params(model)
    for rewrite in REWRITES:
        once = rewrite(model, params)
        twice = rewrite(*once)
        assert twice[0] == once[0]
        for name, weight in once[1].items():
            assert abs(weight - twice[1][name]).max() < 1e-6


def test_folded_norms_return_the_normalised_stream_itself():
    model = ji.Transformer(CONFIG)
    other, weights = ji.fold_layer_norm(model, random_params(model))
    _, cache = apply(other, weights, random_tokens(CONFIG), capture=("resid_pre", "ln1.normalized", "ln1.scale"))
    stream = cache["resid_pre"] - cache["resid_pre"].mean(-1, keepdims=True)
    np.testing.assert_allclose(cache["ln1.normalized"], stream / cache["ln1.scale"], rtol=0, atol=1e-5)


def test_circuits_are_the_products_of_each_heads_weights():
    model = ji.Transformer(CONFIG)
    params, rng = random_params(model), np.random.default_rng(0)
    qk, ov = ji.qk_circuit(model, params), ji.ov_circuit(model, params)
    assert qk.shape == ov.shape == (2, 4, 16, 16)
    for layer in range(2):
        for head in range(4):
            keys = head // 2
            expected = params["W_Q"][layer, head] @ params["W_K"][layer, keys].T
            np.testing.assert_allclose(qk[layer, head].product, expected, atol=1e-5)
            expected = params["W_V"][layer, keys] @ params["W_O"][layer, head]
            np.testing.assert_allclose(ov[layer][head].product, expected, atol=1e-5)
    x = rng.normal(size=(16, 3))
    whole = ov.product
    np.testing.assert_allclose((x.T @ ov @ x).product, x.T @ whole @ x, atol=1e-3)
    np.testing.assert_allclose((params["W_E"] @ ov).product, params["W_E"] @ whole, atol=1e-4)
    np.testing.assert_allclose((ov @ qk.T).product, whole @ qk.product.swapaxes(-1, -2), atol=1e-3)
    np.testing.assert_allclose(ov.norm(), np.linalg.norm(whole, axis=(-2, -1)), rtol=1e-5)
    U, values, Vh = ov.svd()
    np.testing.assert_allclose((U * values[..., None, :]) @ Vh, whole, atol=1e-4)
    np.testing.assert_allclose(values, np.linalg.svd(whole)[1][..., : ov.rank], atol=1e-4)
    vector = rng.normal(size=16)
    np.testing.assert_allclose(ov @ vector, whole @ vector, atol=1e-4)
    np.testing.assert_allclose(vector @ ov, vector @ whole, atol=1e-4)
    assert (vector @ qk[0, 1] @ vector).shape == ()
    halves = jax.tree.map(lambda part: part.astype("bfloat16"), ov)
    assert halves.norm().dtype == halves.svd()[1].dtype == jnp.float32
    np.testing.assert_allclose(halves.svd()[1], values, rtol=0.05)
    found = np.sort(abs(np.asarray(ov.eigenvalues())))
    np.testing.assert_allclose(found, np.sort(abs(np.linalg.eigvals(whole)))[..., -ov.rank :], atol=1e-3)


def test_products_keep_the_smaller_rank():
    tall = ji.FactoredMatrix(jnp.ones((8, 5)), jnp.ones((5, 8)))
    thin = ji.FactoredMatrix(jnp.ones((8, 2)), jnp.ones((2, 8)))
    assert (tall @ thin).rank == (thin @ tall).rank == 2
    assert jax.jit(lambda a, b: (a @ b).norm())(tall, thin) == pytest.approx(5 * 8 * 2 * 8)


def test_errors_say_what_is_wrong():
    model = ji.Transformer(CONFIG)
    params = random_params(model)
    with pytest.raises(TypeError, match=r"model must be a ji\.Transformer"):
        ji.fold_layer_norm(object(), params)
    with pytest.raises(ValueError, match="params lack 'W_Q'"):
        ji.qk_circuit(model, {name: weight for name, weight in params.items() if name != "W_Q"})
    with pytest.raises(IndexError, match="take entries of `product`"):
        ji.ov_circuit(model, params)[0, 1, 2]
    with pytest.raises(ValueError, match=r"left must be .* got \(3, 2\) and \(3, 4\)"):
        ji.FactoredMatrix(np.ones((3, 2)), np.ones((3, 4)))
    with pytest.raises(ValueError, match="only square matrices have eigenvalues, got 11 by 16"):
        (params["W_E"] @ ji.ov_circuit(model, params)).eigenvalues()
