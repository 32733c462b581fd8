"""Prompts of real text on which induction helps: the tokens after which it does, told without a model of ours.

Source: causal scrubbing, section 5.2: "a whitelist of tokens where induction is helpful".
"""

import itertools

import numpy as np
from flax import struct

from jaxinterp.tasks.ngrams import fit_ngrams, ngram_losses
from jaxinterp.tasks.text import TokenStream, all_windows


@struct.dataclass
class InductionPrompts:
    """Stretches of text, each of which ends in a token that induction helps with.

    Attributes:
      tokens: int32[prompt, pos], `<bos>` first.
      label: int32[prompt], the token that came next.
      document: int32[prompt], which document each is from: prompts of one resemble each other.
    """

    tokens: np.ndarray
    label: np.ndarray
    document: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)


def mixture_losses(rows: np.ndarray, bigram: np.ndarray) -> np.ndarray:
    """The losses of a bigram model mixed with what induction would say, in nats: float64[row, pos - 1].

    Induction says how often each token followed the current one before in the row. Where the current one has been
    there before, the mixture is of equal parts; elsewhere it is the bigram model.

    Args:
      rows: int[row, pos].
      bigram: the bigram model's losses, float[row, pos - 1], as `ngram_losses` has them.

    Example:
      >>> from jaxinterp.tasks.induction import mixture_losses
      >>> losses = mixture_losses(np.array([[0, 1, 2, 1, 2]]), np.full((1, 4), np.log(4)))
      >>> np.exp(-losses).round(3)
      array([[0.25 , 0.25 , 0.25 , 0.625]])
    """
    mixed = np.exp(-bigram)
    for row, probability in zip(rows, mixed, strict=True):
        followed: dict[int, dict[int, int]] = {}
        for place, (current, following) in enumerate(itertools.pairwise(row.tolist())):
            before = followed.setdefault(current, {})
            if before:
                probability[place] = (probability[place] + before.get(following, 0) / sum(before.values())) / 2
            before[following] = before.get(following, 0) + 1
    return -np.log(mixed)


def helped_tokens(
    train: TokenStream,
    listed: TokenStream,
    *,
    d_vocab: int,
    n_pos: int = 128,
    occurrences: int = 200,
    draws: int = 2000,
    seed: int = 0,
) -> np.ndarray:
    """The tokens after which induction helps to tell the next one: int64[token], sorted.

    A token counts if, where it is the current one, `mixture_losses` are lower than the bigram model's, by a 95 %
    interval (a bootstrap over documents) that lies below 0.

    Args:
      train: what the bigram model learns from.
      listed: other text, where tokens are counted and compared.
      d_vocab: how many tokens there are.
      n_pos: tokens in a row, `<bos>` among them; induction looks no further back.
      occurrences: how often a token must be there in `listed`, and in two documents at least.
      draws: of the bootstrap. seed: likewise.

    Raises:
      ValueError: text of fewer than two documents, or tokens out of the vocabulary.

    Example:
      >>> from jaxinterp.tasks.induction import helped_tokens
      >>> from jaxinterp.tasks.text import TokenStream
      >>> rng = np.random.default_rng(0)
      >>> documents = [np.tile(rng.permutation(9) + 1, 5) for _ in range(20)]  # each says one thing again and again
      >>> stream = TokenStream(np.concatenate(documents), np.arange(1, 21) * 45, bos=0)
      >>> helped_tokens(stream, stream, d_vocab=10, n_pos=46, occurrences=50)
      array([1, 2, 3, 4, 5, 6, 7, 8, 9])
    """
    if len(listed.ends) < 2:
        raise ValueError(f"an interval needs at least two documents, got {len(listed.ends)}")
    train_rows, _ = all_windows(train, n_pos - 1)
    rows, document = all_windows(listed, n_pos - 1)
    bigrams = fit_ngrams(train_rows, train_rows[:, 1:] != train.bos, n=2, d_vocab=d_vocab)
    bigram = ngram_losses(bigrams, rows)
    real = rows[:, 1:] != listed.bos
    place = np.broadcast_to(document[:, None], real.shape)[real], rows[:, :-1][real]
    gain, count = np.zeros((2, len(listed.ends), d_vocab))
    np.add.at(gain, place, (mixture_losses(rows, bigram) - bigram)[real])
    np.add.at(count, place, 1)
    often = np.flatnonzero((count.sum(0) >= occurrences) & ((count > 0).sum(0) > 1))
    drawn = np.random.default_rng(seed).multinomial(len(gain), np.full(len(gain), 1 / len(gain)), size=draws)
    with np.errstate(invalid="ignore"):  # a draw may be without a token
        means = (drawn @ gain[:, often]) / (drawn @ count[:, often])
    return often[np.nanquantile(means, 0.975, axis=0) < 0]


def prompts_ending_in(
    stream: TokenStream, tokens: np.ndarray, *, n: int | None = None, n_pos: int = 128, seed: int = 0
) -> InductionPrompts:
    """Stretches of documents that end in one of some tokens, in the order of the text.

    Args:
      stream: the text.
      tokens: int[token], what they may end in.
      n: how many at most, drawn alike from all there are; `None` for all.
      n_pos: tokens in a prompt, `<bos>` among them.
      seed: of the draw.

    Raises:
      ValueError: there are none.

    Example:
      >>> from jaxinterp.tasks.induction import prompts_ending_in
      >>> from jaxinterp.tasks.text import TokenStream
      >>> stream = TokenStream(np.array([5, 6, 7, 5, 6, 7, 8, 6]), ends=np.array([6, 8]), bos=0)
      >>> prompts = prompts_ending_in(stream, np.array([6]), n_pos=3)
      >>> prompts.tokens.tolist(), prompts.label.tolist()
      ([[0, 5, 6], [0, 5, 6]], [7, 7])
    """
    place = np.arange(len(stream.tokens))
    document = np.searchsorted(stream.ends, place, side="right")
    begins = np.concatenate([[0], stream.ends[:-1]])[document]
    has_room = (place - begins >= n_pos - 2) & (place + 1 < stream.ends[document])
    ends = np.flatnonzero(has_room & np.isin(stream.tokens, tokens))
    if not len(ends):
        raise ValueError(f"no document has {n_pos - 1} tokens of which the last is one of these {len(tokens)}")
    if n is not None:
        ends = np.sort(np.random.default_rng(seed).permutation(ends)[:n])
    rows = stream.tokens[ends[:, None] + np.arange(2 - n_pos, 1)]
    rows = np.concatenate([np.full((len(rows), 1), stream.bos), rows], axis=1)
    return InductionPrompts(
        rows.astype(np.int32), stream.tokens[ends + 1].astype(np.int32), document[ends].astype(np.int32)
    )
