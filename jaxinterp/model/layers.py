"""The pieces around attention and MLP: norms, activations, embedding, unembedding.

Every function takes a `tap`, called as `x = tap(name, x)` at each named point (`model/tap.py`).
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxinterp.model.config import TransformerConfig
from jaxinterp.model.params import Params
from jaxinterp.model.where import Geometry


class TapLike(Protocol):
    """What the forward calls at each site."""

    def __call__(self, name: str, x: jax.Array) -> jax.Array:
        """The array that goes on from site `name`."""

    def edit(self, name: str, x: jax.Array) -> jax.Array:
        """The same, without recording it: for copies that stand beside the site itself."""

    def wants(self, *names: str) -> bool:
        """Whether any of these sites is edited or captured."""


def at_least_float32(x: jax.Array) -> jax.Array:
    """`x`, raised to float32 if it has fewer bits: norms, softmax and logits are never computed below that."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def norm(
    config: TransformerConfig, name: str, weights: Params, x: jax.Array, site: Callable[[str, jax.Array], jax.Array]
) -> jax.Array:
    """LayerNorm or RMSNorm over the last axis, through the sites `name.scale` and `name.normalized`.

    `scale` is sqrt(variance + eps) (layer) or sqrt(mean square + eps) (rms); `normalized` is the
    stream divided by it, before gain and bias. Both have at least 32 bits.
    """
    wide = at_least_float32(x)
    if config.normalization == "layer":
        wide = wide - wide.mean(-1, keepdims=True)
    scale = jnp.sqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + config.eps)
    gain = at_least_float32(weights[f"{name}.w"])
    normalized = site(f"{name}.normalized", wide / site(f"{name}.scale", scale))
    out = normalized * (1 + gain if config.norm_plus_one else gain)
    if f"{name}.b" in weights:
        out = out + at_least_float32(weights[f"{name}.b"])
    return out.astype(x.dtype)


def rms_norm(config: TransformerConfig, gain: jax.Array, x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """RMSNorm over the given axes without sites: the query and key norms."""
    wide = at_least_float32(x)
    wide = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=axes, keepdims=True) + config.eps)
    return (wide * at_least_float32(1 + gain if config.norm_plus_one else gain)).astype(x.dtype)


def layer_norm(x: jax.Array, gain: jax.Array, bias: jax.Array, eps: float) -> jax.Array:
    """A plain LayerNorm without sites: the one that follows SoLU."""
    wide = at_least_float32(x)
    wide = wide - wide.mean(-1, keepdims=True)
    wide = wide / jnp.sqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + eps)
    return (wide * at_least_float32(gain) + at_least_float32(bias)).astype(x.dtype)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "solu": lambda x: x * jax.nn.softmax(at_least_float32(x), axis=-1).astype(x.dtype),
}


def embed(
    config: TransformerConfig, params: Params, tokens: jax.Array, positions: jax.Array, tap: TapLike
) -> tuple[jax.Array, jax.Array | None]:
    """(the stream that enters block 0, the position embedding that queries and keys read if positions="qk").

    Args:
      tokens: int[batch, pos]. positions: int[batch or 1, pos].
    """
    x = params["W_E"][tokens]
    if config.embed_scale is not None:
        x = x * jnp.asarray(config.embed_scale, x.dtype)
    x, place = tap("embed", x), None
    if config.positions in ("learned", "qk"):
        rows = params["W_pos"][positions]
        if "W_type" in params:
            rows = rows + params["W_type"][0]
        place = tap("pos_embed", jnp.broadcast_to(rows, x.shape))
        if config.positions == "learned":
            x, place = x + place, None
    return norm(config, "ln_embed", params, x, tap) if config.embed_norm else x, place


def unembed(
    config: TransformerConfig, params: Params, x: jax.Array, tap: TapLike, columns: jax.Array | None = None
) -> jax.Array:
    """Logits from the final stream: [batch, pos, vocab], or [batch, pos, n] at `columns` (int[n] or int[batch, n])."""
    if config.final_act_fn is not None:
        x = tap("final_pre", x @ params["W_final"] + params["b_final"])
        x = tap("final_post", ACTIVATIONS[config.final_act_fn](x))
    if config.final_norm and config.normalization is not None:
        x = norm(config, "ln_final", params, x, tap)
    if not config.unembed:
        stream = at_least_float32(x)
        return tap("logits", stream) if columns is None else take_columns(stream, columns)
    W_U = params["W_E"].T if config.tie_embeddings else params["W_U"]
    b_U = params.get("b_U")
    wide = jnp.promote_types(x.dtype, jnp.float32)
    if columns is None:
        logits = jnp.matmul(x, W_U, preferred_element_type=wide)
    else:
        W_U, b_U = W_U[:, columns], None if b_U is None else b_U[columns]
        equation = "bpd,dn->bpn" if columns.ndim == 1 else "bpd,dbn->bpn"
        logits = jnp.einsum(equation, x, W_U, preferred_element_type=wide)
        b_U = b_U[:, None] if b_U is not None and columns.ndim == 2 else b_U
    if b_U is not None:
        logits = logits + b_U
    if config.logit_softcap is not None:
        logits = config.logit_softcap * jnp.tanh(logits / config.logit_softcap)
    return logits if columns is not None else tap("logits", logits)


def take_columns(logits: jax.Array, columns: Any) -> jax.Array:
    """Columns of logits [batch, n, vocab]: int[n] shared, int[batch, n] each prompt's own, None for all."""
    if columns is None:
        return logits
    columns = jnp.asarray(columns)
    return jnp.take_along_axis(logits, columns[:, None] if columns.ndim == 2 else columns[None, None], axis=-1)


def token_positions(geometry: Geometry) -> jax.Array:
    """Each token's position within its own prompt: int[batch or 1, rows]; padding before a prompt counts 0."""
    columns = geometry.columns
    return columns if geometry.starts is None else jnp.maximum(columns - geometry.starts, 0)


def dropout(key: jax.Array | None, rate: float, x: jax.Array) -> jax.Array:
    """Inverted dropout; without a key, or at rate 0, `x` itself."""
    if key is None or rate == 0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0)
