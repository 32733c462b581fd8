"""The recipe of `models/induction` on a small folder of text, killed and started again."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from recipes import assert_same_weights, kill, recipe, refusal, run

from jaxinterp.io.corpus import PARTS, part_of

SIZES = ("--steps", "60", "--batch", "2", "--n-ctx", "12", "--d-model", "16", "--heads", "2", "--vocab", "280")
RECIPE = recipe("induction", *SIZES, "--save-every", "10")


def write_corpus(folder):
    """Three packages for each part, of two files each."""
    words = [f"word{n}" for n in range(30)]
    rng = np.random.default_rng(0)
    names = {part: [name for name in map("package{}".format, range(300)) if part_of(name) == part] for part in PARTS}
    for name in (name for some in names.values() for name in some[:3]):
        (folder / name).mkdir(parents=True)
        for file in ("one.txt", "two.txt"):
            lines = (" ".join(rng.choice(words, size=6)) for _ in range(20))
            (folder / name / file).write_text("\n".join(lines))


def test_one_package_to_evaluate_on_is_refused_before_training(tmp_path):
    write_corpus(tmp_path / "text")
    packages = [folder for folder in (tmp_path / "text").iterdir() if part_of(folder.name) == "evaluation"]
    for folder in packages[1:]:
        shutil.rmtree(folder)
    told = refusal((*RECIPE, "--corpus", str(tmp_path / "text")), tmp_path / "model")
    assert "at least two packages to evaluate on" in told
    assert not (tmp_path / "model").exists()


@pytest.mark.slow  # three short trainings
def test_a_killed_run_goes_on_to_the_weights_of_an_undisturbed_one(tmp_path):
    write_corpus(tmp_path / "text")
    command = (*RECIPE, "--corpus", str(tmp_path / "text"))
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    run(command, undisturbed)
    kill(command, killed, after="training/20")
    assert "| 0/60 " not in run(command, killed).stderr
    assert_same_weights(undisturbed, killed)
    for folder in (undisturbed, killed):
        record = json.loads((folder / "training.json").read_text())
        assert record["steps"] == 60
        assert record["settings"]["layers"] == 2
        assert "# induction" in (folder / "README.md").read_text()
        assert {"heads.png", "positions.png", "loss.png", "manifest.json"} <= {path.name for path in folder.iterdir()}

    added = next(name for name in map("more{}".format, range(100)) if part_of(name) == "train")
    (tmp_path / "text" / f"{added}.txt").write_text("text that was not there before")
    assert "remove it or go on with that" in refusal(command, killed)

    twin = tmp_path / "twin"
    (tmp_path / "text" / f"{added}.txt").unlink()
    run((*command, "--layers", "1"), twin)
    card = (
        str(Path(sys.executable).with_name("jaxinterp")),
        "card",
        "induction",
        "--corpus",
        str(tmp_path / "text"),
        "--n",
        "8",
    )
    done = subprocess.run(
        [*card, "--model", str(killed), "--twin", str(twin), "--output", str(tmp_path / "card")],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "This model minus the one-layer twin" in done.stdout
    assert "is not the text" not in done.stderr
    (tmp_path / "text" / f"{added}.txt").write_text("text that was not there before")
    card = (*card, "--model", str(killed), "--output", str(tmp_path / "card"))
    done = subprocess.run(card, check=True, capture_output=True, text=True)
    assert "0 files changed, 0 missing and 1 new" in done.stderr
    assert "not the text that the model was trained on**: of its files, 0 changed, 0 missing, 1 new." in done.stdout
