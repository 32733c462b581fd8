"""Attention: queries and keys, rotation, scores, patterns, head outputs, grouped queries without copies."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp.model.config import RotaryScaling, TransformerConfig
from jaxinterp.model.layers import TapLike, at_least_float32, dropout, norm, rms_norm, token_positions
from jaxinterp.model.params import Params
from jaxinterp.model.where import Geometry

#: Larger than any prompt: the window of a layer that sees everything.
NO_WINDOW = np.iinfo(np.int32).max // 2


def layer_data(config: TransformerConfig) -> dict[str, np.ndarray]:
    """What differs from layer to layer besides weights, stacked by layer and scanned along with them.

    `window` int[layer] if any layer has one; `frequencies` float64[layer, rotary_dim / 2] if positions rotate.
    """
    data: dict[str, np.ndarray] = {}
    if any(w is not None for w in config.windows):
        data["window"] = np.array([NO_WINDOW if w is None else min(w, NO_WINDOW) for w in config.windows], np.int32)
    if config.positions == "rotary":
        exponents = np.arange(0, config.rotary_dim, 2) / config.rotary_dim
        layers = zip(config.rotary_bases, config.rotary_scalings, strict=True)
        data["frequencies"] = np.stack([_slowed(base**-exponents, scaling) for base, scaling in layers])
    return data


def _slowed(frequencies: np.ndarray, scaling: RotaryScaling | None) -> np.ndarray:
    """Rotary frequencies (radians per position) after a layer's `RotaryScaling`."""
    if scaling is None:
        return frequencies
    if scaling.low_freq_factor is None:
        return frequencies / scaling.factor
    assert scaling.high_freq_factor is not None
    assert scaling.original_n_ctx is not None
    turns = scaling.original_n_ctx * frequencies / (2 * np.pi)
    kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = np.clip(kept, 0, 1)
    return frequencies * (kept + (1 - kept) / scaling.factor)


def rotate(config: TransformerConfig, x: jax.Array, frequencies: jax.Array, positions: jax.Array) -> jax.Array:
    """Rotates each pair of the first `rotary_dim` dimensions by position * frequency.

    Args:
      x: [batch, pos, head, d_head]. frequencies: [rotary_dim / 2]. positions: int[batch or 1, pos].
    """
    wide = at_least_float32(x)
    angles = positions[..., None, None] * frequencies.astype(wide.dtype)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    turned, kept = wide[..., : config.rotary_dim], wide[..., config.rotary_dim :]
    if config.rotary_interleaved:
        first, second = turned[..., 0::2], turned[..., 1::2]
    else:
        first, second = jnp.split(turned, 2, axis=-1)
    parts = first * cos - second * sin, second * cos + first * sin
    if config.rotary_interleaved:
        turned = jnp.stack(parts, axis=-1).reshape(turned.shape)
    else:
        turned = jnp.concatenate(parts, axis=-1)
    return jnp.concatenate([turned, kept], axis=-1).astype(x.dtype)


def allowed_keys(config: TransformerConfig, geometry: Geometry, window: jax.Array | None) -> jax.Array | None:
    """Which keys each query may see: bool[batch or 1, query, key]; None if all."""
    query = geometry.columns[:, :, None]
    key = jnp.arange(geometry.pos)
    allowed = None
    if config.causal:
        allowed = key <= query
    if window is not None:
        near = abs(query - key) < window
        allowed = near if allowed is None else allowed & near
    if geometry.mask is not None:
        real = geometry.mask[:, None, :]
        allowed = real if allowed is None else allowed & real
    return allowed


def head_outputs(
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
    """(each head's output before `W_O`, this block's keys and values).

    Args:
      weights: one block's. data: one layer's entry of `layer_data`.
      x: the stream the block reads, [batch, rows, d_model], rows from `geometry.start` on.
      place: the position embedding for positions="qk", [batch, rows, d_model].
      prefix: keys (as attention reads them, rotated) and values of the rows before `geometry.start`; where only
        `geometry.rows` are computed, those of every column, in which the rows' own are put (None: they are the first).
      key: random key for attention dropout.
      queries: indices into the rows, int[n] or int[batch, n]: only these are computed; None for all.

    Returns:
      z [batch, n, head, d_head], and (keys, values) of the rows, [batch, rows, kv_head, d_head].
    """
    q, k, v = _queries_keys_values(config, weights, x, place, tap, queries)
    seen = geometry if queries is None else geometry._replace(rows=queries + geometry.start)
    return attend(config, data, q, k, v, seen, geometry, tap, prefix, key)


def attend(
    config: TransformerConfig,
    data: dict[str, Any],
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    seen: Geometry,
    geometry: Geometry,
    tap: TapLike,
    prefix: tuple[jax.Array, jax.Array] | None = None,
    key: jax.Array | None = None,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """What `head_outputs` gives, from queries, keys and values that are not rotated yet.

    Args:
      q: [batch, n, head, d_head], of the rows that `seen` describes. k, v: [batch, rows, kv_head, d_head], of
        `geometry`. Others as in `head_outputs`.
    """
    if config.positions == "rotary":
        q = tap("rot_q", rotate(config, q, data["frequencies"], token_positions(seen)))
        k = tap("rot_k", rotate(config, k, data["frequencies"], token_positions(geometry)))
    if geometry.rows is None:
        # the prefix stands apart: under vmap over edits it is shared, never copied for each
        keys, values = ([k], [v]) if prefix is None else ([prefix[0], k], [prefix[1], v])
    elif prefix is None:
        late = ((0, 0), (0, geometry.pos - k.shape[1]), (0, 0), (0, 0))
        keys, values = [jnp.pad(k, late)], [jnp.pad(v, late)]
    else:
        keys, values = ([put_rows(whole, own, geometry.rows)] for whole, own in zip(prefix, (k, v), strict=True))

    batch, n_rows = q.shape[:2]
    wide = jnp.promote_types(q.dtype, jnp.float32)
    grouped = q.reshape(batch, n_rows, config.n_kv_heads, config.groups, config.d_head)
    parts = [jnp.einsum("bqhgf,bkhf->bhgqk", grouped, part, preferred_element_type=wide) for part in keys]
    scores = jnp.concatenate(parts, axis=-1).reshape(batch, config.n_heads, n_rows, -1) * config.scale
    if config.attn_softcap is not None:
        scores = config.attn_softcap * jnp.tanh(scores / config.attn_softcap)
    scores = tap("scores", scores)
    allowed = allowed_keys(config, seen, data.get("window"))
    if allowed is not None:
        # a finite floor: rows of padding, which see nothing, stay finite and differentiable
        scores = jnp.where(allowed[:, None], scores, jnp.finfo(scores.dtype).min)
    pattern = tap("pattern", jax.nn.softmax(scores, axis=-1).astype(v.dtype))
    pattern = dropout(key, config.attn_dropout, pattern)

    grouped = pattern.reshape(batch, config.n_kv_heads, config.groups, n_rows, -1)
    parts = jnp.split(grouped, [geometry.start], axis=-1) if len(values) > 1 else [grouped]
    heads = [jnp.einsum("bhgqk,bkhf->bqhgf", p, part) for p, part in zip(parts, values, strict=True)]
    z = functools.reduce(jnp.add, heads).reshape(batch, n_rows, config.n_heads, config.d_head)
    return z, (k, v)


def project_heads(weights: Params, z: jax.Array, tap: TapLike) -> jax.Array:
    """What the heads add together, before any norm that follows: [batch, rows, d_model]. Sites `z` and `result`."""
    z = tap("z", z)
    if tap.wants("result"):
        out = tap("result", jnp.einsum("bphf,hfd->bphd", z, weights["W_O"])).sum(axis=2)
    else:
        out = jnp.einsum("bphf,hfd->bpd", z, weights["W_O"])
    return out + weights["b_O"] if "b_O" in weights else out


def take_rows(x: jax.Array, rows: jax.Array | None) -> jax.Array:
    """Rows of [batch, rows, ...]: int[n] shared, int[batch, n] each prompt's own, None for all."""
    if rows is None:
        return x
    if rows.ndim == 1:
        return x[:, rows]
    return jnp.take_along_axis(x, rows.reshape(*rows.shape, *[1] * (x.ndim - 2)), axis=1)


def put_rows(x: jax.Array, part: jax.Array, rows: jax.Array) -> jax.Array:
    """`x` [batch, rows, ...] with `part` [batch, n, ...] at rows int[n], or int[batch, n]: each prompt's own."""
    if rows.ndim == 1:
        return x.at[:, rows].set(part)
    return x.at[jnp.arange(x.shape[0])[:, None], rows].set(part)


def _queries_keys_values(
    config: TransformerConfig,
    weights: Params,
    x: jax.Array,
    place: jax.Array | None,
    tap: TapLike,
    queries: jax.Array | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Unrotated q [batch, queries, head, d_head] and k, v [batch, rows, kv_head, d_head].

    All three read one normalised stream unless `q_input`, `k_input` or `v_input` is named: then that reader
    gets a private copy of the stream for each head, and normalises its own. Edits of `ln1` act on the copies too.
    """
    shared = norm(config, "ln1", weights, x, tap) if config.has_pre_norm else x
    out = []
    for name in ("q", "k", "v"):
        if tap.wants(f"{name}_input"):
            n_copies = weights[f"W_{name.upper()}"].shape[0]
            copies = jnp.broadcast_to(x[:, :, None], (*x.shape[:2], n_copies, x.shape[2]))
            copies = tap(f"{name}_input", copies)
            if config.has_pre_norm:
                copies = jax.vmap(lambda one: norm(config, "ln1", weights, one, tap.edit), 2, 2)(copies)
            if place is not None and name != "v":
                copies = copies + place[:, :, None]
            out.append(project(config, weights, name, copies, tap))
        else:
            read = shared if place is None or name == "v" else shared + place
            read = take_rows(read, queries) if name == "q" else read
            out.append(project(config, weights, name, read, tap))
    return out[0], out[1], out[2]


def project(config: TransformerConfig, weights: Params, name: str, read: jax.Array, tap: TapLike) -> jax.Array:
    """Queries, keys or values (`name`: "q", "k" or "v") of what they read, unrotated: [batch, rows, head, d_head].

    Args:
      read: [batch, rows, d_model], or [batch, rows, head, d_model] where each head reads its own.
    """
    equation = "bpd,hdf->bphf" if read.ndim == 3 else "bphd,hdf->bphf"
    projected = jnp.einsum(equation, read, weights[f"W_{name.upper()}"])
    if f"b_{name.upper()}" in weights:
        projected = projected + weights[f"b_{name.upper()}"]
    if config.qk_norm and name != "v":
        projected = tap(f"{name}_norm_in", projected)
        axes = (-1,) if config.qk_norm == "head" else (-2, -1)
        projected = rms_norm(config, weights[f"{name}_norm.w"], projected, axes)
    return tap(name, projected)
