"""Makes `transformer_lens.safetensors` beside some goldens: every activation that TransformerLens computes there.

    python tests/goldens/make_transformer_lens.py

needs `pip install 'transformer_lens<4'`. It reads the checkpoints that `make_goldens.py` wrote, without any
processing of weights, and keeps the golden's tokens (no padding) and `{hook name: float32 array}` of all hooks, with
split inputs, head results and MLP inputs switched on.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained import weight_conversions
from transformers import AutoModelForCausalLM, PretrainedConfig

FOLDER = Path(__file__).parent


def fields_of(name: str, theirs: PretrainedConfig) -> dict[str, Any]:
    """What TransformerLens' own reading of such a checkpoint's config sets."""
    if name.startswith("gpt2"):
        return {
            "d_head": theirs.n_embd // theirs.n_head,
            "d_mlp": 4 * theirs.n_embd,
            "n_ctx": theirs.n_positions,
            "eps": theirs.layer_norm_epsilon,
            "act_fn": theirs.activation_function,
            "normalization_type": "LN",
        }
    d_head = getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads
    rotary = {
        "d_head": d_head,
        "d_mlp": theirs.intermediate_size,
        "n_ctx": theirs.max_position_embeddings,
        "positional_embedding_type": "rotary",
        "rotary_adjacent_pairs": False,
        "rotary_base": theirs.rope_parameters["rope_theta"],
        "rotary_dim": d_head,
    }
    if name.startswith("gpt_neox"):
        return rotary | {
            "rotary_dim": round(theirs.rope_parameters["partial_rotary_factor"] * d_head),
            "eps": theirs.layer_norm_eps,
            "act_fn": theirs.hidden_act,
            "parallel_attn_mlp": theirs.use_parallel_residual,
            "normalization_type": "LN",
        }
    rotary |= {
        "n_key_value_heads": theirs.num_key_value_heads,
        "eps": theirs.rms_norm_eps,
        "normalization_type": "RMS",
        "final_rms": True,
        "gated_mlp": True,
    }
    if name.startswith("llama"):
        return rotary | {"act_fn": theirs.hidden_act}
    return rotary | {
        "act_fn": theirs.hidden_activation,
        "use_local_attn": True,
        "window_size": theirs.sliding_window,
        "attn_types": ["local" if kind == "sliding_attention" else "global" for kind in theirs.layer_types],
        "attn_scale": theirs.query_pre_attn_scalar**0.5,
        "attn_scores_soft_cap": theirs.attn_logit_softcapping,
        "output_logits_soft_cap": theirs.final_logit_softcapping,
        "use_normalization_before_and_after": True,
    }


CONVERSIONS = {
    "gpt2-tied": weight_conversions.convert_gpt2_weights,
    "gpt_neox-parallel": weight_conversions.convert_neox_weights,
    "llama-tied": weight_conversions.convert_llama_weights,
    "gemma2-tied": weight_conversions.convert_gemma_weights,
}


def make(name: str) -> None:
    """Writes one file."""
    reference = AutoModelForCausalLM.from_pretrained(FOLDER / name, dtype=torch.float32).eval()
    theirs = reference.config
    config = HookedTransformerConfig(
        n_layers=theirs.num_hidden_layers,
        d_model=theirs.hidden_size,
        n_heads=theirs.num_attention_heads,
        d_vocab=theirs.vocab_size,
        device="cpu",
        dtype=torch.float32,
        init_weights=False,
        use_attn_result=True,
        use_hook_mlp_in=not name.startswith("gpt_neox"),  # it has none where attention and MLP stand side by side
        **fields_of(name, theirs),
    )
    model = HookedTransformer(config).eval()
    state = CONVERSIONS[name](reference, config)
    model.load_and_process_state_dict(
        state, fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    tokens = load_file(FOLDER / name / "golden.safetensors")["tokens"][:2, :6]
    with torch.no_grad():
        logits, cache = model.run_with_cache(tokens.long())
        model.set_use_split_qkv_input(True)  # which gives ln1 an axis of heads, so in a run of its own
        _, split = model.run_with_cache(tokens.long(), names_filter=lambda hook: hook.endswith("_input"))
        expected = reference(tokens.long()).logits
    arrays = {hook: value.clone().contiguous() for hook, value in [*cache.items(), *split.items()]} | {
        "tokens": tokens.clone()
    }
    path = FOLDER / name / "transformer_lens.safetensors"
    save_file(arrays, path)
    path.chmod(0o644)
    print(
        name,
        len(arrays) - 1,
        "hooks",
        path.stat().st_size,
        "bytes; logits differ by",
        float((logits - expected).abs().max()),
    )


if __name__ == "__main__":
    for golden in CONVERSIONS:
        make(golden)
