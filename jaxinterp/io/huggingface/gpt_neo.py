"""GPT-Neo: GPT-2 with windows on every other layer, scores that are not scaled, no biases on queries, keys, values."""

from collections.abc import Mapping
from typing import Any

from jaxinterp.io.huggingface.table import REQUIRED, Family, Field, activation, only
from jaxinterp.model.config import suggest

KINDS = ("global", "local")


def _windows(attention_types: Any, theirs: Mapping[str, Any]) -> tuple[int | None, ...]:
    """The window of each layer, from [[kinds, how often they repeat], ...]."""
    n_layers = sum(len(several) * repeats for several, repeats in attention_types)
    if n_layers != theirs["num_layers"]:
        raise ValueError(f"{n_layers} layers, but num_layers = {theirs['num_layers']!r}")
    kinds = [kind for several, repeats in attention_types for _ in range(repeats) for kind in several]
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"unknown kind {kind!r}; {suggest(kind, KINDS)}")
    if "local" in kinds and theirs["window_size"] is None:
        raise ValueError("'local' needs a window, but window_size = None")
    if theirs["attention_layers"] is not None:
        only(theirs["attention_layers"])(kinds, theirs)
    return tuple(theirs["window_size"] if kind == "local" else None for kind in kinds)


# fmt: off
GPT_NEO = Family(
    architectures=("GPTNeoForCausalLM", "GPTNeoModel"),
    prefix="transformer.",
    constants={"attn_scale": 1.0, "qkv_bias": False},
    fields=(
        #     theirs                     if absent    ours
        Field("num_layers",              REQUIRED,    "n_layers"),
        Field("hidden_size",             REQUIRED,    "d_model"),
        Field("num_heads",               REQUIRED,    "n_heads"),
        Field("vocab_size",              REQUIRED,    "d_vocab"),
        Field("max_position_embeddings", 2048,        "n_ctx"),
        Field("intermediate_size",       None,        "d_mlp"),
        Field("activation_function",     "gelu_new",  "act_fn", activation),
        Field("layer_norm_epsilon",      1e-5,        "eps"),
        Field("attention_types",         ((KINDS, 12),), "window", _windows),
        Field("attention_layers",        None,        None),
        Field("window_size",             256,         None),
        Field("attention_dropout",       0.0,         "attn_dropout"),
        Field("resid_dropout",           0.0,         "resid_dropout"),
        Field("tie_word_embeddings",     True,        "tie_embeddings"),
    ),
    # classifier_dropout and summary_* belong to classification heads.
    harmless=(
        "embed_dropout", "classifier_dropout", "summary_activation", "summary_first_dropout",
        "summary_proj_to_labels", "summary_type", "summary_use_proj",
    ),
    weights=(
        # theirs                                               their axes               ours
        ("transformer.wte.weight",                             "d_vocab d_model",       "W_E"),
        ("transformer.wpe.weight",                             "n_ctx d_model",         "W_pos"),
        ("transformer.h.{layer}.ln_1.weight",                  "d_model",               "ln1.w"),
        ("transformer.h.{layer}.ln_1.bias",                    "d_model",               "ln1.b"),
        ("transformer.h.{layer}.attn.attention.q_proj.weight", "(head d_head) d_model", "W_Q"),
        ("transformer.h.{layer}.attn.attention.k_proj.weight", "(head d_head) d_model", "W_K"),
        ("transformer.h.{layer}.attn.attention.v_proj.weight", "(head d_head) d_model", "W_V"),
        ("transformer.h.{layer}.attn.attention.out_proj.weight", "d_model (head d_head)", "W_O"),
        ("transformer.h.{layer}.attn.attention.out_proj.bias", "d_model",               "b_O"),
        ("transformer.h.{layer}.ln_2.weight",                  "d_model",               "ln2.w"),
        ("transformer.h.{layer}.ln_2.bias",                    "d_model",               "ln2.b"),
        ("transformer.h.{layer}.mlp.c_fc.weight",              "d_mlp d_model",         "W_in"),
        ("transformer.h.{layer}.mlp.c_fc.bias",                "d_mlp",                 "b_in"),
        ("transformer.h.{layer}.mlp.c_proj.weight",            "d_model d_mlp",         "W_out"),
        ("transformer.h.{layer}.mlp.c_proj.bias",              "d_model",               "b_out"),
        ("transformer.ln_f.weight",                            "d_model",               "ln_final.w"),
        ("transformer.ln_f.bias",                              "d_model",               "ln_final.b"),
        ("lm_head.weight",                                     "d_vocab_out d_model",   "W_U"),
    ),
    # The causal mask, which older files store in every layer.
    unread=("transformer.h.{layer}.attn.attention.bias", "transformer.h.{layer}.attn.attention.masked_bias"),
    copies={"lm_head.weight": "transformer.wte.weight"},
)
# fmt: on
