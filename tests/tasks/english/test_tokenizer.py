from jaxinterp.tasks.english import vocabulary
from jaxinterp.tasks.english.corpus import words


def test_the_vocabulary_has_no_word_twice():
    assert len(words()) >= 1500
    assert len(vocabulary.NAMES) >= 60
    for kind in ("NAMES", "PLACES", "OBJECTS", "MOODS", "QUALITIES", "NOUNS", "PEOPLE"):
        members = getattr(vocabulary, kind)
        assert len(set(members)) == len(members), kind
    forms = [word for noun in vocabulary.NOUNS for word in noun]
    assert len(set(forms)) == len(forms)
    assert not set(vocabulary.NAMES) & set(vocabulary.LETTERS)
    assert not any(word[0] in "aeiou" for word in (*vocabulary.OBJECTS, *vocabulary.WEATHERS, *vocabulary.PEOPLE))
