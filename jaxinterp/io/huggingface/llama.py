"""Llama: rotary positions, RMSNorm before each sublayer, grouped queries, a gated MLP.

Most families since write their files as Llama's, and share the rows here.
"""

from jaxinterp.io.huggingface.rotary import rotary_fields
from jaxinterp.io.huggingface.table import REQUIRED, Family, Field, activation

# fmt: off
#: Config rows that mean the same, and have the same default, in every family of this kind.
SHARED_FIELDS = (
    #     theirs                     if absent  ours
    Field("num_hidden_layers",       REQUIRED,  "n_layers"),
    Field("hidden_size",             REQUIRED,  "d_model"),
    Field("num_attention_heads",     REQUIRED,  "n_heads"),
    Field("intermediate_size",       REQUIRED,  "d_mlp"),
    Field("vocab_size",              REQUIRED,  "d_vocab"),
    Field("attention_dropout",       0.0,       "attn_dropout"),
)

EMBEDDINGS = (
    # theirs                                                 their axes                  ours
    ("model.embed_tokens.weight",                            "d_vocab d_model",          "W_E"),
    ("model.norm.weight",                                    "d_model",                  "ln_final.w"),
    ("lm_head.weight",                                       "d_vocab_out d_model",      "W_U"),
)
NORMS = (
    ("model.layers.{layer}.input_layernorm.weight",          "d_model",                  "ln1.w"),
    ("model.layers.{layer}.post_attention_layernorm.weight", "d_model",                  "ln2.w"),
)
ATTENTION = (
    ("model.layers.{layer}.self_attn.q_proj.weight",         "(head d_head) d_model",    "W_Q"),
    ("model.layers.{layer}.self_attn.q_proj.bias",           "(head d_head)",            "b_Q"),
    ("model.layers.{layer}.self_attn.k_proj.weight",         "(kv_head d_head) d_model", "W_K"),
    ("model.layers.{layer}.self_attn.k_proj.bias",           "(kv_head d_head)",         "b_K"),
    ("model.layers.{layer}.self_attn.v_proj.weight",         "(kv_head d_head) d_model", "W_V"),
    ("model.layers.{layer}.self_attn.v_proj.bias",           "(kv_head d_head)",         "b_V"),
    ("model.layers.{layer}.self_attn.o_proj.weight",         "d_model (head d_head)",    "W_O"),
    ("model.layers.{layer}.self_attn.o_proj.bias",           "d_model",                  "b_O"),
)
HEAD_NORMS = (
    ("model.layers.{layer}.self_attn.q_norm.weight",         "d_head",                   "q_norm.w"),
    ("model.layers.{layer}.self_attn.k_norm.weight",         "d_head",                   "k_norm.w"),
)
MLP = (
    ("model.layers.{layer}.mlp.gate_proj.weight",            "d_mlp d_model",            "W_gate"),
    ("model.layers.{layer}.mlp.gate_proj.bias",              "d_mlp",                    "b_gate"),
    ("model.layers.{layer}.mlp.up_proj.weight",              "d_mlp d_model",            "W_in"),
    ("model.layers.{layer}.mlp.up_proj.bias",                "d_mlp",                    "b_in"),
    ("model.layers.{layer}.mlp.down_proj.weight",            "d_model d_mlp",            "W_out"),
    ("model.layers.{layer}.mlp.down_proj.bias",              "d_model",                  "b_out"),
)
BUFFERS = ("model.layers.{layer}.self_attn.rotary_emb.inv_freq",)
COPIES = {"lm_head.weight": "model.embed_tokens.weight"}

LLAMA = Family(
    architectures=("LlamaForCausalLM", "LlamaModel"),
    prefix="model.",
    constants={"positions": "rotary", "normalization": "rms", "gated": True},
    fields=(
        #     theirs                     if absent  ours
        *SHARED_FIELDS,
        Field("num_key_value_heads",     None,      "n_kv_heads"),
        Field("head_dim",                None,      "d_head"),
        Field("max_position_embeddings", 2048,      "n_ctx"),
        Field("hidden_act",              "silu",    "act_fn", activation),
        Field("rms_norm_eps",            1e-6,      "eps"),
        Field("attention_bias",          False,     "qkv_bias"),
        Field("attention_bias",          False,     "out_bias"),
        Field("mlp_bias",                False,     "mlp_bias"),
        Field("tie_word_embeddings",     False,     "tie_embeddings"),
        *rotary_fields(10_000.0),
    ),
    # pretraining_tp says in how many slices products were once computed, not what they are.
    harmless=("max_sequence_length", "pretraining_tp"),
    weights=(*EMBEDDINGS, *NORMS, *ATTENTION, *MLP),
    unread=BUFFERS,
    copies=COPIES,
)
# fmt: on
