import json

import pytest
from tokenizers import Tokenizer

from jaxinterp.tasks import english, vocabulary, word_tokenizer
from jaxinterp.tasks.english.corpus import words

SENTENCE = "when Mary and John went to the store , John gave a drink to"


def test_one_token_per_word_after_bos():
    tokenizer = word_tokenizer()
    assert tokenizer.encode(SENTENCE).tokens == ["<bos>", *SENTENCE.split()]
    assert tokenizer.encode(SENTENCE.replace(" ,", ",")).tokens == ["<bos>", *SENTENCE.split()]
    assert tokenizer.decode(tokenizer.encode(SENTENCE).ids) == SENTENCE


def test_special_tokens_come_first_and_unknown_words_are_marked():
    tokenizer = word_tokenizer()
    assert [tokenizer.id_to_token(i) for i in range(3)] == ["<pad>", "<bos>", "<unk>"]
    assert tokenizer.encode("Mary zzz").tokens == ["<bos>", "Mary", "<unk>"]
    assert tokenizer.encode("<bos> Mary", add_special_tokens=False).tokens == ["<bos>", "Mary"]


def test_it_is_the_same_each_time_and_survives_its_file():
    text = word_tokenizer().to_str()
    assert word_tokenizer().to_str() == text
    again = Tokenizer.from_str(text)
    assert again.encode(SENTENCE).ids == word_tokenizer().encode(SENTENCE).ids
    assert len(json.loads(text)["model"]["vocab"]) == again.get_vocab_size() == len(words()) + 3


@pytest.mark.parametrize("lists", [vocabulary, english.vocabulary], ids=["successions", "english"])
def test_the_vocabulary_has_no_word_twice(lists):
    assert len(words()) >= 1500
    assert len(lists.NAMES) >= 60
    for kind in ("NAMES", "PLACES", "OBJECTS", "MOODS", "PEOPLE"):
        members = getattr(lists, kind)
        assert len(set(members)) == len(members), kind
    assert not set(lists.NAMES) & set(lists.LETTERS)
    assert not any(word[0] in "aeiou" for word in lists.OBJECTS)
