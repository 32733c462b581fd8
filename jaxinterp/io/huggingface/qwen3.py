"""Qwen 3: Qwen 2 with a norm on each head's queries and keys, and biases that a file may turn on."""

from jaxinterp.io.huggingface.llama import ATTENTION, BUFFERS, COPIES, EMBEDDINGS, HEAD_NORMS, MLP, NORMS
from jaxinterp.io.huggingface.qwen2 import QWEN_FIELDS
from jaxinterp.io.huggingface.table import Family, Field

# fmt: off
QWEN3 = Family(
    architectures=("Qwen3ForCausalLM", "Qwen3Model"),
    prefix="model.",
    constants={"positions": "rotary", "normalization": "rms", "gated": True, "mlp_bias": False, "qk_norm": "head"},
    fields=(
        #     theirs                 if absent  ours
        *QWEN_FIELDS,
        Field("head_dim",            128,       "d_head"),
        Field("attention_bias",      False,     "qkv_bias"),
        Field("attention_bias",      False,     "out_bias"),
    ),
    harmless=(),
    weights=(*EMBEDDINGS, *NORMS, *ATTENTION, *HEAD_NORMS, *MLP),
    unread=BUFFERS,
    copies=COPIES,
)
# fmt: on
