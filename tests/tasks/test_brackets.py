"""Brackets: features against definitions written out string by string, kinds, splits, and the recipe of the model."""

import hashlib

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recipes import assert_same_weights, kill, recipe, refusal, run

import jaxinterp as ji
from jaxinterp.tasks.bracket_strings import KINDS, MAX_BRACKETS, MIXTURE, NEAR_MISSES
from jaxinterp.tasks.brackets import (
    N_TOKENS,
    VOCABULARY,
    balanced,
    bracket_tokenizer,
    brackets,
    count,
    held_out,
    horizon,
    horizon_classes,
    open_proportion,
    start_open,
    tokenize_brackets,
)

texts = st.lists(st.text("()", min_size=1, max_size=MAX_BRACKETS), min_size=1, max_size=5)


def depths(string):
    """The depth after each bracket, from the left."""
    return [string[: i + 1].count("(") - string[: i + 1].count(")") for i in range(len(string))]


def is_balanced(string):
    """By taking out `()` until nothing changes."""
    while "()" in string:
        string = string.replace("()", "")
    return not string


def of_kind(kind, n=300, seed=5):
    return brackets(n, seed=seed, kinds=(kind,)).strings


@given(texts)
def test_features_are_what_they_are_defined_to_be(strings):
    tokens = tokenize_brackets(strings).tokens
    proportion, classes = open_proportion(tokens), horizon_classes(tokens)
    for row, string in enumerate(strings):
        assert balanced(tokens)[row] == is_balanced(string)
        assert count(tokens)[row] == (string.count("(") == string.count(")"))
        assert start_open(tokens)[row] == string.startswith("(")
        suffixes = [string[i:] for i in range(len(string))]
        assert horizon(tokens)[row] == all(s.count("(") <= s.count(")") for s in suffixes)
        expected = [suffix.count("(") / len(suffix) for suffix in (string, *suffixes)]
        np.testing.assert_array_equal(proportion[row, : len(string) + 1], expected)
        assert np.isnan(proportion[row, len(string) + 1 :]).all()
        last = 1 if string.endswith(")") else -1
        met = [-2 if p > 0.5 else 2 for p in expected]
        assert classes[row].tolist() == [*met, last, *[0] * (MAX_BRACKETS - len(string))]
        assert horizon(tokens)[row] == (classes[row] >= 0).all()


@given(texts)
def test_text_and_tokens_and_back(strings):
    prompts, tokenizer = tokenize_brackets(strings), bracket_tokenizer()
    assert prompts.tokens.shape == prompts.mask.shape == (len(strings), N_TOKENS)
    for row, string in enumerate(strings):
        ids = tokenizer.encode(string).ids
        assert prompts.tokens[row].tolist() == ids + [1] * (N_TOKENS - len(ids))
        assert prompts.mask[row].sum() == len(ids) == len(string) + 2
        assert tokenizer.decode(ids) == string
        assert prompts.strings[row] == tuple(VOCABULARY[i] for i in prompts.tokens[row])


def test_the_mixture_is_consistent():
    data = brackets(5000, seed=0)
    assert len(data) == 5000
    assert data.tokens.shape == (5000, N_TOKENS)
    assert all(a.dtype == np.int32 for a in (data.tokens, data.label, data.kind, data.lengths))
    strings = data.strings
    assert data.label.tolist() == [is_balanced(string) for string in strings]
    assert data.lengths.tolist() == [len(string) for string in strings]
    np.testing.assert_array_equal(data.tokens, tokenize_brackets(strings).tokens)
    np.testing.assert_array_equal(data.mask, tokenize_brackets(strings).mask)
    shares = np.bincount(data.kind, minlength=len(KINDS)) / len(data)
    np.testing.assert_allclose(shares, [MIXTURE.count(kind) / len(MIXTURE) for kind in KINDS], atol=0.03)
    assert 0.42 < data.label.mean() < 0.52
    assert len(set(strings)) > 4500


def test_balanced_strings_have_every_length_and_depth():
    strings = of_kind("balanced", 20_000)
    assert all(map(is_balanced, strings))
    assert {len(string) for string in strings} == set(range(2, MAX_BRACKETS + 1, 2))
    deepest = np.array([max(depths(string)) for string in strings if len(string) == MAX_BRACKETS])
    assert set(deepest) >= set(range(2, 20))  # of depth 1 and 20 there is one string each
    assert np.mean(deepest > 12) > 0.05
    assert np.mean(deepest < 4) > 0.05


def test_near_misses_miss_by_what_they_say():
    flip = str.maketrans("()", ")(")
    for string in of_kind("flipped"):
        assert any(is_balanced(string[:i] + string[i].translate(flip) + string[i + 1 :]) for i in range(len(string)))
    for string in of_kind("dropped"):
        assert len(string) % 2
        longer = [string[:i] + each + string[i:] for i in range(len(string) + 1) for each in "()"]
        assert any(map(is_balanced, longer))
    for string in of_kind("swapped", 100) + of_kind("starts_closed", 100) + of_kind("ends_open", 100):
        closes, opens = ([i for i, each in enumerate(string) if each == c] for c in ")(")
        pairs = [(i, j) for i in closes for j in opens if i < j]
        back = [f"{string[:i]}({string[i + 1 : j]}){string[j + 1 :]}" for i, j in pairs]
        assert any(map(is_balanced, back))
        assert not is_balanced(string)
    assert all(string.startswith(")") for string in of_kind("starts_closed"))
    assert all(string.endswith("(") for string in of_kind("ends_open"))


def test_a_dip_is_at_one_place_anywhere():
    places = []
    for string in of_kind("dip", 3000):
        below = [i for i, depth in enumerate(depths(string)) if depth < 0]
        assert len(below) == 1
        assert is_balanced(string[: below[0]] + string[below[0] + 2 :])
        if len(string) == MAX_BRACKETS:
            places.append(below[0])
    assert set(places) == set(range(0, MAX_BRACKETS, 2))


def test_the_other_kinds():
    assert all(string.count("(") == string.count(")") for string in of_kind("shuffled"))
    coins = of_kind("random", 3000)
    assert {len(string) % 2 for string in coins} == {0, 1}
    assert abs("".join(coins).count("(") / len("".join(coins)) - 0.5) < 0.01
    for kind in NEAR_MISSES:
        assert not brackets(300, seed=1, kinds=(kind,)).label.any(), kind


def test_a_seed_decides_and_a_longer_list_starts_with_the_shorter():
    long, short = brackets(5000, seed=3), brackets(70, seed=3)
    jax.tree.map(np.testing.assert_array_equal, long[:70], short)
    assert long[np.arange(len(long)) < 2].strings == long.strings[:2]
    assert brackets(70, seed=4).strings != short.strings
    assert brackets(70, seed=(3, 1)).strings != short.strings
    assert len(brackets(0, seed=0)) == 0


@pytest.mark.parametrize(("split", "expected"), [("train", "fb30a04ff4191b03"), ("held_out", "3bf4ad58c52163b9")])
def test_the_strings_are_what_they_were_when_the_models_were_scrubbed(split, expected):
    data = brackets(2000, seed=0, split=split)
    assert hashlib.sha256(data.tokens.tobytes() + data.label.tobytes()).hexdigest()[:16] == expected


def test_splits_are_disjoint_by_the_string_alone():
    train, held = brackets(20_000, seed=0), brackets(5000, seed=0, split="held_out")
    assert not set(train.strings) & set(held.strings)
    assert not held_out(train.tokens).any()
    assert held_out(held.tokens).all()
    every = [format(i, "b")[1:].replace("0", "(").replace("1", ")") for i in range(2, 2**13)]
    tokens = tokenize_brackets(every).tokens
    assert abs(held_out(tokens).mean() - 0.1) < 0.01
    narrow = np.array(bracket_tokenizer().encode("(()())").ids)[None]
    assert held_out(narrow) == held_out(tokenize_brackets(["(()())"]).tokens)


def test_the_data_are_prompts_of_a_model():
    config = ji.TransformerConfig(
        n_layers=1, d_model=8, n_heads=2, d_vocab=5, d_vocab_out=2, n_ctx=42, causal=False, tie_embeddings=False
    )
    model = ji.Transformer(config)
    params = model.init(jax.random.key(0))
    data = brackets(20, seed=0)
    padded, _ = model.apply(params, data.prompts.tokens, mask=data.prompts.mask)
    short = bracket_tokenizer().encode(data.strings[0]).ids
    alone, _ = model.apply(params, np.array([short]))
    np.testing.assert_allclose(padded[0, 0], alone[0, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: brackets(1, seed=-1), "seed must be 0 or more, got -1"),
        (lambda: brackets(-1, seed=0), "n must not be negative, got -1"),
        (lambda: brackets(1, seed=0, split="test"), "unknown split 'test'; expected one of: train, held_out"),
        (lambda: brackets(1, seed=0, kinds=("deep",)), "unknown kind 'deep'; expected one of: balanced, flipped"),
        (lambda: brackets(1, seed=0, kinds="dip"), "kinds must be a sequence of one or more of: .*; got 'dip'"),
        (lambda: brackets(1, seed=0, kinds=()), "kinds must be a sequence of one or more of"),
        (lambda: tokenize_brackets(["()", "(a)"]), r"string 1 has 'a' at 1; expected '\(' and '\)' alone"),
        (lambda: tokenize_brackets(["x"]), "string 0 has 'x' at 0"),
        (lambda: tokenize_brackets(["()", "(" * 41]), "string 1 has 41 characters; expected 1 to 40"),
        (lambda: tokenize_brackets([""]), "string 0 has 0 characters; expected 1 to 40"),
        (lambda: tokenize_brackets("()"), "strings must be a sequence of strings, got the one string"),
        (lambda: open_proportion([3, 4]), r"tokens must be int\[batch, pos\], got int64\[2\]"),
        (lambda: start_open([3, 4]), r"tokens must be int\[batch, pos\], got int64\[2\]"),
    ],
)
def test_wrong_input_is_told(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_tokenizer_refuses_other_characters():
    with pytest.raises(Exception, match=r"\[UNK\]|unk"):
        bracket_tokenizer().encode("(a)")


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_weights_of_an_undisturbed_one(tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    command = recipe("brackets", "--steps", "60", "--batch", "4", "--save-every", "10")
    run(command, undisturbed)
    kill(command, killed, after="training/20")
    again = run(command, killed)
    assert "| 0/60 " not in again.stderr
    assert_same_weights(undisturbed, killed)
    for file in ("config.json", "tokenizer.json", "training.json", "README.md", "strings.png", "loss.png"):
        assert (killed / file).is_file(), file
    assert "remove it or go on with that" in refusal((*command, "--seed", "1"), killed)


def test_the_committed_model_tells_held_out_near_misses():
    model, params, _ = ji.load("brackets")
    data = brackets(400, seed=3, split="held_out", kinds=(*NEAR_MISSES, *("balanced",) * len(NEAR_MISSES)))
    logits, _ = model.apply(params, data.tokens, mask=data.mask, positions=0)
    assert (np.argmax(logits[:, 0], axis=-1) == data.label).mean() > 0.99
    assert 0.4 < data.label.mean() < 0.6
