"""Gemma 2: norms before and after each sublayer, soft-caps, windows on every other layer, scaled embeddings."""

from collections.abc import Mapping
from typing import Any

from jaxinterp.io.huggingface.llama import ATTENTION, BUFFERS, COPIES, EMBEDDINGS, MLP, SHARED_FIELDS
from jaxinterp.io.huggingface.rotary import rotary_fields
from jaxinterp.io.huggingface.table import LAYER_TYPES, REQUIRED, Family, Field, activation, layer_windows, only


def _windows(layer_types: Any, theirs: Mapping[str, Any]) -> tuple[int | None, ...] | None:
    """The window of each layer. Files without `layer_types` alternate, beginning with a window."""
    n_layers = theirs["num_hidden_layers"]
    if layer_types is None:
        layer_types = [LAYER_TYPES[layer % 2] for layer in range(n_layers)]
    return layer_windows(layer_types, n_layers, theirs["sliding_window"])


def _same_window(size: Any, theirs: Mapping[str, Any]) -> None:
    """Some files say the window's size twice."""
    if size is not None:
        only(theirs["sliding_window"])(size, theirs)


# fmt: off
#: Norms around both sublayers, as Gemma 3 has them too.
NORMS_AROUND = (
    # theirs                                                   their axes  ours
    ("model.layers.{layer}.input_layernorm.weight",            "d_model",  "ln1.w"),
    ("model.layers.{layer}.post_attention_layernorm.weight",   "d_model",  "ln1_post.w"),
    ("model.layers.{layer}.pre_feedforward_layernorm.weight",  "d_model",  "ln2.w"),
    ("model.layers.{layer}.post_feedforward_layernorm.weight", "d_model",  "ln2_post.w"),
)

GEMMA2 = Family(
    architectures=("Gemma2ForCausalLM", "Gemma2Model"),
    prefix="model.",
    constants={
        "positions": "rotary", "normalization": "rms", "norm_position": "both", "norm_plus_one": True,
        "gated": True, "mlp_bias": False,
    },
    fields=(
        #     theirs                        if absent  ours
        *SHARED_FIELDS,
        Field("hidden_size",                REQUIRED,  "embed_scale", lambda size, _: size**0.5),
        Field("num_key_value_heads",        4,         "n_kv_heads"),
        Field("head_dim",                   256,       "d_head"),
        Field("max_position_embeddings",    8192,      "n_ctx"),
        Field("hidden_activation",          "gelu_pytorch_tanh", "act_fn", activation),
        Field("rms_norm_eps",               1e-6,      "eps"),
        Field("attention_bias",             False,     "qkv_bias"),
        Field("attention_bias",             False,     "out_bias"),
        Field("query_pre_attn_scalar",      256,       "attn_scale", lambda scalar, _: scalar**-0.5),
        Field("attn_logit_softcapping",     50.0,      "attn_softcap"),
        Field("final_logit_softcapping",    30.0,      "logit_softcap"),
        Field("layer_types",                None,      "window", _windows),
        Field("sliding_window",             4096,      None),
        Field("sliding_window_size",        None,      None, _same_window),
        Field("use_bidirectional_attention", None,     None, only(None, False)),
        Field("tie_word_embeddings",        True,      "tie_embeddings"),
        *rotary_fields(10_000.0),
    ),
    # The reference reads hidden_activation, whatever hidden_act says.
    harmless=("hidden_act",),
    weights=(*EMBEDDINGS, *NORMS_AROUND, *ATTENTION, *MLP),
    unread=BUFFERS,
    copies=COPIES,
)
# fmt: on
