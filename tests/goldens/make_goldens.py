"""Makes the goldens: tiny random checkpoints written by `transformers`, and what that implementation computes.

    python tests/goldens/make_goldens.py [name ...]

needs `pip install -e '.[parity]'`. Each folder beside this file holds `config.json` and `model.safetensors` as
`save_pretrained` writes them, and `golden.safetensors`:

    tokens         int32 [batch, pos]
    mask           uint8 [batch, pos], 0 at padding
    position_ids   int32 [batch, pos], counted from each prompt's first token
    logits         float32 [batch, pos, vocab], the reference as it is; of encoders without a head, the final stream
    logits_x64     float64 [batch, pos, vocab], the reference in double precision
    resid_pre_x64  float64 [layer, batch, pos, d_model], the stream that enters each block

Rows: one whole prompt, one padded on the right, one padded on the left.

The reference in double precision is not `model.double()` alone: its norms, softmax and rotary tables are cast
to float32 on purpose, whatever the model's dtype, which limits it to about 1e-7. `double_precision` below lifts
the casts and nothing else: while it holds, the name `torch.float32` means float64 within the reference's own
module, `Tensor.float` returns float64, and the constants that were rounded when the model was built (inverse
frequencies, GPT-J's rotary table, Gemma's embedding scale) are computed again.

`tests/io/test_parity.py` draws further configurations with the functions here.
"""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
    modeling_rope_utils,
)

FOLDER = Path(__file__).parent

CLASSES = {
    "gpt2": (GPT2Config, GPT2LMHeadModel),
    "gpt_neo": (GPTNeoConfig, GPTNeoForCausalLM),
    "gptj": (GPTJConfig, GPTJForCausalLM),
    "gpt_neox": (GPTNeoXConfig, GPTNeoXForCausalLM),
    "opt": (OPTConfig, OPTForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "mixtral": (MixtralConfig, MixtralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "olmo2": (Olmo2Config, Olmo2ForCausalLM),
    "phi3": (Phi3Config, Phi3ForCausalLM),
    "gemma": (GemmaConfig, GemmaForCausalLM),
    "gemma2": (Gemma2Config, Gemma2ForCausalLM),
    "gemma3_text": (Gemma3TextConfig, Gemma3ForCausalLM),
    "bert": (BertConfig, BertForMaskedLM),
    "roberta": (RobertaConfig, RobertaForMaskedLM),
    "distilbert": (DistilBertConfig, DistilBertForMaskedLM),
}

#: Families whose norms multiply by 1 + w.
PLUS_ONE = ("gemma", "gemma2", "gemma3_text")

#: Where positions are not counted from 0.
FIRST_POSITION = {"roberta": 2}

#: `architectures` among the fields: the class, where it is not that of `CLASSES`.
GOLDENS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2-tied": ("gpt2", {"n_layer": 3, "n_embd": 32, "n_head": 4, "vocab_size": 61, "n_positions": 20}),
    # An odd number of heads, its own MLP width, another activation, scores that are not scaled.
    "gpt2-untied": (
        "gpt2",
        {
            "n_layer": 2,
            "n_embd": 35,
            "n_head": 5,
            "n_inner": 50,
            "vocab_size": 67,
            "n_positions": 12,
            "activation_function": "gelu",
            "layer_norm_epsilon": 1e-3,
            "scale_attn_weights": False,
            "tie_word_embeddings": False,
        },
    ),
    # Four queries to a key, heads wider than d_model / n_heads, biases wherever there can be one.
    "llama-grouped": (
        "llama",
        {
            "num_hidden_layers": 3,
            "hidden_size": 32,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "head_dim": 6,
            "intermediate_size": 44,
            "vocab_size": 71,
            "max_position_embeddings": 32,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
            "attention_bias": True,
            "mlp_bias": True,
        },
    ),
    # One key for all queries, no biases, tied.
    "llama-tied": (
        "llama",
        {
            "num_hidden_layers": 2,
            "hidden_size": 36,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "intermediate_size": 40,
            "vocab_size": 64,
            "rms_norm_eps": 1e-4,
            "tie_word_embeddings": True,
        },
    ),
    # Windows shorter than the prompts, soft-caps that bite, a score scale of its own.
    "gemma2-tied": (
        "gemma2",
        {
            "num_hidden_layers": 4,
            "hidden_size": 32,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 10,
            "intermediate_size": 40,
            "vocab_size": 73,
            "sliding_window": 3,
            "query_pre_attn_scalar": 20,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 5.0,
        },
    ),
    # Layer types out of the usual order, no soft-caps, biases, untied.
    "gemma2-untied": (
        "gemma2",
        {
            "num_hidden_layers": 3,
            "hidden_size": 36,
            "num_attention_heads": 6,
            "num_key_value_heads": 3,
            "head_dim": 8,
            "intermediate_size": 30,
            "vocab_size": 60,
            "sliding_window": 2,
            "query_pre_attn_scalar": 8,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "attention_bias": True,
            "tie_word_embeddings": False,
        },
    ),
    # Llama 3's scaling: of four frequencies one is kept, two are moved between, one is divided.
    "llama-scaled": (
        "llama",
        {
            "num_hidden_layers": 2,
            "hidden_size": 24,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "intermediate_size": 30,
            "vocab_size": 60,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 30.0,
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 40,
            },
        },
    ),
    # As Pythia: side by side, a quarter of each head rotated.
    "gpt_neox-parallel": (
        "gpt_neox",
        {
            "num_hidden_layers": 3,
            "hidden_size": 24,
            "num_attention_heads": 3,
            "intermediate_size": 40,
            "vocab_size": 61,
            "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.25},
        },
    ),
    # One sublayer after the other, half of each head rotated, no biases in attention, tied.
    "gpt_neox-sequential": (
        "gpt_neox",
        {
            "num_hidden_layers": 2,
            "hidden_size": 24,
            "num_attention_heads": 3,
            "intermediate_size": 30,
            "vocab_size": 57,
            "use_parallel_residual": False,
            "attention_bias": False,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 50.0, "partial_rotary_factor": 0.5},
        },
    ),
    "mistral-grouped": (
        "mistral",
        {
            "num_hidden_layers": 2,
            "hidden_size": 24,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "head_dim": 6,
            "intermediate_size": 30,
            "vocab_size": 59,
            "sliding_window": 3,
            "rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 40.0},
        },
    ),
    # Windows from the second layer on.
    "qwen2-windowed": (
        "qwen2",
        {
            "num_hidden_layers": 3,
            "hidden_size": 24,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 30,
            "vocab_size": 60,
            "use_sliding_window": True,
            "sliding_window": 2,
            "max_window_layers": 1,
            "tie_word_embeddings": True,
        },
    ),
    "qwen3-grouped": (
        "qwen3",
        {
            "num_hidden_layers": 2,
            "hidden_size": 20,
            "num_attention_heads": 6,
            "num_key_value_heads": 3,
            "head_dim": 8,
            "intermediate_size": 30,
            "vocab_size": 58,
        },
    ),
    "olmo2-grouped": (
        "olmo2",
        {
            "num_hidden_layers": 2,
            "hidden_size": 24,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "intermediate_size": 30,
            "vocab_size": 60,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
        },
    ),
    "phi3-partial": (
        "phi3",
        {
            "num_hidden_layers": 2,
            "hidden_size": 32,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 30,
            "vocab_size": 60,
            "sliding_window": 4,
            "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.75},
        },
    ),
    "gemma-tied": (
        "gemma",
        {
            "num_hidden_layers": 2,
            "hidden_size": 20,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 6,
            "intermediate_size": 30,
            "vocab_size": 60,
        },
    ),
    # The layer that sees everything has its own rotary base, and longer wavelengths still.
    "gemma3_text-tied": (
        "gemma3_text",
        {
            "num_hidden_layers": 3,
            "hidden_size": 24,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "intermediate_size": 30,
            "vocab_size": 62,
            "sliding_window": 3,
            "query_pre_attn_scalar": 12,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 20.0},
            },
        },
    ),
    "gptj-untied": (
        "gptj",
        {"n_layer": 2, "n_embd": 24, "n_head": 3, "rotary_dim": 4, "vocab_size": 60, "n_positions": 16},
    ),
    "gpt_neo-local": (
        "gpt_neo",
        {
            "num_layers": 3,
            "hidden_size": 24,
            "num_heads": 3,
            "attention_types": [[["local", "global"], 1], [["local"], 1]],
            "window_size": 3,
            "vocab_size": 60,
            "max_position_embeddings": 16,
        },
    ),
    "opt-tied": (
        "opt",
        {
            "num_hidden_layers": 2,
            "hidden_size": 24,
            "num_attention_heads": 3,
            "ffn_dim": 40,
            "vocab_size": 60,
            "max_position_embeddings": 16,
        },
    ),
    "bert-tied": (
        "bert",
        {
            "num_hidden_layers": 2,
            "hidden_size": 24,
            "num_attention_heads": 3,
            "intermediate_size": 30,
            "vocab_size": 61,
            "max_position_embeddings": 16,
        },
    ),
    # A bias of the unembedding for each of its two names, of which one is read; next-sentence head and pooler.
    "bert-untied": (
        "bert",
        {
            "num_hidden_layers": 1,
            "hidden_size": 20,
            "num_attention_heads": 4,
            "intermediate_size": 30,
            "vocab_size": 60,
            "max_position_embeddings": 12,
            "type_vocab_size": 3,
            "hidden_act": "gelu_new",
            "layer_norm_eps": 1e-3,
            "tie_word_embeddings": False,
            "architectures": ["BertForPreTraining"],
        },
    ),
    "bert-hidden": (
        "bert",
        {
            "num_hidden_layers": 2,
            "hidden_size": 20,
            "num_attention_heads": 2,
            "intermediate_size": 30,
            "vocab_size": 60,
            "max_position_embeddings": 12,
            "architectures": ["BertModel"],
        },
    ),
    "roberta-tied": (
        "roberta",
        {
            "num_hidden_layers": 2,
            "hidden_size": 24,
            "num_attention_heads": 3,
            "intermediate_size": 30,
            "vocab_size": 62,
            "max_position_embeddings": 14,
            "type_vocab_size": 1,
            "hidden_act": "relu",
            "pad_token_id": 1,
        },
    ),
    "distilbert-tied": (
        "distilbert",
        {
            "n_layers": 2,
            "dim": 24,
            "n_heads": 3,
            "hidden_dim": 30,
            "vocab_size": 60,
            "max_position_embeddings": 12,
        },
    ),
    "mixtral-grouped": (
        "mixtral",
        {
            "num_hidden_layers": 2,
            "hidden_size": 20,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 6,
            "intermediate_size": 18,
            "vocab_size": 57,
            "num_local_experts": 5,
            "num_experts_per_tok": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
        },
    ),
}


def draw_fields(family: str, rng: np.random.Generator) -> dict[str, Any]:
    """A random small configuration of a family, in the names of its config class."""

    def pick(*choices: Any) -> Any:
        return choices[rng.integers(len(choices))]

    def rotary() -> dict[str, Any]:
        """Rotary parameters; of Llama 3's, wavelengths lie below, within and above the band that is moved."""
        band = {"low_freq_factor": 1.0, "high_freq_factor": pick(2.0, 4.0)}
        return {"rope_theta": pick(30.0, 10_000.0)} | pick(
            {"rope_type": "default"},
            {"rope_type": "linear", "factor": 2.5},
            {"rope_type": "llama3", "factor": 4.0, "original_max_position_embeddings": pick(8, 40), **band},
        )

    def layer_types(*kinds: str) -> list[str]:
        return [pick(*kinds) for _ in range(n_layers)]

    kv_heads, groups = pick(1, 2, 3), pick(1, 2, 3)
    heads, n_layers = kv_heads * groups, pick(1, 2, 3)
    width = heads * pick(4, 5, 6)  # a multiple of the heads even where heads have another width
    tied = pick(True, False)
    window = pick(1, 2, 5, 20)
    if family == "gpt2":
        return {
            "n_layer": n_layers,
            "n_embd": width,
            "n_head": heads,
            "n_inner": pick(None, 17, 40),
            "vocab_size": pick(50, 77),
            "n_positions": pick(9, 30),
            "activation_function": pick("gelu", "gelu_new", "relu", "silu"),
            "layer_norm_epsilon": pick(1e-5, 1e-2),
            "scale_attn_weights": pick(True, False),
            "tie_word_embeddings": tied,
        }
    if family == "gptj":
        d_head = pick(4, 6, 8)
        return {
            "n_layer": n_layers,
            "n_embd": heads * d_head,
            "n_head": heads,
            "n_inner": pick(None, 17, 40),
            "rotary_dim": pick(2, 4, d_head),
            "vocab_size": pick(50, 77),
            "n_positions": pick(9, 30),
            "activation_function": pick("gelu", "gelu_new"),
            "layer_norm_epsilon": pick(1e-5, 1e-2),
            "tie_word_embeddings": tied,
        }
    if family == "gpt_neo":
        return {
            "num_layers": n_layers,
            "hidden_size": width,
            "num_heads": heads,
            "intermediate_size": pick(None, 17, 40),
            "attention_types": [[[kind], 1] for kind in layer_types("global", "local")],
            "window_size": window,
            "vocab_size": pick(50, 77),
            "max_position_embeddings": pick(9, 30),
            "activation_function": pick("gelu", "gelu_new"),
            "layer_norm_epsilon": pick(1e-5, 1e-2),
            "tie_word_embeddings": tied,
        }
    if family == "opt":
        return {
            "num_hidden_layers": n_layers,
            "hidden_size": width,
            "num_attention_heads": heads,
            "ffn_dim": pick(17, 40),
            "vocab_size": pick(50, 77),
            "max_position_embeddings": pick(9, 30),
            "activation_function": pick("relu", "gelu"),
            "enable_bias": pick(True, False),
            "_remove_final_layer_norm": pick(True, False),
            "tie_word_embeddings": tied,
        }
    if family == "distilbert":
        return {
            "n_layers": n_layers,
            "dim": width,
            "n_heads": heads,
            "hidden_dim": pick(17, 40),
            "vocab_size": pick(50, 77),
            "max_position_embeddings": pick(9, 30),
            "activation": pick("gelu", "relu"),
            "tie_word_embeddings": tied,
            "architectures": pick(["DistilBertForMaskedLM"], ["DistilBertForMaskedLM"], ["DistilBertModel"]),
        }
    sizes = {
        "num_hidden_layers": n_layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": pick(17, 40),
        "vocab_size": pick(50, 77),
        "tie_word_embeddings": tied,
    }
    if family == "gpt_neox":
        d_head = pick(4, 6, 8)
        share = pick(2, 3, 4, d_head) / d_head  # of 3 dimensions, four are rotated
        return {
            **sizes,
            "hidden_size": heads * d_head,
            "layer_norm_eps": pick(1e-5, 1e-2),
            "hidden_act": pick("gelu", "gelu_fast"),
            "use_parallel_residual": pick(True, False),
            "attention_bias": pick(True, True, False),
            "rope_parameters": {**rotary(), "partial_rotary_factor": share},
        }
    if family in ("bert", "roberta"):
        classes = {
            "bert": ("BertForMaskedLM", "BertForMaskedLM", "BertModel", "BertForPreTraining", "BertLMHeadModel"),
            "roberta": ("RobertaForMaskedLM", "RobertaForMaskedLM", "RobertaModel", "RobertaForCausalLM"),
        }
        return {
            **sizes,
            "type_vocab_size": pick(1, 2, 3),
            "max_position_embeddings": pick(11, 30),
            "layer_norm_eps": pick(1e-12, 1e-2),
            "hidden_act": pick("gelu", "gelu_new", "relu"),
            "is_decoder": pick(False, False, True),
            "pad_token_id": FIRST_POSITION.get(family, 1) - 1,
            "architectures": [pick(*classes[family])],
        }
    sizes |= {"num_key_value_heads": kv_heads, "rms_norm_eps": pick(1e-6, 1e-2)}
    biased = {"attention_bias": pick(True, False)}
    own_heads = {"head_dim": pick(2, 6, 8)}
    even = {"hidden_size": heads * pick(4, 6)}  # for families in which heads share the stream's width out
    rope = {"rope_parameters": rotary()}
    if family == "mixtral":
        experts = pick(1, 2, 4, 7)
        return {
            **sizes,
            **own_heads,
            **rope,
            "sliding_window": pick(None, None, window),
            "hidden_act": pick("silu", "gelu"),
            "num_local_experts": experts,
            "num_experts_per_tok": int(rng.integers(1, experts + 1)),
        }
    switched = {
        "use_sliding_window": pick(True, True, False),
        "sliding_window": window,
        "max_window_layers": pick(0, 1, 2),
    }
    gemma = {**sizes, **own_heads, **biased}
    around = {
        "hidden_activation": pick("gelu_pytorch_tanh", "silu"),
        "sliding_window": window,
        "layer_types": layer_types("sliding_attention", "full_attention"),
        "query_pre_attn_scalar": pick(3, 16),
        "final_logit_softcapping": pick(None, 4.0, 30.0),
    }
    share = pick(2, 3, 4) / 4
    return {
        "llama": {
            **sizes, **own_heads, **biased, **rope,
            "hidden_act": pick("silu", "gelu", "relu"), "mlp_bias": pick(True, False),
        },
        "mistral": {**sizes, **own_heads, **rope, "sliding_window": pick(None, window)},
        "qwen2": {**sizes, **even, **rope, **switched},
        "qwen3": {**sizes, **own_heads, **biased, **rope, **switched},
        "olmo2": {**sizes, **even, **biased, **rope},
        "phi3": {
            **sizes, "hidden_size": 4 * heads, "sliding_window": pick(None, window),
            "rope_parameters": {"rope_type": "default", "rope_theta": 30.0, "partial_rotary_factor": share},
        },
        "gemma": {**gemma, **rope, "hidden_act": pick("gelu_pytorch_tanh", "gelu", "silu")},
        "gemma2": {**gemma, **rope, **around, "attn_logit_softcapping": pick(None, 1.5, 50.0)},
        "gemma3_text": {
            **gemma, **around,
            "hidden_size": heads * own_heads["head_dim"],
            "rope_parameters": {
                "full_attention": rotary(),
                "sliding_attention": {"rope_type": "default", "rope_theta": pick(10.0, 500.0)},
            },
        },
    }[family]  # fmt: skip


def make_reference(family: str, fields: dict[str, Any], seed: int) -> PreTrainedModel:
    """A reference model with random weights large enough that every term of its forward shows in the logits."""
    config_class, model_class = CLASSES[family]
    if "architectures" in fields:
        model_class = getattr(transformers, fields["architectures"][0])
    config = config_class(**{"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None, **fields})
    config._attn_implementation = config._experts_implementation = "eager"
    model = model_class(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim > 1:
                weight.copy_(0.25 * noise)
            elif "norm" in name.lower() or "ln_" in name:
                # Away from the identity, which is 0 for Gemmas' norms and LayerNorm's biases, else 1.
                weight.copy_(0.3 * noise + (0 if family in PLUS_ONE or name.endswith("bias") else 1))
            else:
                weight.copy_(0.3 * noise)
    return model


def draw_prompts(rng: np.random.Generator, d_vocab: int, n_pos: int) -> dict[str, np.ndarray]:
    """Tokens, mask and positions (from 0) of three prompts: a whole one, one padded right, one padded left."""
    tokens = rng.integers(d_vocab, size=(3, n_pos), dtype=np.int32)
    right, left = rng.permutation(np.arange(2, n_pos))[:2]
    mask = np.ones((3, n_pos), np.uint8)
    mask[1, right:] = 0
    mask[2, :-left] = 0
    position_ids = np.maximum(mask.cumsum(1, dtype=np.int32) - 1, 0)
    return {"tokens": tokens, "mask": mask, "position_ids": position_ids}


def run_reference(model: PreTrainedModel, prompts: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(logits [batch, pos, vocab], the stream that enters each block [layer, batch, pos, d_model])."""
    first = FIRST_POSITION.get(model.config.model_type, 0)
    with torch.no_grad():
        out = model(
            input_ids=torch.tensor(prompts["tokens"]).long(),
            attention_mask=torch.tensor(prompts["mask"]).long(),
            position_ids=torch.tensor(prompts["position_ids"]).long() + first,
            output_hidden_states=True,
            use_cache=False,
        )
    logits = next(out[name] for name in ("logits", "prediction_logits", "last_hidden_state") if name in out)
    stream = np.stack([state.numpy() for state in out.hidden_states[: model.config.num_hidden_layers]])
    return logits.numpy(), stream


class _Torch64:
    """`torch` as a reference module sees it in double precision: its float32 is float64."""

    float32 = float = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@contextlib.contextmanager
def double_precision(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """The model in float64 throughout, its casts to float32 lifted; float32 again afterwards."""
    module = sys.modules[type(model).__module__]
    with contextlib.ExitStack() as lifted:
        for reader in (module, modeling_rope_utils):
            lifted.enter_context(mock.patch.object(reader, "torch", _Torch64()))
        lifted.enter_context(mock.patch.object(torch.Tensor, "float", torch.Tensor.double))
        torch.set_default_dtype(torch.float64)
        lifted.callback(torch.set_default_dtype, torch.float32)
        model.double()
        for part in model.modules():
            if hasattr(part, "rope_type"):
                _set_frequencies(part)
            if hasattr(part, "embed_positions") and hasattr(part, "pos_embd_dim"):
                part.embed_positions = module.create_sinusoidal_positions(part.max_positions, part.pos_embd_dim)
            if hasattr(part, "scalar_embed_scale"):
                part.embed_scale = torch.tensor(part.scalar_embed_scale)
        yield model
    model.float()


def _set_frequencies(rotary: torch.nn.Module) -> None:
    """Computes a rotary module's inverse frequencies again; Gemma 3's has them for each type of layer."""
    by_layer = rotary.rope_type if isinstance(rotary.rope_type, dict) else {None: rotary.rope_type}
    for layer_type, kind in by_layer.items():
        own = rotary.compute_default_rope_parameters
        compute = own if kind == "default" else modeling_rope_utils.ROPE_INIT_FUNCTIONS[kind]
        arguments = {} if layer_type is None else {"layer_type": layer_type}
        name = "inv_freq" if layer_type is None else f"{layer_type}_inv_freq"
        setattr(rotary, name, compute(rotary.config, **arguments)[0])


def make_golden(name: str, seed: int) -> None:
    """Writes one folder."""
    family, fields = GOLDENS[name]
    model = make_reference(family, fields, seed)
    model.save_pretrained(FOLDER / name)
    (FOLDER / name / "generation_config.json").unlink(missing_ok=True)
    prompts = draw_prompts(np.random.default_rng(seed), fields["vocab_size"], n_pos=9)
    logits, _ = run_reference(model, prompts)
    with double_precision(model):
        logits_x64, stream = run_reference(model, prompts)
    arrays = {**prompts, "logits": logits, "logits_x64": logits_x64, "resid_pre_x64": stream}
    save_file({key: np.ascontiguousarray(array) for key, array in arrays.items()}, FOLDER / name / "golden.safetensors")
    for file in (FOLDER / name).iterdir():
        file.chmod(0o644)
    real = prompts["mask"].astype(bool)
    top, gap = abs(logits_x64[real]).max(), abs(logits_x64 - logits)[real].max()
    print(json.dumps({"name": name, "max |logit|": round(float(top), 3), "float32 error": float(gap)}))


if __name__ == "__main__":
    for number, golden in enumerate(GOLDENS):
        if golden in (sys.argv[1:] or GOLDENS):
            make_golden(golden, seed=number)
