"""The tokenizer of the tasks: one token per word."""

from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from jaxinterp.tasks.corpus import words

SPECIAL_TOKENS = ("<pad>", "<bos>", "<unk>")


def word_tokenizer() -> Tokenizer:
    """A tokenizer that has every word of the corpus: `<bos>` first, then one token per word.

    Words are what spaces separate; punctuation is a word of its own, also where it is written without a space
    before it. Words that the corpus does not have become `<unk>`. Decoding joins words by spaces.

    Example:
      >>> tokenizer = word_tokenizer()
      >>> tokenizer.encode("Mary gave a drink to John.").tokens
      ['<bos>', 'Mary', 'gave', 'a', 'drink', 'to', 'John', '.']
      >>> tokenizer.decode(tokenizer.encode("Mary gave a drink").ids)
      'Mary gave a drink'
    """
    return word_level(words(), pre_tokenizers.Whitespace())


def word_level(words: Sequence[str], splitter: Any) -> Tokenizer:
    """A tokenizer with `<bos>` first, then one token for each of these words where `splitter` finds them.

    Example:
      >>> word_level(("a", "b"), pre_tokenizers.Whitespace()).encode("b a c").tokens
      ['<bos>', 'b', 'a', '<unk>']
    """
    ids = {word: index for index, word in enumerate((*SPECIAL_TOKENS, *words))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.pre_tokenizer = splitter
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", ids["<bos>"])]
    )
    # No word begins with this prefix, so that nothing is ever glued to the word before.
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return tokenizer
