"""This library's own checkpoints: a folder with `config.json`, the weights and perhaps `tokenizer.json`.

The weights are one safetensors file, or an Orbax folder for those that are divided over devices.
"""

import contextlib
import dataclasses
import functools
import json
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from safetensors import SafetensorError
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from jaxinterp.io.files import (
    CONFIG,
    ORBAX,
    TOKENIZER,
    WEIGHTS,
    check_format,
    check_vocabulary,
    open_tensors,
    read_json,
    read_tokenizer,
)
from jaxinterp.io.orbax import check_weight, open_orbax, read_orbax, write_orbax
from jaxinterp.io.weights import Part, StoredWeight, byte_bar, load_weights, resolve_dtype
from jaxinterp.model.config import TransformerConfig, suggest
from jaxinterp.model.params import Params, block_names, check_params, weight_shapes
from jaxinterp.model.sharding import param_shardings
from jaxinterp.model.transformer import Transformer

FORMAT, VERSION = "jaxinterp", 1

#: How weights may be written, and what the file or folder is called.
FORMATS = {"safetensors": WEIGHTS, "orbax": ORBAX}

#: Where a save lies until it is complete; in a folder in which it still is, one was killed.
PARTIAL = ".partial"

#: Seconds between two looks at how much of a save lies on the disk.
GLANCE = 0.25


def save(
    folder: str | os.PathLike[str],
    model: Transformer,
    params: Params,
    tokenizer: Tokenizer | None = None,
    *,
    stored_as: str | None = None,
    format: str | None = None,
    progress: bool | None = None,
) -> None:
    """Writes a model to a folder, from which `load` reads it back bit for bit.

    The files are written aside and moved into place when they are all complete, so that a reader, or a run
    killed halfway, never sees a mixture. Other files in the folder are left alone; the tokenizer and the weights of
    an earlier save are removed.

    Args:
      folder: where to; made if it does not exist.
      model: its `config` is written to `config.json`.
      params: every weight of the model, in any dtypes.
      stored_as: a dtype of less precision, "float16" say, that the file holds weights in; `load` gives them back in
        the model's own. Otherwise each is stored as it is.
      tokenizer: written to `tokenizer.json`.
      format: `"safetensors"`: one file that every other library reads. `"orbax"`: a folder to which each device
        writes its own part. `None`: Orbax where a weight is divided over devices, else safetensors.
      progress: whether a bar is shown; `None`: on a terminal, when it takes longer than a second.

    Raises:
      ValueError: weights that are missing, unknown, of the wrong shape, NaN or infinite, or too large for
        `stored_as`; a format that does not exist.
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
    if not isinstance(model, Transformer):
        raise TypeError(f"model must be a ji.Transformer, got {type(model).__name__}")
    check_params(model.config, params)
    if tokenizer is not None:
        if not isinstance(tokenizer, Tokenizer):
            raise TypeError(f"tokenizer must be a tokenizers.Tokenizer, got {type(tokenizer).__name__}")
        check_vocabulary(tokenizer, model.config.d_vocab, "the tokenizer")
    if format is None:
        format = "orbax" if any(map(_is_divided, params.values())) else "safetensors"
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; {suggest(format, FORMATS)}")
    kept = None if stored_as is None else resolve_dtype(stored_as)
    widest = max(np.dtype(weight.dtype).itemsize for weight in params.values())
    if kept is not None and kept.itemsize > widest:
        raise ValueError(f"stored_as={kept.name!r} is wider than the weights are: leave it out")
    weights = {name: _narrowed(name, params[name], kept) for name in sorted(params)}
    config = {"format": FORMAT, "version": VERSION, "config": dataclasses.asdict(model.config)}
    if kept is not None:
        config["stored_as"] = kept.name
    total = sum(weight.nbytes for weight in weights.values())
    with _all_or_nothing(folder) as partial, _growth_bar(partial, total, progress):
        if tokenizer is not None:
            (partial / TOKENIZER).write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
        (partial / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if format == "orbax":
            write_orbax(partial / ORBAX, weights)
        else:
            # A file holds bytes in C order, whatever the strides of the array in memory.
            save_file({name: np.asarray(weight, order="C") for name, weight in weights.items()}, partial / WEIGHTS)
            # safetensors makes files that only their owner can read.
            shutil.copymode(partial / CONFIG, partial / WEIGHTS)


def _is_divided(weight: Any) -> bool:
    return isinstance(weight, jax.Array) and not weight.is_fully_replicated


def _narrowed(name: str, weight: Any, dtype: Any) -> Any:
    """A weight in the dtype it is stored in; raises a ValueError if a value is NaN or infinite, or becomes so."""
    weight = weight if isinstance(weight, jax.Array) else np.asarray(weight)
    resolve_dtype(weight.dtype)
    check_weight(weight, repr(name))
    if dtype is None:
        return weight
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = weight.astype(dtype)
    check_weight(narrow, f"{name!r}, stored as {dtype},")
    return narrow


@contextlib.contextmanager
def _all_or_nothing(folder: Path) -> Iterator[Path]:
    """A place to write a checkpoint's files to; they move into the folder at the end, or vanish on an error."""
    partial = folder / PARTIAL
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        shutil.rmtree(partial, ignore_errors=True)  # left by a run that was killed
        partial.mkdir(parents=True)
        yield partial
        # config.json makes the folder a checkpoint: it goes first and comes last, so that no moment in between
        # shows new weights under an old description.
        for name in (CONFIG, TOKENIZER, WEIGHTS):
            (folder / name).unlink(missing_ok=True)
        if (folder / ORBAX).exists():
            shutil.rmtree(folder / ORBAX)
        for name in (TOKENIZER, WEIGHTS, ORBAX, CONFIG):
            if (partial / name).exists():
                os.replace(partial / name, folder / name)
    except (OSError, SafetensorError) as error:
        raise OSError(f"cannot save a model to {folder}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        with contextlib.suppress(OSError):  # not empty: the save succeeded
            for path in new:
                path.rmdir()


@contextlib.contextmanager
def _growth_bar(folder: Path, total: int, progress: bool | None) -> Iterator[None]:
    """A progress bar over the bytes that appear on disk in a folder, which libraries write without telling."""
    written = threading.Event()

    def watch() -> None:
        while not written.wait(GLANCE):
            with contextlib.suppress(OSError):  # a file that was moved meanwhile
                on_disk = sum(512 * path.stat().st_blocks for path in folder.rglob("*"))
                bar.update(min(on_disk, total) - bar.n)

    with byte_bar("saving", total, progress) as bar:
        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
            written.set()
            watcher.join()
            bar.update(total - bar.n)
        finally:
            written.set()
            watcher.join()


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder's `config.json` says that this library wrote it.

    Raises:
      FileNotFoundError: there is none, since a save was killed as its last files were moved into place.
    """
    if (folder / PARTIAL).is_dir() and not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder} holds a save that was not finished: save it again")
    return (folder / CONFIG).is_file() and "format" in read_json(folder / CONFIG)


def can_be_replaced(folder: Path) -> bool:
    """Whether a folder is empty, or holds a save of this library, complete or killed, that another may replace."""
    if not folder.is_dir():
        return False
    killed = (folder / PARTIAL).is_dir() and not (folder / CONFIG).is_file()
    return killed or not any(folder.iterdir()) or is_checkpoint(folder)


def read(
    folder: str | os.PathLike[str],
    *,
    dtype: Any = None,
    mesh: Mesh | None = None,
    sharding: str | Mapping[str, Any] | None = None,
    progress: bool | None = None,
) -> tuple[Transformer, Params, Tokenizer | None]:
    """Reads what `save` wrote.

    Args:
      folder: where from.
      dtype: what to convert the weights to; `None` leaves each as it was saved, so that the round trip is bit-exact.
      mesh, sharding: where the weights go, as `param_shardings` says; `None` is the default device.
      progress: whether a bar is shown; `None`: on a terminal, when it takes longer than a second.

    Returns:
      The model, its parameters, and its tokenizer or `None`.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: a file is truncated, pickled, of another format or version; a config field is unknown; a
        weight is missing, unknown, of the wrong shape or dtype, NaN or infinite; a sharding does not fit the model.
    """
    folder = Path(folder)
    config, stored_as = _read_config(folder / CONFIG)
    if dtype is None and stored_as is not None:
        dtype = config.dtype
    if dtype is not None:
        config = dataclasses.replace(config, dtype=resolve_dtype(dtype).name)
    shardings = None if mesh is None else param_shardings(config, mesh, sharding)
    tokenizer = read_tokenizer(folder, config.d_vocab)
    is_orbax = (folder / ORBAX).is_dir()
    stored: Mapping[str, Any] = open_orbax(folder / ORBAX) if is_orbax else open_tensors(folder)
    # Arrays that take no memory, so that shapes are checked before anything is read.
    blanks: Any = {name: np.broadcast_to(0.0, one.shape) for name, one in stored.items()}
    try:
        check_params(config, blanks)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    file_dtypes = {name: stored[name].dtype if is_orbax else stored[name].float_dtype for name in weight_shapes(config)}
    dtypes = file_dtypes if dtype is None else dict.fromkeys(file_dtypes, resolve_dtype(dtype))
    if is_orbax:
        return Transformer(config), read_orbax(folder / ORBAX, dtypes, shardings, progress), tokenizer
    stacked = block_names(config)
    weights = {}
    for name, shape in weight_shapes(config).items():
        layers = list(np.ndindex(shape[:1] if name in stacked else ()))
        parts = {place: Part(stored[name], functools.partial(_entry, place=place)) for place in layers}
        weights[name] = StoredWeight(shape, dtypes[name], parts)
    return Transformer(config), load_weights(weights, shardings, progress), tokenizer


def _entry(values: np.ndarray, place: tuple[int, ...]) -> np.ndarray:
    return values[place]


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
