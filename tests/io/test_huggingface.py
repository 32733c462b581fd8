import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxinterp.io.huggingface import FAMILIES, read
from jaxinterp.io.huggingface.table import split_axes, unstack

GOLDENS = Path(__file__).parents[1] / "goldens"
NAMES = sorted(path.parent.name for path in GOLDENS.glob("*/golden.safetensors"))
GPT2, LLAMA, GEMMA2 = "gpt2-tied", "llama-grouped", "gemma2-tied"


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

    def make(name, config=None, tensors=None):
        folder = tmp_path / name
        shutil.copytree(GOLDENS / name, folder)
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
    sizes = {"head": 2, "d_head": 3, "d_model": 4}
    theirs = np.arange(4 * 18).reshape(4, 18)
    axes, apart, fused = split_axes("d_model (qkv head d_head)", sizes, 3)
    assert fused == theirs.shape
    q, k, v = unstack(theirs, axes, apart, [("head", "d_model", "d_head")] * 2 + [("kv_head", "d_model", "d_head")])
    assert q.shape == (2, 4, 3)
    for part, offset in ((q, 0), (k, 6), (v, 12)):
        assert (part[1] == theirs[:, offset + 3 : offset + 6]).all()


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


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        (GPT2, set_to(model_type="gpt3"), "no table for architecture 'gpt3'; the nearest is 'gpt2', of gpt2, llama"),
        (LLAMA, set_to(model_type="gemma"), "no table for architecture 'gemma'; the nearest is 'gemma2'"),
        (GPT2, without("model_type"), "does not say what architecture this is"),
        (GPT2, set_to(architectures=["GPT2ForTokenClassification"]), "architecture 'GPT2ForTokenClassification'; "),
        (GPT2, without("n_layer"), "missing field 'n_layer'"),
        (GPT2, set_to(n_layer="3"), "n_layers must be a positive integer, got '3'"),
        (GPT2, set_to(n_heads=4), "unknown field 'n_heads' = 4 may change .* did you mean 'n_head'"),
        (GPT2, set_to(quantization_config={"bits": 4}), "unknown field 'quantization_config'"),
        (GPT2, set_to(auto_map={"AutoModel": "code.Model"}), "unknown field 'auto_map'"),
        (GPT2, set_to(activation_function="gelu_nw"), "activation_function = 'gelu_nw': .* did you mean 'gelu_new'"),
        (GPT2, set_to(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx = True: not supported"),
        (GPT2, set_to(reorder_and_upcast_attn=True), "reorder_and_upcast_attn = True: not supported"),
        (GPT2, set_to(add_cross_attention=True), "add_cross_attention = True: not supported"),
        (GPT2, set_to(pruned_heads={"0": [1]}), "pruned_heads = .* not supported"),
        (LLAMA, set_to(rope_scaling={"rope_type": "llama3"}), "rope_scaling = .*'llama3' is not supported yet"),
        (LLAMA, set_to(rope_scaling={"type": "linear", "factor": 2.0}), "scaling of type 'linear' is not supported"),
        (LLAMA, set_to(rope_parameters={"rope_type": "yarn"}), "rope_parameters = .*'yarn' is not supported yet"),
        (LLAMA, set_to(rope_parameters={"factor": 2.0}), "rope_parameters = .*unknown entry 'factor'"),
        (LLAMA, set_to(residual_multiplier=0.2), "unknown field 'residual_multiplier' = 0.2"),
        (GEMMA2, set_to(use_bidirectional_attention=True), "use_bidirectional_attention = True: not supported"),
        (GEMMA2, set_to(layer_types=["full_attention"]), "layer_types = .* 1 entries for num_hidden_layers = 4"),
        (GEMMA2, set_to(layer_types=["full_attention"] * 3 + ["chunked"]), "unknown layer type 'chunked'"),
        (GEMMA2, set_to(sliding_window_size=9), "sliding_window_size = 9: not supported; expected 3"),
        (GEMMA2, set_to(query_pre_attn_scalar="x"), "query_pre_attn_scalar = 'x'"),
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
