"""Real text as tokens: a byte-pair tokenizer of its own, random windows to train on, and all windows to test on."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

BOS = "<bos>"


@dataclass(frozen=True)
class TokenStream:
    """Documents as tokens, one after the other.

    Attributes:
      tokens: int32[token], without `<bos>`.
      ends: int64[document], where each document ends.
      bos: the token that windows begin with, and that fills them up where a document is short.
    """

    tokens: np.ndarray
    ends: np.ndarray
    bos: int


def byte_pair_tokenizer(texts: Iterable[str], *, size: int = 2048) -> Tokenizer:
    """A byte-level byte-pair tokenizer learnt from texts: every string has tokens, and decodes to itself.

    `<bos>` is token 0, and stands before whatever is encoded.

    Args:
      texts: what to learn from.
      size: tokens in all; fewer if the texts do not have that many pairs.

    Raises:
      ValueError: a size without room for `<bos>` and the 256 bytes.

    Example:
      >>> from jaxinterp.tasks.text import byte_pair_tokenizer
      >>> tokenizer = byte_pair_tokenizer(["to be or not to be"] * 2, size=270)
      >>> tokenizer.encode("to be, ü").tokens[:3], tokenizer.decode(tokenizer.encode("to be, ü").ids)
      (['<bos>', 'to', 'Ġbe'], 'to be, ü')
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if size < len(alphabet) + 1:
        raise ValueError(f"size must be at least {len(alphabet) + 1}, {BOS} and every byte, got {size}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[BOS], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return tokenizer


def tokenize_documents(tokenizer: Tokenizer, documents: Mapping[str, str]) -> TokenStream:
    """The tokens of texts by name, in their order.

    Raises:
      ValueError: a tokenizer without `<bos>`, or a document without tokens.

    Example:
      >>> from jaxinterp.tasks.text import byte_pair_tokenizer, tokenize_documents
      >>> stream = tokenize_documents(byte_pair_tokenizer(["ab"], size=257), {"one": "abc", "two": "de"})
      >>> stream.ends
      array([3, 5])
    """
    bos = tokenizer.token_to_id(BOS)
    if bos is None:
        raise ValueError(f"the tokenizer has no {BOS}")
    encodings = tokenizer.encode_batch(list(documents.values()), add_special_tokens=False)
    rows = [np.asarray(encoding.ids, np.int32) for encoding in encodings]
    if empty := [name for name, row in zip(documents, rows, strict=True) if not len(row)]:
        raise ValueError(f"document {empty[0]!r} has no tokens")
    if not rows:
        raise ValueError("there are no documents")
    return TokenStream(np.concatenate(rows), np.cumsum([len(row) for row in rows]), bos)


def random_windows(stream: TokenStream, step: int, *, seed: int, size: int, n_ctx: int) -> np.ndarray:
    """The training batch of one step: `int32[size, n_ctx + 1]`, in each row `<bos>` and `n_ctx` tokens of a document.

    A row is where a token, drawn from all of them alike, would stand in the middle, moved so far that it lies
    within that token's document; documents shorter than that are filled up with `<bos>`. Nothing but the
    arguments decides, so a run that is resumed at a step sees what it would have seen.

    Example:
      >>> from jaxinterp.tasks.text import TokenStream, random_windows
      >>> stream = TokenStream(np.arange(1, 8), ends=np.array([5, 7]), bos=0)
      >>> random_windows(stream, 0, seed=0, size=3, n_ctx=3)
      array([[0, 6, 7, 0],
             [0, 3, 4, 5],
             [0, 3, 4, 5]], dtype=int32)
    """
    middle = np.random.default_rng((seed, step)).integers(len(stream.tokens), size=size)
    document = np.searchsorted(stream.ends, middle, side="right")
    ends = stream.ends[document]
    begins = np.where(document > 0, stream.ends[document - 1], 0)
    return _rows(stream, np.clip(middle - n_ctx // 2, begins, np.maximum(begins, ends - n_ctx)), ends, n_ctx)


def all_windows(stream: TokenStream, n_ctx: int) -> tuple[np.ndarray, np.ndarray]:
    """Every token once: rows of `<bos>` and `n_ctx` tokens of one document, filled up with `<bos>` at its end.

    Returns:
      rows int32[row, n_ctx + 1], and each row's document, int64[row].

    Example:
      >>> from jaxinterp.tasks.text import TokenStream, all_windows
      >>> rows, document = all_windows(TokenStream(np.arange(1, 8), ends=np.array([5, 7]), bos=0), n_ctx=3)
      >>> rows.tolist(), document.tolist()
      ([[0, 1, 2, 3], [0, 4, 5, 0], [0, 6, 7, 0]], [0, 0, 1])
    """
    begins = np.concatenate([[0], stream.ends[:-1]])
    starts = [np.arange(begin, end, n_ctx) for begin, end in zip(begins, stream.ends, strict=True)]
    document = np.repeat(np.arange(len(starts)), [len(each) for each in starts])
    return _rows(stream, np.concatenate(starts), stream.ends[document], n_ctx), document


def repeats(rows: np.ndarray) -> np.ndarray:
    """Where induction applies: bool[row, pos], True at a token that has followed its predecessor before in the row.

    Args:
      rows: int[row, pos]; the first token follows none, so its column is False.

    Example:
      >>> from jaxinterp.tasks.text import repeats
      >>> repeats(np.array([[7, 1, 2, 3, 1, 2, 1]])).astype(int)
      array([[0, 0, 0, 0, 0, 1, 0]])
    """
    rows = np.asarray(rows, np.int64)
    base = int(rows.max()) + 1
    pairs = (np.arange(len(rows))[:, None] * base + rows[:, :-1]) * base + rows[:, 1:]
    _, first, which = np.unique(pairs, return_index=True, return_inverse=True)
    again = np.arange(pairs.size) > first[which.ravel()]
    return np.concatenate([np.zeros((len(rows), 1), bool), again.reshape(pairs.shape)], axis=1)


def _rows(stream: TokenStream, starts: np.ndarray, ends: np.ndarray, n_ctx: int) -> np.ndarray:
    columns = starts[:, None] + np.arange(n_ctx)
    tokens = stream.tokens[np.minimum(columns, len(stream.tokens) - 1)]
    rows = np.full((len(starts), n_ctx + 1), stream.bos, np.int32)
    rows[:, 1:] = np.where(columns < ends[:, None], tokens, stream.bos)
    return rows
