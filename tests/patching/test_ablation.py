"""Ablations against single edited forwards, references with padding, and shared draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxinterp as ji

METRIC = ji.logit_diff([3, 5, 7], [4, 6, 8])
KEY = jax.random.key(5)


def effect(small, edits):
    model, params, tokens = small
    return np.asarray(ji.evaluate(model, params, tokens, edits, metric=METRIC, per_example=True))


def test_zero_and_mean(small):
    model, params, tokens = small
    reference = (tokens + 7) % 50
    run = {"site": "mlp_out", "over": ("layer", "pos"), "metric": METRIC, "per_example": True}
    zero = ji.ablation(model, params, tokens, kind="zero", **run)
    np.testing.assert_allclose(
        zero.sel(layer=0, pos=3), effect(small, {"mlp_out": ji.zero(ji.at(layer=0, pos=3))}), atol=1e-4
    )
    _, cache = model.apply(params, reference, capture=("mlp_out",))
    for pooled, dims in ((False, 1), (True, (1, 2))):
        mean = ji.ablation(model, params, tokens, kind="mean", reference=reference, pooled=pooled, **run)
        value = cache["mlp_out"].mean(axis=dims, keepdims=True)
        expected = effect(small, {"mlp_out": ji.replace(value, ji.at(layer=1, pos=2))})
        np.testing.assert_allclose(mean.sel(layer=1, pos=2), expected, atol=1e-4)


def test_means_leave_padding_out(small):
    model, params, tokens = small
    mask = np.arange(6) < np.array([[6], [4], [2]])
    reference = ji.Prompts(np.where(mask, (tokens + 7) % 50, 0), mask)
    _, cache = model.apply(params, reference.tokens, capture=("z",), mask=jnp.asarray(mask))
    z = np.asarray(cache["z"])
    for pooled in (False, True):
        effects = ji.ablation(
            model, params, tokens, site="z", over=("layer",), kind="mean", reference=reference, pooled=pooled,
            metric=METRIC, per_example=True,
        )  # fmt: skip
        if pooled:
            value = z[:, mask].mean(axis=1)[:, None, None]
        else:
            value = np.stack([z[:, mask[:, p], p].mean(axis=1) for p in range(6)], axis=1)[:, None]
        np.testing.assert_allclose(
            effects.sel(layer=1), effect(small, {"z": ji.replace(value, ji.at(layer=1))}), atol=1e-4
        )


def test_resampling_draws_whole_prompts(small):
    model, params, tokens = small
    reference = (tokens[:1] + 9) % 50  # a single reference: every draw is this one
    run = {"sites": ("z", "mlp_out"), "over": ("layer",), "metric": METRIC, "per_example": True, "kind": "resample"}
    effects = ji.ablation(model, params, tokens, reference=reference, key=KEY, **run)
    _, cache = model.apply(params, jnp.tile(reference, (3, 1)), capture=("z", "mlp_out"))
    edits = {name: ji.replace(cache[name], ji.at(layer=0)) for name in ("z", "mlp_out")}
    np.testing.assert_allclose(effects.sel(layer=0), effect(small, edits), atol=1e-4)
    several = ji.ablation(model, params, tokens, key=KEY, num_samples=3, **run)
    again = ji.ablation(model, params, tokens, key=KEY, num_samples=3, **run)
    np.testing.assert_array_equal(several, again)


def test_one_draw_for_all_sites_or_one_for_each(small):
    """Whole prompts are drawn: whatever else is patched from the same draw, the last stream decides."""
    model, params, tokens = small
    reference = jax.random.randint(jax.random.key(9), (30, 6), 0, 50)
    run = {"metric": METRIC, "per_example": True, "kind": "resample", "key": KEY, "reference": reference}
    shared = ji.ablation(
        model, params, tokens, sets=[{"resid_pre": ji.at(layer=0), "resid_post": ji.at(layer=1)}], **run
    )
    one = ji.ablation(model, params, tokens, sets=[{"resid_post": ji.at(layer=1)}], **run)
    np.testing.assert_allclose(shared, one, atol=1e-4)
    sets = [{"z": ji.at(), "mlp_out": ji.at()}]
    apart = ji.ablation(model, params, tokens, sets=sets, independent=True, **run)
    together = ji.ablation(model, params, tokens, sets=sets, **run)
    assert not np.allclose(apart, together, atol=1e-3)


def test_resampling_respects_lengths(small):
    model, params, tokens = small
    mask = np.arange(6) < np.array([[6], [4], [4]])
    base = ji.Prompts(np.where(mask, tokens, 0), mask)
    run = {
        "site": "resid_post",
        "over": ("layer",),
        "metric": METRIC,
        "kind": "resample",
        "key": KEY,
        "per_example": True,
    }
    effects = ji.ablation(model, params, base, **run)
    assert (effects.isel(batch=0) == 0).all(), "the only prompt of its length can only be replaced by itself"
    with pytest.raises(ValueError, match=r"no reference prompt has the length of base prompt 1 \(4 tokens\)"):
        ji.ablation(model, params, base, reference=tokens, **run)


def test_noise_is_the_same_in_every_cell(small):
    model, params, tokens = small
    run = {"site": "z", "metric": METRIC, "kind": "noise", "sigma": 0.5, "key": KEY, "per_example": True}
    by_layer = ji.ablation(model, params, tokens, over=("layer",), **run)
    sets = ji.ablation(model, params, tokens, sets=[ji.at(layer=0), ji.at(layer=1)], **run)
    np.testing.assert_allclose(by_layer, sets, atol=1e-5)
    none = ji.ablation(model, params, tokens, over=("layer",), **(run | {"sigma": 0.0}))
    assert (none == 0).all()


ERRORS = {
    "kind": ({"kind": "means"}, r"unknown kind 'means'; did you mean 'mean'\?"),
    "sigma": ({"kind": "noise", "key": KEY}, "needs sigma="),
    "key": ({"kind": "resample"}, "give key="),
    "NaN sigma": ({"kind": "noise", "sigma": np.nan, "key": KEY}, "needs sigma="),
    "unused reference": (
        {"kind": "zero", "reference": np.ones((2, 6), int)},
        "reference= means nothing for kind='zero'",
    ),
    "unused sigma": ({"kind": "mean", "sigma": 1.0}, "sigma= means nothing for kind='mean'"),
    "unused samples": ({"num_samples": 3}, "num_samples= means nothing for kind='zero'"),
    "samples": ({"kind": "resample", "key": KEY, "num_samples": 0}, "num_samples must be at least 1"),
    "length": ({"kind": "mean", "reference": np.ones((2, 4), int)}, "base has 6 positions, reference has 4"),
    "empty": ({"kind": "mean", "reference": np.ones((0, 6), int)}, "empty prompt"),
    "vocabulary": ({"kind": "mean", "reference": np.full((2, 6), 99)}, "token id 99 is out of vocabulary"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_bad_arguments(small, case):
    model, params, tokens = small
    kwargs, message = ERRORS[case]
    with pytest.raises(ValueError, match=message):
        ji.ablation(model, params, tokens, site="z", over=("layer",), metric=METRIC, **kwargs)
