"""GPT-2: learned positions, LayerNorm before each sublayer, one fused projection for queries, keys and values."""

from collections.abc import Mapping
from typing import Any

from jaxinterp.io.huggingface.table import REQUIRED, Family, Field, activation, only


def _scale(scaled: Any, theirs: Mapping[str, Any]) -> float | None:
    """What scores are multiplied by; None is the usual root."""
    only(True, False)(scaled, theirs)
    return None if scaled else 1.0


# fmt: off
GPT2 = Family(
    architectures=("GPT2LMHeadModel", "GPT2Model"),
    prefix="transformer.",
    constants={},  # every default of TransformerConfig is GPT-2's
    fields=(
        #     theirs                             if absent    ours
        Field("n_layer",                         REQUIRED,    "n_layers"),
        Field("n_embd",                          REQUIRED,    "d_model"),
        Field("n_head",                          REQUIRED,    "n_heads"),
        Field("vocab_size",                      REQUIRED,    "d_vocab"),
        Field("n_positions",                     1024,        "n_ctx"),
        Field("n_inner",                         None,        "d_mlp"),
        Field("activation_function",             "gelu_new",  "act_fn", activation),
        Field("layer_norm_epsilon",              1e-5,        "eps"),
        Field("attn_pdrop",                      0.1,         "attn_dropout"),
        Field("resid_pdrop",                     0.1,         "resid_dropout"),
        Field("tie_word_embeddings",             True,        "tie_embeddings"),
        Field("scale_attn_weights",              True,        "attn_scale", _scale),
        Field("scale_attn_by_inverse_layer_idx", False,       None, only(False)),
        Field("reorder_and_upcast_attn",         False,       None, only(False, True)),  # the same product
    ),
    # n_ctx is an old name for n_positions; summary_* belong to classification heads.
    harmless=(
        "embd_pdrop", "n_ctx", "n_special", "predict_special_tokens", "summary_activation",
        "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj",
    ),
    weights=(
        # theirs                                    their axes                    ours
        ("transformer.wte.weight",                  "d_vocab d_model",            "W_E"),
        ("transformer.wpe.weight",                  "n_ctx d_model",              "W_pos"),
        ("transformer.h.{layer}.ln_1.weight",       "d_model",                    "ln1.w"),
        ("transformer.h.{layer}.ln_1.bias",         "d_model",                    "ln1.b"),
        ("transformer.h.{layer}.attn.c_attn.weight", "d_model (qkv head d_head)", "W_Q W_K W_V"),
        ("transformer.h.{layer}.attn.c_attn.bias",  "(qkv head d_head)",          "b_Q b_K b_V"),
        ("transformer.h.{layer}.attn.c_proj.weight", "(head d_head) d_model",     "W_O"),
        ("transformer.h.{layer}.attn.c_proj.bias",  "d_model",                    "b_O"),
        ("transformer.h.{layer}.ln_2.weight",       "d_model",                    "ln2.w"),
        ("transformer.h.{layer}.ln_2.bias",         "d_model",                    "ln2.b"),
        ("transformer.h.{layer}.mlp.c_fc.weight",   "d_model d_mlp",              "W_in"),
        ("transformer.h.{layer}.mlp.c_fc.bias",     "d_mlp",                      "b_in"),
        ("transformer.h.{layer}.mlp.c_proj.weight", "d_mlp d_model",              "W_out"),
        ("transformer.h.{layer}.mlp.c_proj.bias",   "d_model",                    "b_out"),
        ("transformer.ln_f.weight",                 "d_model",                    "ln_final.w"),
        ("transformer.ln_f.bias",                   "d_model",                    "ln_final.b"),
        ("lm_head.weight",                          "d_vocab_out d_model",        "W_U"),
    ),
    # The causal mask, which older files store in every layer.
    unread=("transformer.h.{layer}.attn.bias", "transformer.h.{layer}.attn.masked_bias"),
    copies={"lm_head.weight": "transformer.wte.weight"},
)
# fmt: on
