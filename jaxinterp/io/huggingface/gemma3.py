"""Gemma 3, text models: Gemma 2 with norms on queries and keys, and a rotary base apart for layers with windows."""

from collections.abc import Mapping
from typing import Any

from jaxinterp.io.huggingface.gemma2 import NORMS_AROUND
from jaxinterp.io.huggingface.llama import ATTENTION, BUFFERS, COPIES, EMBEDDINGS, HEAD_NORMS, MLP, SHARED_FIELDS
from jaxinterp.io.huggingface.rotary import read_scaling
from jaxinterp.io.huggingface.table import LAYER_TYPES, REQUIRED, Family, Field, activation, layer_windows, only
from jaxinterp.model.config import RotaryScaling, suggest


def _layer_types(theirs: Mapping[str, Any]) -> list[Any]:
    """The type of each layer. Older files say that every so many layers one sees everything."""
    if theirs["layer_types"] is not None:
        return list(theirs["layer_types"])
    n_layers, pattern = theirs["num_hidden_layers"], theirs["sliding_window_pattern"]
    return ["sliding_attention" if layer % pattern else "full_attention" for layer in range(1, n_layers + 1)]


def _windows(_: Any, theirs: Mapping[str, Any]) -> tuple[int | None, ...] | None:
    return layer_windows(_layer_types(theirs), theirs["num_hidden_layers"], theirs["sliding_window"])


def _rotary(theirs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rotary parameters of each layer. Of older files, `rope_scaling` is about layers that see everything."""
    by_type = theirs["rope_parameters"] or {}
    if unknown := set(by_type) - set(LAYER_TYPES):
        raise ValueError(f"unknown layer type {min(unknown)!r}; {suggest(min(unknown), LAYER_TYPES)}")
    if by_type and theirs["rope_scaling"]:
        raise ValueError(f"stands beside rope_scaling = {theirs['rope_scaling']!r}; expected one of the two")
    old = {
        "full_attention": {"rope_theta": theirs["rope_theta"], **(theirs["rope_scaling"] or {})},
        "sliding_attention": {"rope_theta": theirs["rope_local_base_freq"]},
    }
    return [{**old[kind], **(by_type.get(kind) or {})} for kind in _layer_types(theirs)]


def _bases(_: Any, theirs: Mapping[str, Any]) -> tuple[float, ...]:
    return tuple(layer["rope_theta"] for layer in _rotary(theirs))


def _scalings(_: Any, theirs: Mapping[str, Any]) -> tuple[RotaryScaling | None, ...]:
    return tuple(read_scaling(layer, theirs) for layer in _rotary(theirs))


# fmt: off
GEMMA3 = Family(
    architectures=("Gemma3ForCausalLM", "Gemma3TextModel"),
    prefix="model.",
    constants={
        "positions": "rotary", "normalization": "rms", "norm_position": "both", "norm_plus_one": True,
        "gated": True, "mlp_bias": False, "qk_norm": "head",
    },
    fields=(
        #     theirs                        if absent    ours
        *SHARED_FIELDS,
        Field("hidden_size",                REQUIRED,    "embed_scale", lambda size, _: size**0.5),
        Field("num_key_value_heads",        4,           "n_kv_heads"),
        Field("head_dim",                   256,         "d_head"),
        Field("max_position_embeddings",    131_072,     "n_ctx"),
        Field("hidden_activation",          "gelu_pytorch_tanh", "act_fn", activation),
        Field("rms_norm_eps",               1e-6,        "eps"),
        Field("attention_bias",             False,       "qkv_bias"),
        Field("attention_bias",             False,       "out_bias"),
        Field("query_pre_attn_scalar",      256,         "attn_scale", lambda scalar, _: scalar**-0.5),
        # The reference has this field, and does not read it.
        Field("attn_logit_softcapping",     None,        None, only(None)),
        Field("final_logit_softcapping",    None,        "logit_softcap"),
        Field("layer_types",                None,        "window", _windows),
        Field("sliding_window",             4096,        None),
        Field("sliding_window_pattern",     6,           None),
        Field("use_bidirectional_attention", False,      None, only(None, False)),
        Field("tie_word_embeddings",        True,        "tie_embeddings"),
        Field("rope_scaling",               None,        None, read_scaling),
        Field("rope_parameters",            None,        "rotary_base", _bases),
        Field("rope_parameters",            None,        "rotary_scaling", _scalings),
        Field("rope_theta",                 1_000_000.0, None),
        Field("rope_local_base_freq",       10_000.0,    None),
    ),
    # _sliding_window_pattern is only written beside layer_types, which say it all.
    harmless=("_sliding_window_pattern",),
    weights=(*EMBEDDINGS, *NORMS_AROUND, *ATTENTION, *HEAD_NORMS, *MLP),
    unread=BUFFERS,
    copies=COPIES,
)
# fmt: on
