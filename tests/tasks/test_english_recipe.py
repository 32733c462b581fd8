"""The recipe of `models/english`, killed and started again (slow: three short trainings), and what recipes refuse."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from jaxinterp.tasks import word_tokenizer

FOLDER = Path(__file__).parents[2] / "models" / "english"
SIZES = ("--cycles", "2", "--steps", "60", "--batch", "4", "--save-every", "10", "--cases", "8")
RECIPE = (sys.executable, str(FOLDER / "train.py"), *SIZES)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_weights_of_an_undisturbed_one(tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    subprocess.run([*RECIPE, "--folder", str(undisturbed)], check=True, capture_output=True)

    run = subprocess.Popen([*RECIPE, "--folder", str(killed)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (killed / "cycles" / "2" / "training" / "20").exists():
        assert run.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.01)
    run.kill()
    run.wait()
    assert not (killed / "model.safetensors").exists()

    begun = (killed / "cycles" / "1" / "model.safetensors").stat().st_mtime_ns
    again = subprocess.run([*RECIPE, "--folder", str(killed)], check=True, capture_output=True, text=True)
    assert "| 20/60 " in again.stderr or "| 30/60 " in again.stderr or "| 40/60 " in again.stderr
    assert (killed / "cycles" / "1" / "model.safetensors").stat().st_mtime_ns == begun, "a cycle is not run again"
    expected, found = (load_file(folder / "model.safetensors") for folder in (undisturbed, killed))
    assert expected.keys() == found.keys()
    for name, weights in expected.items():
        np.testing.assert_array_equal(weights, found[name], err_msg=name)

    other = subprocess.run([*RECIPE, "--seed", "1", "--folder", str(killed)], capture_output=True, text=True)
    assert other.returncode != 0
    assert "remove it or go on with that" in other.stderr


@pytest.mark.parametrize("model", ["english", "brackets", "induction"])
def test_recipes_refuse_what_cannot_be_trained_before_anything_is_made(model, tmp_path):
    recipe = [sys.executable, str(FOLDER.with_name(model) / "train.py"), "--folder", str(tmp_path / "new")]
    found = subprocess.run([*recipe, "--steps", "0"], capture_output=True, text=True)
    assert found.returncode == 2
    assert found.stderr.endswith("error: --steps must be at least 1, got 0\n")
    assert not (tmp_path / "new").exists()


def test_the_committed_model_has_the_vocabulary_of_the_tasks():
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    assert tokenizer.to_str() == word_tokenizer().to_str()
    config = json.loads((FOLDER / "config.json").read_text())["config"]
    assert config["d_vocab"] == tokenizer.get_vocab_size()
    committed = ("config.json", "model.safetensors", "tokenizer.json", "training.json")
    assert sum((FOLDER / name).stat().st_size for name in committed) < 6_000_000
