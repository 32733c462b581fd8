"""Mistral: Llama with a window on every layer."""

from jaxinterp.io.huggingface.llama import ATTENTION, BUFFERS, COPIES, EMBEDDINGS, MLP, NORMS, SHARED_FIELDS
from jaxinterp.io.huggingface.rotary import rotary_fields
from jaxinterp.io.huggingface.table import Family, Field, activation

# fmt: off
MISTRAL = Family(
    architectures=("MistralForCausalLM", "MistralModel"),
    prefix="model.",
    constants={
        "positions": "rotary", "normalization": "rms", "gated": True,
        "qkv_bias": False, "out_bias": False, "mlp_bias": False,
    },
    fields=(
        #     theirs                     if absent  ours
        *SHARED_FIELDS,
        Field("num_key_value_heads",     8,         "n_kv_heads"),
        Field("head_dim",                None,      "d_head"),
        Field("max_position_embeddings", 131_072,   "n_ctx"),
        Field("hidden_act",              "silu",    "act_fn", activation),
        Field("rms_norm_eps",            1e-6,      "eps"),
        Field("sliding_window",          4096,      "window"),
        Field("tie_word_embeddings",     False,     "tie_embeddings"),
        *rotary_fields(10_000.0),
    ),
    harmless=(),
    weights=(*EMBEDDINGS, *NORMS, *ATTENTION, *MLP),
    unread=BUFFERS,
    copies=COPIES,
)
# fmt: on
