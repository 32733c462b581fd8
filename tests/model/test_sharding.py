"""Rules that say where weights lie; what they do over several devices is in test_devices.py."""

import jax
import pytest

from jaxinterp.model.config import TransformerConfig
from jaxinterp.model.params import weight_axes
from jaxinterp.model.sharding import AXES, DIVIDED, param_shardings

CONFIG = TransformerConfig(
    n_layers=2, d_model=8, n_heads=2, d_vocab=5, n_ctx=4, tie_embeddings=False, unembed_bias=True
)


@pytest.fixture
def mesh():
    return jax.make_mesh((1, 1), ("data", "model"))


def test_one_name_divides_at_most_one_axis_of_each_weight(mesh):
    specs = {name: tuple(one.spec) for name, one in param_shardings(CONFIG, mesh, "model").items()}
    for name, axes in weight_axes(CONFIG).items():
        divided = [axis for axis, along in zip(axes, specs[name], strict=True) if along == "model"]
        assert divided == [axis for axis in axes if axis in DIVIDED]
        assert len(divided) <= 1
    assert specs["W_O"] == (None, "model", None, None)
    assert specs["ln1.w"] == (None, None)


def test_all_axes_of_weights_have_a_name():
    assert {axis for axes in weight_axes(CONFIG).values() for axis in axes} | {"d_vocab_out"} == set(AXES)


def test_a_mapping_says_it_all(mesh):
    specs = {
        n: tuple(s.spec)
        for n, s in param_shardings(CONFIG, mesh, {"d_model": ("data", "model"), "layer": None}).items()
    }
    assert specs["W_Q"] == (None, None, ("data", "model"), None)
    assert specs["W_U"] == (("data", "model"), None)
    assert all(one.is_fully_replicated for one in param_shardings(CONFIG, mesh).values())


@pytest.mark.parametrize(
    ("sharding", "error", "message"),
    [
        ("modle", ValueError, "sharding names mesh axis 'modle'; did you mean 'model'?"),
        ({"heads": "model"}, ValueError, "sharding names 'heads', which is no axis of weights; did you mean 'head'?"),
        ({"head": ("data", "x")}, ValueError, "sharding names mesh axis 'x'; expected one of: data, model"),
        ({}, ValueError, "divides no weight of this model"),
        (3, TypeError, "sharding must be a mesh axis' name, or {axis of weights: mesh axis}, got int"),
    ],
)
def test_rules_that_are_refused(mesh, sharding, error, message):
    with pytest.raises(error, match=message.replace("?", r"\?").replace("{", r"\{")):
        param_shardings(CONFIG, mesh, sharding)
