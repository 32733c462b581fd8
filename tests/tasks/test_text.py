"""Real text as tokens: the tokenizer, and the rows that are cut from documents."""

from itertools import pairwise

import numpy as np
import pytest
from tokenizers import Tokenizer

from jaxinterp.tasks.text import (
    TokenStream,
    all_windows,
    byte_pair_tokenizer,
    random_windows,
    repeats,
    tokenize_documents,
)

TEXTS = {
    "one": "def one(argument):\n    return argument\n" * 6,
    "two": "while True:\n    break\n",
    "three": "x = 'ü€\t'\n" * 9,
}


def stream_of(*lengths):
    """Documents whose tokens tell where they are from: 1000 * document + position, from 1 on."""
    tokens = np.concatenate([1000 * n + np.arange(1, length + 1) for n, length in enumerate(lengths, start=1)])
    return TokenStream(tokens.astype(np.int32), np.cumsum(lengths), 0)


def test_every_string_comes_back():
    tokenizer = byte_pair_tokenizer(TEXTS.values(), size=290)
    assert tokenizer.get_vocab_size() == 290
    assert tokenizer.token_to_id("<bos>") == 0
    for text in (*TEXTS.values(), "日本 \0 \r\n", "<bos", " "):
        encoding = tokenizer.encode(text)
        assert encoding.tokens[0] == "<bos>"
        assert tokenizer.decode(encoding.ids) == text


def test_the_tokenizer_is_a_function_of_its_texts():
    first, second = (byte_pair_tokenizer(TEXTS.values(), size=290).to_str() for _ in range(2))
    assert first == second == Tokenizer.from_str(first).to_str()


def test_a_vocabulary_has_room_for_every_byte():
    assert byte_pair_tokenizer(["a"], size=257).get_vocab_size() == 257
    with pytest.raises(ValueError, match="size must be at least 257, <bos> and every byte, got 256"):
        byte_pair_tokenizer(["a"], size=256)


def test_documents_are_tokens_one_after_the_other():
    tokenizer = byte_pair_tokenizer(TEXTS.values(), size=290)
    stream = tokenize_documents(tokenizer, TEXTS)
    assert stream.bos not in stream.tokens
    parts = np.split(stream.tokens, stream.ends)[:-1]
    assert [tokenizer.decode(part) for part in parts] == list(TEXTS.values())
    with pytest.raises(ValueError, match="document 'empty' has no tokens"):
        tokenize_documents(tokenizer, {"one": "a", "empty": ""})
    with pytest.raises(ValueError, match="there are no documents"):
        tokenize_documents(tokenizer, {})


@pytest.mark.parametrize("n_ctx", [1, 4, 7, 30])
def test_random_rows_lie_within_one_document(n_ctx):
    stream = stream_of(20, 3, 9)
    rows = random_windows(stream, 5, seed=1, size=500, n_ctx=n_ctx)
    assert rows.shape == (500, n_ctx + 1)
    assert rows.dtype == np.int32
    assert not rows[:, 0].any()
    lengths = {1: 20, 2: 3, 3: 9}
    for row in rows:
        tokens = row[row > 0]
        assert len(tokens) == min(n_ctx, lengths[tokens[0] // 1000])
        assert (np.diff(tokens) == 1).all()
        assert not row[len(tokens) + 1 :].any()
    assert set(np.unique(rows)) == {0, *stream.tokens}  # every token has its turn
    shares = np.bincount(rows[:, 1] // 1000)[1:] / 500
    np.testing.assert_allclose(shares, [20 / 32, 3 / 32, 9 / 32], atol=0.1)


def test_random_rows_are_a_function_of_seed_and_step():
    stream = stream_of(300, 100)
    rows = random_windows(stream, 3, seed=2, size=8, n_ctx=10)
    np.testing.assert_array_equal(rows, random_windows(stream, 3, seed=2, size=8, n_ctx=10))
    assert not np.array_equal(rows, random_windows(stream, 4, seed=2, size=8, n_ctx=10))
    assert not np.array_equal(rows, random_windows(stream, 3, seed=3, size=8, n_ctx=10))


@pytest.mark.parametrize("n_ctx", [1, 4, 5, 40])
def test_all_rows_hold_every_token_once(n_ctx):
    stream = stream_of(20, 3, 9)
    rows, document = all_windows(stream, n_ctx)
    assert not rows[:, 0].any()
    np.testing.assert_array_equal(rows[rows > 0], stream.tokens)
    assert all((row[row > 0] // 1000 == n + 1).all() for row, n in zip(rows, document, strict=True))


def test_repeats_are_tokens_that_followed_their_predecessor_before():
    rows = np.random.default_rng(0).integers(5, size=(30, 12))
    found = repeats(rows)
    for row, marks in zip(rows.tolist(), found.tolist(), strict=True):
        pairs = list(pairwise(row))
        assert marks == [False, *(pair in pairs[:n] for n, pair in enumerate(pairs))]
