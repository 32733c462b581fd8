"""What must hold exactly of the forward and its interventions, over random architectures, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import BATCH, POS, altered, apply, budget, configs, masks, random_params, random_tokens
from hypothesis import given
from hypothesis import strategies as st

import jaxinterp as ji
from jaxinterp.model.sites import EMBEDDING_SITES

sides = st.sampled_from([None, "right", "left"])


def assert_close(actual, expected, scale=None):
    """Equal to 1e-9 of the largest |logit|."""
    tolerance = 1e-9 * float(np.max(np.abs(expected if scale is None else scale)))
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=0, atol=tolerance)


def real(logits, mask):
    """Logits with the rows of padding, which mean nothing, set to 0."""
    return np.asarray(logits) if mask is None else np.where(mask[..., None], logits, 0)


def everything(model, params, tokens, mask):
    return apply(model, params, tokens, mask=mask, capture=tuple(model.sites))


@functools.partial(jax.jit, static_argnames="model")
def patch_one_site(model, params, tokens, mask, values, layer, row, on):
    """Replaces, at the sites whose flag in `on` is set, one layer and one row (position or query)."""
    edits = {}
    for name, spec in model.sites.items():
        index = {"layer": layer} if spec.per_layer else {}
        index |= {"query" if "query" in spec.axes else "pos": row}
        flag = on[name].reshape((1,) * len(spec.axes))
        edits[name] = ji.replace(values[name], ji.at(**index, mask=flag))
    return model.apply(params, tokens, edits, mask=mask)[0]


def flags(model, *names):
    return {name: jnp.asarray(name in names) for name in model.sites}


def check_self_patch_and_prefix(config, side):
    model = ji.Transformer(config)
    params, base, mask = random_params(model), random_tokens(config), masks(side)
    differ = 3  # base and source share the columns before it
    source = altered(config, base, differ)
    logits, cache = everything(model, params, base, mask)
    _, other = everything(model, params, source, mask)
    layer = config.n_layers - 1
    for name in model.sites:
        patched = patch_one_site(model, params, base, mask, cache, layer, 4, flags(model, name))
        assert_close(real(patched, mask), real(logits, mask))
        if config.causal:
            patched = patch_one_site(model, params, base, mask, other, layer, differ - 1, flags(model, name))
            assert_close(real(patched, mask), real(logits, mask))
    # the program does patch: the last row of the last stream comes from the source
    patched = patch_one_site(model, params, base, mask, other, layer, POS - 1, flags(model, "resid_post"))
    edits = {"resid_post": ji.replace(other["resid_post"], ji.at(layer=-1, pos=5))}
    expected, _ = apply(model, params, base, edits, mask=mask)
    assert_close(real(patched, mask), real(expected, mask))
    assert np.abs(patched - logits).max() > 1e-6


def check_sums_and_streams(config, side):
    model = ji.Transformer(config)
    params, base, mask = random_params(model), random_tokens(config), masks(side)
    source = altered(config, base)
    logits, cache = everything(model, params, base, mask)
    for name, array in cache.items():
        assert array.shape == model.sites[name].shape(BATCH, POS), name
    source_logits, other = everything(model, params, source, mask)
    assert_close(apply(model, params, base, mask=mask)[0], logits)
    whole = {"resid_pre": ji.replace(other["resid_pre"], ji.at(layer=0))}
    assert_close(real(apply(model, params, base, whole, mask=mask)[0], mask), real(source_logits, mask))
    heads = cache["result"].sum(axis=3)
    if config.out_bias:
        heads = heads + np.asarray(params["b_O"])[:, None, None]
    assert_close(heads, cache["attn_out_pre_norm" if config.has_output_norm else "attn_out"])
    if config.n_experts is not None:
        assert_close(
            cache["expert_out"].sum(axis=3), cache["mlp_out_pre_norm" if config.has_output_norm else "mlp_out"]
        )


def check_vmap_is_a_loop(config, side):
    model = ji.Transformer(config)
    params, base, mask = random_params(model), random_tokens(config), masks(side)
    _, other = everything(model, params, altered(config, base), mask)

    def patch(layer, head, pos):
        where = ji.at(layer=layer, head=head, pos=pos)
        edits = {"z": ji.replace(other["z"], where), "k": ji.scale(1.5, ji.at(layer=layer, head=0, pos=pos))}
        return model.apply(params, base, edits, mask=mask)[0]

    cells = [(0, 0, 2), (config.n_layers - 1, config.n_heads - 1, -1), (0, config.n_heads - 1, 5)]
    batched = jax.jit(jax.vmap(patch))(*(jnp.asarray(c) for c in zip(*cells, strict=True)))
    single = jax.jit(patch)
    for one, cell in zip(batched, cells, strict=True):
        assert_close(one, single(*cell))
    assert_close(batched[0], patch(*cells[0]))


def check_resume(config, side):
    model = ji.Transformer(config)
    params, base, mask = random_params(model), random_tokens(config), masks(side)
    _, other = everything(model, params, altered(config, base), mask)
    standing = {"mlp_out" if not config.attn_only else "attn_out": ji.scale(0.5, ji.at(layer=0))}
    run = jax.jit(model.run)(params, base, mask=mask, interventions=standing)
    start_pos = 2 if config.causal else 0
    resume = jax.jit(model.resume, static_argnames=("start_pos", "capture"))
    names = tuple(n for n in model.sites if n not in EMBEDDING_SITES)
    for start_layer in range(config.n_layers + 1):
        edits = {}
        if start_layer < config.n_layers:
            edits["z"] = ji.replace(other["z"], ji.at(layer=start_layer, pos=4))
        expected, cache = apply(model, params, base, ji.joined(standing, edits), capture=names, mask=mask)
        resumed = resume(params, run, edits, start_layer=start_layer, start_pos=start_pos, capture=names)
        logits, resumed = jax.device_get(resumed)
        assert_close(real(logits, None if mask is None else mask[:, start_pos:]), real(expected, mask)[:, start_pos:])
        for name in names:
            spec, got, want = model.sites[name], resumed[name], cache[name]
            if spec.per_layer:
                got, want = got[start_layer:], want[start_layer:]
            axis = spec.axes.index("query" if "query" in spec.axes else "pos")
            want = np.take(want, np.arange(start_pos, POS), axis)
            if mask is None and want.size:
                assert_close(got, want)
    last, _ = model.resume(params, run, start_layer=0, positions=-1, columns=[1, 0])
    ends = POS - np.argmax((masks(side) if side else np.ones((BATCH, POS)))[:, ::-1], axis=1)
    expected, _ = apply(model, params, base, standing, mask=mask)
    assert_close(last[:, 0], expected[np.arange(BATCH), ends - 1][:, [1, 0]])


def check_padding(config):
    model = ji.Transformer(config)
    params = random_params(model)
    alone = [random_tokens(config, seed=n, batch=1, pos=length) for n, length in enumerate((POS, 4, 3))]
    for side in ("right", "left"):
        mask = masks(side)
        tokens = np.zeros((BATCH, POS), int)
        for row, prompt in enumerate(alone):
            tokens[row, mask[row]] = prompt[0]
        padded, _ = apply(model, params, tokens, mask=mask)
        for row, prompt in enumerate(alone):
            expected, _ = apply(model, params, prompt)
            assert_close(padded[row][mask[row]], expected[0])


CHECKS = [check_self_patch_and_prefix, check_sums_and_streams, check_vmap_is_a_loop, check_resume]


@pytest.mark.parametrize("check", CHECKS)
def test_identity(check):
    @budget(4)
    @given(config=configs(), side=sides)
    def holds(config, side):
        with jax.enable_x64(True):
            check(config, side)

    holds()


@budget(5)
@given(config=configs())
def test_a_padded_batch_is_each_prompt_alone(config):
    with jax.enable_x64(True):
        check_padding(config)


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
def test_identity_over_many_architectures(check):
    @budget(100)
    @given(config=configs(), side=sides)
    def holds(config, side):
        with jax.enable_x64(True):
            check(config, side)
        jax.clear_caches()

    holds()


@pytest.mark.slow
@budget(60)
@given(config=configs())
def test_padding_over_many_architectures(config):
    with jax.enable_x64(True):
        check_padding(config)
    jax.clear_caches()
