"""DistilBERT: BERT without token types, under names of its own."""

from jaxinterp.io.huggingface.bert import ENCODER, HEAD_FIELDS, head_activation, tied
from jaxinterp.io.huggingface.table import REQUIRED, Family, Field, activation

# fmt: off
DISTILBERT = Family(
    architectures=("DistilBertForMaskedLM", "DistilBertModel"),
    prefix="distilbert.",
    constants={**ENCODER, "causal": False, "eps": 1e-12},
    fields=(
        #     theirs                     if absent  ours
        Field("n_layers",                REQUIRED,  "n_layers"),
        Field("dim",                     REQUIRED,  "d_model"),
        Field("n_heads",                 REQUIRED,  "n_heads"),
        Field("hidden_dim",              REQUIRED,  "d_mlp"),
        Field("vocab_size",              REQUIRED,  "d_vocab"),
        Field("max_position_embeddings", 512,       "n_ctx"),
        Field("activation",              "gelu",    "act_fn", activation),
        Field("activation",              "gelu",    "final_act_fn", head_activation),
        Field("attention_dropout",       0.1,       "attn_dropout"),
        Field("dropout",                 0.1,       "resid_dropout"),
        Field("tie_word_embeddings",     True,      "tie_embeddings", tied),
        *HEAD_FIELDS,
    ),
    # sinusoidal_pos_embds says how positions began; qa_dropout and seq_classif_dropout belong to other heads.
    harmless=("qa_dropout", "seq_classif_dropout", "sinusoidal_pos_embds", "tie_weights_"),
    weights=(
        # theirs                                                         their axes               ours
        ("distilbert.embeddings.word_embeddings.weight",                 "d_vocab d_model",       "W_E"),
        ("distilbert.embeddings.position_embeddings.weight",             "n_ctx d_model",         "W_pos"),
        ("distilbert.embeddings.LayerNorm.weight",                       "d_model",               "ln_embed.w"),
        ("distilbert.embeddings.LayerNorm.bias",                         "d_model",               "ln_embed.b"),
        ("distilbert.transformer.layer.{layer}.attention.q_lin.weight",  "(head d_head) d_model", "W_Q"),
        ("distilbert.transformer.layer.{layer}.attention.q_lin.bias",    "(head d_head)",         "b_Q"),
        ("distilbert.transformer.layer.{layer}.attention.k_lin.weight",  "(head d_head) d_model", "W_K"),
        ("distilbert.transformer.layer.{layer}.attention.k_lin.bias",    "(head d_head)",         "b_K"),
        ("distilbert.transformer.layer.{layer}.attention.v_lin.weight",  "(head d_head) d_model", "W_V"),
        ("distilbert.transformer.layer.{layer}.attention.v_lin.bias",    "(head d_head)",         "b_V"),
        ("distilbert.transformer.layer.{layer}.attention.out_lin.weight", "d_model (head d_head)", "W_O"),
        ("distilbert.transformer.layer.{layer}.attention.out_lin.bias",  "d_model",               "b_O"),
        ("distilbert.transformer.layer.{layer}.sa_layer_norm.weight",    "d_model",               "ln1.w"),
        ("distilbert.transformer.layer.{layer}.sa_layer_norm.bias",      "d_model",               "ln1.b"),
        ("distilbert.transformer.layer.{layer}.ffn.lin1.weight",         "d_mlp d_model",         "W_in"),
        ("distilbert.transformer.layer.{layer}.ffn.lin1.bias",           "d_mlp",                 "b_in"),
        ("distilbert.transformer.layer.{layer}.ffn.lin2.weight",         "d_model d_mlp",         "W_out"),
        ("distilbert.transformer.layer.{layer}.ffn.lin2.bias",           "d_model",               "b_out"),
        ("distilbert.transformer.layer.{layer}.output_layer_norm.weight", "d_model",              "ln2.w"),
        ("distilbert.transformer.layer.{layer}.output_layer_norm.bias",  "d_model",               "ln2.b"),
        ("vocab_transform.weight",                                       "d_final d_model",       "W_final"),
        ("vocab_transform.bias",                                         "d_final",               "b_final"),
        ("vocab_layer_norm.weight",                                      "d_model",               "ln_final.w"),
        ("vocab_layer_norm.bias",                                        "d_model",               "ln_final.b"),
        ("vocab_projector.weight",                                       "d_vocab_out d_model",   "W_U"),
        ("vocab_projector.bias",                                         "d_vocab_out",           "b_U"),
    ),
    unread=("distilbert.embeddings.position_ids",),
    copies={"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"},
)
# fmt: on
