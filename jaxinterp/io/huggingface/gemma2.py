"""Gemma 2: norms before and after each sublayer, soft-caps, windows on every other layer, scaled embeddings."""

from collections.abc import Mapping
from typing import Any

from jaxinterp.io.huggingface.table import REQUIRED, Family, Field, activation, only, rotary_fields
from jaxinterp.model.config import suggest

LAYER_TYPES = ("sliding_attention", "full_attention")


def _windows(layer_types: Any, theirs: Mapping[str, Any]) -> tuple[int | None, ...]:
    """The window of each layer. Files without `layer_types` alternate, beginning with a window."""
    n_layers = theirs["num_hidden_layers"]
    if layer_types is None:
        layer_types = [LAYER_TYPES[layer % 2] for layer in range(n_layers)]
    if len(layer_types) != n_layers:
        raise ValueError(f"{len(layer_types)} entries for num_hidden_layers = {n_layers}")
    for kind in layer_types:
        if kind not in LAYER_TYPES:
            raise ValueError(f"unknown layer type {kind!r}; {suggest(kind, LAYER_TYPES)}")
    return tuple(theirs["sliding_window"] if kind == "sliding_attention" else None for kind in layer_types)


def _same_window(size: Any, theirs: Mapping[str, Any]) -> None:
    """Some files say the window's size twice."""
    if size is not None:
        only(theirs["sliding_window"])(size, theirs)


# fmt: off
GEMMA2 = Family(
    architectures=("Gemma2ForCausalLM", "Gemma2Model"),
    prefix="model.",
    constants={
        "positions": "rotary", "normalization": "rms", "norm_position": "both", "norm_plus_one": True,
        "gated": True, "mlp_bias": False,
    },
    fields=(
        #     theirs                        if absent  ours
        Field("num_hidden_layers",          REQUIRED,  "n_layers"),
        Field("hidden_size",                REQUIRED,  "d_model"),
        Field("hidden_size",                REQUIRED,  "embed_scale", lambda size, _: size**0.5),
        Field("num_attention_heads",        REQUIRED,  "n_heads"),
        Field("num_key_value_heads",        4,         "n_kv_heads"),
        Field("head_dim",                   256,       "d_head"),
        Field("intermediate_size",          REQUIRED,  "d_mlp"),
        Field("vocab_size",                 REQUIRED,  "d_vocab"),
        Field("max_position_embeddings",    8192,      "n_ctx"),
        Field("hidden_activation",          "gelu_pytorch_tanh", "act_fn", activation),
        Field("rms_norm_eps",               1e-6,      "eps"),
        Field("attention_bias",             False,     "qkv_bias"),
        Field("attention_bias",             False,     "out_bias"),
        Field("attention_dropout",          0.0,       "attn_dropout"),
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
    weights=(
        # theirs                                                 their axes                  ours
        ("model.embed_tokens.weight",                            "d_vocab d_model",          "W_E"),
        ("model.layers.{layer}.input_layernorm.weight",          "d_model",                  "ln1.w"),
        ("model.layers.{layer}.self_attn.q_proj.weight",         "(head d_head) d_model",    "W_Q"),
        ("model.layers.{layer}.self_attn.q_proj.bias",           "(head d_head)",            "b_Q"),
        ("model.layers.{layer}.self_attn.k_proj.weight",         "(kv_head d_head) d_model", "W_K"),
        ("model.layers.{layer}.self_attn.k_proj.bias",           "(kv_head d_head)",         "b_K"),
        ("model.layers.{layer}.self_attn.v_proj.weight",         "(kv_head d_head) d_model", "W_V"),
        ("model.layers.{layer}.self_attn.v_proj.bias",           "(kv_head d_head)",         "b_V"),
        ("model.layers.{layer}.self_attn.o_proj.weight",         "d_model (head d_head)",    "W_O"),
        ("model.layers.{layer}.self_attn.o_proj.bias",           "d_model",                  "b_O"),
        ("model.layers.{layer}.post_attention_layernorm.weight", "d_model",                  "ln1_post.w"),
        ("model.layers.{layer}.pre_feedforward_layernorm.weight", "d_model",                 "ln2.w"),
        ("model.layers.{layer}.mlp.gate_proj.weight",            "d_mlp d_model",            "W_gate"),
        ("model.layers.{layer}.mlp.up_proj.weight",              "d_mlp d_model",            "W_in"),
        ("model.layers.{layer}.mlp.down_proj.weight",            "d_model d_mlp",            "W_out"),
        ("model.layers.{layer}.post_feedforward_layernorm.weight", "d_model",                "ln2_post.w"),
        ("model.norm.weight",                                    "d_model",                  "ln_final.w"),
        ("lm_head.weight",                                       "d_vocab_out d_model",      "W_U"),
    ),
    buffers=("model.layers.{layer}.self_attn.rotary_emb.inv_freq",),
    copies={"lm_head.weight": "model.embed_tokens.weight"},
)
# fmt: on
