"""Bad input gets one clear error at the call, before any compilation: what was expected, what came, what is near."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxinterp as ji

at, Z = ji.at, np.zeros((2, 3, 6, 4, 8))


@pytest.fixture(autouse=True)
def no_compilation(monkeypatch, small):
    """An error must come before the forward is traced."""
    import jaxinterp.model.transformer as transformer

    def refuse(*args, **kwargs):
        raise AssertionError("the forward was entered")

    monkeypatch.setattr(transformer, "_forward", refuse)
    monkeypatch.setattr(transformer, "_resume", refuse)


EDITS = {
    "unknown site": ({"resid_prev": ji.zero()}, r"unknown site 'resid_prev'; did you mean 'resid_pre'\?"),
    "not a dict": ([ji.zero()], "interventions must be a dict"),
    "not an intervention": ({"z": 3.0}, "site 'z': expected an intervention"),
    "a list of edits": ({"z": [ji.zero()]}, "site 'z': expected an intervention .* or a tuple"),
    "no such axis": ({"z": ji.zero(at(neuron=3))}, "site 'z' has no axis 'neuron'; its axes are"),
    "pos on a pattern": ({"pattern": ji.zero(at(pos=3))}, "site 'pattern' has no axis 'pos'"),
    "layer": ({"z": ji.zero(at(layer=2))}, "layer=2 is out of range: the axis layer has 2 entries"),
    "negative layer": ({"z": ji.zero(at(layer=-3))}, "layer=-3 is out of range"),
    "head": ({"z": ji.zero(at(head=[0, 4]))}, "head=4 is out of range: the axis head has 4 entries"),
    "position": ({"z": ji.zero(at(pos=6))}, "pos=6 is out of range: the axis pos has 6 entries"),
    "per_example position": ({"z": ji.zero(at(pos=ji.per_example([0, 1, 6])))}, "pos=6 is out of range"),
    "per_example batch": ({"z": ji.zero(at(pos=ji.per_example([0, 1])))}, "pos= is for 2 prompts, the batch has 3"),
    "boolean length": ({"z": ji.zero(at(head=np.ones(3, bool)))}, r"head= is bool\[3\], the axis head has 4"),
    "mask shape": (
        {"z": ji.zero(at(mask=np.ones((2, 1, 1, 3, 1), bool)))},
        r"mask= has shape \(2, 1, 1, 3, 1\), expected",
    ),
    "mask type": ({"z": ji.zero(at(mask=np.ones((2, 1, 1, 4, 1))))}, "mask= must be boolean"),
    "value shape": ({"z": ji.replace(Z[:, :, :5])}, r"shape \(2, 3, 5, 4, 8\), expected \(2, 3, 6, 4, 8\) \[layer=2"),
    "value rank": ({"z": ji.replace(Z[0])}, r"the value has shape \(3, 6, 4, 8\), expected \(2, 3, 6, 4, 8\)"),
    "scalar value": ({"z": ji.add(1.0)}, r"the value has shape \(\), expected"),
    "NaN value": ({"z": ji.replace(np.where(Z == 0, np.nan, Z))}, "holds 1152 NaN or infinite entries of 1152"),
    "inf value": ({"z": ji.add(Z + np.inf)}, "NaN or infinite"),
    "slice beyond": ({"z": ji.zero(at(pos=slice(10, 20)))}, "pos= slice.* selects none of the 6 entries"),
    "complex value": ({"z": ji.add(Z * 1j)}, "the value must be real numbers, got complex"),
    "short direction": ({"z": ji.project_out(np.ones((1, 1, 1, 1, 1)))}, "its last axis is 8"),
    "direction": ({"z": ji.project_out(np.ones(7))}, r"direction has shape \(7,\), expected \(8,\)"),
}


@pytest.mark.parametrize("case", EDITS)
def test_bad_edits(small, case):
    model, params, tokens = small
    edits, message = EDITS[case]
    with pytest.raises((ValueError, TypeError), match=message):
        model.apply(params, tokens, edits)


def test_key_value_heads_have_their_own_range():
    config = ji.TransformerConfig(2, 16, 4, 20, 8, n_kv_heads=2)
    model = ji.Transformer(config)
    params = model.init(jax.random.key(0))
    with pytest.raises(ValueError, match="head=2 is out of range: the axis kv_head has 2 entries"):
        model.apply(params, jnp.ones((1, 3), int), {"k": ji.zero(at(head=2))})


COORDINATES = {
    "float": ({"layer": 1.0}, "layer= expects ints"),
    "bool": ({"layer": True}, "layer= expects ints"),
    "text": ({"pos": "END"}, "pos= expects ints"),
    "matrix": ({"head": np.zeros((2, 2), int)}, "head= expects an int, int"),
    "empty": ({"head": []}, "head= is empty"),
    "per_example layer": ({"layer": ji.per_example([0])}, "layer= cannot be per_example"),
    "negative step": ({"pos": slice(None, None, -1)}, "steps must be positive"),
    "object": ({"pos": object()}, "pos= expects ints"),
    "empty array": ({"head": np.zeros(0, int)}, "head= is empty"),
    "slice of floats": ({"pos": slice(0.5, 2.5)}, "bounds must be plain ints"),
}


@pytest.mark.parametrize("case", COORDINATES)
def test_bad_coordinates(case):
    kwargs, message = COORDINATES[case]
    with pytest.raises((ValueError, TypeError), match=message):
        at(**kwargs)


MAKING = {
    "NaN scale": (lambda: ji.scale(float("nan")), "c must be finite, got nan"),
    "inf lerp": (lambda: ji.lerp(Z, float("inf")), "t must be finite"),
    "no number": (lambda: ji.scale(None), "c must be a number, got None"),
    "not a scalar": (lambda: ji.scale(np.ones(2)), r"c must be a scalar, got shape \(2,\)"),
    "zero direction": (lambda: ji.project_out(np.zeros(8)), "zero vector"),
    "a layer's zero direction": (
        lambda: ji.project_out(np.eye(2, 8).reshape(2, 1, 1, 1, 8) * [[[[[1]]]], [[[[0]]]]]),
        "zero vector",
    ),
    "NaN direction": (lambda: ji.replace_along(np.full(8, np.nan), Z), "direction holds NaN"),
    "no function": (lambda: ji.apply_fn(3), "apply_fn expects a function"),
}


@pytest.mark.parametrize("case", MAKING)
def test_edits_that_cannot_be_meant(case):
    make, message = MAKING[case]
    with pytest.raises((ValueError, TypeError), match=message):
        make()


PADDED = {
    "before a prompt's start": (at(pos=-4), r"pos=-4 is out of range for prompt 1: it has 3 tokens, columns 0 to 2"),
    "in every prompt's padding": (at(pos=4, batch=[1, 2]), "pos=4 is out of range for prompt 1"),
    "per example": (at(pos=ji.per_example([5, 2, 2])), "pos=2 is out of range for prompt 2: it has 2 tokens"),
}


@pytest.mark.parametrize("case", PADDED)
def test_coordinates_outside_a_padded_prompt(small, case):
    model, params, tokens = small
    where, message = PADDED[case]
    mask = np.arange(6) < np.array([[6], [3], [2]])
    with pytest.raises(ValueError, match=message):
        model.apply(params, tokens, {"z": ji.zero(where)}, mask=mask)


TOKENS = {
    "rank": (np.ones(6, int), {}, r"tokens must be int\[batch, pos\]"),
    "empty": (np.ones((2, 0), int), {}, "empty prompt"),
    "no prompts": (np.ones((0, 3), int), {}, "empty prompt"),
    "floats": (np.ones((1, 3)), {}, "tokens must be integers"),
    "too large": (np.full((1, 3), 50), {}, "token id 50 is out of vocabulary: ids run from 0 to 49"),
    "negative": (np.full((1, 3), -1), {}, "token id -1 is out of vocabulary"),
    "too long": (np.ones((1, 17), int), {}, "17 positions, the model has n_ctx = 16"),
    "mask shape": (np.ones((1, 3), int), {"mask": np.ones((1, 4), bool)}, r"mask has shape \(1, 4\), tokens have"),
    "mask type": (np.ones((1, 3), int), {"mask": np.ones((1, 3))}, "mask must be boolean"),
    "masked away": (np.ones((2, 3), int), {"mask": np.array([[True] * 3, [False] * 3])}, "empty prompt: row 1"),
    "mask with a hole": (np.ones((1, 3), int), {"mask": np.array([[True, False, True]])}, "padding inside the prompt"),
    "capture of nothing": (np.ones((1, 3), int), {"capture": ("zz",)}, "unknown site 'zz'"),
    "capture a string": (np.ones((1, 3), int), {"capture": "z"}, "got the string 'z'"),
    "capture out of range": (np.ones((1, 3), int), {"capture": {"z": at(layer=5)}}, "layer=5 is out of range"),
}


@pytest.mark.parametrize("case", TOKENS)
def test_bad_prompts(small, case):
    model, params, _ = small
    tokens, kwargs, message = TOKENS[case]
    with pytest.raises((ValueError, TypeError), match=message):
        model.apply(params, tokens, **kwargs)


def test_bad_params(small):
    model, params, tokens = small
    with pytest.raises(ValueError, match="params lack 'W_Q'"):
        model.apply({k: v for k, v in params.items() if k != "W_Q"}, tokens)
    with pytest.raises(ValueError, match="params hold 'W_X'"):
        model.apply(params | {"W_X": params["W_Q"]}, tokens)
    with pytest.raises(ValueError, match=r"W_Q has shape \(4, 32, 8\), expected \(2, 4, 32, 8\)"):
        model.apply(params | {"W_Q": params["W_Q"][0]}, tokens)


CONFIGS = {
    "size": ({"n_layers": 0}, "n_layers must be a positive integer"),
    "choice": ({"act_fn": "gelu_neu"}, r"unknown act_fn 'gelu_neu'; did you mean 'gelu_new'\?"),
    "kv heads": ({"n_kv_heads": 3}, r"n_kv_heads \(3\) must divide n_heads \(4\)"),
    "heads": ({"n_heads": 5}, "not a multiple of n_heads"),
    "tied, without an unembedding": ({"unembed": False}, "unembed=False leaves the final stream as it is: set tie_emb"),
    "norm on the embedding": ({"embed_norm": True, "normalization": None}, "embed_norm=True needs a normalization"),
    "token types": ({"n_token_types": 2, "positions": "rotary"}, "n_token_types needs positions='learned', got 'rot"),
    "no token types": ({"n_token_types": 0}, "n_token_types must be a positive integer, got 0"),
    "final activation": ({"final_act_fn": "gelo"}, "unknown final_act_fn 'gelo'; did you mean 'gelu'"),
    "experts without an MLP": ({"n_experts": 4, "attn_only": True}, "n_experts = 4 needs attn_only=False"),
    "more than there are": ({"n_experts": 2, "experts_per_token": 3}, "at most as many experts_per_token, got 3"),
    "no experts": ({"experts_per_token": 2}, "experts_per_token = 2 needs n_experts"),
    "half an expert": ({"n_experts": 2.5}, "n_experts must be a positive integer, got 2.5"),
    "tied classifier": ({"d_vocab_out": 2}, "set tie_embeddings=False"),
    "rotary": ({"positions": "rotary", "rotary_dim": 3}, "rotary_dim must be even"),
    "windows": ({"window": (2, 3, 4)}, "window has 3 entries for n_layers = 2"),
    "window": ({"window": 0}, "window must be at least 1"),
    "parallel": ({"parallel": True, "attn_only": True}, "parallel=True needs an MLP"),
    "dropout": ({"attn_dropout": 1.5}, "attn_dropout must lie in"),
    "no dropout": ({"attn_dropout": None}, "attn_dropout must lie in"),
    "not a boolean": ({"causal": "no"}, "causal must be True or False, got 'no'"),
    "true window": ({"window": True}, "window must be at least 1"),
    "eps": ({"eps": "1e-5"}, "eps must be a positive number, got '1e-5'"),
    "base": ({"rotary_base": None}, "rotary_base must be a positive number"),
    "scalings": ({"rotary_scaling": (None, None, None)}, "rotary_scaling has 3 entries for n_layers = 2"),
    "scaling": ({"rotary_scaling": 8.0}, "rotary_scaling must be a RotaryScaling, one per layer, or None, got 8.0"),
    "factor": ({"rotary_scaling": {"factor": 0}}, "factor must be a positive number, got 0"),
    "dtype": ({"dtype": "int32"}, "unknown dtype 'int32'"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_bad_configs(case):
    fields, message = CONFIGS[case]
    with pytest.raises(ValueError, match=message):
        ji.TransformerConfig(**({"n_layers": 2, "d_model": 32, "n_heads": 4, "d_vocab": 50} | fields))


def test_bad_rotary_scalings():
    with pytest.raises(ValueError, match="go together, got only low_freq_factor"):
        ji.RotaryScaling(2.0, low_freq_factor=1.0)
    with pytest.raises(ValueError, match=r"low_freq_factor \(4.0\) must be below high_freq_factor \(1.0\)"):
        ji.RotaryScaling(2.0, low_freq_factor=4.0, high_freq_factor=1.0, original_n_ctx=8)
    with pytest.raises(ValueError, match="original_n_ctx must be a positive number, got '8'"):
        ji.RotaryScaling(2.0, low_freq_factor=1.0, high_freq_factor=4.0, original_n_ctx="8")


def test_bad_resumptions(small, monkeypatch):
    monkeypatch.undo()
    model, params, tokens = small
    run = model.run(params, tokens)
    cases = [
        ({}, {"start_layer": 3}, "start_layer=3 is out of range: 0 to 2"),
        ({}, {"start_layer": 0, "start_pos": 6}, "start_pos=6 is out of range"),
        ({"z": ji.zero(at(layer=0))}, {"start_layer": 1}, "reaches layer 0, but the resumption starts at layer 1"),
        ({"z": ji.zero()}, {"start_layer": 1}, "reaches layer 0"),
        ({"z": ji.zero(at(layer=1))}, {"start_layer": 1, "start_pos": 2}, "reaches pos 0"),
        ({"z": ji.zero(at(layer=1, pos=slice(1, 3)))}, {"start_layer": 1, "start_pos": 2}, "reaches pos 1"),
        ({"embed": ji.zero()}, {"start_layer": 0}, "'embed' lies before every block"),
        ({}, {"start_layer": 0, "capture": ("embed",)}, "capture='embed' lies before every block"),
        ({}, {"start_layer": 0, "start_pos": 3, "positions": [1]}, "reads position 1 of prompt 0.*rows start at 3"),
        ({}, {"start_layer": 0, "positions": 99}, "reads position 99 of prompt 0"),
        ({}, {"start_layer": 0, "positions": -1, "columns": [50]}, "columns= reads 50 to 50 of 50 columns"),
    ]
    for edits, start, message in cases:
        with pytest.raises(ValueError, match=message):
            model.resume(params, run, edits, **start)
    both_ways = ji.Transformer(dataclasses.replace(model.config, causal=False))
    with pytest.raises(ValueError, match="bidirectional"):
        both_ways.resume(params, both_ways.run(params, tokens), start_layer=0, start_pos=1)
