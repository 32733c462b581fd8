"""The card of a model in a folder, or of one that comes with the library."""

import dataclasses
import os
from pathlib import Path

from jaxinterp.cards import brackets, english, induction
from jaxinterp.cards.card import Card
from jaxinterp.io.corpus import read_corpus, standard_library
from jaxinterp.io.load import find_folder, load
from jaxinterp.model.config import suggest
from jaxinterp.tasks.choices import check_count
from jaxinterp.training import TrainingRecord

#: Lies beside the weights, and ends the card.
NOTES = "notes.md"

#: What there are cards of, and the cases of each kind that are drawn unless the caller says otherwise: prompts of each
#: task, strings of each kind, rows of random tokens.
CASES = {"english": 2000, "brackets": 4000, "induction": 100}


def make_card(
    name: str,
    model: str | os.PathLike[str] | None = None,
    *,
    n: int | None = None,
    twin: str | os.PathLike[str] | None = None,
    corpus: str | os.PathLike[str] | None = None,
) -> Card:
    """Measures a reference model.

    Args:
      name: "english", "brackets" or "induction": which card.
      model: the model that is measured, anything that `load` takes; the built-in one of that name if not given.
      n: cases of each kind; `CASES` has the defaults.
      twin: for "induction", a one-layer model with the same tokenizer, to compare with.
      corpus: for "induction", a folder of text; the running Python's standard library if not given.

    Raises:
      ValueError: an unknown card, a model of something else, too few cases, a twin or a corpus for another card, a
        twin with another tokenizer or trained on other text.
      FileNotFoundError: no such model.

    Example:
      >>> from jaxinterp.cards.make import make_card
      >>> make_card("bracket")
      Traceback (most recent call last):
      ValueError: unknown card 'bracket'; did you mean 'brackets'?
    """
    if name not in CASES:
        raise ValueError(f"unknown card {name!r}; {suggest(name, tuple(CASES))}")
    for argument, value in (("twin", twin), ("corpus", corpus)):
        if value is not None and name != "induction":
            raise ValueError(f"{argument} is for the card of 'induction' alone, got it for {name!r}")
    folder = find_folder(name if model is None else model)
    transformer, params, tokenizer = load(folder)
    if tokenizer is None:
        raise ValueError(f"{folder} has no tokenizer.json, and a card is measured on text")
    cases = CASES[name] if n is None else n
    check_count(cases, at_least=1)
    record = TrainingRecord.read(folder)
    if name != "induction":
        measured = english.card if name == "english" else brackets.card
        return _with_notes(measured(transformer, params, tokenizer, record, n=cases), folder)
    if not transformer.config.attn_only:
        raise ValueError(
            f"{folder} is no model of attention alone: expected one that models/induction/train.py trained"
        )
    text = standard_library() if corpus is None else read_corpus(Path(corpus))
    counts = text.differences(folder)
    differ = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    note = f"**This is not the text that the model was trained on**: of its files, {differ}."
    other = None
    if twin is not None:
        its_model, its_params, its_tokenizer = load(twin)
        its_record = TrainingRecord.read(find_folder(twin))
        if its_tokenizer is None or its_tokenizer.to_str() != tokenizer.to_str():
            raise ValueError(f"the twin {twin} has another tokenizer than {folder}: its losses are of other tokens")
        if record and its_record and record.settings.get("text") != its_record.settings.get("text"):
            raise ValueError(f"the twin {twin} was trained on other text than {folder}")
        other = its_model, its_params, its_record
    card = induction.card(
        transformer, params, tokenizer, record, train=text.documents("train"), evaluation=text.documents("evaluation"),
        source=text.source, note=note if any(counts.values()) else "", twin=other, draws=cases,
    )  # fmt: skip
    return _with_notes(card, folder)


def _with_notes(card: Card, folder: Path) -> Card:
    """The card with what was written by hand about the model: what was tried, what is missing, other seeds."""
    notes = folder / NOTES
    if not notes.is_file():
        return card
    return dataclasses.replace(card, text=f"{card.text.strip()}\n\n{notes.read_text(encoding='utf-8').strip()}")
