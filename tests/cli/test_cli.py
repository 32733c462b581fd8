"""The command line from end to end: text in, a table, files and a figure out; errors in one line."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import xarray as xr
from tokenizers import Tokenizer, models, pre_tokenizers

import jaxinterp as ji
from jaxinterp.cli import main
from jaxinterp.io.results import write_whole
from jaxinterp.tasks.brackets import bracket_tokenizer

FAST = ("--n", "4", "--over", "layer", "pos", "--site", "resid_pre")


def test_the_default_sweep(tmp_path, capsys):
    assert main(["sweep", "--output", str(tmp_path), "--n", "4"]) == 0
    printed = capsys.readouterr().out
    assert "layer  head  pos" in printed
    assert "±" in printed
    assert "logit_diff" in printed
    effects = xr.load_dataarray(tmp_path / "effects.nc")
    assert effects.dims == ("layer", "head", "pos")
    assert effects.attrs["model"] == "english"
    rows = (tmp_path / "effects.csv").read_text().splitlines()
    assert len(rows) == 1 + effects.size
    assert rows[0].startswith("layer,head,pos")
    assert (tmp_path / "effects.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["effects.csv", "effects.nc", "effects.png"]


def test_estimates_verified_and_edges(tmp_path, capsys):
    nodes = ["attribute", *FAST, "--verify", "3", "--output", str(tmp_path)]
    assert main(nodes) == 0
    printed = capsys.readouterr().out
    assert "effect (share of the way)" in printed
    assert "nodes not patched, at most" in printed
    rows = (tmp_path / "localized.csv").read_text().splitlines()
    assert len(rows) == 1 + xr.load_dataarray(tmp_path / "effects.nc").size
    assert (tmp_path / "effects.png").read_bytes().startswith(b"\x89PNG")
    assert main(["edges", "--n", "4", "--top", "4", "--output", str(tmp_path / "edges")]) == 0
    assert capsys.readouterr().out.count(" -> ") == 4
    assert (tmp_path / "edges" / "edges.dot").read_text().count(" -> ") == 4
    assert (tmp_path / "edges" / "edges.csv").read_text().startswith("writer,reader,")
    assert main(["attribute", "--verify", "0"]) == 2
    assert "--verify must be at least 1" in capsys.readouterr().err


def test_directions_tasks_and_roles(tmp_path, capsys):
    options = ["--task", "agreement", "--direction", "noising", "--metric", "log_prob", "--raw", "--n", "6"]
    assert main(["sweep", "--over", "layer", "role", "--site", "resid_mid", "--output", str(tmp_path), *options]) == 0
    effects = xr.load_dataarray(tmp_path / "effects.nc")
    assert effects.attrs["direction"] == "noising"
    assert effects.attrs["normalized"] == 0
    assert "END" in effects.coords["role"].values
    assert effects.sel(role="END").attrs["base_metric"] > effects.attrs["source_metric"]


PAIR = {
    "clean": "monday tuesday wednesday",
    "corrupted": "friday saturday sunday",
    "correct": "thursday",
    "wrong": "monday",
}


def test_prompts_from_files_and_from_the_command_line(tmp_path, capsys):
    results = []
    (tmp_path / "pairs.jsonl").write_text(json.dumps(PAIR) + "\n\n")
    (tmp_path / "pairs.csv").write_text(",".join(PAIR) + "\n" + ",".join(PAIR.values()) + "\n")
    inline = [part for name, text in PAIR.items() for part in (f"--{name}", text)]
    for source in (["--prompts", f"{tmp_path}/pairs.jsonl"], ["--prompts", f"{tmp_path}/pairs.csv"], inline):
        assert main(["sweep", *source, *FAST[2:], "--output", str(tmp_path / "out")]) == 0
        results.append(xr.load_dataarray(tmp_path / "out" / "effects.nc"))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_cells_of_a_csv_keep_their_line_breaks(tmp_path):
    (tmp_path / "pairs.csv").write_text(",".join(PAIR) + '\n"a x\nb y",c d e f,g,h\n')
    assert ji.read_pairs(tmp_path / "pairs.csv")[0].clean == "a x\nb y"


def test_a_single_effect_can_be_saved(small, tmp_path):
    model, params, tokens = small
    effect = ji.evaluate(model, params, tokens, {"z": ji.zero()}, metric=ji.logit_diff(1, 2))
    labelled, table = ji.save_effects(effect, tmp_path)
    assert float(xr.load_dataarray(labelled)) == float(effect)
    assert len(table.read_text().splitlines()) == 2


def test_models_and_sites(capsys):
    assert main(["models"]) == 0
    assert "english" in capsys.readouterr().out
    assert main(["sites", "english"]) == 0
    assert "resid_pre" in capsys.readouterr().out


ROWS = {
    "not JSON": ("pairs.jsonl", '{"clean": "a"\n', "line 1: not JSON"),
    "no object": ("pairs.jsonl", f"{json.dumps(PAIR)}\n[1]\n", "line 2: expected an object"),
    "missing": ("pairs.jsonl", json.dumps({**PAIR, "wrong": ""}), "line 1: 'wrong' is missing"),
    "unknown field": (
        "pairs.jsonl",
        json.dumps({**PAIR, "corect": "x"}),
        r"line 1: unknown field 'corect'; did you mean 'correct'\?",
    ),
    "positions": ("pairs.jsonl", json.dumps({**PAIR, "positions": {"END": 9}}), "line 1: position 'END' is word 9"),
    "positions type": ("pairs.jsonl", json.dumps({**PAIR, "positions": 3}), "line 1: 'positions' must map"),
    "lengths": ("pairs.jsonl", json.dumps({**PAIR, "clean": "monday"}), "line 1: .*1 words and corrupted 3"),
    "empty": ("pairs.jsonl", "\n", "holds no prompts"),
    "header": ("pairs.csv", "clean,corrupted,correct\na,b,c\n", "line 1: the header lacks 'wrong'"),
    "field twice": ("pairs.jsonl", '{"clean": "a", "clean": "b"}', "line 1: 'clean' stands twice"),
    "column twice": ("pairs.csv", ",".join(PAIR) + ",clean\n", "line 1: 'clean' stands twice in the header"),
    "columns": ("pairs.csv", ",".join(PAIR) + "\na,b,c\n", "line 2: expected 4 fields"),
    "suffix": ("pairs.txt", "x", "end in .jsonl or .csv"),
    "encoding": ("pairs.jsonl", b"\xff\xfe\x00", "not UTF-8"),
}


@pytest.mark.parametrize("case", ROWS)
def test_malformed_prompts_files(tmp_path, case):
    name, content, message = ROWS[case]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        ji.read_pairs(path)


ERRORS = {
    "model": (["--model", "englsh"], "did you mean 'english'?"),
    "task": (["--task", "agrement"], "unknown task 'agrement'; did you mean 'agreement'?"),
    "site": (["--site", "resid"], "unknown site 'resid'"),
    "axis": (["--over", "layers"], "unknown axis 'layers' in over; did you mean 'layer'?"),
    "n": (["--n", "0"], "--n must be at least 1"),
    "top": (["--top", "0"], "--top must be at least 1"),
    "half a pair": (["--clean", "a b"], "each inline pair needs all of"),
    "no file": (["--prompts", "nowhere.jsonl"], "No such file"),
    "answer": (
        [x for k, v in (PAIR | {"correct": "thursdays"}).items() for x in (f"--{k}", v)],
        "the answer 'thursdays' is not one token",
    ),
    "unknown word": (
        [x for k, v in (PAIR | {"clean": "monday tuesday zzyx"}).items() for x in (f"--{k}", v)],
        "pair 0: the tokenizer does not know 'zzyx', in the clean prompt",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_one_line(tmp_path, capsys, case):
    options, message = ERRORS[case]
    assert main(["sweep", "--output", str(tmp_path / "out"), *options]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.startswith("jaxinterp sweep: error: ")
    assert "Traceback" not in told
    assert not (tmp_path / "out").exists()


def test_an_unwritable_folder_is_told(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert main(["sweep", *FAST, "--output", str(tmp_path / "file")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_a_full_disk_leaves_nothing_partial(tmp_path):
    def write(path):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"cannot write .*effects.csv: No space left on device"):
        write_whole(tmp_path / "effects.csv", write)
    assert list(tmp_path.iterdir()) == []


def test_help_shows_examples():
    done = subprocess.run(
        [sys.executable, "-c", "from jaxinterp.cli import main; main(['sweep', '--help'])"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )
    assert done.returncode == 0
    assert "jaxinterp sweep --site resid_pre --over layer pos" in done.stdout


def test_a_sweep_tells_its_plan_and_goes_on_where_it_stopped(tmp_path, capsys, monkeypatch):
    from jaxinterp.patching import engine

    monkeypatch.chdir(tmp_path)
    sweep = ["sweep", "--over", "layer", "head", "--n", "4"]
    assert main([*sweep, "--plan"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("36 cells asked, 36 to run, 4 prompts in 1 batch")
    assert not list(tmp_path.iterdir()), "a plan writes nothing"
    assert main([*sweep, "--resume"]) == 0
    first = capsys.readouterr().out
    monkeypatch.setattr(engine, "_run_work", None)  # nothing is left to run
    assert main([*sweep, "--resume"]) == 0
    assert capsys.readouterr().out == first
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert main([*sweep, "--resume", "--site", "q"]) == 2
    assert "holds a sweep of another sweep" in capsys.readouterr().err


def test_card_of_an_untrained_model(tmp_path, capsys):
    sizes = {"n_layers": 1, "d_model": 8, "n_heads": 2, "d_vocab": 5, "d_vocab_out": 2, "n_ctx": 42}
    model = ji.Transformer(ji.TransformerConfig(**sizes, causal=False, tie_embeddings=False))
    ji.save(tmp_path / "model", model, model.init(jax.random.key(0)), bracket_tokenizer())
    command = ["card", "brackets", "--model", str(tmp_path / "model"), "--n", "20", "--output", str(tmp_path / "out")]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "(**not held**)" in printed  # nobody trained it
    assert "There is no `training.json`" in printed
    assert (tmp_path / "out" / "README.md").read_text() in printed + "\n"
    assert (tmp_path / "out" / "strings.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (("bracket",), "unknown card 'bracket'; did you mean 'brackets'?"),
        (("brackets", "--model", "english"), "expected a bidirectional model of 42 positions and 2 logits"),
        (("english", "--twin", "there"), "twin is for the card of 'induction' alone, got it for 'english'"),
        (("induction", "--model", "nowhere"), "no built-in model and no folder is called 'nowhere'"),
    ],
)
def test_errors_of_card(typed, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["card", *typed]) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir()), "nothing is made"


def test_natural_prompts_are_made_for_the_models_tokenizer(tmp_path, capsys):
    words = ["<unk>", "When", "Mary", "and", "John", "went", "to", "the", "store", ",", "gave", "a", "drink", "Tom"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    sizes = {"n_layers": 2, "d_model": 8, "n_heads": 2, "d_vocab": len(words), "n_ctx": 16}
    model = ji.Transformer(ji.TransformerConfig(**sizes))
    ji.save(tmp_path / "model", model, model.init(jax.random.key(0)), tokenizer)
    command = ["sweep", "--model", str(tmp_path / "model"), "--output", str(tmp_path / "out"), "--n", "6"]
    assert main([*command, "--task", "natural.indirect_objects", "--over", "layer", "role"]) == 0
    told = capsys.readouterr()
    assert "left out: 106 names that are not one token" in told.err
    effects = xr.load_dataarray(tmp_path / "out" / "effects.nc")
    assert set(effects.coords["role"].values) == {"IO", "S1", "S1+1", "S2", "END"}
    assert effects.attrs["n_prompts"] == 6

    assert main([*command, "--task", "natural.facts"]) == 2
    assert "facts" in capsys.readouterr().err
    assert main([*command, "--task", "natural.fact"]) == 2
    assert "unknown task 'natural.fact'; did you mean 'natural.facts'?" in capsys.readouterr().err


def test_convert(tmp_path, capsys):
    golden = Path(__file__).parents[1] / "goldens" / "llama-grouped"
    model, params, _ = ji.load(golden)
    out = tmp_path / "new" / "model"
    for options in ([], ["--to", "orbax"], ["--dtype", "bfloat16"], ["--dtype", "float64"]):
        assert main(["convert", str(golden), str(out), *options]) == 0
        assert str(out) in capsys.readouterr().out
        assert (out / "model.orbax").is_dir() == ("orbax" in options)
        with jax.enable_x64(True):
            again, weights, _ = ji.load(out)
        dtype = options[1] if "--dtype" in options else "float32"
        assert again.config == dataclasses.replace(model.config, dtype=dtype)
        assert all((np.asarray(w) == np.asarray(params[name]).astype(dtype)).all() for name, w in weights.items())
    assert main(["convert", "english", str(tmp_path / "english")]) == 0
    assert ji.load(tmp_path / "english")[2].get_vocab() == ji.load("english")[2].get_vocab()


def test_convert_overwrites_only_what_it_may(tmp_path, capsys):
    golden = Path(__file__).parents[1] / "goldens" / "gpt2-tied"
    theirs = shutil.copytree(golden, tmp_path / "theirs")
    before = {path.name: path.read_bytes() for path in theirs.iterdir()}

    def refused(source, destination, message):
        assert main(["convert", str(source), str(destination)]) == 2
        told = capsys.readouterr().err
        assert told.startswith("jaxinterp convert: error: ")
        assert message in told
        assert len(told.splitlines()) == 1

    refused("english", theirs, "theirs holds what ji.save did not write: give another folder, or --overwrite")
    refused(theirs, theirs, "theirs is the model itself: give another folder")
    (tmp_path / "file").write_text("mine")
    refused("english", tmp_path / "file", "file holds what ji.save did not write")
    refused("nowhere", tmp_path / "new", "no built-in model and no folder is called 'nowhere'")
    refused(tmp_path / "new" / "model", tmp_path / "out", "no built-in model and no folder")
    assert {path.name: path.read_bytes() for path in theirs.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "theirs"]

    (tmp_path / "empty").mkdir()
    (tmp_path / "killed" / ".partial").mkdir(parents=True)
    for folder in ("empty", "killed", "killed"):
        assert main(["convert", str(theirs), str(tmp_path / folder)]) == 0
    assert main(["convert", "english", str(theirs), "--overwrite"]) == 0
    assert ji.load(theirs)[0] == ji.load("english")[0]
