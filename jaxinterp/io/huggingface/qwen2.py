"""Qwen 2 and 2.5: Llama with biases on queries, keys and values, and windows that a file may turn on."""

from collections.abc import Mapping
from typing import Any

from jaxinterp.io.huggingface.llama import ATTENTION, BUFFERS, COPIES, EMBEDDINGS, MLP, NORMS, SHARED_FIELDS
from jaxinterp.io.huggingface.rotary import rotary_fields
from jaxinterp.io.huggingface.table import Family, Field, activation, layer_windows, only


def _windows(layer_types: Any, theirs: Mapping[str, Any]) -> tuple[int | None, ...] | None:
    """The window of each layer. Without `layer_types`, those from `max_window_layers` on have one, if any has."""
    n_layers = theirs["num_hidden_layers"]
    size = theirs["sliding_window"] if theirs["use_sliding_window"] else None
    if layer_types is None and size is None:
        return None
    if layer_types is None:
        first = theirs["max_window_layers"]
        layer_types = ["full_attention" if layer < first else "sliding_attention" for layer in range(n_layers)]
    return layer_windows(layer_types, n_layers, size)


# fmt: off
#: Config rows of Qwen 2 and Qwen 3.
QWEN_FIELDS = (
    #     theirs                     if absent  ours
    *SHARED_FIELDS,
    Field("num_key_value_heads",     32,        "n_kv_heads"),
    Field("max_position_embeddings", 32_768,    "n_ctx"),
    Field("hidden_act",              "silu",    "act_fn", activation),
    Field("rms_norm_eps",            1e-6,      "eps"),
    Field("layer_types",             None,      "window", _windows),
    Field("use_sliding_window",      False,     None, only(True, False)),
    Field("sliding_window",          4096,      None),
    Field("max_window_layers",       28,        None),
    Field("tie_word_embeddings",     False,     "tie_embeddings"),
    *rotary_fields(10_000.0),
)

QWEN2 = Family(
    architectures=("Qwen2ForCausalLM", "Qwen2Model"),
    prefix="model.",
    constants={
        "positions": "rotary", "normalization": "rms", "gated": True,
        "qkv_bias": True, "out_bias": False, "mlp_bias": False,
    },
    fields=(
        *QWEN_FIELDS,
        Field("head_dim",            None,      "d_head"),
        Field("use_mrope",           False,     None, only(False)),
    ),
    harmless=(),
    weights=(*EMBEDDINGS, *NORMS, *ATTENTION, *MLP),
    unread=BUFFERS,
    copies=COPIES,
)
# fmt: on
