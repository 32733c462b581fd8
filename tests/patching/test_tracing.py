"""Causal tracing against its definition, draw by draw."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxinterp as ji

KEY = jax.random.key(2)


@pytest.mark.parametrize(("window", "layers"), [(1, [1]), (2, [0, 1])])
def test_restoring_in_a_noised_run(small, window, layers):
    model, params, tokens = small
    clean, cache = model.apply(params, tokens, capture=("embed", "mlp_out"))
    answer = np.asarray(clean[:, -1].argmax(-1))
    effects = ji.causal_tracing(
        model, params, tokens, subject=[1, 2], key=KEY, site="mlp_out", window=window, noise=0.7, num_samples=3
    )
    expected, noised = [], []
    for draw in jax.random.split(KEY, 3):
        drawn = [jax.random.normal(jax.random.fold_in(draw, row), cache["embed"].shape[1:]) for row in range(3)]
        noise = 0.7 * jnp.stack(drawn)  # each prompt's own, whichever batch it is in
        corrupt = {"embed": ji.add(noise, ji.at(pos=[1, 2]))}
        restore = corrupt | {"mlp_out": ji.replace(cache["mlp_out"], ji.at(layer=layers, pos=2))}
        for edits, out in ((corrupt, noised), (restore, expected)):
            logits, _ = model.apply(params, tokens, edits)
            out.append(np.asarray(jax.nn.softmax(logits[:, -1]))[np.arange(3), answer].mean())
    np.testing.assert_allclose(effects.sel(layer=1, pos=2), np.mean(expected) - np.mean(noised), atol=1e-5)
    np.testing.assert_allclose(effects.attrs["base_metric"], np.mean(noised), atol=1e-5)
    assert effects.attrs["total_effect"] == pytest.approx(effects.attrs["source_metric"] - np.mean(noised), abs=1e-5)
    assert (effects.sel(pos=0) == 0).all(), "positions before the subject hold what they held"


def test_restoring_sets_of_neurons(small):
    model, params, tokens = small
    run = {"subject": 1, "key": KEY, "noise": 0.7, "num_samples": 2, "site": "mlp_post"}
    sets = {"few": ji.at(layer=1, neuron=[3, 5]), "all": ji.at(layer=1)}
    by_set = ji.causal_tracing(model, params, tokens, sets=sets, **run)
    by_layer = ji.causal_tracing(model, params, tokens, over=("layer",), **run)
    np.testing.assert_allclose(by_set.sel(set="all"), by_layer.sel(layer=1), atol=1e-6)
    assert float(by_set.sel(set="few")) != float(by_set.sel(set="all"))


def test_three_sigma_is_of_the_subjects_embeddings(small):
    model, params, tokens = small
    _, cache = model.apply(params, tokens, capture=("embed",))
    effects = ji.causal_tracing(
        model, params, tokens, subject=ji.per_example([[0, 1], [2, 3], [4, 4]]), key=KEY, num_samples=1, over=("layer",)
    )
    rows = [cache["embed"][b, p] for b, p in ((0, 0), (0, 1), (1, 2), (1, 3), (2, 4))]
    np.testing.assert_allclose(effects.attrs["noise"], 3 * np.std(np.stack(rows)), rtol=1e-5)


def test_windows_are_cut_at_the_edges():
    want = [[1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [0, 1, 1, 1, 1], [0, 0, 1, 1, 1]]
    assert ji.layer_windows(5, 4).astype(int).tolist() == want
    assert ji.layer_windows(5, 1).astype(int).tolist() == np.eye(5, dtype=int).tolist()


def test_bad_arguments(small):
    model, params, tokens = small
    with pytest.raises(ValueError, match="unknown site"):
        ji.causal_tracing(model, params, tokens, subject=1, key=KEY, site="mlp")
    with pytest.raises(ValueError, match="pos=6 is out of range"):
        ji.causal_tracing(model, params, tokens, subject=6, key=KEY)
    with pytest.raises(ValueError, match="needs 'layer' in over"):
        ji.causal_tracing(model, params, tokens, subject=1, key=KEY, window=3, over=("pos",))
    for subject, noise, message in (
        (ji.at(), 1.0, "selects no positions"),
        (1, "5sigma", "noise must"),
        (1, -1.0, "noise must"),
    ):
        with pytest.raises(ValueError, match=message):
            ji.causal_tracing(model, params, tokens, subject=subject, noise=noise, key=KEY)
    with pytest.raises(ValueError, match="window must"):
        ji.causal_tracing(model, params, tokens, subject=1, key=KEY, window=0)
