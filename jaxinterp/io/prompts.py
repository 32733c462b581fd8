"""Prompt pairs from files: JSONL or CSV with `clean`, `corrupted`, `correct` and `wrong`."""

import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxinterp.model.config import suggest
from jaxinterp.tasks.pairs import PromptPair

FIELDS = ("clean", "corrupted", "correct", "wrong")


def read_pairs(path: str | os.PathLike[str]) -> list[PromptPair]:
    """The pairs in a `.jsonl` or `.csv` file. JSONL rows may hold `positions`, `{name: word index}`.

    Raises:
      OSError: the file cannot be read.
      ValueError: another kind of file, or a malformed row; names the file and the line.

    Example:
      >>> import pathlib
      >>> row = '{"clean": "one two", "corrupted": "six seven", "correct": "three", "wrong": "eight"}'
      >>> _ = pathlib.Path("pairs.jsonl").write_text(row)
      >>> ji.read_pairs("pairs.jsonl")[0].correct
      'three'
    """
    path = Path(path)
    readers = {".jsonl": _jsonl_rows, ".csv": _csv_rows}
    if path.suffix not in readers:
        raise ValueError(f"{path}: prompts files end in .jsonl or .csv")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error
    pairs = []
    for line, row in readers[path.suffix](path, text):
        where = f"{path}, line {line}"
        if missing := [name for name in FIELDS if not isinstance(row.get(name), str) or not row[name]]:
            raise ValueError(f"{where}: {missing[0]!r} is missing or not text")
        for name in row:
            if name not in (*FIELDS, "positions"):
                raise ValueError(f"{where}: unknown field {name!r}; {suggest(str(name), (*FIELDS, 'positions'))}")
        positions = row.get("positions", {})
        if not isinstance(positions, dict) or not all(type(v) is int for v in positions.values()):
            raise ValueError(f"{where}: 'positions' must map names to word indices")
        try:
            pairs.append(PromptPair(row["clean"], row["corrupted"], row["correct"], row["wrong"], positions))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
    if not pairs:
        raise ValueError(f"{path} holds no prompts")
    return pairs


def _jsonl_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            row = json.loads(content, object_pairs_hook=_without_repeats)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {line}: not JSON: {error.msg} at column {error.colno}") from error
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {line}: expected an object with {', '.join(FIELDS)}")
        yield line, row


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{repeated[0]!r} stands twice in one object")
    return dict(pairs)


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    fields = list(reader.fieldnames or ())
    if repeated := [name for name in fields if fields.count(name) > 1]:
        raise ValueError(f"{path}, line 1: {repeated[0]!r} stands twice in the header")
    if missing := [name for name in FIELDS if name not in (reader.fieldnames or ())]:
        raise ValueError(f"{path}, line 1: the header lacks {missing[0]!r}; it must hold {', '.join(FIELDS)}")
    try:
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(f"{path}, line {reader.line_num}: expected {len(reader.fieldnames or ())} fields")
            yield reader.line_num, row
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
