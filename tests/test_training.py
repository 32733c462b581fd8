"""What initial weights promise; the loop itself is tested with each recipe."""

import numpy as np
import pytest

import jaxinterp as ji
from jaxinterp.training import mimetic_init, scaled_init, sinusoidal_init

SIZES = {"n_layers": 3, "d_model": 64, "n_heads": 2, "d_vocab": 50, "n_ctx": 32}


def test_first_heads_begin_with_positions_and_others_with_words():
    model = ji.Transformer(ji.TransformerConfig(**SIZES))
    params, drawn = mimetic_init(model, 0, 0.5), scaled_init(model, 0)
    assert {name: weight.shape for name, weight in params.items()} == {name: w.shape for name, w in drawn.items()}
    words = (params["W_E"] != 0).any(axis=0)
    assert (words == ~(params["W_pos"] != 0).any(axis=0)).all()
    for name in ("W_Q", "W_K"):
        read = (params[name] != 0).any(axis=(1, 3))  # layer, d_model
        assert (read[0] == ~words).all()
        assert (read[1:] == words).all()
    assert ((params["W_V"] != 0).any(axis=(0, 1, 3)) == words).all()
    spread = [float(np.sqrt(np.mean(np.square(each["W_O"])))) for each in (params, drawn)]
    assert spread[0] == pytest.approx(spread[1], rel=0.1)


def test_models_that_cannot_begin_so_are_refused():
    grouped = ji.Transformer(ji.TransformerConfig(**SIZES, n_kv_heads=1))
    with pytest.raises(ValueError, match="expected as many keys as queries, got 2 queries to a key"):
        mimetic_init(grouped, 0, 0.5)
    rotary = ji.Transformer(ji.TransformerConfig(**SIZES, positions="rotary"))
    with pytest.raises(ValueError, match="with a position embedding, got positions='rotary'"):
        sinusoidal_init(rotary, 0, 0.5)
