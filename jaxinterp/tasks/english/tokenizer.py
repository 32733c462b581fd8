"""The tokenizer of the corpus: one token per word."""

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from jaxinterp.tasks.english.corpus import words

SPECIAL_TOKENS = ("<pad>", "<bos>", "<unk>")


def word_tokenizer() -> Tokenizer:
    """A tokenizer that has every word of the corpus: `<bos>` first, then one token per word.

    Words are what spaces separate; punctuation is a word of its own, and so is "'s", also where no space stands before
    it. Words that the corpus does not have become `<unk>`. Decoding joins words by spaces.

    Example:
      >>> tokenizer = word_tokenizer()
      >>> tokenizer.encode("Mary's sister (who had an apple).").tokens
      ['<bos>', 'Mary', "'s", 'sister', '(', 'who', 'had', 'an', 'apple', ')', '.']
      >>> tokenizer.decode(tokenizer.encode("Mary gave a drink").ids)
      'Mary gave a drink'
    """
    ids = {word: index for index, word in enumerate((*SPECIAL_TOKENS, *words()))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"'s|\w+|[^\w\s]"), behavior="removed", invert=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", ids["<bos>"])]
    )
    # No word begins with this prefix, so that nothing is ever glued to the word before.
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return tokenizer
