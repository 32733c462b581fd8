"""Weights rewritten so that they are easier to read, while the model computes the same.

Each function takes `(model, params)` and returns another pair; they compose in any order, and twice is as once.
They are what weights are read through (compositions of heads, directions of neurons): activations inside the
edited model are those of the rewritten weights, and a run under interventions need not be that of the original.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxinterp.model.config import TransformerConfig
from jaxinterp.model.factored import by_head, checked_config
from jaxinterp.model.layers import at_least_float32
from jaxinterp.model.params import Params, weight_shapes
from jaxinterp.model.transformer import Transformer

#: Weights that read what a norm returns, with the bias that its own bias can go to, if there can be one.
READERS: dict[str, tuple[tuple[str, str | None], ...]] = {
    "ln1": (("W_Q", "b_Q"), ("W_K", "b_K"), ("W_V", "b_V")),
    "ln2": (("W_router", None), ("W_gate", "b_gate"), ("W_in", "b_in")),
    "ln_final": (("W_U", "b_U"),),
}

#: Weights that write into the residual stream. Their last axis is `d_model`.
WRITERS = ("W_E", "W_pos", "W_type", "W_O", "b_O", "W_out", "b_out")


def fold_layer_norm(model: Transformer, params: Params) -> tuple[Transformer, Params]:
    """Moves the gains and biases of norms into the weights that read them.

    Of `ln1` and `ln2` where they stand before the sublayers, and of `ln_final`: afterwards their gains multiply by 1
    and their biases are 0, so that `ln1.normalized` is the normalised stream itself. LayerNorm and RMSNorm. Norms
    that stand behind a sublayer or within it (`ln1_post`, `ln_mlp`, queries' and keys') have no weights that
    read them alone, and are left.

    Returns:
      The model and its parameters. Tied embeddings are untied, and biases appear where a norm's bias needs them
      (`qkv_bias`, `mlp_bias`, `unembed_bias`). Logits are unchanged up to rounding.

    Raises:
      ValueError: positions="qk", where queries and keys read `ln1` and positions through the same weights; mixtures of
        experts whose `ln2` has a bias, for routers have none.

    Example:
      >>> folded, weights = ji.fold_layer_norm(model, params)
      >>> bool((weights["ln1.w"] == 1).all()), bool((weights["ln1.b"] == 0).all())
      (True, True)
    """
    config = checked_config(model, params)
    if config.positions == "qk" and config.has_pre_norm:
        raise ValueError(
            "positions='qk': queries and keys read positions beside ln1, through the same weights, so that "
            "ln1's gain cannot be moved into them"
        )
    norms = [name for name in ("ln1", "ln2") if config.has_pre_norm and f"{name}.w" in params]
    norms += ["ln_final"] if config.unembed and "ln_final.w" in params else []
    if config.n_experts is not None and "ln2" in norms and "ln2.b" in params:
        raise ValueError("ln2 has a bias, and the router that reads it has none that it could be moved to")
    biased = [name for name in norms if f"{name}.b" in params]
    weights = dict(params)
    if "ln_final" in norms:
        config, weights = _untied(config, weights)
    needed = {"ln1": "qkv_bias", "ln2": "mlp_bias", "ln_final": "unembed_bias"}
    config, weights = _with_biases(config, weights, *(needed[name] for name in biased))
    for name in norms:
        stored = weights[f"{name}.w"]
        gain = at_least_float32(stored) + config.norm_plus_one
        for reader, bias in READERS[name]:
            if reader not in weights:
                continue
            matrix = at_least_float32(weights[reader])
            # a block's norm is [layer, d_model], its readers [layer, (head,) d_model, out]
            wide = gain if name == "ln_final" else gain.reshape(len(gain), *[1] * (matrix.ndim - 3), -1)
            weights[reader] = (wide[..., None] * matrix).astype(weights[reader].dtype)
            if name in biased and bias is not None:
                shift = at_least_float32(weights[f"{name}.b"]).reshape(wide.shape)
                moved = at_least_float32(weights[bias]) + jnp.einsum("...d,...df->...f", shift, matrix)
                weights[bias] = moved.astype(weights[bias].dtype)
        weights[f"{name}.w"] = jnp.full_like(stored, 0 if config.norm_plus_one else 1)
        if name in biased:
            weights[f"{name}.b"] = jnp.zeros_like(weights[f"{name}.b"])
    return Transformer(config), weights


def center_writing_weights(model: Transformer, params: Params) -> tuple[Transformer, Params]:
    """Takes from all that is written into the residual stream its mean over `d_model`, which LayerNorm ignores.

    Returns:
      The model and its parameters: `W_E`, `W_pos`, `W_O`, `b_O`, `W_out` and `b_out` have mean 0 over `d_model`, and
      so has the residual stream. Tied embeddings are untied. Logits are unchanged up to rounding.

    Raises:
      ValueError: something reads the stream other than through a LayerNorm in front of it.

    Example:
      >>> centred, weights = ji.center_writing_weights(model, params)
      >>> bool(abs(weights["W_O"].mean(-1)).max() < 1e-6)
      True
    """
    config = checked_config(model, params)
    wanted = {
        "normalization": "layer", "norm_position": "pre", "final_norm": True, "final_act_fn": None, "embed_norm": False,
    }  # fmt: skip
    if other := [f"{name}={found!r}" for name, value in wanted.items() if (found := getattr(config, name)) != value]:
        raise ValueError(
            "only where a LayerNorm stands before every reader, and none before the stream, can the stream's mean be "
            f"taken away: expected {', '.join(f'{n}={v!r}' for n, v in wanted.items())}, got {', '.join(other)}"
        )
    config, weights = _untied(config, dict(params))
    for name in WRITERS:
        # with positions="qk", positions are read by queries and keys alone
        if name in weights and not (name == "W_pos" and config.positions == "qk"):
            weights[name] = _centred(weights[name], axis=-1)
    return Transformer(config), weights


def center_unembedding(model: Transformer, params: Params) -> tuple[Transformer, Params]:
    """Takes from the unembedding its mean over the vocabulary, so that a token's logit is its lead over the average.

    Returns:
      The model and its parameters: `W_U` and `b_U` have mean 0 over the vocabulary. Tied embeddings are untied.
      Log-probabilities are unchanged up to rounding; at each position all logits move by the same amount.

    Raises:
      ValueError: `logit_softcap`, which does not move with its input; a model without an unembedding.

    Example:
      >>> centred, weights = ji.center_unembedding(model, params)
      >>> bool(abs(centred.apply(weights, tokens)[0].mean(-1)).max() < 1e-5)
      True
    """
    config = checked_config(model, params)
    if config.logit_softcap is not None:
        raise ValueError(f"logit_softcap = {config.logit_softcap} bends logits: adding the same to all changes them")
    if not config.unembed:
        raise ValueError("unembed=False: the model has no unembedding")
    config, weights = _untied(config, dict(params))
    for name in ("W_U", "b_U"):
        if name in weights:
            weights[name] = _centred(weights[name], axis=-1)
    return Transformer(config), weights


def fold_value_biases(model: Transformer, params: Params) -> tuple[Transformer, Params]:
    """Moves values' biases into the attention's: patterns sum to 1, so that a head adds `b_V W_O` wherever it looks.

    Returns:
      The model and its parameters: `b_V` is 0, and `b_O` (made if there was none) holds what the heads added.
      Logits are unchanged up to rounding, without attention dropout or edits of `pattern`. `fold_layer_norm` goes
      first: where norms have biases, it makes values' biases.

    Example:
      >>> folded, weights = ji.fold_value_biases(model, params)
      >>> bool((weights["b_V"] == 0).all())
      True
    """
    config = checked_config(model, params)
    if "b_V" not in params:
        return model, params
    config, weights = _with_biases(config, dict(params), "out_bias")
    added = jnp.einsum("lhf,lhfd->ld", *map(at_least_float32, (by_head(config, weights["b_V"]), weights["W_O"])))
    weights["b_O"] = (at_least_float32(weights["b_O"]) + added).astype(weights["b_O"].dtype)
    weights["b_V"] = jnp.zeros_like(weights["b_V"])
    return Transformer(config), weights


def _centred(x: jax.Array, axis: int) -> jax.Array:
    wide = at_least_float32(x)
    return (wide - wide.mean(axis, keepdims=True)).astype(x.dtype)


def _untied(config: TransformerConfig, weights: Params) -> tuple[TransformerConfig, Params]:
    """The same with an unembedding of its own, if it has one."""
    if not (config.tie_embeddings and config.unembed):
        return config, weights
    return dataclasses.replace(config, tie_embeddings=False), {**weights, "W_U": weights["W_E"].T}


def _with_biases(config: TransformerConfig, weights: Params, *fields: str) -> tuple[TransformerConfig, Params]:
    """The same with some kinds of biases, 0 where they were absent."""
    on: dict[str, Any] = dict.fromkeys(fields, True)
    config = dataclasses.replace(config, **on)
    dtype = weights["W_E"].dtype
    new = {name: jnp.zeros(shape, dtype) for name, shape in weight_shapes(config).items() if name not in weights}
    return config, weights | new
