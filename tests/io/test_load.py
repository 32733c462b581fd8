import importlib
import shutil
import sys
import types
from pathlib import Path

import jax
import pytest

from jaxinterp.io import builtin_models, load, save
from jaxinterp.model.config import TransformerConfig
from jaxinterp.model.transformer import Transformer

GOLDEN = Path(__file__).parents[1] / "goldens" / "gpt2-tied"
MODEL = Transformer(TransformerConfig(n_layers=1, d_model=4, n_heads=2, d_vocab=3, n_ctx=4))


@pytest.fixture
def builtin(tmp_path, monkeypatch):
    """Two built-in models, `tiny` and `brackets`; beside them a folder that is none."""
    params = MODEL.init(jax.random.key(0))
    save(tmp_path / "wheel" / "tiny", MODEL, params)
    save(tmp_path / "repository" / "brackets", MODEL, params)
    (tmp_path / "repository" / "other").mkdir()
    # The package's name `load` is the function, so the module is asked for by name.
    loading = importlib.import_module("jaxinterp.io.load")
    monkeypatch.setattr(loading, "BUILTIN_FOLDERS", (tmp_path / "wheel", tmp_path / "repository"))
    monkeypatch.chdir(tmp_path)
    return params


def test_built_in_models(builtin):
    assert builtin_models() == ("brackets", "tiny")
    for name in builtin_models():
        model, params, tokenizer = load(name)
        assert model == MODEL
        assert (params["W_E"] == builtin["W_E"]).all()
        assert tokenizer is None


def test_listing_ignores_what_is_not_a_model():
    for name in builtin_models():
        load(name)


@pytest.mark.usefixtures("builtin")
def test_unknown_names():
    with pytest.raises(
        FileNotFoundError, match=r"'bracket'; did you mean 'brackets'\? \(built-in models: brackets, tiny"
    ):
        load("bracket")
    with pytest.raises(FileNotFoundError, match=r"'gpt2' \(built-in models: brackets, tiny; .* 'owner/name'"):
        load("gpt2")
    with pytest.raises(FileNotFoundError, match=r"no folder is called './nowhere/at/all'"):
        load("./nowhere/at/all")


def test_a_built_in_name_wins_over_a_folder(builtin):
    save("tiny", MODEL, {name: weight + 1 for name, weight in builtin.items()})
    assert (load("tiny")[1]["W_E"] == builtin["W_E"]).all()
    assert (load("./tiny")[1]["W_E"] == builtin["W_E"] + 1).all()
    assert (load(Path("tiny"))[1]["W_E"] == builtin["W_E"] + 1).all()


def test_local_folders(builtin):
    assert load(str(GOLDEN))[0].config.d_vocab == 61
    assert load(GOLDEN, dtype="bfloat16")[1]["W_E"].dtype == "bfloat16"
    save("mine", MODEL, builtin)
    mesh = jax.sharding.Mesh(jax.devices(), ("data",))
    assert load("mine", mesh=mesh)[1]["W_E"].sharding.is_fully_replicated


def test_files_are_not_folders(tmp_path):
    with pytest.raises(ValueError, match=r"model\.safetensors is a file: give the folder"):
        load(GOLDEN / "model.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is pickled"):
        load(tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        load(tmp_path)


def test_wrong_types():
    with pytest.raises(TypeError, match="name_or_path must be a string or a path, got int"):
        load(3)
    with pytest.raises(TypeError, match=r"mesh must be a jax\.sharding\.Mesh, got str"):
        load(GOLDEN, mesh="data")


@pytest.mark.usefixtures("builtin")
def test_hub_without_its_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"no folder 'openai-community/gpt2'.*pip install 'jaxinterp\[hub\]'"):
        load("openai-community/gpt2")


@pytest.mark.usefixtures("builtin")
def test_hub_download(tmp_path, monkeypatch):
    """Through a stand-in for the library: only config, safetensors and tokenizer are asked for."""
    asked = []

    def snapshot_download(name, *, allow_patterns):
        asked.append((name, allow_patterns))
        if name != "owner/model":
            raise OSError("no such repository")
        return str(shutil.copytree(GOLDEN, tmp_path / "snapshot"))

    fake = types.ModuleType("huggingface_hub")
    fake.snapshot_download = snapshot_download
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    assert load("owner/model")[0].config.d_vocab == 61
    [(name, patterns)] = asked
    assert name == "owner/model"
    assert not any(pattern.endswith((".bin", ".py", "*")) for pattern in patterns)
    with pytest.raises(FileNotFoundError, match=r"cannot be fetched .* no such repository .*brackets, tiny"):
        load("owner/other")
