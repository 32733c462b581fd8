"""Phi-3: Llama with fused projections, a window, and rotary positions on a part of each head."""

from collections.abc import Mapping
from typing import Any

from jaxinterp.io.huggingface.llama import BUFFERS, COPIES, EMBEDDINGS, NORMS, SHARED_FIELDS
from jaxinterp.io.huggingface.rotary import rotary_fields
from jaxinterp.io.huggingface.table import Family, Field, activation, only

#: The code that came with the first files, which is what `transformers` has now.
OWN_CODE = {
    "AutoConfig": "configuration_phi3.Phi3Config",
    "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
}


def _own_code(value: Any, theirs: Mapping[str, Any]) -> None:
    """Refuses other code than that; a name may say whose repository it comes from."""
    if value is not None and {name: str(code).rpartition("--")[2] for name, code in value.items()} != OWN_CODE:
        raise ValueError(f"not supported; expected {OWN_CODE}")


# fmt: off
PHI3 = Family(
    architectures=("Phi3ForCausalLM", "Phi3Model"),
    prefix="model.",
    constants={
        "positions": "rotary", "normalization": "rms", "gated": True,
        "qkv_bias": False, "out_bias": False, "mlp_bias": False,
    },
    fields=(
        #     theirs                     if absent  ours
        *SHARED_FIELDS,
        Field("num_key_value_heads",     None,      "n_kv_heads"),
        Field("max_position_embeddings", 4096,      "n_ctx"),
        Field("hidden_act",              "silu",    "act_fn", activation),
        Field("rms_norm_eps",            1e-5,      "eps"),
        Field("resid_pdrop",             0.0,       "resid_dropout"),
        Field("attention_bias",          False,     None, only(False)),
        Field("sliding_window",          None,      "window"),
        Field("tie_word_embeddings",     False,     "tie_embeddings"),
        Field("auto_map",                None,      None, _own_code),
        *rotary_fields(10_000.0, share=1.0, kinds=("default",)),
    ),
    # original_max_position_embeddings is read by longrope alone.
    harmless=("embd_pdrop", "original_max_position_embeddings"),
    weights=(
        *EMBEDDINGS,
        *NORMS,
        # theirs                                         their axes                               ours
        ("model.layers.{layer}.self_attn.qkv_proj.weight", "(head+kv_head+kv_head d_head) d_model", "W_Q W_K W_V"),
        ("model.layers.{layer}.self_attn.o_proj.weight", "d_model (head d_head)",                 "W_O"),
        ("model.layers.{layer}.mlp.gate_up_proj.weight", "(gate_up d_mlp) d_model",               "W_gate W_in"),
        ("model.layers.{layer}.mlp.down_proj.weight",    "d_model d_mlp",                         "W_out"),
    ),
    unread=BUFFERS,
    copies=COPIES,
)
# fmt: on
