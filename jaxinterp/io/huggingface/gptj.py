"""GPT-J: attention and MLP side by side behind one norm, neighbouring dimensions of a part of each head rotated."""

from collections.abc import Mapping
from typing import Any

from jaxinterp.io.huggingface.table import REQUIRED, Family, Field, activation, only


def _width(width: Any, theirs: Mapping[str, Any]) -> Any:
    """How much of a head is rotated; without it, a table as wide as the stream would have to fit a head."""
    if width is None:
        raise ValueError("not supported; expected an even number")
    return width


# fmt: off
GPTJ = Family(
    architectures=("GPTJForCausalLM", "GPTJModel"),
    prefix="transformer.",
    constants={
        "positions": "rotary", "rotary_interleaved": True, "parallel": True,
        "qkv_bias": False, "out_bias": False, "unembed_bias": True,
    },
    fields=(
        #     theirs                 if absent    ours
        Field("n_layer",             REQUIRED,    "n_layers"),
        Field("n_embd",              REQUIRED,    "d_model"),
        Field("n_head",              REQUIRED,    "n_heads"),
        Field("vocab_size",          REQUIRED,    "d_vocab"),
        Field("n_positions",         2048,        "n_ctx"),
        Field("n_inner",             None,        "d_mlp"),
        Field("rotary_dim",          64,          "rotary_dim", _width),
        Field("rotary",              True,        None, only(True)),
        Field("activation_function", "gelu_new",  "act_fn", activation),
        Field("layer_norm_epsilon",  1e-5,        "eps"),
        Field("attn_pdrop",          0.0,         "attn_dropout"),
        Field("resid_pdrop",         0.0,         "resid_dropout"),
        Field("scale_attn_weights",  True,        None, only(True)),
        Field("tie_word_embeddings", False,       "tie_embeddings"),
    ),
    # summary_* belong to classification heads.
    harmless=(
        "embd_pdrop", "summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type",
        "summary_use_proj",
    ),
    weights=(
        # theirs                                     their axes               ours
        ("transformer.wte.weight",                   "d_vocab d_model",       "W_E"),
        # The one norm stands here twice, as each sublayer reads it.
        ("transformer.h.{layer}.ln_1.weight",        "d_model",               "ln1.w ln2.w"),
        ("transformer.h.{layer}.ln_1.bias",          "d_model",               "ln1.b ln2.b"),
        ("transformer.h.{layer}.attn.q_proj.weight", "(head d_head) d_model", "W_Q"),
        ("transformer.h.{layer}.attn.k_proj.weight", "(head d_head) d_model", "W_K"),
        ("transformer.h.{layer}.attn.v_proj.weight", "(head d_head) d_model", "W_V"),
        ("transformer.h.{layer}.attn.out_proj.weight", "d_model (head d_head)", "W_O"),
        ("transformer.h.{layer}.mlp.fc_in.weight",   "d_mlp d_model",         "W_in"),
        ("transformer.h.{layer}.mlp.fc_in.bias",     "d_mlp",                 "b_in"),
        ("transformer.h.{layer}.mlp.fc_out.weight",  "d_model d_mlp",         "W_out"),
        ("transformer.h.{layer}.mlp.fc_out.bias",    "d_model",               "b_out"),
        ("transformer.ln_f.weight",                  "d_model",               "ln_final.w"),
        ("transformer.ln_f.bias",                    "d_model",               "ln_final.b"),
        ("lm_head.weight",                           "d_vocab_out d_model",   "W_U"),
        ("lm_head.bias",                             "d_vocab_out",           "b_U"),
    ),
    # The causal mask, which older files store in every layer.
    unread=("transformer.h.{layer}.attn.bias", "transformer.h.{layer}.attn.masked_bias"),
    copies={"lm_head.weight": "transformer.wte.weight"},
)
# fmt: on
