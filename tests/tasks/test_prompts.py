"""Text to arrays: answers as they stand behind a prompt, roles by word, unknown words."""

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

import jaxinterp as ji
from jaxinterp.tasks.prompts import answer_token, unknown_ids


def byte_level():
    """A byte-level tokenizer whose vocabulary holds a name with and without the space before it."""
    alphabet = {chr(c): i for i, c in enumerate(range(33, 127))}
    vocab = alphabet | {"Ġ": 200, "Mar": 201, "Mary": 202, "ĠMary": 203, "ĠM": 204, "ĠMa": 205, "ĠMar": 206, "Ma": 207}
    merges = [("M", "a"), ("Ma", "r"), ("Mar", "y"), ("Ġ", "Mary")]
    tokenizer = Tokenizer(models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def test_an_answer_is_the_token_that_stands_behind_the_prompt():
    tokenizer = byte_level()
    assert tokenizer.encode("Mary").ids == [202]
    assert answer_token(tokenizer, "a", "Mary") == 203
    assert answer_token(tokenizer, "a", " Mary") == 203
    with pytest.raises(ValueError, match="'Marys' is not one token behind 'a': it splits into"):
        answer_token(tokenizer, "a", "Marys")


def test_roles_are_words_whatever_the_spacing():
    _, _, tokenizer = ji.load("english")
    pair = ji.tasks.PromptPair("Mary   and John", "Mary   and Mary", "went", "ran", {"FIRST": 0, "LAST": 2})
    tokens = ji.tokenize_pairs([pair], tokenizer)
    assert [tokens.clean.strings[0][int(tokens.clean.roles[name][0])] for name in ("FIRST", "LAST")] == ["Mary", "John"]


def test_unknown_words_are_told():
    _, _, tokenizer = ji.load("english")
    pair = ji.tasks.PromptPair("Mary and zzyx", "Mary and John", "went", "ran", {})
    with pytest.raises(ValueError, match="pair 0: the tokenizer does not know 'zzyx', in the clean prompt"):
        ji.tokenize_pairs([pair], tokenizer)


def test_unknown_words_are_known_as_such_whatever_stands_for_them():
    words = Tokenizer(models.WordLevel({"odd": 0, "Mary": 1}, unk_token="odd"))
    pieces = Tokenizer(models.Unigram([("Mary", -1.0), ("odd", -9.0)], unk_id=1))
    for tokenizer in (words, pieces):
        assert unknown_ids(tokenizer) == {tokenizer.token_to_id("odd")}
    assert unknown_ids(Tokenizer(models.Unigram([("Mary", -1.0)]))) == set()
    assert unknown_ids(Tokenizer(models.BPE({"a": 0}, []))) == set()


def test_pairs_and_prompts_can_be_sliced():
    _, _, tokenizer = ji.load("english")
    pairs = ji.tokenize_pairs(ji.tasks.indirect_objects(6, seed=0), tokenizer)
    part = pairs[2:4]
    assert len(part) == len(part.clean) == 2
    np.testing.assert_array_equal(part.clean.tokens, pairs.clean.tokens[2:4])
    assert part.clean.strings == pairs.clean.strings[2:4]
    assert pairs.clean[0].tokens.shape[0] == 1
