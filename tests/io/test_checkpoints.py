import contextlib
import functools
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tqdm.auto import tqdm

from jaxinterp.io import checkpoints, load, weights
from jaxinterp.io.checkpoints import read, save
from jaxinterp.model.config import RotaryScaling, TransformerConfig
from jaxinterp.model.params import weight_shapes
from jaxinterp.model.transformer import Transformer

SMALL = TransformerConfig(n_layers=2, d_model=8, n_heads=2, d_vocab=5, n_ctx=4)


def draw(config, dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    return {n: np.asarray(rng.normal(size=shape), jnp.dtype(dtype)) for n, shape in weight_shapes(config).items()}


def words(*tokens):
    return Tokenizer(WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=tokens[0]))


@pytest.fixture
def folder(tmp_path):
    """A checkpoint of SMALL, to be damaged."""
    model = Transformer(SMALL)
    save(tmp_path / "model", model, draw(SMALL), words("a", "b", "c"))
    return tmp_path / "model"


def edit_config(folder, **changes):
    content = json.loads((folder / "config.json").read_text())
    content.update(changes)
    (folder / "config.json").write_text(json.dumps(content))


def edit_weights(folder, edit):
    arrays = load_file(folder / "model.safetensors")
    edit(arrays)
    save_file(arrays, folder / "model.safetensors")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        TransformerConfig(
            n_layers=3,
            d_model=6,
            n_heads=4,
            n_kv_heads=2,
            d_head=4,
            d_vocab=7,
            d_vocab_out=2,
            tie_embeddings=False,
            positions="rotary",
            rotary_base=(10.0, 20.0, 30.0),
            rotary_scaling=(
                None,
                RotaryScaling(2.0),
                RotaryScaling(4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_n_ctx=8),
            ),
            window=(None, 2, 3),
            normalization=None,
        ),
    ],
    ids=["plain", "unusual"],
)
def test_round_trip_is_bit_exact(tmp_path, config, dtype):
    with jax.enable_x64(dtype == "float64"):
        model = Transformer(config)
        params = {name: jax.device_put(weight) for name, weight in draw(config, dtype).items()}
        save(tmp_path / "new" / "model", model, params)
        again, weights, tokenizer = read(tmp_path / "new" / "model")
    assert again == model
    assert tokenizer is None
    assert weights.keys() == params.keys()
    for name, weight in weights.items():
        assert weight.dtype == params[name].dtype == dtype
        assert np.asarray(weight).tobytes() == np.asarray(params[name]).tobytes()


def test_memory_order_does_not_matter(tmp_path):
    model = Transformer(SMALL)
    params = {name: np.asfortranarray(weight) for name, weight in draw(SMALL).items()}
    save(tmp_path, model, params)
    weights = read(tmp_path)[1]
    assert all((weights[name] == params[name]).all() for name in params)


def test_files_are_readable_by_those_who_may_read_the_config(folder):
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1


def test_saving_again_replaces_the_three_files_and_no_others(folder):
    (folder / "README.md").write_text("mine")
    (folder / ".partial").mkdir()  # as a killed run leaves it
    (folder / ".partial" / "model.safetensors").write_bytes(b"half")
    model = Transformer(SMALL)
    params = draw(SMALL, seed=7)
    save(folder, model, params)
    assert {path.name for path in folder.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    _, weights, tokenizer = read(folder)
    assert tokenizer is None
    assert (weights["W_E"] == params["W_E"]).all()


def test_tokenizer_comes_back(folder):
    assert read(folder)[2].get_vocab() == {"a": 0, "b": 1, "c": 2}


def test_dtype_converts_weights_and_config(folder):
    model, params, _ = read(folder, dtype=jnp.bfloat16)
    exact = read(folder)[1]
    assert model.config.dtype == "bfloat16"
    assert all((params[name] == exact[name].astype(jnp.bfloat16)).all() for name in exact)


def test_mesh_replicates(folder):
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    for weight in read(folder, mesh=mesh)[1].values():
        assert weight.sharding.is_fully_replicated
        assert weight.sharding.device_set == set(jax.devices())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "config.json has format 'other', expected 'jaxinterp'"),
        ({"version": 2}, r"config.json has version 2, and this jaxinterp reads 1"),
        ({"config": [1]}, "config.json must hold a 'config' object, got list"),
        ({"config": {"n_layer": 2}}, "config.json: unknown config field 'n_layer'; did you mean 'n_layers'"),
        ({"config": {"n_layers": 2}}, "config.json: .*missing .*'d_model'"),
        ({"config": {"n_layers": 0, "d_model": 8, "n_heads": 2, "d_vocab": 5}}, "config.json: n_layers must be"),
    ],
)
def test_bad_configs(folder, changes, message):
    edit_config(folder, **changes)
    with pytest.raises(ValueError, match=message):
        read(folder)


@pytest.mark.parametrize("text", [b"{", b"\xff\xfe", b"[1]"])
def test_malformed_config(folder, text):
    (folder / "config.json").write_bytes(text)
    with pytest.raises(ValueError, match=r"config\.json"):
        read(folder)


def test_no_config(folder):
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"model is not a checkpoint: it has no config\.json"):
        read(folder)


def poison(value, count):
    def edit(arrays):
        arrays["W_O"].flat[:count] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (poison(np.nan, 3), "'W_O' in .*model.safetensors holds 3 values that are NaN or infinite"),
        (poison(-np.inf, 1), "'W_O' in .*model.safetensors holds 1 values that are NaN or infinite"),
        (lambda arrays: arrays.pop("b_K"), "model: params lack 'b_K'"),
        (lambda arrays: arrays.update(W_X=np.ones(3, np.float32)), "model: params hold 'W_X'"),
        (
            lambda arrays: arrays.update(W_pos=np.ones((3, 8), np.float32)),
            r"W_pos has shape \(3, 8\), expected \(4, 8\) \('n_ctx', 'd_model'\)",
        ),
        (lambda arrays: arrays.update(W_E=np.ones((5, 8), np.int8)), "'W_E' in .* is I8, expected one of: F16"),
    ],
)
def test_bad_weights(folder, edit, message):
    edit_weights(folder, edit)
    with pytest.raises(ValueError, match=message):
        read(folder)


def test_values_too_large_for_the_dtype(folder):
    edit_weights(folder, poison(1e6, 2))
    with pytest.raises(ValueError, match=r"'W_O' in .* holds 2 values too large for float16"):
        read(folder, dtype="float16")


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        ("float33", "unknown dtype 'float33'; did you mean 'float32'"),
        ("int8", "dtype 'int8' cannot hold weights"),
        ("float64", r"float64 weights need `with jax.enable_x64\(True\):`"),
    ],
)
def test_bad_dtype(folder, dtype, message):
    with pytest.raises(ValueError, match=message):
        read(folder, dtype=dtype)


def test_float64_file_without_x64(folder):
    edit_weights(folder, lambda arrays: arrays.update(W_E=arrays["W_E"].astype(np.float64)))
    with pytest.raises(ValueError, match="float64 weights need"):
        read(folder)
    assert read(folder, dtype="float32")[1]["W_E"].dtype == "float32"


@pytest.mark.parametrize("kept", [0, 20, 400, -1])
def test_truncated_weights(folder, kept):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"model\.safetensors is not a whole safetensors file"):
        read(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt", "weights.pth", "last.ckpt"])
def test_pickle_is_refused(folder, name):
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(ValueError, match=f"{name} is pickled.*Convert it to safetensors"):
        read(folder)


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds neither model.safetensors nor"):
        read(folder)


def test_tokenizer_beyond_the_vocabulary(folder):
    words("a", "b", "c", "d", "e", "f").save(str(folder / "tokenizer.json"))
    with pytest.raises(ValueError, match="token 'f' at id 5, but the model's vocabulary is 5"):
        read(folder)


def test_malformed_tokenizer(folder):
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer.json is not a tokenizer"):
        read(folder)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda params: params.pop("W_E"), "params lack 'W_E'"),
        (lambda params: params.update(W_E=np.ones((5, 7))), r"W_E has shape \(5, 7\), expected \(5, 8\)"),
        (lambda params: params.update(W_E=np.full((5, 8), np.nan)), "'W_E' holds 40 values that are NaN"),
        (lambda params: params.update(W_E=np.ones((5, 8), np.int32)), "dtype 'int32' cannot hold weights"),
    ],
)
def test_save_refuses_what_cannot_be_read_back(tmp_path, edit, message):
    model = Transformer(SMALL)
    params = draw(SMALL)
    edit(params)
    with pytest.raises(ValueError, match=message):
        save(tmp_path / "model", model, params)
    assert not list(tmp_path.iterdir())


def test_save_refuses_other_formats_and_what_is_too_large_for_them(tmp_path):
    model, params = Transformer(SMALL), draw(SMALL)
    with pytest.raises(ValueError, match="unknown format 'orbx'; did you mean 'orbax'"):
        save(tmp_path / "model", model, params, format="orbx")
    with pytest.raises(ValueError, match="stored_as='float64' is wider"):
        save(tmp_path / "model", model, params, stored_as="float64")
    with pytest.raises(ValueError, match="the tokenizer has token '}' at id 1657, but the model's vocabulary is 5"):
        save(tmp_path / "model", model, params, load("english")[2])
    with pytest.raises(TypeError, match=r"model must be a ji\.Transformer, got dict"):
        save(tmp_path / "model", params, model)
    params["W_E"][0, 0] = 1e6
    with pytest.raises(ValueError, match="'W_E', stored as float16, holds 1 values that are NaN or infinite"):
        save(tmp_path / "model", model, params, stored_as="float16")
    assert not list(tmp_path.iterdir())


@contextlib.contextmanager
def full_disk():
    """No file can grow beyond 1 kB; the weights of SMALL take more.

    Only around the call itself: the test runner's own output may be going to a file.
    """
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_full_disk_leaves_nothing_behind(tmp_path):
    model = Transformer(SMALL)
    params = draw(SMALL)
    with pytest.raises(OSError, match=r"cannot save a model to .*model: .*too large"), full_disk():
        save(tmp_path / "new" / "model", model, params)
    assert not list(tmp_path.iterdir())


def test_failed_save_keeps_the_checkpoint_that_was_there(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    model, params = Transformer(SMALL), draw(SMALL, seed=9)
    with pytest.raises(OSError, match="cannot save a model"), full_disk():
        save(folder, model, params)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    model = Transformer(SMALL)
    with pytest.raises(OSError, match=r"cannot save a model to .*file"):
        save(tmp_path / "file" / "model", model, draw(SMALL))
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_orbax_round_trip_is_bit_exact(tmp_path, dtype):
    with jax.enable_x64(dtype == "float64"):
        model, params = Transformer(SMALL), draw(SMALL, dtype)
        save(tmp_path / "model", model, params, words("a", "b"), format="orbax")
        again, weights, tokenizer = read(tmp_path / "model")
    assert again == model
    assert tokenizer.get_vocab() == {"a": 0, "b": 1}
    assert {name: (w.dtype, np.asarray(w).tobytes()) for name, w in weights.items()} == {
        name: (w.dtype, w.tobytes()) for name, w in params.items()
    }


def test_formats_replace_each_other(folder):
    model = Transformer(SMALL)
    for seed, format, name in (
        (1, "orbax", "model.orbax"),
        (2, "orbax", "model.orbax"),
        (3, None, "model.safetensors"),
    ):
        params = draw(SMALL, seed=seed)
        save(folder, model, params, format=format)
        assert {path.name for path in folder.iterdir()} == {"config.json", name}
        assert (read(folder)[1]["W_E"] == params["W_E"]).all()


def test_stored_in_less_precision(tmp_path):
    model, params = Transformer(SMALL), draw(SMALL)
    for format in ("safetensors", "orbax"):
        save(tmp_path, model, params, stored_as="bfloat16", format=format)
        again, weights, _ = read(tmp_path)
        assert again == model
        assert all((weights[name] == params[name].astype(jnp.bfloat16).astype(np.float32)).all() for name in params)
        assert weights["W_E"].dtype == "float32"
        assert read(tmp_path, dtype="bfloat16")[1]["W_E"].dtype == "bfloat16"


@pytest.fixture
def orbax_folder(tmp_path):
    """An Orbax checkpoint of SMALL, to be damaged."""
    save(tmp_path / "model", Transformer(SMALL), draw(SMALL), format="orbax")
    return tmp_path / "model"


@pytest.mark.parametrize("name", ["_METADATA", "manifest.ocdbt", "d/*"])
def test_damaged_orbax_folders(orbax_folder, name):
    for path in (orbax_folder / "model.orbax").glob(name):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"model\.orbax is not a whole Orbax folder .*: save it again"):
        read(orbax_folder)


def test_bad_weights_in_orbax_folders(orbax_folder, tmp_path):
    params = draw(SMALL) | {"W_O": np.full(weight_shapes(SMALL)["W_O"], 1e6, np.float32)}
    save(orbax_folder, Transformer(SMALL), params, format="orbax")
    with pytest.raises(ValueError, match=r"'W_O' in .*orbax, read as float16, holds 128 values that are NaN or inf"):
        read(orbax_folder, dtype="float16")
    with pytest.raises(ValueError, match="float64 weights need"):
        read(orbax_folder, dtype="float64")
    content = json.loads((orbax_folder / "config.json").read_text())
    edit_config(orbax_folder, config=content["config"] | {"d_vocab": 6, "d_vocab_out": 6})
    with pytest.raises(ValueError, match=r"W_E has shape \(5, 8\), expected \(6, 8\)"):
        read(orbax_folder)


KILLED = """
import os, signal, sys
import numpy as np
from pathlib import Path
from jaxinterp.io import checkpoints
from jaxinterp.model.config import TransformerConfig
from jaxinterp.model.params import weight_shapes
from jaxinterp.model.transformer import Transformer

CONFIG = TransformerConfig(n_layers=2, d_model=8, n_heads=2, d_vocab=5, n_ctx=4)
params = {n: np.full(shape, 3, np.float32) for n, shape in weight_shapes(CONFIG).items()}

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

def half(arrays, path):
    path.write_bytes(b"half")
    die()

def after(n):
    moves = iter(range(n))
    move = os.replace
    return lambda *paths: die() if next(moves, None) is None else move(*paths)

for folder, stage in zip(sys.argv[1::2], sys.argv[2::2]):
    pid = os.fork()
    if not pid:
        if stage == "write":
            checkpoints.save_file = half
        else:
            checkpoints.os.replace = after(int(stage))
        checkpoints.save(folder, Transformer(CONFIG), params, progress=False)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL, stage
"""


def test_killed_saves(tmp_path):
    """Killed as it writes, the checkpoint from before stays; as files are moved, one error says so. Then retried."""
    model, before, params = Transformer(SMALL), draw(SMALL), draw(SMALL, seed=5)
    stages = {tmp_path / f"{old}-{stage}": (old, stage) for old in ("new", "old") for stage in ("write", 0, 1)}
    for folder, (old, _) in stages.items():
        if old == "old":
            save(folder, model, before, words("a", "b"))
    arguments = [str(part) for folder, (_, stage) in stages.items() for part in (folder, stage)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    for folder, (old, stage) in stages.items():
        assert (folder / ".partial").is_dir()
        if (old, stage) == ("old", "write"):
            assert (read(folder)[1]["W_E"] == before["W_E"]).all()
            assert read(folder)[2] is not None
        else:
            with pytest.raises(FileNotFoundError, match=r"holds a save that was not finished: save it again"):
                load(folder)
        save(folder, model, params)
        assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
        assert (load(folder)[1]["W_E"] == params["W_E"]).all()


def test_bars(tmp_path, capsys, monkeypatch):
    """They appear when asked for and it takes long, and end at the whole."""
    monkeypatch.setattr(tqdm, "__init__", functools.partialmethod(tqdm.__init__, mininterval=0))
    monkeypatch.setattr(checkpoints, "byte_bar", without_delay)
    monkeypatch.setattr(weights, "byte_bar", without_delay)
    size = sum(weight.nbytes for weight in draw(SMALL).values())
    for progress in (True, False):
        save(tmp_path, Transformer(SMALL), draw(SMALL), progress=progress)
        read(tmp_path, progress=progress)
        told = capsys.readouterr().err
        for doing in ("saving", "loading"):
            assert (f"{doing}: 100%" in told) == progress
        assert (f"{size / 1024:.2f}k/{size / 1024:.2f}k" in told) == progress


def without_delay(doing, total, progress):
    return tqdm(desc=doing, total=total, unit="B", unit_scale=True, unit_divisor=1024, disable=not progress)


def test_folder_may_be_copied(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    assert read(tmp_path / "copy")[0] == read(folder)[0]
