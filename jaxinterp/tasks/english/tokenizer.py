"""The tokenizer of the corpus: one token per word."""

from tokenizers import Regex, Tokenizer, pre_tokenizers

from jaxinterp.tasks.english.corpus import words
from jaxinterp.tasks.tokenizer import word_level


def word_tokenizer() -> Tokenizer:
    """As `ji.tasks.word_tokenizer`, with every word of this corpus; "'s" is a word too.

    Example:
      >>> word_tokenizer().encode("Mary's sister (who had an apple).").tokens[1:6]
      ['Mary', "'s", 'sister', '(', 'who']
    """
    return word_level(words(), pre_tokenizers.Split(Regex(r"'s|\w+|[^\w\s]"), behavior="removed", invert=True))
