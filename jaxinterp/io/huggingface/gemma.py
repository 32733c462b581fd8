"""Gemma 1: Llama with scaled embeddings, norms that multiply by 1 + w, and a GELU in the gate."""

from collections.abc import Mapping
from typing import Any

from jaxinterp.io.huggingface.llama import ATTENTION, BUFFERS, COPIES, EMBEDDINGS, MLP, NORMS, SHARED_FIELDS
from jaxinterp.io.huggingface.rotary import rotary_fields
from jaxinterp.io.huggingface.table import REQUIRED, Family, Field, activation, only


def _activation(name: Any, theirs: Mapping[str, Any]) -> str:
    """The first files say "gelu" where the tanh approximation is meant."""
    return "gelu_new" if name == "gelu" else activation(name, theirs)


def _same_activation(name: Any, theirs: Mapping[str, Any]) -> None:
    """Some files say the activation twice, and mean the second."""
    if name is not None and activation(name, theirs) != _activation(theirs["hidden_act"], theirs):
        raise ValueError(f"not the same as hidden_act = {theirs['hidden_act']!r}")


# fmt: off
GEMMA = Family(
    architectures=("GemmaForCausalLM", "GemmaModel"),
    prefix="model.",
    constants={
        "positions": "rotary", "normalization": "rms", "norm_plus_one": True, "gated": True, "mlp_bias": False,
    },
    fields=(
        #     theirs                        if absent            ours
        *SHARED_FIELDS,
        Field("hidden_size",                REQUIRED,            "embed_scale", lambda size, _: size**0.5),
        Field("num_key_value_heads",        16,                  "n_kv_heads"),
        Field("head_dim",                   256,                 "d_head"),
        Field("max_position_embeddings",    8192,                "n_ctx"),
        Field("hidden_act",                 "gelu_pytorch_tanh", "act_fn", _activation),
        Field("hidden_activation",          None,                None, _same_activation),
        Field("rms_norm_eps",               1e-6,                "eps"),
        Field("attention_bias",             False,               "qkv_bias"),
        Field("attention_bias",             False,               "out_bias"),
        Field("use_bidirectional_attention", None,               None, only(None, False)),
        Field("tie_word_embeddings",        True,                "tie_embeddings"),
        *rotary_fields(10_000.0),
    ),
    harmless=(),
    weights=(*EMBEDDINGS, *NORMS, *ATTENTION, *MLP),
    unread=BUFFERS,
    copies=COPIES,
)
# fmt: on
