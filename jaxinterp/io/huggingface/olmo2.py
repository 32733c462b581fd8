"""OLMo 2: Llama with norms on what sublayers add rather than on what they read, and on all queries and keys."""

from jaxinterp.io.huggingface.llama import ATTENTION, BUFFERS, COPIES, EMBEDDINGS, MLP, SHARED_FIELDS
from jaxinterp.io.huggingface.rotary import rotary_fields
from jaxinterp.io.huggingface.table import Family, Field, activation

# fmt: off
OLMO2 = Family(
    architectures=("Olmo2ForCausalLM", "Olmo2Model"),
    prefix="model.",
    constants={
        "positions": "rotary", "normalization": "rms", "norm_position": "output", "gated": True,
        "mlp_bias": False, "qk_norm": "all",
    },
    fields=(
        #     theirs                     if absent  ours
        *SHARED_FIELDS,
        Field("num_key_value_heads",     None,      "n_kv_heads"),
        Field("head_dim",                None,      "d_head"),
        Field("max_position_embeddings", 2048,      "n_ctx"),
        Field("hidden_act",              "silu",    "act_fn", activation),
        Field("rms_norm_eps",            1e-5,      "eps"),
        Field("attention_bias",          False,     "qkv_bias"),
        Field("attention_bias",          False,     "out_bias"),
        Field("tie_word_embeddings",     False,     "tie_embeddings"),
        *rotary_fields(10_000.0),
    ),
    harmless=(),
    weights=(
        *EMBEDDINGS,
        # theirs                                                   their axes          ours
        ("model.layers.{layer}.post_attention_layernorm.weight",   "d_model",          "ln1_post.w"),
        ("model.layers.{layer}.post_feedforward_layernorm.weight", "d_model",          "ln2_post.w"),
        ("model.layers.{layer}.self_attn.q_norm.weight",           "(head d_head)",    "q_norm.w"),
        ("model.layers.{layer}.self_attn.k_norm.weight",           "(kv_head d_head)", "k_norm.w"),
        *ATTENTION,
        *MLP,
    ),
    unread=BUFFERS,
    copies=COPIES,
)
# fmt: on
