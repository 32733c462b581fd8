"""One block: heads, then what follows them; it can start at any row, and stop at the rows somebody reads."""

from typing import Any

import jax

from jaxinterp.model.attention import head_outputs, project_heads, take_rows
from jaxinterp.model.config import TransformerConfig
from jaxinterp.model.layers import TapLike, dropout, norm
from jaxinterp.model.mlp import mlp
from jaxinterp.model.params import Params
from jaxinterp.model.where import Geometry


def block(
    config: TransformerConfig,
    weights: Params,
    data: dict[str, Any],
    x: jax.Array,
    place: jax.Array | None,
    geometry: Geometry,
    tap: TapLike,
    prefix: tuple[jax.Array, jax.Array] | None = None,
    key: jax.Array | None = None,
    queries: jax.Array | None = None,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """(the stream after one block, its keys and values). Arguments as in `head_outputs`."""
    heads_key, rest_key = (None, None) if key is None else jax.random.split(key)
    x = tap("resid_pre", x)
    z, kv = head_outputs(config, weights, data, x, place, geometry, tap, prefix, heads_key, queries)
    return after_heads(config, weights, take_rows(x, queries), z, tap, rest_key), kv


def after_heads(
    config: TransformerConfig,
    weights: Params,
    x: jax.Array,
    z: jax.Array,
    tap: TapLike,
    key: jax.Array | None = None,
) -> jax.Array:
    """The stream after a block, from the stream before it and its heads' outputs: the sites from `z` on.

    Args:
      x: [batch, rows, d_model]. z: [batch, rows, head, d_head].
    """
    attn_key, mlp_key = (None, None) if key is None else jax.random.split(key)

    def post_norm(name: str, x: jax.Array) -> jax.Array:
        return norm(config, name, weights, x, tap) if config.has_post_norm else x

    attn_out = _output(config, weights, "attn_out", "ln1", project_heads(weights, z, tap), tap, attn_key)
    if config.attn_only:
        return tap("resid_post", post_norm("ln1", x + attn_out))
    mid = x if config.parallel else tap("resid_mid", post_norm("ln1", x + attn_out))
    mlp_out = mlp_output(config, weights, mid, tap, mlp_key)
    return tap("resid_post", x + attn_out + mlp_out if config.parallel else post_norm("ln2", mid + mlp_out))


def mlp_output(
    config: TransformerConfig, weights: Params, mid: jax.Array, tap: TapLike, key: jax.Array | None = None
) -> jax.Array:
    """What the MLP adds to the stream that it reads, [batch, rows, d_model]: the sites `mlp_in` to `mlp_out`."""
    mlp_in = tap("mlp_in", mid)
    read = norm(config, "ln2", weights, mlp_in, tap) if config.has_pre_norm else mlp_in
    return _output(config, weights, "mlp_out", "ln2", mlp(config, weights, read, tap), tap, key)


def _output(
    config: TransformerConfig,
    weights: Params,
    sublayer: str,
    name: str,
    out: jax.Array,
    tap: TapLike,
    key: jax.Array | None,
) -> jax.Array:
    """What a sublayer adds to the stream: normed once more where the architecture does so."""
    if config.has_output_norm:
        out = norm(config, f"{name}_post", weights, tap(f"{sublayer}_pre_norm", out), tap)
    return tap(sublayer, dropout(key, config.resid_dropout, out))
