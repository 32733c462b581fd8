"""This library's own checkpoints: a folder with `config.json`, `model.safetensors` and perhaps `tokenizer.json`."""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from safetensors import SafetensorError
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from jaxinterp.io.files import (
    CONFIG,
    TOKENIZER,
    WEIGHTS,
    cast,
    check_format,
    open_tensors,
    place,
    read_json,
    read_tokenizer,
    resolve_dtype,
)
from jaxinterp.model.config import TransformerConfig, suggest
from jaxinterp.model.params import Params, check_params, weight_shapes
from jaxinterp.model.transformer import Transformer

FORMAT, VERSION = "jaxinterp", 1


def save(
    folder: str | os.PathLike[str],
    model: Transformer,
    params: Params,
    tokenizer: Tokenizer | None = None,
    *,
    stored_as: str | None = None,
) -> None:
    """Writes a model to a folder, from which `load` reads it back bit for bit.

    The files are written aside and moved into place when they are all complete, so that a reader, or a run
    killed halfway, never sees a mixture. Other files in the folder are left alone; the tokenizer of an earlier
    save is removed if there is none now.

    Args:
      folder: where to; made if it does not exist.
      model: its `config` is written to `config.json`.
      params: every weight of the model, in any dtypes.
      stored_as: a dtype of less precision, "float16" say, that the file holds weights in; `load` gives them back in
        the model's own. Otherwise each is stored as it is.
      tokenizer: written to `tokenizer.json`.

    Raises:
      ValueError: weights that are missing, unknown, of the wrong shape, NaN or infinite.
      OSError: the folder cannot be written (full disk, no permission). Nothing partial is left behind.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     ji.save(folder, model, params)
      ...     again, weights, tokenizer = ji.load(folder)
      >>> again == model, bool((weights["W_Q"] == params["W_Q"]).all()), tokenizer
      (True, True, None)
    """
    folder = Path(folder)
    check_params(model.config, params)
    # A file holds bytes in C order, whatever the strides of the array in memory.
    kept = None if stored_as is None else resolve_dtype(stored_as)
    arrays = {name: np.asarray(np.asarray(params[name]), dtype=kept, order="C") for name in sorted(params)}
    for name, array in arrays.items():
        cast(array, resolve_dtype(array.dtype), repr(name))
    config = {"format": FORMAT, "version": VERSION, "config": dataclasses.asdict(model.config)}
    if kept is not None:
        config["stored_as"] = kept.name
    with _all_or_nothing(folder) as partial:
        if tokenizer is not None:
            (partial / TOKENIZER).write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
        save_file(arrays, partial / WEIGHTS)
        (partial / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        # safetensors makes files that only their owner can read.
        shutil.copymode(partial / CONFIG, partial / WEIGHTS)


@contextlib.contextmanager
def _all_or_nothing(folder: Path) -> Iterator[Path]:
    """A place to write a checkpoint's files to; they move into the folder at the end, or vanish on an error."""
    partial = folder / ".partial"
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        shutil.rmtree(partial, ignore_errors=True)  # left by a run that was killed
        partial.mkdir(parents=True)
        yield partial
        # config.json makes the folder a checkpoint: it goes first and comes last, so that no moment in between
        # shows new weights under an old description.
        for name in (CONFIG, TOKENIZER):
            (folder / name).unlink(missing_ok=True)
        for name in (TOKENIZER, WEIGHTS, CONFIG):
            if (partial / name).exists():
                os.replace(partial / name, folder / name)
    except (OSError, SafetensorError) as error:
        raise OSError(f"cannot save a model to {folder}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        with contextlib.suppress(OSError):  # not empty: the save succeeded
            for path in new:
                path.rmdir()


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder's `config.json` says that this library wrote it."""
    return (folder / CONFIG).is_file() and "format" in read_json(folder / CONFIG)


def read(
    folder: str | os.PathLike[str], *, dtype: Any = None, mesh: Mesh | None = None
) -> tuple[Transformer, Params, Tokenizer | None]:
    """Reads what `save` wrote.

    Args:
      folder: where from.
      dtype: what to convert the weights to; `None` leaves each as it was saved, so that the round trip is bit-exact.
      mesh: if given, every weight is copied to each of its devices.

    Returns:
      The model, its parameters, and its tokenizer or `None`.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: a file is truncated, pickled, of another format or version; a config field is unknown; a
        weight is missing, unknown, of the wrong shape or dtype, NaN or infinite.
    """
    folder = Path(folder)
    config, stored_as = _read_config(folder / CONFIG)
    if dtype is None and stored_as is not None:
        dtype = config.dtype
    if dtype is not None:
        config = dataclasses.replace(config, dtype=resolve_dtype(dtype).name)
    tokenizer = read_tokenizer(folder, config.d_vocab)
    tensors = open_tensors(folder)
    # Arrays that take no memory, so that shapes are checked before anything is read.
    blanks: Any = {name: np.broadcast_to(0.0, tensor.shape) for name, tensor in tensors.items()}
    try:
        check_params(config, blanks)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    params = {}
    for name in weight_shapes(config):
        stored = tensors[name].float_dtype
        target = stored if dtype is None else resolve_dtype(dtype)
        params[name] = place(cast(tensors[name].read(), target, tensors[name]), mesh)
    return Transformer(config), params, tokenizer


def _read_config(path: Path) -> tuple[TransformerConfig, str | None]:
    """(the model's description, the dtype that its weights were narrowed to, if they were)."""
    content = read_json(path)
    check_format(path, content, FORMAT, VERSION)
    fields = content.get("config")
    if not isinstance(fields, dict):
        raise ValueError(f"{path} must hold a 'config' object, got {type(fields).__name__}")
    known = [field.name for field in dataclasses.fields(TransformerConfig)]
    for name in fields:
        if name not in known:
            raise ValueError(f"{path}: unknown config field {name!r}; {suggest(name, known)}")
    try:
        return TransformerConfig(**fields), content.get("stored_as")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
