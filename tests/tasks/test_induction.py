"""Tokens that induction helps with, found where they were planted, and prompts that end in them."""

import numpy as np
import pytest

from jaxinterp.tasks.induction import helped_tokens, mixture_losses, prompts_ending_in
from jaxinterp.tasks.ngrams import fit_ngrams, ngram_losses
from jaxinterp.tasks.text import TokenStream

NAME, OTHER, WORDS = 1, 2, range(3, 40)


def stream(seed, documents=40):
    """In a document, `NAME` is always followed by one same word, and `OTHER` by any."""
    rng = np.random.default_rng(seed)
    texts = []
    for _ in range(documents):
        own = rng.choice(WORDS)
        pieces = [[NAME, own] if rng.random() < 0.5 else [OTHER, rng.choice(WORDS)] for _ in range(60)]
        texts.append(np.concatenate(pieces))
    return TokenStream(np.concatenate(texts), np.cumsum([len(text) for text in texts]), bos=0)


def test_planted_tokens_are_found():
    helped = helped_tokens(stream(0), stream(1), d_vocab=40, n_pos=40, occurrences=300)
    assert helped.tolist() == [NAME]
    assert not len(helped_tokens(stream(0), stream(1), d_vocab=40, n_pos=40, occurrences=5000))
    # what follows a word is a matter of chance, so none is helped however seldom it may be
    assert NAME in helped_tokens(stream(0), stream(1), d_vocab=40, n_pos=40, occurrences=20)
    with pytest.raises(ValueError, match="at least two documents, got 1"):
        helped_tokens(stream(0), stream(1, documents=1), d_vocab=40)


def test_the_mixture_is_what_it_says():
    rows = np.random.default_rng(2).integers(1, 6, (5, 30))
    bigram = ngram_losses(fit_ngrams(rows, rows[:, 1:] > 0, n=2, d_vocab=6), rows)
    mixed = mixture_losses(rows, bigram)
    for row in range(5):
        for place in range(29):
            tokens = rows[row].tolist()
            after = [tokens[i + 1] for i in range(place) if tokens[i] == tokens[place]]
            expected = np.exp(-bigram[row, place])
            if after:
                expected = (expected + after.count(tokens[place + 1]) / len(after)) / 2
            np.testing.assert_allclose(np.exp(-mixed[row, place]), expected, rtol=1e-12)


def test_prompts_lie_within_documents():
    text = stream(3)
    prompts = prompts_ending_in(text, np.array([NAME]), n_pos=20)
    begins = np.concatenate([[0], text.ends[:-1]])
    count = 0
    for document, (begin, end) in enumerate(zip(begins, text.ends, strict=True)):
        tokens = text.tokens[begin:end]
        for place in range(18, len(tokens) - 1):
            if tokens[place] == NAME:
                assert prompts.tokens[count].tolist() == [0, *tokens[place - 18 : place + 1]]
                assert (prompts.label[count], prompts.document[count]) == (tokens[place + 1], document)
                count += 1
    assert len(prompts) == count
    few = prompts_ending_in(text, np.array([NAME]), n_pos=20, n=7, seed=1)
    everything = {tuple(row) for row in prompts.tokens.tolist()}
    assert len(few) == 7
    assert {tuple(row) for row in few.tokens.tolist()} <= everything
    with pytest.raises(ValueError, match="no document has 499 tokens of which the last is one of these 1"):
        prompts_ending_in(text, np.array([NAME]), n_pos=500)
