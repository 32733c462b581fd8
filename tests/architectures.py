"""Random tiny architectures, prompts and padding, for property-based tests."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

import jaxinterp as ji

BATCH, POS = 3, 6

#: Of the frequencies at base 10 the first is kept, later ones are moved, and the last of a head of 6 is divided.
SLOWED = ji.RotaryScaling(3.0, low_freq_factor=0.25, high_freq_factor=0.9, original_n_ctx=6)


def budget(examples):
    """Settings for a property over `examples` architectures; the draws are the same in every run."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],  # shrinking would compile hundreds of programs
        suppress_health_check=list(HealthCheck),
    )


@st.composite
def configs(draw, **fixed):
    """A random valid `TransformerConfig` in float64; `fixed` fields are taken as given."""
    n_layers = draw(st.integers(1, 3))
    n_kv_heads = draw(st.sampled_from([1, 2]))
    n_heads = n_kv_heads * draw(st.sampled_from([1, 2, 3]))
    d_head = draw(st.sampled_from([2, 4, 6]))
    parallel = draw(st.booleans())
    attn_only = not parallel and draw(st.booleans()) and draw(st.booleans())
    normalization = draw(st.sampled_from(["layer", "rms", None]))
    norm_position = draw(st.sampled_from(["pre", "pre", "output", "both"] + ([] if parallel else ["post"])))
    positions = draw(st.sampled_from(["learned", "rotary", "qk", None]))
    tie = draw(st.booleans())
    fields = {
        "n_layers": n_layers,
        "d_model": draw(st.sampled_from([8, 10])),
        "n_heads": n_heads,
        "n_kv_heads": n_kv_heads,
        "d_head": d_head,
        "d_mlp": 12,
        "d_vocab": 11,
        "d_vocab_out": 11 if tie else draw(st.sampled_from([2, 11])),
        "n_ctx": POS + 2,
        "act_fn": draw(st.sampled_from(["gelu", "gelu_new", "relu", "silu", "solu"])),
        "gated": draw(st.booleans()),
        "attn_only": attn_only,
        "parallel": parallel,
        "causal": draw(st.sampled_from([True, True, False])),
        "normalization": normalization,
        "norm_position": norm_position,
        "norm_bias": draw(st.booleans()),
        "norm_plus_one": draw(st.booleans()),
        "final_norm": draw(st.booleans()),
        "positions": positions,
        "rotary_dim": draw(st.sampled_from([2, d_head])),
        "rotary_base": draw(st.sampled_from([10.0, tuple(10.0 + layer for layer in range(n_layers))])),
        "rotary_interleaved": draw(st.booleans()),
        "window": draw(st.sampled_from([None, 2, tuple([3, None, 1][:n_layers])])),
        "attn_scale": draw(st.sampled_from([None, 0.7])),
        "attn_softcap": draw(st.sampled_from([None, 2.0])),
        "logit_softcap": draw(st.sampled_from([None, 3.0])),
        "qk_norm": draw(st.sampled_from([None, "head", "all"])),
        "qkv_bias": draw(st.booleans()),
        "out_bias": draw(st.booleans()),
        "mlp_bias": draw(st.booleans()),
        "unembed_bias": draw(st.booleans()),
        "embed_scale": draw(st.sampled_from([None, 1.7])),
        "rotary_scaling": draw(st.sampled_from([None, SLOWED, (None, ji.RotaryScaling(2.0), SLOWED)[:n_layers]])),
        "tie_embeddings": tie,
        "dtype": "float64",
    }
    # what BERT has: a norm on the embedding, token types, a dense layer before the unembedding, or none at all
    fields |= {
        "embed_norm": normalization is not None and draw(st.booleans()),
        "n_token_types": 2 if positions == "learned" and draw(st.booleans()) else None,
        "final_act_fn": draw(st.sampled_from([None, None, "gelu"])),
    }
    if not tie and draw(st.booleans()) and draw(st.booleans()):
        fields |= {"unembed": False, "d_vocab_out": None, "unembed_bias": False, "logit_softcap": None}
    if not attn_only and draw(st.booleans()) and draw(st.booleans()):
        fields |= {"n_experts": 3, "experts_per_token": draw(st.sampled_from([1, 2, 3]))}
    return ji.TransformerConfig(**(fields | fixed))


def random_params(model, seed=0):
    """Parameters in which every term matters: no bias is 0, no norm the identity. Drawn without compiling anything."""
    rng, centre = np.random.default_rng(seed), 0 if model.config.norm_plus_one else 1
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return {
        name: jnp.asarray(0.4 * rng.normal(size=w.shape) + centre * name.endswith(".w"), w.dtype)
        for name, w in shapes.items()
    }


def random_tokens(config, seed=0, batch=BATCH, pos=POS):
    return np.random.default_rng(seed).integers(0, config.d_vocab, (batch, pos))


def altered(config, tokens, first=0):
    """Other tokens from a column on."""
    return np.where(np.arange(tokens.shape[1]) < first, tokens, (tokens + 1) % config.d_vocab)


def masks(side):
    """A padding mask for prompts of 6, 4 and 3 tokens; None for no padding."""
    if side is None:
        return None
    lengths = np.array([[POS], [4], [3]])
    columns = np.arange(POS)[None]
    return columns < lengths if side == "right" else columns >= POS - lengths


@functools.partial(jax.jit, static_argnames=("model", "capture"))
def _applied(model, params, tokens, edits, mask, capture):
    return model.apply(params, tokens, edits, mask=mask, capture=capture)


def apply(model, params, tokens, edits=None, *, mask=None, capture=()):
    """`model.apply` as one program, its results in numpy: comparing them then compiles nothing."""
    return jax.device_get(_applied(model, params, tokens, edits or {}, mask, capture))


@dataclasses.dataclass(frozen=True)
class Plain:
    """A model that can only `apply`: what is asked of it takes the plain path."""

    model: Any

    @property
    def sites(self):
        return self.model.sites

    def apply(self, *args, **kwargs):
        return self.model.apply(*args, **kwargs)
