"""BERT: norms after each addition and on the embedding, attention both ways, a dense layer before the unembedding.

The logits are those of the masked-LM head; a file written without it (`BertModel`) gives the final stream itself. What
stands beside them, the pooler and the next-sentence head, is passed over. Every token is of type 0; the other rows of
`W_type` are there to be added to `pos_embed`. RoBERTa and DistilBERT share what they have in common.
"""

from collections.abc import Mapping
from typing import Any

from jaxinterp.io.huggingface.table import REQUIRED, Family, Field, activation, only

#: Classes that are written without a head.
HEADLESS = ("BertModel", "RobertaModel", "DistilBertModel")

#: What every encoder of this kind is.
ENCODER = {"norm_position": "post", "embed_norm": True}


def has_head(theirs: Mapping[str, Any]) -> bool:
    """Whether a file holds a masked-LM head."""
    return not set(theirs["architectures"] or ()) & set(HEADLESS)


def tied(value: Any, theirs: Mapping[str, Any]) -> Any:
    """Whether the unembedding is the embedding; where there is none, it is not."""
    return value if has_head(theirs) else False


def head_activation(name: Any, theirs: Mapping[str, Any]) -> str | None:
    """The activation of the head's dense layer."""
    return activation(name, theirs) if has_head(theirs) else None


# fmt: off
#: Config rows that say whether there is a head.
HEAD_FIELDS = (
    Field("architectures", None, "unembed",      lambda _, theirs: has_head(theirs)),
    Field("architectures", None, "unembed_bias", lambda _, theirs: has_head(theirs)),
    Field("architectures", None, "final_norm",   lambda _, theirs: has_head(theirs)),
)

#: Config rows that mean the same in BERT and RoBERTa.
SHARED_FIELDS = (
    #     theirs                          if absent  ours
    Field("num_hidden_layers",            REQUIRED,  "n_layers"),
    Field("hidden_size",                  REQUIRED,  "d_model"),
    Field("num_attention_heads",          REQUIRED,  "n_heads"),
    Field("intermediate_size",            REQUIRED,  "d_mlp"),
    Field("vocab_size",                   REQUIRED,  "d_vocab"),
    Field("type_vocab_size",              2,         "n_token_types"),
    Field("hidden_act",                   "gelu",    "act_fn", activation),
    Field("layer_norm_eps",               1e-12,     "eps"),
    Field("position_embedding_type",      "absolute", None, only("absolute")),
    Field("is_decoder",                   False,     "causal"),
    Field("attention_probs_dropout_prob", 0.1,       "attn_dropout"),
    Field("hidden_dropout_prob",          0.1,       "resid_dropout"),
    Field("tie_word_embeddings",          True,      "tie_embeddings", tied),
    *HEAD_FIELDS,
)


def layers(prefix: str) -> tuple[tuple[str, str, str], ...]:
    """The rows of embeddings and blocks, but for positions, which BERT and RoBERTa call alike."""
    rows = (
        # theirs                                                      their axes               ours
        ("embeddings.word_embeddings.weight",                         "d_vocab d_model",       "W_E"),
        ("embeddings.token_type_embeddings.weight",                   "token_type d_model",    "W_type"),
        ("embeddings.LayerNorm.(weight|gamma)",                       "d_model",               "ln_embed.w"),
        ("embeddings.LayerNorm.(bias|beta)",                          "d_model",               "ln_embed.b"),
        ("encoder.layer.{layer}.attention.self.query.weight",         "(head d_head) d_model", "W_Q"),
        ("encoder.layer.{layer}.attention.self.query.bias",           "(head d_head)",         "b_Q"),
        ("encoder.layer.{layer}.attention.self.key.weight",           "(head d_head) d_model", "W_K"),
        ("encoder.layer.{layer}.attention.self.key.bias",             "(head d_head)",         "b_K"),
        ("encoder.layer.{layer}.attention.self.value.weight",         "(head d_head) d_model", "W_V"),
        ("encoder.layer.{layer}.attention.self.value.bias",           "(head d_head)",         "b_V"),
        ("encoder.layer.{layer}.attention.output.dense.weight",       "d_model (head d_head)", "W_O"),
        ("encoder.layer.{layer}.attention.output.dense.bias",         "d_model",               "b_O"),
        ("encoder.layer.{layer}.attention.output.LayerNorm.(weight|gamma)", "d_model",         "ln1.w"),
        ("encoder.layer.{layer}.attention.output.LayerNorm.(bias|beta)", "d_model",            "ln1.b"),
        ("encoder.layer.{layer}.intermediate.dense.weight",           "d_mlp d_model",         "W_in"),
        ("encoder.layer.{layer}.intermediate.dense.bias",             "d_mlp",                 "b_in"),
        ("encoder.layer.{layer}.output.dense.weight",                 "d_model d_mlp",         "W_out"),
        ("encoder.layer.{layer}.output.dense.bias",                   "d_model",               "b_out"),
        ("encoder.layer.{layer}.output.LayerNorm.(weight|gamma)",     "d_model",               "ln2.w"),
        ("encoder.layer.{layer}.output.LayerNorm.(bias|beta)",        "d_model",               "ln2.b"),
    )
    return tuple((prefix + theirs, stored, ours) for theirs, stored, ours in rows)


BERT = Family(
    architectures=("BertForMaskedLM", "BertForPreTraining", "BertLMHeadModel", "BertModel"),
    prefix="bert.",
    constants=ENCODER,
    fields=(
        *SHARED_FIELDS,
        Field("max_position_embeddings", 512,    "n_ctx"),
        Field("hidden_act",              "gelu", "final_act_fn", head_activation),
    ),
    # classifier_dropout, directionality and pooler_* are about other heads.
    harmless=(
        "classifier_dropout", "directionality", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers",
        "pooler_size_per_head", "pooler_type",
    ),
    weights=(
        *layers("bert."),
        # theirs                                           their axes             ours
        ("bert.embeddings.position_embeddings.weight",     "n_ctx d_model",       "W_pos"),
        ("cls.predictions.transform.dense.weight",         "d_final d_model",     "W_final"),
        ("cls.predictions.transform.dense.bias",           "d_final",             "b_final"),
        ("cls.predictions.transform.LayerNorm.(weight|gamma)", "d_model",         "ln_final.w"),
        ("cls.predictions.transform.LayerNorm.(bias|beta)", "d_model",            "ln_final.b"),
        ("cls.predictions.decoder.weight",                 "d_vocab_out d_model", "W_U"),
        # The first is the one that is read; it is the second one's copy where embeddings are tied.
        ("cls.predictions.(decoder.|)bias",                "d_vocab_out",         "b_U"),
    ),
    unread=(
        "bert.embeddings.position_ids", "bert.pooler.dense.weight", "bert.pooler.dense.bias",
        "cls.seq_relationship.weight", "cls.seq_relationship.bias", "cls.predictions.bias",
    ),
    copies={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
)
# fmt: on
