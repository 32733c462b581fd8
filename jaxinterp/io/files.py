"""What every checkpoint folder has in common: JSON, tensors that are read one at a time, and a tokenizer.

Nothing in a folder is ever executed: weights are safetensors, never pickle, and an index can only name files
that lie beside it.
"""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
INDEX, ORBAX = "model.safetensors.index.json", "model.orbax"

#: The file's names for floating dtypes; nothing else is a weight.
FLOATS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}

#: Suffixes of pickled weights, which run code when they are read.
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: what it is, known without reading it, and where it lies.

    Attributes:
      path: the file it lies in.
      name: what the file calls it.
      shape: its shape.
      dtype: its dtype, as the file writes it (`"F32"`).
      offset: of its first byte in the file.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str
    offset: int

    def __str__(self) -> str:
        return f"{self.name!r} in {self.path}"

    @property
    def float_dtype(self) -> jnp.dtype:
        """The dtype; raises a ValueError if the tensor does not hold floating point numbers."""
        if self.dtype not in FLOATS:
            raise ValueError(f"{self} is {self.dtype}, expected one of: {', '.join(FLOATS)}")
        return jnp.dtype(FLOATS[self.dtype])

    def map(self) -> np.ndarray:
        """The values, mapped: read from the file as they are used. The file stays mapped as long as the array lives."""
        return np.asarray(np.memmap(self.path, self.float_dtype, "r", self.offset, self.shape))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; raises an error that names the file when it is missing or malformed."""
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} is not a checkpoint: it has no {path.name}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value


def check_format(path: Path, content: dict[str, Any], name: str, version: int) -> None:
    """Raises a ValueError unless a description says that it is of a format and a version."""
    if content.get("format") != name:
        raise ValueError(f"{path} has format {content.get('format')!r}, expected {name!r}")
    if content.get("version") != version:
        raise ValueError(
            f"{path} has version {content.get('version')!r}, and this jaxinterp reads {version}: "
            "it was written by another release, perhaps a newer one"
        )


def refuse_pickle(path: Path) -> None:
    """Raises a ValueError that says what to do instead, if a file is pickled weights."""
    if path.suffix in PICKLES:
        raise ValueError(
            f"{path} is pickled, which can run code when it is read, so it is not. Convert it to safetensors: "
            "with transformers, `AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)`"
        )


def open_tensors(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of a folder by name, none of them read: one safetensors file, or the shards of its index.

    Raises:
      FileNotFoundError: no weights, or a shard that the index lists is missing.
      ValueError: weights that are pickled or truncated, or an index that is malformed, leaves the folder, or
        disagrees with its shards.
    """
    if (folder / WEIGHTS).is_file():
        return _open_file(folder / WEIGHTS)
    if (folder / INDEX).is_file():
        return _open_shards(folder / INDEX)
    for path in sorted(folder.iterdir()):
        refuse_pickle(path)
    raise FileNotFoundError(f"{folder} holds neither {WEIGHTS} nor {INDEX}")


def _open_file(path: Path) -> dict[str, StoredTensor]:
    try:
        with safe_open(path, framework="np"):  # which refuses a header that is malformed or does not fit the file
            pass
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}): fetch or save it again") from error
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return {
        name: StoredTensor(path, name, tuple(entry["shape"]), entry["dtype"], 8 + length + entry["data_offsets"][0])
        for name, entry in header.items()
    }


def _open_shards(index: Path) -> dict[str, StoredTensor]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index} must hold a 'weight_map' from tensor names to file names")
    tensors: dict[str, StoredTensor] = {}
    for shard in sorted(set(map(str, weight_map.values()))):
        refuse_pickle(index.parent / shard)
        # A plain name: no separators, so nothing outside the folder can be reached.
        if not re.fullmatch(r"[\w.-]+\.safetensors", shard):
            raise ValueError(f"{index} names {shard!r}: a shard must be a .safetensors file in the same folder")
        if not (index.parent / shard).is_file():
            raise FileNotFoundError(f"{index} names {shard!r}, which is missing from the folder")
        for name, tensor in _open_file(index.parent / shard).items():
            if weight_map.get(name) != shard:
                raise ValueError(f"{tensor} is not where {index.name} says: {weight_map.get(name)!r}")
            tensors[name] = tensor
    if missing := [name for name in weight_map if name not in tensors]:
        raise ValueError(f"{index} lists {missing[0]!r}, which {weight_map[missing[0]]!r} does not hold")
    return tensors


def read_tokenizer(folder: Path, d_vocab: int) -> Tokenizer | None:
    """The folder's tokenizer, or None if it has none.

    Raises:
      ValueError: `tokenizer.json` is malformed, or has tokens beyond the model's vocabulary, special ones that were
        added apart (Gemma 3's text models lack the image token that theirs has; the model refuses it in a prompt).
    """
    path = folder / TOKENIZER
    if not path.is_file():
        return None
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the only type that tokenizers raises
        raise ValueError(f"{path} is not a tokenizer: {error}") from error
    check_vocabulary(tokenizer, d_vocab, str(path))
    return tokenizer


def check_vocabulary(tokenizer: Tokenizer, d_vocab: int, name: str) -> None:
    """Raises a ValueError if a tokenizer has tokens that a model lacks, but for special ones that were added apart."""
    apart = {number for number, added in tokenizer.get_added_tokens_decoder().items() if added.special}
    ids = {token: number for token, number in tokenizer.get_vocab().items() if number not in apart}
    token, last = max(ids.items(), key=lambda item: item[1], default=("", -1))
    if last >= d_vocab:
        raise ValueError(f"{name} has token {token!r} at id {last}, but the model's vocabulary is {d_vocab}")
