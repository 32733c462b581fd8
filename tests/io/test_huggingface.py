import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models

from jaxinterp.io.huggingface import FAMILIES, read
from jaxinterp.io.huggingface.table import split_axes, unstack
from jaxinterp.model.config import RotaryScaling

GOLDENS = Path(__file__).parents[1] / "goldens"
NAMES = sorted(path.parent.name for path in GOLDENS.glob("*/golden.safetensors"))
GPT2, LLAMA, GEMMA2 = "gpt2-tied", "llama-grouped", "gemma2-tied"
NEOX, GEMMA, GEMMA3, PHI3 = "gpt_neox-parallel", "gemma-tied", "gemma3_text-tied", "phi3-partial"
QWEN2, GPTJ, NEO, OPT = "qwen2-windowed", "gptj-untied", "gpt_neo-local", "opt-tied"
BERT, HIDDEN_BERT, ROBERTA, MIXTRAL = "bert-tied", "bert-hidden", "roberta-tied", "mixtral-grouped"


def golden(name):
    arrays = load_file(GOLDENS / name / "golden.safetensors")
    return {**arrays, "mask": arrays["mask"].astype(bool)}


def assert_close(found, expected, tolerance):
    """Largest difference at most `tolerance` times the largest |expected|."""
    assert found.shape == expected.shape
    assert abs(np.asarray(found) - expected).max() <= tolerance * abs(expected).max()


def test_every_family_has_goldens():
    assert {name.split("-")[0] for name in NAMES} == set(FAMILIES)
    assert all(path.stat().st_size < 300_000 for path in GOLDENS.glob("*/*"))


@pytest.mark.parametrize("name", NAMES)
def test_float32_logits_equal_the_reference(name):
    expected = golden(name)
    model, params, _ = read(GOLDENS / name)
    logits, _ = model.apply(params, expected["tokens"], mask=expected["mask"])
    assert logits.dtype == model.config.dtype == "float32"
    assert_close(logits[expected["mask"]], expected["logits"][expected["mask"]], 1e-4)
    assert abs(logits - expected["logits"])[expected["mask"]].max() <= 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_float64_logits_equal_the_reference(name):
    expected = golden(name)
    real, tokens = expected["mask"], expected["tokens"]
    with jax.enable_x64(True):
        model, params, _ = read(GOLDENS / name, dtype="float64")
        logits, cache = model.apply(params, tokens, mask=real, capture=("resid_pre",))
        assert logits.dtype == "float64"
        assert_close(logits[real], expected["logits_x64"][real], 1e-9)
        for stream, reference in zip(cache["resid_pre"], expected["resid_pre_x64"], strict=True):
            assert_close(stream[real], reference[real], 1e-9)
        for row, kept, reference in zip(tokens, real, expected["logits_x64"], strict=True):
            alone, _ = model.apply(params, row[kept][None])
            assert_close(alone[0], reference[kept], 1e-9)


# ---- variants of the files that must read the same ----


@pytest.fixture
def copy(tmp_path):
    """Copies a golden checkpoint, edits its config and tensors, and returns the folder."""

    def make(name, config=None, tensors=None, golden=None):
        folder = tmp_path / name
        shutil.copytree(GOLDENS / (golden or name), folder)
        if config is not None:
            fields = json.loads((folder / "config.json").read_text())
            config(fields)
            (folder / "config.json").write_text(json.dumps(fields))
        if tensors is not None:
            arrays = load_file(folder / "model.safetensors")
            tensors(arrays)
            save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, folder / "model.safetensors")
        return folder

    return make


def assert_same(folder, name):
    model, params, _ = read(folder)
    expected_model, expected, _ = read(GOLDENS / name)
    assert model == expected_model
    assert params.keys() == expected.keys()
    assert all((params[key] == expected[key]).all() for key in expected)


def test_special_tokens_beyond_the_vocabulary(copy):
    """As Gemma 3's text models have them: the tokenizer is that of the larger family."""
    folder = copy("gemma3_text-tied")
    words = {f"w{i}": i for i in range(62)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.add_special_tokens(["<image>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    model, params, tokenizer = read(folder)
    assert tokenizer.token_to_id("<image>") == model.config.d_vocab == 62
    with pytest.raises(ValueError, match="token id 62 is out of vocabulary"):
        model.apply(params, [[1, 62]])
    tokenizer.add_tokens(["word"])
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(ValueError, match="has token 'word' at id 63, but the model's vocabulary is 62"):
        read(folder)


def test_fields_that_change_nothing(copy):
    extra = {"is_llama_config": True, "rope_interleaved": False, "transformers.js_config": {}, "output_past": True}
    assert_same(copy("llama-tied", config=lambda fields: fields.update(extra)), "llama-tied")
    names = {"AutoConfig": "configuration_phi3.Phi3Config", "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"}
    prefixed = {name: f"microsoft/Phi-3-mini-4k-instruct--{code}" for name, code in names.items()}
    assert_same(copy("phi3-partial", config=lambda fields: fields.update(auto_map=prefixed)), "phi3-partial")


def test_gpt2_as_old_files_have_it(copy):
    """No prefix, the causal mask among the tensors, the unembedding twice, fields that new files lack."""

    def tensors(arrays):
        for key in list(arrays):
            arrays[key.removeprefix("transformer.")] = arrays.pop(key)
        for layer in range(3):
            arrays[f"h.{layer}.attn.bias"] = np.tril(np.ones((1, 1, 20, 20), np.uint8))
            arrays[f"h.{layer}.attn.masked_bias"] = np.array(-1e4, np.float32)
        arrays["lm_head.weight"] = arrays["wte.weight"]

    def config(fields):
        for key in ("scale_attn_weights", "reorder_and_upcast_attn", "tie_word_embeddings", "n_inner"):
            del fields[key]
        fields["n_ctx"] = 20
        fields["task_specific_params"] = {"text-generation": {"do_sample": True}}

    assert_same(copy(GPT2, config, tensors), GPT2)


def test_llama_as_old_files_have_it(copy):
    def tensors(arrays):
        for layer in range(3):
            arrays[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = np.ones(3, np.float32)

    def config(fields):
        fields["rope_theta"] = fields.pop("rope_parameters")["rope_theta"]
        fields["rope_scaling"] = None
        fields["torch_dtype"] = fields.pop("dtype")
        fields["pretraining_tp"] = 2

    assert_same(copy(LLAMA, config, tensors), LLAMA)


def test_gemma2_as_old_files_have_it(copy):
    def config(fields):
        for key in ("layer_types", "use_bidirectional_attention", "tie_word_embeddings"):
            del fields[key]
        fields["sliding_window_size"] = fields["sliding_window"]
        fields["hidden_act"] = "gelu"

    assert_same(copy(GEMMA2, config), GEMMA2)


def test_llama3_scaling_as_old_files_have_it(copy):
    def config(fields):
        fields["rope_scaling"] = fields.pop("rope_parameters")
        fields["rope_theta"] = fields["rope_scaling"].pop("rope_theta")

    assert_same(copy("llama-scaled", config), "llama-scaled")
    scaling = read(GOLDENS / "llama-scaled")[0].config.rotary_scaling
    assert scaling == RotaryScaling(4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_n_ctx=40)

    def without_length(fields):
        config(fields)
        del fields["rope_scaling"]["original_max_position_embeddings"]
        fields["max_position_embeddings"] = 40

    assert read(copy("llama-scaled/again", without_length, golden="llama-scaled"))[0].config.rotary_scaling == scaling


def test_linear_scaling_as_old_files_have_it(copy):
    def config(fields):
        del fields["rope_parameters"]
        fields["rope_theta"], fields["rope_scaling"] = 40.0, {"type": "linear", "factor": 3.0}

    assert_same(copy("mistral-grouped", config), "mistral-grouped")


def test_gpt_neox_as_old_files_have_it(copy):
    """Pythia's own names, the causal mask and the rotary table among the tensors."""

    def tensors(arrays):
        for layer in range(3):
            attention = f"gpt_neox.layers.{layer}.attention"
            arrays[f"{attention}.bias"] = np.tril(np.ones((1, 1, 20, 20), np.uint8))
            arrays[f"{attention}.masked_bias"] = np.array(-1e4, np.float32)
            arrays[f"{attention}.rotary_emb.inv_freq"] = np.ones(1, np.float32)

    def config(fields):
        for key in ("rope_parameters", "attention_bias", "attention_dropout", "hidden_dropout"):
            del fields[key]
        fields["rotary_emb_base"], fields["rotary_pct"] = 100, 0.25
        fields["attention_probs_dropout_prob"] = fields["hidden_dropout_prob"] = 0

    assert_same(copy(NEOX, config, tensors), NEOX)

    def twice(fields):
        config(fields)
        fields["rope_theta"], fields["partial_rotary_factor"] = 100, 0.25

    assert_same(copy(f"{NEOX}/twice", twice, golden=NEOX), NEOX)


def test_qwen2_as_old_files_have_it(copy):
    def config(fields):
        fields["rope_theta"] = fields.pop("rope_parameters")["rope_theta"]
        del fields["layer_types"]

    assert_same(copy(QWEN2, config), QWEN2)
    assert read(GOLDENS / QWEN2)[0].config.window == (None, 2, 2)

    def off(fields):
        config(fields)
        fields["use_sliding_window"] = False

    assert read(copy(f"{QWEN2}/off", off, golden=QWEN2))[0].config.window is None

    def all_see_everything(fields):
        fields["layer_types"] = ["full_attention"] * 3

    assert read(copy(f"{QWEN2}/all", all_see_everything, golden=QWEN2))[0].config.window is None


def test_gemma_as_old_files_have_it(copy):
    def config(fields):
        for key in ("rope_parameters", "use_bidirectional_attention", "tie_word_embeddings"):
            del fields[key]
        fields["hidden_act"], fields["hidden_activation"] = "gelu", "gelu_pytorch_tanh"

    assert_same(copy(GEMMA, config), GEMMA)


def test_gemma3_as_old_files_have_it(copy):
    def config(fields):
        for key in ("rope_parameters", "layer_types", "_sliding_window_pattern"):
            del fields[key]
        fields["sliding_window_pattern"] = 3
        fields["rope_theta"], fields["rope_local_base_freq"] = 1000.0, 20.0
        fields["rope_scaling"] = {"rope_type": "linear", "factor": 8.0}

    assert_same(copy(GEMMA3, config), GEMMA3)


def test_phi3_as_old_files_have_it(copy):
    def config(fields):
        fields["rope_theta"], fields["partial_rotary_factor"] = 100.0, 0.75
        del fields["rope_parameters"]
        fields["attention_bias"], fields["rope_scaling"] = False, None
        fields["auto_map"] = {
            "AutoConfig": "configuration_phi3.Phi3Config",
            "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
        }

    assert_same(copy(PHI3, config), PHI3)


def test_gptj_as_old_files_have_it(copy):
    def tensors(arrays):
        for layer in range(2):
            arrays[f"transformer.h.{layer}.attn.bias"] = np.tril(np.ones((1, 1, 16, 16), np.uint8))
            arrays[f"transformer.h.{layer}.attn.masked_bias"] = np.array(-1e9, np.float32)

    def config(fields):
        fields["rotary"] = fields["scale_attn_weights"] = True
        fields["summary_use_proj"] = True

    assert_same(copy(GPTJ, config, tensors), GPTJ)
    params = read(GOLDENS / GPTJ)[1]
    assert (params["ln1.w"] == params["ln2.w"]).all()


def test_gpt_neo_as_old_files_have_it(copy):
    def tensors(arrays):
        for layer in range(3):
            arrays[f"transformer.h.{layer}.attn.attention.bias"] = np.tril(np.ones((1, 1, 16, 16), np.uint8))
            arrays[f"transformer.h.{layer}.attn.attention.masked_bias"] = np.array(-1e9, np.float32)
        arrays["lm_head.weight"] = arrays["transformer.wte.weight"]

    def config(fields):
        del fields["attention_layers"]

    assert_same(copy(NEO, config, tensors), NEO)
    assert read(GOLDENS / NEO)[0].config.window == (3, None, 3)


def test_opt_as_old_files_have_it(copy):
    def tensors(arrays):
        for key in list(arrays):
            arrays[key.removeprefix("model.")] = arrays.pop(key)
        arrays["lm_head.weight"] = arrays["decoder.embed_tokens.weight"]

    def config(fields):
        for key in ("enable_bias", "layer_norm_elementwise_affine", "tie_word_embeddings"):
            del fields[key]
        fields["activation_dropout"], fields["output_projection"] = 0.0, True

    assert_same(copy(OPT, config, tensors), OPT)


def test_bert_as_old_files_have_it(copy):
    """Norms' old names, heads that nobody reads here, the unembedding twice."""

    def tensors(arrays):
        for key in list(arrays):
            if key.startswith("bert.") and "LayerNorm" in key:
                arrays[key.replace("weight", "gamma").replace("bias", "beta")] = arrays.pop(key)
        arrays["bert.embeddings.position_ids"] = np.arange(16)[None]
        arrays["bert.pooler.dense.weight"] = arrays["cls.seq_relationship.weight"] = np.ones((2, 24), np.float32)
        arrays["cls.predictions.decoder.weight"] = arrays["bert.embeddings.word_embeddings.weight"]
        arrays["cls.predictions.decoder.bias"] = arrays["cls.predictions.bias"]

    def config(fields):
        for key in ("is_decoder", "add_cross_attention", "tie_word_embeddings", "classifier_dropout"):
            del fields[key]
        fields |= {"position_embedding_type": "absolute", "gradient_checkpointing": False, "pad_token_id": 0}

    assert_same(copy(BERT, config, tensors), BERT)
    with pytest.raises(ValueError, match=r"'cls.predictions.decoder.bias' in .* differs from 'cls.predictions.bias'"):
        read(
            copy(
                f"{BERT}/again", tensors=lambda a: a.update({"cls.predictions.decoder.bias": np.ones(61)}), golden=BERT
            )
        )
    twice = {"bert.embeddings.LayerNorm.gamma": np.ones(24, np.float32)}
    with pytest.raises(ValueError, match=r"nothing here uses 'bert.embeddings.LayerNorm.gamma'"):
        read(copy(f"{BERT}/twice", tensors=lambda a: a.update(twice), golden=BERT))
    with pytest.raises(ValueError, match=r"missing 'bert.embeddings.LayerNorm.weight'"):
        read(copy(f"{BERT}/less", tensors=lambda a: a.pop("bert.embeddings.LayerNorm.weight"), golden=BERT))


def test_mixtral_as_old_files_have_it(copy):
    def config(fields):
        fields["rope_theta"] = fields.pop("rope_parameters")["rope_theta"]
        del fields["router_jitter_noise"], fields["sliding_window"]
        fields["output_router_logits"] = True

    assert_same(copy(MIXTRAL, config), MIXTRAL)
    params = read(GOLDENS / MIXTRAL)[1]
    theirs = load_file(GOLDENS / MIXTRAL / "model.safetensors")
    third = theirs["model.layers.1.block_sparse_moe.experts.3.w2.weight"]
    assert (params["W_out"][1, 3] == third.T).all()


def test_an_encoder_without_a_head_gives_its_final_stream():
    expected = golden(HIDDEN_BERT)
    model, params, _ = read(GOLDENS / HIDDEN_BERT)
    assert not {"W_U", "W_final", "ln_final.w"} & set(params)
    logits, cache = model.apply(params, expected["tokens"], mask=expected["mask"], capture=("resid_final",))
    assert (logits == cache["resid_final"]).all()
    assert model.sites["logits"].sizes[-1] == model.config.d_model


def shard(folder, n=3):
    arrays = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {key: f"model-0000{i % n + 1}-of-0000{n}.safetensors" for i, key in enumerate(arrays)}
    for file in set(weight_map.values()):
        save_file({key: arrays[key] for key in arrays if weight_map[key] == file}, folder / file)
    write_index(folder, weight_map)
    return weight_map


def write_index(folder, weight_map):
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_shards_read_as_one_file(copy):
    folder = copy("llama-tied")
    shard(folder)
    assert_same(folder, "llama-tied")


def test_dtypes(copy):
    def mixed(arrays):
        arrays["transformer.wte.weight"] = arrays["transformer.wte.weight"].astype(jnp.bfloat16)

    folder = copy(GPT2, tensors=mixed)
    model, params, _ = read(folder)
    assert model.config.dtype == "float32"
    assert {weight.dtype.name for weight in params.values()} == {"float32"}
    model, params, _ = read(folder, dtype=jnp.bfloat16)
    assert model.config.dtype == "bfloat16"
    assert {weight.dtype.name for weight in params.values()} == {"bfloat16"}


def test_mesh_replicates():
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    weights = read(GOLDENS / GPT2, mesh=mesh)[1].values()
    assert all(w.sharding.is_fully_replicated and w.sharding.mesh == mesh for w in weights)


# ---- the tables ----


def test_fused_axes_come_apart():
    sizes = {"head": 2, "kv_head": 2, "d_head": 3, "d_model": 4}
    theirs, stored = np.arange(4 * 18).reshape(4, 18), "d_model (qkv head d_head)"
    assert split_axes(stored, sizes, 3)[2] == theirs.shape
    q, k, v = unstack(theirs, stored, sizes, [("head", "d_model", "d_head")] * 2 + [("kv_head", "d_model", "d_head")])
    assert q.shape == (2, 4, 3)
    for part, offset in ((q, 0), (k, 6), (v, 12)):
        assert (part[1] == theirs[:, offset + 3 : offset + 6]).all()


def test_joined_axes_come_apart():
    sizes = {"head": 4, "kv_head": 2, "d_head": 3, "d_model": 5, "n_ctx": 6}
    theirs, stored = np.arange(24 * 5).reshape(24, 5), "(head+kv_head+kv_head d_head) d_model"
    assert split_axes(stored, sizes, 3)[2] == theirs.shape
    targets = [("head", "d_model", "d_head"), *[("kv_head", "d_model", "d_head")] * 2]
    q, k, v = unstack(theirs, stored, sizes, targets)
    assert (q.shape, k.shape, v.shape) == ((4, 5, 3), (2, 5, 3), (2, 5, 3))
    for part, offset in ((q, 0), (k, 12), (v, 18)):
        assert (part[1] == theirs[offset + 3 : offset + 6].T).all()
    rows = np.arange(8 * 5).reshape(8, 5)
    assert split_axes("2+n_ctx d_model", sizes, 1)[2] == rows.shape
    assert (unstack(rows, "2+n_ctx d_model", sizes, [("n_ctx", "d_model")])[0] == rows[2:]).all()


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_tables_have_no_row_twice(family):
    theirs = [row[0] for row in family.weights]
    ours = [name for row in family.weights for name in row[2].split()]
    assert len(set(theirs)) == len(theirs)
    assert len(set(ours)) == len(ours)
    assert not {row.theirs for row in family.fields} & set(family.harmless)


# ---- configs that are refused ----


def set_to(**changes):
    return lambda fields: fields.update(changes)


def without(name):
    return lambda fields: fields.pop(name)


SWAPPED = {"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0}
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        (
            GPT2,
            set_to(model_type="gpt22"),
            "no table for architecture 'gpt22'; the nearest is 'gpt2', of gpt2, gpt_neo, ",
        ),
        (LLAMA, set_to(model_type="llama4"), "no table for architecture 'llama4'; the nearest is 'llama'"),
        (GPT2, without("model_type"), "does not say what architecture this is"),
        (GPT2, set_to(architectures=["GPT2ForTokenClassification"]), "architecture 'GPT2ForTokenClassification'; "),
        (GPT2, without("n_layer"), "missing field 'n_layer'"),
        (GPT2, set_to(n_layer="3"), "n_layer must be a positive integer, got '3'"),
        (GPT2, set_to(n_heads=4), "unknown field 'n_heads' = 4 may change .* did you mean 'n_head'"),
        (GPT2, set_to(quantization_config={"bits": 4}), "unknown field 'quantization_config'"),
        (GPT2, set_to(auto_map={"AutoModel": "code.Model"}), "unknown field 'auto_map'"),
        (GPT2, set_to(architectures="GPT2LMHeadModel"), "architectures must be a list, got 'GPT2LMHeadModel'"),
        (GPT2, set_to(activation_function="gelu_nw"), "activation_function = 'gelu_nw': .* did you mean 'gelu_new'"),
        (GPT2, set_to(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx = True: not supported"),
        (GPT2, set_to(reorder_and_upcast_attn=1), "reorder_and_upcast_attn = 1: not supported"),
        (GPT2, set_to(add_cross_attention=True), "add_cross_attention = True: not supported"),
        (GPT2, set_to(pruned_heads={"0": [1]}), "pruned_heads = .* not supported"),
        (LLAMA, set_to(rope_scaling={"rope_type": "llama3"}), "rope_scaling = .*'llama3' lacks 'factor'"),
        (LLAMA, set_to(rope_scaling={"type": "linear", "factor": 2.0}), "rope_parameters = .*expected one of the two"),
        (LLAMA, set_to(rope_parameters={"rope_type": "yarn"}), "rope_parameters = .*'yarn' is not supported; expected"),
        (LLAMA, set_to(rope_parameters={"factor": 2.0}), "unknown entry 'factor' for type 'default'"),
        (LLAMA, set_to(rope_parameters={"partial_rotary_factor": 0.5}), "unknown entry 'partial_rotary_factor'"),
        (LLAMA, set_to(rope_parameters={"rope_type": "linear", "factor": -1}), "factor must be a positive number"),
        ("llama-scaled", set_to(rope_parameters=SWAPPED), "rope_parameters = .*must be below high_freq_factor"),
        (LLAMA, set_to(residual_multiplier=0.2), "unknown field 'residual_multiplier' = 0.2"),
        (GEMMA2, set_to(use_bidirectional_attention=True), "use_bidirectional_attention = True: not supported"),
        (GEMMA2, set_to(layer_types=["full_attention"]), "layer_types = .* 1 entries for num_hidden_layers = 4"),
        (GEMMA2, set_to(layer_types=["full_attention"] * 3 + ["chunked"]), "unknown layer type 'chunked'"),
        (GEMMA2, set_to(sliding_window_size=9), "sliding_window_size = 9: not supported; expected 3"),
        (GEMMA2, set_to(query_pre_attn_scalar="x"), "query_pre_attn_scalar = 'x'"),
        (GEMMA2, set_to(query_pre_attn_scalar=0), "query_pre_attn_scalar = 0: "),
        (GEMMA2, set_to(sliding_window=None), "layer_types = .* needs a window"),
        (
            NEOX,
            set_to(rope_parameters=None, rotary_emb_base=10, rope_theta=20),
            "'rotary_emb_base' and 'rope_theta' dif",
        ),
        (NEOX, set_to(rope_parameters={"partial_rotary_factor": 0.1}), "rotary_dim must be a positive integer"),
        (NEOX, set_to(rope_parameters={"rope_type": "dynamic", "factor": 2.0}), "type 'dynamic' is not supported"),
        ("mistral-grouped", set_to(layer_types=["full_attention"] * 2), "unknown field 'layer_types'"),
        ("mistral-grouped", set_to(sliding_window=0), "window must be at least 1"),
        (QWEN2, set_to(use_mrope=True), "use_mrope = True: not supported"),
        (QWEN2, set_to(use_sliding_window=False), "layer_types = .* needs a window"),
        (QWEN2, set_to(use_sliding_window="yes"), "use_sliding_window = 'yes': not supported"),
        ("qwen3-grouped", set_to(layer_types=["full_attention"]), "layer_types = .* 1 entries"),
        ("olmo2-grouped", set_to(clip_qkv=8.0), "unknown field 'clip_qkv' = 8.0"),
        (PHI3, set_to(rope_parameters=LONGROPE), "type 'longrope' is not supported; expected one of: default"),
        (PHI3, set_to(attention_bias=True), "attention_bias = True: not supported"),
        (PHI3, set_to(auto_map={"AutoConfig": "mine.Config"}), "auto_map = .* not supported"),
        (GEMMA, set_to(hidden_activation="silu"), "hidden_activation = 'silu': not the same as hidden_act"),
        (GEMMA, set_to(use_bidirectional_attention=True), "use_bidirectional_attention = True: not supported"),
        (GEMMA3, set_to(model_type="gemma3"), "no table for architecture 'gemma3'"),
        (GEMMA3, set_to(attn_logit_softcapping=50.0), "attn_logit_softcapping = 50.0: not supported"),
        (GEMMA3, set_to(use_bidirectional_attention=True), "use_bidirectional_attention = True: not supported"),
        (GEMMA3, set_to(rope_scaling={"rope_type": "linear", "factor": 8.0}), "stands beside rope_scaling"),
        (
            GEMMA3,
            set_to(rope_parameters={"rope_type": "default"}),
            "rope_parameters = .*unknown layer type 'rope_type'",
        ),
        (GEMMA3, set_to(layer_types=None, sliding_window_pattern=0), "layer_types = None: .*zero"),
        (GEMMA3, set_to(layer_types=["full_attention"] * 2), "layer_types = .* 2 entries for num_hidden_layers = 3"),
        (GPTJ, set_to(rotary=False), "rotary = False: not supported"),
        (GPTJ, set_to(rotary_dim=None), "rotary_dim = None: not supported"),
        (GPTJ, set_to(rotary_dim=10), "rotary_dim must be even and at most d_head"),
        (GPTJ, set_to(scale_attn_weights=False), "scale_attn_weights = False: not supported"),
        (NEOX, set_to(hidden_size=None), "hidden_size must be a positive integer, got None"),
        (LLAMA, set_to(hidden_size="36"), "hidden_size must be a positive integer, got '36'"),
        (LLAMA, set_to(rope_parameters=[]), "rope_parameters = .*expected a dict, or null"),
        (NEO, set_to(window_size=None), "'local' needs a window"),
        (NEO, set_to(attention_types=[[["global"], 2]]), "attention_types = .*2 layers, but num_layers = 3"),
        (NEO, set_to(attention_types=[[["global", "loca"], 1], [["local"], 1]]), "'loca'; did you mean 'local'"),
        (NEO, set_to(attention_layers=["global"] * 3), "attention_types = .* not supported; expected .*'global'"),
        (
            BERT,
            set_to(position_embedding_type="relative_key"),
            "position_embedding_type = 'relative_key': not supported",
        ),
        (BERT, set_to(architectures=["BertForTokenClassification"]), "architecture 'BertForTokenClassification'"),
        (BERT, set_to(type_vocab_size=0), "n_token_types must be a positive integer"),
        (BERT, set_to(embedding_size=8), "unknown field 'embedding_size' = 8"),
        (ROBERTA, set_to(pad_token_id=0), "pad_token_id = 0: not supported; expected 1"),
        (ROBERTA, set_to(max_position_embeddings=2), "n_ctx must be a positive integer, got 0"),
        (MIXTRAL, set_to(num_local_experts=0), "n_experts must be a positive integer, got 0"),
        (MIXTRAL, set_to(num_experts_per_tok=6), "at most as many experts_per_token, got 6"),
        (MIXTRAL, set_to(shared_expert_intermediate_size=8), "unknown field 'shared_expert_intermediate_size' = 8"),
        (OPT, set_to(do_layer_norm_before=False), "do_layer_norm_before = False: not supported"),
        (OPT, set_to(word_embed_proj_dim=12), "word_embed_proj_dim = 12: not supported; expected None or 24"),
        (OPT, set_to(layer_norm_elementwise_affine=False), "layer_norm_elementwise_affine = False: not supported"),
    ],
)
def test_refused_configs(copy, name, edit, message):
    folder = copy(name, config=edit)
    with pytest.raises(ValueError, match=rf"config\.json.*{message}"):
        read(folder)


def test_unknown_fields_without_a_value_are_harmless(copy):
    assert_same(copy(GPT2, config=set_to(some_new_field=None)), GPT2)


# ---- tensors that are refused ----

W_K = "model.layers.1.self_attn.k_proj.weight"


def poison(value):
    def edit(arrays):
        arrays[W_K][0, :2] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda a: a.pop(W_K), f"missing '{W_K}'"),
        (lambda a: a.update(extra=np.ones(2, np.float32)), "nothing here uses 'extra'"),
        (lambda a: a.update({"model.layers.3.self_attn.q_proj.bias": a[W_K]}), "uses 'model.layers.3.self_attn.q_p"),
        (lambda a: a.update({W_K.removeprefix("model."): a[W_K]}), "nothing here uses 'layers.1.self_attn.k_proj"),
        (
            lambda a: a.update({W_K: a[W_K].T}),
            r"k_proj.weight' in .* has shape \(32, 12\), config.json implies \(12, 32\) \(\(kv_head d_head\) d_model\)",
        ),
        (lambda a: a.update({W_K: a[W_K].astype(np.int8)}), "k_proj.weight' in .* is I8, expected one of"),
        (poison(np.nan), "k_proj.weight' in .* holds 2 values that are NaN or infinite"),
        (poison(np.inf), "k_proj.weight' in .* holds 2 values that are NaN or infinite"),
    ],
)
def test_refused_tensors(copy, edit, message):
    folder = copy(LLAMA, tensors=edit)
    with pytest.raises(ValueError, match=message):
        read(folder)


def test_config_that_disagrees_with_the_tensors(copy):
    with pytest.raises(ValueError, match=r"missing 'model.layers.3.input_layernorm.weight', .* and \d+ more"):
        read(copy(LLAMA, config=set_to(num_hidden_layers=4)))
    with pytest.raises(ValueError, match=r"nothing here uses .* and .* more"):
        read(copy("llama-tied", config=set_to(num_hidden_layers=1)))


def test_absurd_sizes_are_refused_before_they_cost_anything(copy):
    with pytest.raises(ValueError, match=r"config.json says 1000000 layers, but there are only"):
        read(copy(LLAMA, config=set_to(num_hidden_layers=10**6)))
    with pytest.raises(ValueError, match=r"has shape \(64, 36\), config.json implies \(1000000000000, 36\)"):
        read(copy("llama-tied", config=set_to(vocab_size=10**12)))


def test_experts_that_the_config_gets_wrong(copy):
    with pytest.raises(ValueError, match=r"config.json says 1000000000 experts, but there are only"):
        read(copy(MIXTRAL, config=set_to(num_local_experts=10**9)))
    with pytest.raises(ValueError, match=r"missing 'model.layers.0.block_sparse_moe.experts.5.w1.weight', "):
        read(copy(f"{MIXTRAL}/more", config=set_to(num_local_experts=6), golden=MIXTRAL))
    with pytest.raises(ValueError, match=r"nothing here uses 'model.layers.0.block_sparse_moe.experts.4.w1.weight', "):
        read(copy(f"{MIXTRAL}/less", config=set_to(num_local_experts=4), golden=MIXTRAL))


def test_biases_that_the_config_denies(copy):
    with pytest.raises(ValueError, match=r"nothing here uses 'model.layers.0.mlp.down_proj.bias'"):
        read(copy(LLAMA, config=set_to(mlp_bias=False)))


def test_second_unembedding_must_equal_the_first(copy):
    def untie(arrays):
        arrays["lm_head.weight"] = arrays["transformer.wte.weight"] + 1

    with pytest.raises(ValueError, match=r"'lm_head.weight' in .* differs from 'transformer.wte.weight'"):
        read(copy(GPT2, tensors=untie))


# ---- indexes ----


@pytest.mark.parametrize(
    "bad", ["../outside.safetensors", "/etc/outside.safetensors", "a/b.safetensors", "..", "x.json"]
)
def test_index_cannot_leave_the_folder(copy, bad):
    folder = copy("llama-tied")
    shutil.copy(folder / "model.safetensors", folder.parent / "outside.safetensors")
    weight_map = shard(folder)
    write_index(folder, dict.fromkeys(weight_map, bad))
    with pytest.raises(ValueError, match=r"a shard must be a \.safetensors file in the same folder"):
        read(folder)


def test_index_of_pickles(copy):
    folder = copy("llama-tied")
    write_index(folder, dict.fromkeys(shard(folder), "pytorch_model-00001-of-00001.bin"))
    with pytest.raises(ValueError, match=r"00001\.bin is pickled"):
        read(folder)


def test_missing_shard(copy):
    folder = copy("llama-tied")
    shard(folder)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"index\.json names 'model-00002-of-00003\.safetensors', which is mi"):
        read(folder)


def test_index_that_disagrees_with_its_shards(copy):
    folder = copy("llama-tied")
    weight_map = shard(folder)
    write_index(folder, {**weight_map, "extra": "model-00001-of-00003.safetensors"})
    with pytest.raises(ValueError, match=r"lists 'extra', which 'model-00001-of-00003.safetensors' does not hold"):
        read(folder)
    write_index(folder, {**weight_map, "model.norm.weight": "model-00001-of-00003.safetensors"})
    with pytest.raises(
        ValueError, match=r"'model.norm.weight' in .* is not where model\.safetensors\.index\.json says"
    ):
        read(folder)
    write_index(folder, {})
    with pytest.raises(ValueError, match="must hold a 'weight_map'"):
        read(folder)


def test_pickle_is_refused(copy):
    folder = copy(GPT2)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is pickled.*Convert it to safetensors"):
        read(folder)
