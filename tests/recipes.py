"""Recipes run as a user runs them: undisturbed, and killed and started again."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

MODELS = Path(__file__).parents[1] / "models"


def recipe(model, *flags):
    """The command that trains a model."""
    return (sys.executable, str(MODELS / model / "train.py"), *flags)


def run(command, folder):
    """A recipe that runs to its end."""
    return subprocess.run([*command, "--folder", str(folder)], check=True, capture_output=True, text=True)


def refusal(command, folder):
    """What a recipe that must not run says last."""
    found = subprocess.run([*command, "--folder", str(folder)], capture_output=True, text=True)
    assert found.returncode != 0
    return found.stderr.splitlines()[-1]


def kill(command, folder, after):
    """Kills a recipe once the checkpoint `after`, a path inside its folder, is there."""
    running = subprocess.Popen(
        [*command, "--folder", str(folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while not (folder / after).exists():
        assert running.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.01)
    running.kill()
    running.wait()
    assert not (folder / "model.safetensors").exists()


def assert_same_weights(folder, other):
    """Every array of the two models is the same, to the bit."""
    expected, found = (load_file(each / "model.safetensors") for each in (folder, other))
    assert expected.keys() == found.keys()
    for name, weights in expected.items():
        np.testing.assert_array_equal(weights, found[name], err_msg=name)
