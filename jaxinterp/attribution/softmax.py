"""What a patched query or key does to attention: the softmax moved, in place of its slope (Kramar et al. 2024)."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxinterp.model.interventions import replace

#: Sites of queries, and of keys.
QUERIES, KEYS = ("q_norm_in", "q", "rot_q"), ("k_norm_in", "k", "rot_k")


def moved_patterns(
    run: Callable[[Mapping[str, Any], str], jax.Array],
    ours: Mapping[str, jax.Array],
    patched: Mapping[str, jax.Array],
) -> dict[str, jax.Array]:
    """What patching queries, and keys, does to the patterns of the same layer, [..., batch, head, query, key].

    "pattern": the base's. A site of queries: the pattern with all of them patched minus the base's; rows do not mix. A
    site of keys: the share of the rest of its row that each entry takes when its key alone is patched.

    Args:
      run: `(edits, site) -> activations`, with the stream that enters each layer as in the base run.
      ours: the base's "pattern" and "scores".
      patched: the source's values at some of these sites.
    """
    found = {"pattern": ours["pattern"]}
    for name, values in patched.items():
        edit = {name: replace(values)}
        if name in QUERIES:
            found[name] = run(edit, "pattern") - ours["pattern"]
        else:
            found[name] = share_moved(ours["pattern"], run(edit, "scores") - ours["scores"])
    return found


def share_moved(pattern: jax.Array, delta: jax.Array) -> jax.Array:
    """How much of its row's remaining weight an entry takes when its score alone changes: (p' - p) / (1 - p).

    With p' = softmax after the change, p expm1(delta) / (1 + p expm1(delta)), written so that nothing overflows. An
    entry that has all the weight has nothing to take: 0.

    Example:
      >>> bool(abs(share_moved(jnp.float32(0.5), jnp.log(3.0)) - 0.5) < 1e-6)  # 1/2 becomes 3/4
      True
    """
    rising = pattern * -jnp.expm1(-jnp.abs(delta)) / (jnp.exp(-jnp.abs(delta)) * (1 - pattern) + pattern)
    falling = pattern * jnp.expm1(-jnp.abs(delta)) / ((1 - pattern) + pattern * jnp.exp(-jnp.abs(delta)))
    return jnp.where((pattern <= 0) | (pattern >= 1), 0, jnp.where(delta > 0, rising, falling))


def effects_of_patterns(moves: Mapping[str, jax.Array], name: str, grad: jax.Array, n: int) -> jax.Array:
    """Each query's (or key's) effect by the patched patterns: [layer, batch, pos, head or kv_head, 1].

    Args:
      moves: from `moved_patterns`, without a layer's axis where it is one layer's. name: the site.
      grad: of patterns, [layer, batch, head, query, key]. n: how many heads, or key/value heads.
    """
    if name in QUERIES:
        effects = (moves[name] * grad).sum(-1)  # [layer, batch, head, query]
    else:
        ahead = grad - (moves["pattern"] * grad).sum(-1, keepdims=True)
        effects = (moves[name] * ahead).sum(-2)  # [layer, batch, head, key]
        effects = effects.reshape(*effects.shape[:2], n, -1, effects.shape[-1]).sum(3)  # a key's heads together
    return jnp.swapaxes(effects, 2, 3)[..., None]
