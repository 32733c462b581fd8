"""GPT-NeoX and Pythia: attention and MLP side by side, rotary positions on a part of each head."""

from jaxinterp.io.huggingface.rotary import rotary_fields
from jaxinterp.io.huggingface.table import REQUIRED, Family, Field, activation

# fmt: off
GPT_NEOX = Family(
    architectures=("GPTNeoXForCausalLM", "GPTNeoXModel"),
    prefix="gpt_neox.",
    constants={"positions": "rotary"},
    fields=(
        #     theirs                     if absent  ours
        Field("num_hidden_layers",       REQUIRED,  "n_layers"),
        Field("hidden_size",             REQUIRED,  "d_model"),
        Field("num_attention_heads",     REQUIRED,  "n_heads"),
        Field("intermediate_size",       REQUIRED,  "d_mlp"),
        Field("vocab_size",              REQUIRED,  "d_vocab"),
        Field("max_position_embeddings", 2048,      "n_ctx"),
        Field("hidden_act",              "gelu",    "act_fn", activation),
        Field("layer_norm_eps",          1e-5,      "eps"),
        Field("use_parallel_residual",   True,      "parallel"),
        Field("attention_bias",          True,      "qkv_bias"),
        Field("attention_bias",          True,      "out_bias"),
        Field("attention_dropout",       0.0,       "attn_dropout"),
        Field("hidden_dropout",          0.0,       "resid_dropout"),
        Field("tie_word_embeddings",     False,     "tie_embeddings"),
        *rotary_fields(
            10_000.0, base_names=("rotary_emb_base", "rope_theta"),
            share=0.25, share_names=("rotary_pct", "partial_rotary_factor"),
        ),
    ),
    # The dropout rates' old names; classifier_dropout belongs to classification heads.
    harmless=("attention_probs_dropout_prob", "hidden_dropout_prob", "classifier_dropout"),
    weights=(
        # theirs                                                     their axes                   ours
        ("gpt_neox.embed_in.weight",                                 "d_vocab d_model",           "W_E"),
        ("gpt_neox.layers.{layer}.input_layernorm.weight",           "d_model",                   "ln1.w"),
        ("gpt_neox.layers.{layer}.input_layernorm.bias",             "d_model",                   "ln1.b"),
        ("gpt_neox.layers.{layer}.attention.query_key_value.weight", "(head qkv d_head) d_model", "W_Q W_K W_V"),
        ("gpt_neox.layers.{layer}.attention.query_key_value.bias",   "(head qkv d_head)",         "b_Q b_K b_V"),
        ("gpt_neox.layers.{layer}.attention.dense.weight",           "d_model (head d_head)",     "W_O"),
        ("gpt_neox.layers.{layer}.attention.dense.bias",             "d_model",                   "b_O"),
        ("gpt_neox.layers.{layer}.post_attention_layernorm.weight",  "d_model",                   "ln2.w"),
        ("gpt_neox.layers.{layer}.post_attention_layernorm.bias",    "d_model",                   "ln2.b"),
        ("gpt_neox.layers.{layer}.mlp.dense_h_to_4h.weight",         "d_mlp d_model",             "W_in"),
        ("gpt_neox.layers.{layer}.mlp.dense_h_to_4h.bias",           "d_mlp",                     "b_in"),
        ("gpt_neox.layers.{layer}.mlp.dense_4h_to_h.weight",         "d_model d_mlp",             "W_out"),
        ("gpt_neox.layers.{layer}.mlp.dense_4h_to_h.bias",           "d_model",                   "b_out"),
        ("gpt_neox.final_layer_norm.weight",                         "d_model",                   "ln_final.w"),
        ("gpt_neox.final_layer_norm.bias",                           "d_model",                   "ln_final.b"),
        ("embed_out.weight",                                         "d_vocab_out d_model",       "W_U"),
    ),
    # The causal mask and the rotary table, which older files store in every layer.
    unread=(
        "gpt_neox.layers.{layer}.attention.bias",
        "gpt_neox.layers.{layer}.attention.masked_bias",
        "gpt_neox.layers.{layer}.attention.rotary_emb.inv_freq",
    ),
    copies={"embed_out.weight": "gpt_neox.embed_in.weight"},
)
# fmt: on
