"""RoBERTa: BERT with positions that are counted from 2, and a head of its own."""

from jaxinterp.io.huggingface.bert import ENCODER, SHARED_FIELDS, has_head, layers
from jaxinterp.io.huggingface.table import Family, Field, only

# fmt: off
ROBERTA = Family(
    architectures=("RobertaForMaskedLM", "RobertaForCausalLM", "RobertaModel"),
    prefix="roberta.",
    constants=ENCODER,
    fields=(
        *SHARED_FIELDS,
        # Positions are counted from the one after the padding token's id.
        Field("pad_token_id",            1,    None, only(1)),
        Field("max_position_embeddings", 512,  "n_ctx", lambda rows, _: rows - 2),
        # Whatever hidden_act is.
        Field("architectures",           None, "final_act_fn", lambda _, theirs: "gelu" if has_head(theirs) else None),
    ),
    # classifier_dropout belongs to classification heads.
    harmless=("classifier_dropout",),
    weights=(
        *layers("roberta."),
        # theirs                                         their axes             ours
        ("roberta.embeddings.position_embeddings.weight", "2+n_ctx d_model",    "W_pos"),
        ("lm_head.dense.weight",                         "d_final d_model",     "W_final"),
        ("lm_head.dense.bias",                           "d_final",             "b_final"),
        ("lm_head.layer_norm.weight",                    "d_model",             "ln_final.w"),
        ("lm_head.layer_norm.bias",                      "d_model",             "ln_final.b"),
        ("lm_head.decoder.weight",                       "d_vocab_out d_model", "W_U"),
        # The first is the one that is read; it is the second one's copy where embeddings are tied.
        ("lm_head.(decoder.|)bias",                      "d_vocab_out",         "b_U"),
    ),
    unread=(
        "roberta.embeddings.position_ids", "roberta.pooler.dense.weight", "roberta.pooler.dense.bias", "lm_head.bias",
    ),
    copies={
        "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    },
)
# fmt: on
