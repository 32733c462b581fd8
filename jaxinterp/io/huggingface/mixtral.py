"""Mixtral: Mistral with eight MLPs in the place of one, of which a router chooses two for each token."""

from jaxinterp.io.huggingface.llama import ATTENTION, BUFFERS, COPIES, EMBEDDINGS, NORMS, SHARED_FIELDS
from jaxinterp.io.huggingface.rotary import rotary_fields
from jaxinterp.io.huggingface.table import Family, Field, activation

# fmt: off
EXPERTS = (
    # theirs                                                           their axes        ours
    ("model.layers.{layer}.block_sparse_moe.gate.weight",              "expert d_model", "W_router"),
    ("model.layers.{layer}.block_sparse_moe.experts.{expert}.w1.weight", "d_mlp d_model", "W_gate"),
    ("model.layers.{layer}.block_sparse_moe.experts.{expert}.w3.weight", "d_mlp d_model", "W_in"),
    ("model.layers.{layer}.block_sparse_moe.experts.{expert}.w2.weight", "d_model d_mlp", "W_out"),
)

MIXTRAL = Family(
    architectures=("MixtralForCausalLM", "MixtralModel"),
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
        Field("num_local_experts",       8,         "n_experts"),
        Field("num_experts_per_tok",     2,         "experts_per_token"),
        Field("max_position_embeddings", 131_072,   "n_ctx"),
        Field("hidden_act",              "silu",    "act_fn", activation),
        Field("rms_norm_eps",            1e-5,      "eps"),
        Field("sliding_window",          None,      "window"),
        Field("tie_word_embeddings",     False,     "tie_embeddings"),
        *rotary_fields(1_000_000.0),
    ),
    # How the router is trained, and whether its logits are returned.
    harmless=("output_router_logits", "router_aux_loss_coef", "router_jitter_noise"),
    weights=(*EMBEDDINGS, *NORMS, *ATTENTION, *EXPERTS),
    unread=BUFFERS,
    copies=COPIES,
)
# fmt: on
