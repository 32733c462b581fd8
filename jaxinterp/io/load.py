"""`load`: a model by its name, from a folder, or from the Hugging Face Hub."""

import contextlib
import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax.sharding import Mesh
from tokenizers import Tokenizer

from jaxinterp.io import checkpoints, huggingface
from jaxinterp.io.files import CONFIG, INDEX, TOKENIZER, WEIGHTS, refuse_pickle
from jaxinterp.model.params import Params
from jaxinterp.model.sharding import check_sharding
from jaxinterp.model.transformer import Transformer

#: Where built-in models lie: within an installed package, or in the repository of an editable install.
BUILTIN_FOLDERS = (Path(__file__).parent / "models", Path(__file__).parents[2] / "models")

#: What is downloaded from the Hub; pickled weights never are.
DOWNLOADS = (CONFIG, TOKENIZER, WEIGHTS, INDEX, "model-*-of-*.safetensors")


def load(
    name_or_path: str | os.PathLike[str],
    *,
    dtype: Any = None,
    mesh: Mesh | None = None,
    sharding: str | Mapping[str, Any] | None = None,
    progress: bool | None = None,
) -> tuple[Transformer, Params, Tokenizer | None]:
    """Loads a trained model.

    Weights are read one after the other, and each straight into the memory it stays in: beside what stays, the host
    holds no more than the largest of them.

    Args:
      name_or_path: the name of a built-in model (`builtin_models()`); else a folder, written by `save` or by
        `transformers` (the families of `jaxinterp.io.huggingface.FAMILIES`); else `"owner/name"` on the Hugging
        Face Hub, which needs `pip install 'jaxinterp[hub]'`. What is fetched stays in that library's cache (`HF_HOME`
        says where); an interrupted download goes on when the same is loaded again, and with `HF_HUB_OFFLINE=1` in the
        environment only the cache is read. A folder that has a built-in model's name is written `"./name"`.
      dtype: what to convert the weights to, tensor by tensor; `None` keeps the file's.
      mesh: devices for the parameters; every one holds them whole, unless `sharding` divides them.
      sharding: the name of a mesh axis, along which heads, neurons and vocabulary are divided as far as its devices
        divide their number; or `{axis of weights: mesh axis}`, such as `{"d_model": "data"}`, which says it all. The
        forward and the sweeps take such parameters as they are.
      progress: whether a bar is shown; `None`: on a terminal, when it takes longer than a second.

    Returns:
      The model, its parameters, and its tokenizer, `None` if the folder has no `tokenizer.json`.

    Raises:
      FileNotFoundError: no such model or folder, or a file is missing from it.
      ImportError: a Hub name without the `hub` extra.
      ValueError: a file that is not what it should be; the message names it and what is wrong.

    Example:
      >>> model, params, tokenizer = ji.load("english", dtype="bfloat16")
      >>> params["W_E"].dtype
      dtype(bfloat16)
    """
    if name_or_path == "":
        raise ValueError("name_or_path is the empty string; the current folder is called '.'")
    if not isinstance(name_or_path, (str, os.PathLike)):
        raise TypeError(f"name_or_path must be a string or a path, got {type(name_or_path).__name__}")
    check_sharding(mesh, sharding)
    folder = find_folder(name_or_path)
    read = checkpoints.read if checkpoints.is_checkpoint(folder) else huggingface.read
    return read(folder, dtype=dtype, mesh=mesh, sharding=sharding, progress=progress)


def builtin_models() -> tuple[str, ...]:
    """The names of the models that come with the library, sorted.

    Example:
      >>> "english" in ji.builtin_models()
      True
    """
    return tuple(sorted(_builtin()))


def _builtin() -> dict[str, Path]:
    folders = [folder for root in reversed(BUILTIN_FOLDERS) for folder in root.glob("*")]
    return {f.name: f for f in folders if (f / WEIGHTS).is_file() and checkpoints.is_checkpoint(f)}


def find_folder(name_or_path: str | os.PathLike[str]) -> Path:
    """The folder that `load` reads for a name or a path, downloaded if need be.

    Example:
      >>> from jaxinterp.io.load import find_folder
      >>> find_folder("english").name
      'english'
    """
    builtin = _builtin()
    if isinstance(name_or_path, str) and name_or_path in builtin:
        return builtin[name_or_path]
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        refuse_pickle(path)
        raise ValueError(f"{path} is a file: give the folder it lies in")
    if isinstance(name_or_path, str) and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name_or_path):
        return _download(name_or_path)
    nearest = difflib.get_close_matches(str(name_or_path), builtin, n=1)
    raise FileNotFoundError(
        f"no built-in model and no folder is called {str(name_or_path)!r}"
        + (f"; did you mean {nearest[0]!r}?" if nearest else "")
        + f" ({_listing()}; models on the Hub are written 'owner/name')"
    )


def _listing() -> str:
    return f"built-in models: {', '.join(builtin_models()) or 'none'}"


def _download(name: str) -> Path:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(
            f"there is no folder {name!r}; to fetch it from the Hugging Face Hub: pip install 'jaxinterp[hub]'"
        ) from error
    try:
        folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=list(DOWNLOADS)))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"there is no folder {name!r}, and it cannot be fetched from the Hugging Face Hub: {error} ({_listing()})"
        ) from error
    if not (folder / WEIGHTS).exists() and not (folder / INDEX).exists():
        files: list[str] = []
        with contextlib.suppress(OSError):  # offline, the folder has to do
            files = huggingface_hub.list_repo_files(name)
        for file in files:
            refuse_pickle(Path(name) / file)
    return folder
