"""OPT: GPT-2 with ReLU, projections apart, and positions that are counted from 2."""

from collections.abc import Mapping
from typing import Any

from jaxinterp.io.huggingface.table import REQUIRED, Family, Field, activation, only


def _no_projection(width: Any, theirs: Mapping[str, Any]) -> None:
    """Refuses embeddings of another width than the stream, as the 350m model has them."""
    only(None, theirs["hidden_size"])(width, theirs)


# fmt: off
OPT = Family(
    architectures=("OPTForCausalLM", "OPTModel"),
    prefix="model.",
    constants={"eps": 1e-5},
    fields=(
        #     theirs                          if absent  ours
        Field("num_hidden_layers",            REQUIRED,  "n_layers"),
        Field("hidden_size",                  REQUIRED,  "d_model"),
        Field("num_attention_heads",          REQUIRED,  "n_heads"),
        Field("ffn_dim",                      REQUIRED,  "d_mlp"),
        Field("vocab_size",                   REQUIRED,  "d_vocab"),
        Field("max_position_embeddings",      2048,      "n_ctx"),
        Field("word_embed_proj_dim",          None,      None, _no_projection),
        Field("activation_function",          "relu",    "act_fn", activation),
        Field("enable_bias",                  True,      "qkv_bias"),
        Field("enable_bias",                  True,      "out_bias"),
        Field("enable_bias",                  True,      "mlp_bias"),
        Field("do_layer_norm_before",         True,      None, only(True)),
        Field("layer_norm_elementwise_affine", True,     None, only(True)),
        Field("_remove_final_layer_norm",     False,     "final_norm", lambda removed, _: not removed),
        Field("attention_dropout",            0.0,       "attn_dropout"),
        Field("dropout",                      0.1,       "resid_dropout"),
        Field("tie_word_embeddings",          True,      "tie_embeddings"),
    ),
    # layerdrop is a kind of dropout; output_projection and activation_dropout are read by nothing.
    harmless=("activation_dropout", "init_std", "layerdrop", "output_projection"),
    weights=(
        # theirs                                                     their axes               ours
        ("model.decoder.embed_tokens.weight",                        "d_vocab d_model",       "W_E"),
        ("model.decoder.embed_positions.weight",                     "2+n_ctx d_model",       "W_pos"),
        ("model.decoder.layers.{layer}.self_attn_layer_norm.weight", "d_model",               "ln1.w"),
        ("model.decoder.layers.{layer}.self_attn_layer_norm.bias",   "d_model",               "ln1.b"),
        ("model.decoder.layers.{layer}.self_attn.q_proj.weight",     "(head d_head) d_model", "W_Q"),
        ("model.decoder.layers.{layer}.self_attn.q_proj.bias",       "(head d_head)",         "b_Q"),
        ("model.decoder.layers.{layer}.self_attn.k_proj.weight",     "(head d_head) d_model", "W_K"),
        ("model.decoder.layers.{layer}.self_attn.k_proj.bias",       "(head d_head)",         "b_K"),
        ("model.decoder.layers.{layer}.self_attn.v_proj.weight",     "(head d_head) d_model", "W_V"),
        ("model.decoder.layers.{layer}.self_attn.v_proj.bias",       "(head d_head)",         "b_V"),
        ("model.decoder.layers.{layer}.self_attn.out_proj.weight",   "d_model (head d_head)", "W_O"),
        ("model.decoder.layers.{layer}.self_attn.out_proj.bias",     "d_model",               "b_O"),
        ("model.decoder.layers.{layer}.final_layer_norm.weight",     "d_model",               "ln2.w"),
        ("model.decoder.layers.{layer}.final_layer_norm.bias",       "d_model",               "ln2.b"),
        ("model.decoder.layers.{layer}.fc1.weight",                  "d_mlp d_model",         "W_in"),
        ("model.decoder.layers.{layer}.fc1.bias",                    "d_mlp",                 "b_in"),
        ("model.decoder.layers.{layer}.fc2.weight",                  "d_model d_mlp",         "W_out"),
        ("model.decoder.layers.{layer}.fc2.bias",                    "d_model",               "b_out"),
        ("model.decoder.final_layer_norm.weight",                    "d_model",               "ln_final.w"),
        ("model.decoder.final_layer_norm.bias",                      "d_model",               "ln_final.b"),
        ("lm_head.weight",                                           "d_vocab_out d_model",   "W_U"),
    ),
    unread=(),
    copies={"lm_head.weight": "model.decoder.embed_tokens.weight"},
)
# fmt: on
