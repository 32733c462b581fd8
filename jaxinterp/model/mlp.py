"""The MLP of a block: one set of neurons, or several (experts) of which a router chooses for each token.

A mixture is computed as it is defined, each expert on each token: those that are not chosen get weight 0. So every
expert's neurons are there to be looked at, and shapes do not depend on what the router says.
"""

import jax
import jax.numpy as jnp

from jaxinterp.model.config import TransformerConfig
from jaxinterp.model.layers import ACTIVATIONS, TapLike, layer_norm
from jaxinterp.model.params import Params


def mlp(config: TransformerConfig, weights: Params, x: jax.Array, tap: TapLike) -> jax.Array:
    """What the MLP makes of its (normalised) input, before any norm that follows it: [batch, pos, d_model]."""
    if config.n_experts is None:
        out = _neurons(config, weights, x, tap) @ weights["W_out"]
        return out + weights["b_out"] if "b_out" in weights else out
    shares = _shares(config, weights, x, tap)[..., None]
    post = (_neurons(config, weights, x, tap) * shares).astype(x.dtype)
    each = tap.wants("expert_out")
    out = jnp.einsum(f"bpem,emd->{'bped' if each else 'bpd'}", post, weights["W_out"])
    if "b_out" in weights:
        bias = (weights["b_out"] * shares).astype(x.dtype)
        out = out + (bias if each else bias.sum(axis=2))
    return tap("expert_out", out).sum(axis=2) if each else out


def _neurons(config: TransformerConfig, weights: Params, x: jax.Array, tap: TapLike) -> jax.Array:
    """The neurons' outputs: [batch, pos, d_mlp], or [batch, pos, expert, d_mlp] as no router has weighed them."""
    equation = "bpd,dm->bpm" if config.n_experts is None else "bpd,edm->bpem"

    def read(name: str) -> jax.Array:
        out = jnp.einsum(equation, x, weights[f"W_{name}"])
        return out + weights[f"b_{name}"] if f"b_{name}" in weights else out

    pre = tap("mlp_pre", read("gate" if config.gated else "in"))
    linear = tap("mlp_pre_linear", read("in")) if config.gated else None
    post = ACTIVATIONS[config.act_fn](pre)
    if config.act_fn == "solu":
        post = tap("mlp_mid", post)
        post = layer_norm(post, weights["ln_mlp.w"], weights["ln_mlp.b"], config.eps)
    return tap("mlp_post", post if linear is None else post * linear)


def _shares(config: TransformerConfig, weights: Params, x: jax.Array, tap: TapLike) -> jax.Array:
    """The weight of each expert at each token, [batch, pos, expert]: 0 but for those with the largest logits.

    These weights are a softmax over the chosen experts' logits, which is the softmax over all, restricted and scaled to
    add up to 1. Of equal logits the first are chosen. Float32 at least.
    """
    wide = jnp.promote_types(x.dtype, jnp.float32)
    logits = tap("router", jnp.matmul(x, weights["W_router"], preferred_element_type=wide))
    _, best = jax.lax.top_k(logits, config.experts_per_token)
    chosen = jnp.any(best[..., None] == jnp.arange(logits.shape[-1]), axis=-2)
    return jax.nn.softmax(jnp.where(chosen, logits, jnp.finfo(logits.dtype).min), axis=-1)
