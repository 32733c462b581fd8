"""The recipe of `models/english`, killed and started again (slow: three short trainings), and what recipes refuse."""

import json

import pytest
from recipes import MODELS, assert_same_weights, kill, recipe, refusal, run
from tokenizers import Tokenizer

from jaxinterp.tasks import word_tokenizer

FOLDER = MODELS / "english"
RECIPE = recipe("english", "--cycles", "2", "--steps", "60", "--batch", "4", "--save-every", "10", "--cases", "8")


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_weights_of_an_undisturbed_one(tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    run(RECIPE, undisturbed)
    kill(RECIPE, killed, after="cycles/2/training/20")
    begun = (killed / "cycles" / "1" / "model.safetensors").stat().st_mtime_ns
    again = run(RECIPE, killed)
    assert "| 0/60 " not in again.stderr
    assert (killed / "cycles" / "1" / "model.safetensors").stat().st_mtime_ns == begun, "a cycle is not run again"
    assert_same_weights(undisturbed, killed)
    assert "remove it or go on with that" in refusal((*RECIPE, "--seed", "1"), killed)


@pytest.mark.parametrize("model", ["english", "brackets", "induction"])
def test_recipes_refuse_what_cannot_be_trained_before_anything_is_made(model, tmp_path):
    found = refusal(recipe(model, "--steps", "0"), tmp_path / "new")
    assert found.endswith("error: --steps must be at least 1, got 0")
    assert not (tmp_path / "new").exists()


def test_the_committed_model_has_the_vocabulary_of_the_tasks():
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    assert tokenizer.to_str() == word_tokenizer().to_str()
    config = json.loads((FOLDER / "config.json").read_text())["config"]
    assert config["d_vocab"] == tokenizer.get_vocab_size()
    committed = ("config.json", "model.safetensors", "tokenizer.json", "training.json")
    assert sum((FOLDER / name).stat().st_size for name in committed) < 6_000_000
