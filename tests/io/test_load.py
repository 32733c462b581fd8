import importlib
import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import jax
import pytest
from safetensors.numpy import load_file, save_file

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
    with pytest.raises(ValueError, match=r"sharding needs a mesh: mesh=jax\.make_mesh"):
        load(GOLDEN, sharding="model")
    with pytest.raises(ValueError, match=r"sharding names mesh axis 'modle'; did you mean 'model'"):
        load("./nowhere", mesh=jax.make_mesh((1,), ("model",)), sharding="modle")  # before anything is looked for


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


def test_a_repository_of_pickles_is_told(tmp_path, monkeypatch):
    """What is downloaded leaves pickles out, so that the folder alone would not say why there are no weights."""

    def snapshot_download(name, *, allow_patterns):
        shutil.copytree(GOLDEN, tmp_path / "snapshot", dirs_exist_ok=True)
        (tmp_path / "snapshot" / "model.safetensors").unlink()
        return str(tmp_path / "snapshot")

    fake = types.ModuleType("huggingface_hub")
    fake.snapshot_download = snapshot_download
    fake.list_repo_files = lambda name: ["README.md", "pytorch_model.bin"]
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    with pytest.raises(ValueError, match=r"owner/model/pytorch_model\.bin is pickled, .* Convert it to safetensors"):
        load("owner/model")


def in_shards(folder):
    """Splits a checkpoint's weights into two files with an index; the names of the files."""
    arrays = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for file, names in zip(files, (sorted(arrays)[::2], sorted(arrays)[1::2]), strict=True):
        save_file({name: arrays[name] for name in names}, folder / file)
    weight_map = {name: files[i % 2] for i, name in enumerate(sorted(arrays))}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return files


@pytest.mark.usefixtures("builtin")
def test_a_download_that_breaks_off_goes_on(tmp_path, monkeypatch):
    """Through a stand-in that loses its connection between two shards, as the cache keeps what came before."""
    source = shutil.copytree(GOLDEN, tmp_path / "source")
    first, second = in_shards(source)
    snapshot, wanted = tmp_path / "snapshot", ["config.json", "model.safetensors.index.json", first, second]
    fetched = []

    def snapshot_download(name, *, allow_patterns):
        snapshot.mkdir(exist_ok=True)
        for file in wanted:
            if file == second and "broken" not in fetched:
                fetched.append("broken")
                raise OSError("connection reset by peer")
            if not (snapshot / file).exists():
                shutil.copy(source / file, snapshot / file)
                fetched.append(file)
        return str(snapshot)

    fake = types.ModuleType("huggingface_hub")
    fake.snapshot_download = snapshot_download
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    with pytest.raises(FileNotFoundError, match=r"'owner/model', and it cannot be fetched .* connection reset"):
        load("owner/model")
    params = load("owner/model")[1]
    assert fetched == [*wanted[:3], "broken", second]
    assert all((params[name] == weight).all() for name, weight in load(GOLDEN)[1].items())


OFFLINE = """
import json, shutil, sys
from pathlib import Path
import jaxinterp as ji

source, cache = Path(sys.argv[1]), Path(sys.argv[2]) / "hub" / "models--owner--model"

def error(name="owner/model"):
    try:
        ji.load(name)
    except (FileNotFoundError, ValueError) as told:
        return str(told)

told = [error()]
snapshot = cache / "snapshots" / ("0" * 40)
snapshot.mkdir(parents=True)
(cache / "refs").mkdir()
(cache / "refs" / "main").write_text("0" * 40)
(cache / "blobs").mkdir()
*first, last = sorted(source.iterdir(), key=lambda path: (path.suffix, path.name))  # the second shard
for path in (*first, last):
    if path == last:
        told.append(error())
    shutil.copy(path, cache / "blobs" / path.name)
    (snapshot / path.name).symlink_to(cache / "blobs" / path.name)
told.append(error("owner/other"))
params = ji.load("owner/model")[1]
print(json.dumps([told, float(abs(params["W_E"]).sum())]))
"""


def test_offline_only_the_cache_is_read(tmp_path):
    """The library itself, in its cache's layout: nothing there, a download that was killed, a whole one."""
    source = shutil.copytree(GOLDEN, tmp_path / "source")
    for golden in ("golden", "transformer_lens"):
        (source / f"{golden}.safetensors").unlink(missing_ok=True)
    second = in_shards(source)[1]
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(Path(__file__).parents[2]),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, str(source), str(tmp_path / "home")],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (nothing, half, other), total = json.loads(done.stdout)
    for told in (nothing, other):
        assert "cannot be fetched from the Hugging Face Hub" in told
    assert half.endswith(f"model.safetensors.index.json names '{second}', which is missing from the folder")
    assert total == pytest.approx(float(abs(load(GOLDEN)[1]["W_E"]).sum()))
