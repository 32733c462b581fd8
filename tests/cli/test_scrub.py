"""`jaxinterp scrub` from end to end: a claim of the library's, a user's own, and errors in one line."""

import json
import sys

import jax
import numpy as np
import pytest

import jaxinterp as ji
from jaxinterp.cli import main
from jaxinterp.io.corpus import PARTS, part_of
from jaxinterp.tasks.text import byte_pair_tokenizer

OWN = """
import jax.numpy as jnp
import numpy as np
import jaxinterp as ji

def claim():
    graph = ji.Graph({"a": ji.Node(lambda _, x: x[0] > 3, ("input",)), "b": ji.Node(lambda _, x: x[1] > 3, ("input",)),
                      "either": ji.Node(lambda _, a, b: jnp.float32(a | b), ("a", "b"))}, output="either",
                     loss=lambda either, x: jnp.abs(either - (x > 3).any()))
    features = {"large": ji.Feature(lambda x: (x > 3).any(1), ("first",)), "first": ji.Feature(lambda x: x[:, 0] > 3)}
    data = np.random.default_rng(0).integers(0, 7, (50, 2))
    return ji.Hypothesis(graph, features, {"large": "either", "first": "a"}), None, data

wrong = 3
"""


def test_a_users_own_claim(tmp_path, capsys):
    (tmp_path / "own.py").write_text(OWN)
    assert main(["scrub", f"{tmp_path}/own.py:claim", "--samples", "1e3", "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "  a: first (agree)" in printed
    assert "recovered" in printed
    told = json.loads((tmp_path / "out" / "scrub.json").read_text())
    assert 0 < told["recovered"] < 1
    assert told["n_samples"] == 1000
    assert (tmp_path / "out" / "scrub.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_claims_about_brackets(tmp_path, capsys):
    run = ["scrub", "brackets", "--claim", "1+3", "--samples", "2000", "--n", "500", "--output", str(tmp_path)]
    assert main([*run, "--through", "m2", "--count", "a1.h1", "2.1", "--horizon", "a2.h0"]) == 0
    assert "horizon at 0 (agree)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bracket"], "expected brackets, induction or FILE.py:NAME, got 'bracket'"),
        (["missing.py:claim"], "no such file: missing.py"),
        (["own.py:other"], "own.py has no 'other'"),
        (["own.py:wrong"], "must be (hypothesis, params, dataset)"),
        (["brackets", "--horizon", "head two"], "expected a head such as a1.h0"),
        (["brackets", "--heads", "a1.h0"], "--heads is of induction alone, and says nothing about 'brackets'"),
        (["own.py:claim", "--n", "5"], "--n is of brackets and induction alone"),
    ],
)
def test_what_cannot_be_meant_is_told(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    assert main(["scrub", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_claims_about_induction(tmp_path, capsys):
    rng = np.random.default_rng(0)
    texts = {}
    for part in PARTS:
        names = [name for name in map("package{}".format, range(300)) if part_of(name) == part][:3]
        # each says a word of its own over and over
        texts |= {name: "".join(rng.permutation(list("abcdefgh"))) * 100 for name in names}
    (tmp_path / "text").mkdir()
    for name, text in texts.items():
        (tmp_path / "text" / f"{name}.txt").write_text(text)
    config = ji.TransformerConfig(
        n_layers=2, d_model=16, n_heads=1, d_vocab=257, n_ctx=24, attn_only=True, positions="qk", tie_embeddings=False
    )
    model = ji.Transformer(config)
    ji.save(tmp_path / "model", model, model.init(jax.random.key(0)), byte_pair_tokenizer(texts.values(), size=257))
    run = ["scrub", "induction", "--model", f"{tmp_path}/model", "--corpus", f"{tmp_path}/text"]
    run += ["--output", str(tmp_path / "out"), "--samples", "200", "--n", "100"]
    assert main([*run, "--refine", "current position", "--heads", "a1.h0"]) == 0
    printed = capsys.readouterr().out
    assert "induction heads: a1.h0; heads that attend to repeats: a0.h0" in printed
    assert "a0.h0.here" in printed
    assert "one of 8 tokens that induction helps with" in printed
    told = json.loads((tmp_path / "out" / "scrub.json").read_text())
    assert told["of the heads"]["error"] > 0
    assert main([*run, "--heads", "a0.h1"]) == 2
    assert "--heads: expected heads of layer 1, got 'a0.h1'" in capsys.readouterr().err
    assert main([*run, "--refine", "repeat"]) == 2
    assert "did you mean 'repeats'" in capsys.readouterr().err


def test_classes_that_print_alike_and_modules_beside_the_file(tmp_path, monkeypatch, capsys):
    (tmp_path / "beside_the_claim.py").write_text("WHERE = 3\n")
    text = OWN.replace("import numpy as np", "import numpy as np\nfrom beside_the_claim import WHERE")
    mixed = "lambda x: [1 if row[0] > WHERE else '1' for row in x]"
    text = text.replace("lambda x: (x > 3).any(1)", mixed)
    (tmp_path / "own.py").write_text("from __future__ import annotations\n" + text)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert main(["scrub", f"{tmp_path}/own.py:claim", "--samples", "100", "--output", str(tmp_path / "out")]) == 0
    assert len([line for line in capsys.readouterr().out.splitlines() if line.startswith("1  ")]) == 2
