"""Text to tokens and back, for any `tokenizers` file: the caller decides on special tokens and padding."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from jaxinterp.tasks.prompts import Prompts, pad, unknown_ids


def to_tokens(
    tokenizer: Tokenizer,
    texts: str | Sequence[str],
    *,
    bos: str | None = None,
    padding_side: str = "right",
    pad_id: int = 0,
) -> Prompts:
    """Texts as prompts, which every technique takes: tokens, mask, and token strings for labels.

    Args:
      tokenizer: a `tokenizers.Tokenizer`, as `ji.load` returns it.
      texts: one text, or several, which are padded to the longest.
      bos: the special token in front. `None` leaves it to the tokenizer's post-processor: as their files are
        published, Llama's, Mistral's (and Mixtral's) and Gemma's put their BOS there, OPT's "</s>", encoders' "[CLS]"
        or "<s>" (and what ends a text as well), and GPT-2's, GPT-Neo's, GPT-J's, GPT-NeoX's, Qwen's, OLMo 2's and
        Phi-3's nothing. A token ("<|endoftext|>") puts that one in front and no other; "" puts none.
      padding_side: "right" or "left". What a real token computes is the same either way.
      pad_id: what stands at padding, where the mask is False; nothing reads it.

    Returns:
      `Prompts`: tokens int32[batch, pos], mask bool[batch, pos] (None if all texts are equally long), strings.

    Raises:
      TypeError: not a tokenizer, not texts.
      ValueError: a word that the tokenizer does not know, a text without tokens, an unknown `bos`, a tokenizer
        that pads or truncates by itself.

    Example:
      >>> _, _, tokenizer = ji.load("english")
      >>> prompts = ji.to_tokens(tokenizer, ["Mary and John", "Mary"], padding_side="left")
      >>> prompts.strings[1], prompts.mask[1].tolist()
      (('<bos>', 'Mary'), [False, False, True, True])
    """
    check_tokenizer(tokenizer, bos)
    several = [texts] if isinstance(texts, str) else texts
    if not isinstance(several, Sequence) or not all(isinstance(text, str) for text in several):
        raise TypeError(f"texts must be a string or a sequence of strings, got {type(texts).__name__}")
    if isinstance(pad_id, bool) or not isinstance(pad_id, (int, np.integer)) or pad_id < 0:
        raise TypeError(f"pad_id must be a token id, got {pad_id!r}")
    encodings = tokenizer.encode_batch(list(several), add_special_tokens=bos is None)
    front: dict[int, str] = {}
    if bos:
        number = tokenizer.token_to_id(bos)
        assert number is not None  # check_tokenizer has seen it
        front = {number: bos}
    unknown = unknown_ids(tokenizer)
    rows, strings = [], []
    for number, (text, encoding) in enumerate(zip(several, encodings, strict=True)):
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token in unknown:
                raise ValueError(f"text {number}: the tokenizer does not know {text[start:end]!r}, in {text!r}")
        if not front and not encoding.ids:
            raise ValueError(f"text {number} has no tokens: {text!r}")
        rows.append([*front, *encoding.ids])
        strings.append((*front.values(), *encoding.tokens))
    tokens, mask = pad(rows, pad_id, side=padding_side)
    return Prompts(tokens, mask, strings=tuple(strings))


def to_str_tokens(tokenizer: Tokenizer, text_or_tokens: str | Any, *, bos: str | None = None) -> tuple[str, ...]:
    """What each token of a text says, its space included: " Mary", whatever the tokenizer writes for a space.

    Args:
      text_or_tokens: one text, tokenised as `to_tokens` does; or token ids, int[pos].
      bos: as in `to_tokens`; for a text alone.

    Returns:
      One string for each token. A token that holds part of a character shows as "\N{REPLACEMENT CHARACTER}".

    Raises:
      ValueError: ids that are not the tokenizer's, or not in one row; what `to_tokens` refuses.

    Example:
      >>> _, _, tokenizer = ji.load("english")
      >>> ji.to_str_tokens(tokenizer, "Mary and John")
      ('<bos>', ' Mary', ' and', ' John')
    """
    if isinstance(text_or_tokens, str):
        ids = to_tokens(tokenizer, text_or_tokens, bos=bos).tokens[0]
    else:
        check_tokenizer(tokenizer)
        ids = _ids(tokenizer, text_or_tokens)
        if bos is not None:
            raise ValueError("bos goes with a text: token ids are shown as they are")
        if ids.ndim != 1:
            raise ValueError(f"expected one row of token ids, int[pos], got shape {ids.shape}")
    special = {added.content for added in tokenizer.get_added_tokens_decoder().values() if added.special}

    def says(token: int) -> str:
        string = tokenizer.id_to_token(token)
        if string in special:
            return string
        # behind itself, where no decoder strips a space that begins the text
        once, twice = (tokenizer.decode([token] * times, skip_special_tokens=False) for times in (1, 2))
        return twice[len(once) :]

    return tuple(says(int(token)) for token in ids)


def to_single_token(tokenizer: Tokenizer, text: str) -> int:
    """The id of a text that is one token, its space included.

    For an answer behind a prompt, tokenise both together: `ji.tokenize_pairs` does.

    Raises:
      ValueError: a text that is not one token; says how it splits.

    Example:
      >>> _, _, tokenizer = ji.load("english")
      >>> tokenizer.id_to_token(ji.to_single_token(tokenizer, "Mary"))
      'Mary'
    """
    check_tokenizer(tokenizer)
    if not isinstance(text, str):
        raise TypeError(f"text must be a string, got {type(text).__name__}")
    encoding = tokenizer.encode(text, add_special_tokens=False)
    if len(encoding.ids) != 1 or encoding.ids[0] in unknown_ids(tokenizer):
        other = text[1:] if text.startswith(" ") else f" {text}"
        found = tokenizer.encode(other, add_special_tokens=False)
        one = bool(text) and len(found.ids) == 1 and found.ids[0] not in unknown_ids(tokenizer)
        raise ValueError(
            f"{text!r} is not one token: it splits into {encoding.tokens}" + (f"; {other!r} is one" if one else "")
        )
    return encoding.ids[0]


def to_string(tokenizer: Tokenizer, tokens: Any, *, mask: Any = None) -> str | tuple[str, ...]:
    """The text of token ids, special tokens included.

    Args:
      tokens: int[pos] or int[batch, pos]. mask: bool of the same shape; tokens where it is False are left out.

    Returns:
      One text, or one for each row.

    Raises:
      ValueError: ids that are not the tokenizer's; a mask of another shape.

    Example:
      >>> _, _, tokenizer = ji.load("english")
      >>> ji.to_string(tokenizer, ji.to_tokens(tokenizer, "Mary and John").tokens)
      ('<bos> Mary and John',)
    """
    check_tokenizer(tokenizer)
    ids = _ids(tokenizer, tokens)
    if ids.ndim not in (1, 2):
        raise ValueError(f"tokens must be int[pos] or int[batch, pos], got shape {ids.shape}")
    kept = np.ones(ids.shape, bool) if mask is None else np.asarray(mask, bool)
    if kept.shape != ids.shape:
        raise ValueError(f"mask has shape {kept.shape}, expected that of tokens, {ids.shape}")
    rows = [row[seen].tolist() for row, seen in zip(np.atleast_2d(ids), np.atleast_2d(kept), strict=True)]
    texts = tuple(tokenizer.decode_batch(rows, skip_special_tokens=False))
    return texts if ids.ndim == 2 else texts[0]


def check_tokenizer(tokenizer: Any, bos: str | None = None) -> None:
    """Raises for what cannot tokenise texts one by one, and for a `bos` that is no token of it.

    Raises:
      TypeError: not a `tokenizers.Tokenizer`.
      ValueError: one that pads, truncates or draws at random; an unknown `bos`.
    """
    if not isinstance(tokenizer, Tokenizer):
        hint = ": pass its backend_tokenizer" if hasattr(tokenizer, "backend_tokenizer") else ""
        raise TypeError(f"tokenizer must be a tokenizers.Tokenizer, got {type(tokenizer).__name__}{hint}")
    if tokenizer.padding is not None or tokenizer.truncation is not None:
        raise ValueError("the tokenizer pads or truncates: call its no_padding() and no_truncation() first")
    if getattr(tokenizer.model, "dropout", None):
        raise ValueError("the tokenizer's model has dropout, so one text has many tokenisations")
    if bos and (not isinstance(bos, str) or tokenizer.token_to_id(bos) is None):
        raise ValueError(f"bos={bos!r} is not a token of this tokenizer; None leaves it to the tokenizer, '' has none")


def _ids(tokenizer: Tokenizer, tokens: Any) -> np.ndarray:
    """Token ids as an array; raises for numbers that are none."""
    ids = np.asarray(tokens)
    if not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"tokens must be integers, got {ids.dtype}")
    for token in np.unique(ids):
        if token < 0 or tokenizer.id_to_token(int(token)) is None:
            raise ValueError(f"{token} is no token of this tokenizer, which has {tokenizer.get_vocab_size()}")
    return ids
