"""Reads prompts of `english` behind other text, at offsets at which no training text of a task begins."""

from collections.abc import Sequence

import jax
import numpy as np
from tokenizers import Tokenizer

from jaxinterp.model.params import Params
from jaxinterp.model.transformer import Transformer
from jaxinterp.tasks.english.corpus import HELD_OUT_OFFSET, documents
from jaxinterp.tasks.pairs import PromptPair

#: Prompts, or rows, that the model reads at once.
CHUNK = 100


class Reader:
    """Runs prompts behind other text, so that they begin at an offset at which no training text of a task begins.

    Example:
      >>> from jaxinterp.cards.reader import Reader
      >>> reader = Reader(*ji.load("english"), seed=0)
      >>> reader.differences(ji.tasks.indirect_objects(4, seed=0)).shape
      (4,)
    """

    def __init__(self, model: Transformer, params: Params, tokenizer: Tokenizer, seed: int) -> None:
        self.model, self.params, self.tokenizer = model, params, tokenizer
        self.ids = tokenizer.get_vocab()
        filler = documents((seed, 7), mechanisms=("filler", "tense", "pronoun", "counting"))
        self.before: list[int] = []
        while len(self.before) < 20_000:
            self.before += [self.ids["<bos>"], *(self.ids[word] for word in next(filler).split())]
        self.seed = seed
        self.apply = jax.jit(lambda params, tokens: model.apply(params, tokens)[0])
        middle = model.config.n_layers // 2
        self.hidden = jax.jit(
            lambda params, tokens: model.apply(params, tokens, capture=("resid_post",))[1]["resid_post"][middle]
        )

    def rows(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(tokens int32[text, n_ctx], where each text begins, its last position)."""
        n_ctx = self.model.config.n_ctx
        rng = np.random.default_rng(self.seed)
        tokens = np.full((-(-len(texts) // CHUNK) * CHUNK, n_ctx), self.ids["<pad>"], np.int32)
        starts, ends = np.zeros(len(texts), int), np.zeros(len(texts), int)
        for row, text in enumerate(texts):
            own = self.tokenizer.encode(text).ids
            room = (n_ctx - len(own) - HELD_OUT_OFFSET) // 8
            if room < 0:
                raise ValueError(f"{len(own)} words leave no room for the text before: {text!r}")
            starts[row] = HELD_OUT_OFFSET + 8 * int(rng.integers(min(room, 4) + 1))
            at = int(rng.integers(len(self.before) - starts[row]))
            whole = [*self.before[at : at + starts[row]], *own]
            tokens[row, : len(whole)] = whole
            ends[row] = len(whole) - 1
        return tokens, starts, ends

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Of the word after each text, float32[text, vocab]."""
        tokens, _, ends = self.rows(texts)
        chunks = (tokens[i : i + CHUNK] for i in range(0, len(tokens), CHUNK))
        each = [np.asarray(self.apply(self.params, chunk)) for chunk in chunks]
        return np.concatenate(each)[np.arange(len(texts)), ends]

    def differences(self, pairs: Sequence[PromptPair]) -> np.ndarray:
        """The right answer's logit less the other's, float32[pair], in nats."""
        logits = self.logits([pair.clean for pair in pairs])
        right, wrong = (np.array([self.ids[getattr(pair, side)] for pair in pairs]) for side in ("correct", "wrong"))
        rows = np.arange(len(pairs))
        return logits[rows, right] - logits[rows, wrong]

    def pooled(self, texts: Sequence[str]) -> np.ndarray:
        """The stream in the middle of the model, a mean over each text's words: float32[text, d_model]."""
        tokens, starts, ends = self.rows(texts)
        means = []
        for i in range(0, len(texts), CHUNK):
            part = slice(i, min(i + CHUNK, len(texts)))
            hidden = np.asarray(self.hidden(self.params, tokens[i : i + CHUNK]))
            columns = np.arange(tokens.shape[1])
            inside = (columns > starts[part, None]) & (columns <= ends[part, None])
            means.append((hidden[: len(inside)] * inside[..., None]).sum(axis=1) / inside.sum(axis=1)[:, None])
        return np.concatenate(means)
