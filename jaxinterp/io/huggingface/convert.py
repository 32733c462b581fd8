"""Reading a Hugging Face folder: the family is found by its `model_type`, and its table does the rest."""

import dataclasses
import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax.sharding import Mesh
from tokenizers import Tokenizer

from jaxinterp.io.files import CONFIG, open_tensors, read_json, read_tokenizer
from jaxinterp.io.huggingface.bert import BERT
from jaxinterp.io.huggingface.distilbert import DISTILBERT
from jaxinterp.io.huggingface.gemma import GEMMA
from jaxinterp.io.huggingface.gemma2 import GEMMA2
from jaxinterp.io.huggingface.gemma3 import GEMMA3
from jaxinterp.io.huggingface.gpt2 import GPT2
from jaxinterp.io.huggingface.gpt_neo import GPT_NEO
from jaxinterp.io.huggingface.gpt_neox import GPT_NEOX
from jaxinterp.io.huggingface.gptj import GPTJ
from jaxinterp.io.huggingface.llama import LLAMA
from jaxinterp.io.huggingface.mistral import MISTRAL
from jaxinterp.io.huggingface.mixtral import MIXTRAL
from jaxinterp.io.huggingface.olmo2 import OLMO2
from jaxinterp.io.huggingface.opt import OPT
from jaxinterp.io.huggingface.phi3 import PHI3
from jaxinterp.io.huggingface.qwen2 import QWEN2
from jaxinterp.io.huggingface.qwen3 import QWEN3
from jaxinterp.io.huggingface.roberta import ROBERTA
from jaxinterp.io.huggingface.table import Family, convert_config, convert_weights
from jaxinterp.io.weights import load_weights
from jaxinterp.model.params import Params
from jaxinterp.model.sharding import param_shardings
from jaxinterp.model.transformer import Transformer

#: `model_type` of config.json -> conversion table.
FAMILIES: dict[str, Family] = {
    "gpt2": GPT2,
    "gpt_neo": GPT_NEO,
    "gptj": GPTJ,
    "gpt_neox": GPT_NEOX,
    "opt": OPT,
    "llama": LLAMA,
    "mistral": MISTRAL,
    "mixtral": MIXTRAL,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "olmo2": OLMO2,
    "phi3": PHI3,
    "gemma": GEMMA,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA3,
    "bert": BERT,
    "roberta": ROBERTA,
    "distilbert": DISTILBERT,
}


def read(
    folder: str | os.PathLike[str],
    *,
    dtype: Any = None,
    mesh: Mesh | None = None,
    sharding: str | Mapping[str, Any] | None = None,
    progress: bool | None = None,
) -> tuple[Transformer, Params, Tokenizer | None]:
    """Reads a checkpoint that `transformers` wrote: config.json, safetensors (one file or shards), tokenizer.json.

    Args:
      folder: where from.
      dtype: what to convert the weights to; `None` keeps the files' (the widest, where they differ).
      mesh, sharding: where the weights go, as `param_shardings` says; `None` is the default device.
      progress: whether a bar is shown; `None`: on a terminal, when it takes longer than a second.

    Returns:
      The model, its parameters, and its tokenizer or `None`.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: an architecture there is no table for; a config field that may change the computation and is
        not in the table; weights that are pickled, truncated, missing, not used, of the wrong shape or dtype,
        NaN or infinite; a sharding that does not fit the model.
    """
    folder = Path(folder)
    theirs = read_json(folder / CONFIG)
    family = _family(theirs.get("model_type"), folder / CONFIG)
    try:
        config = convert_config(family, theirs)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / CONFIG}: {error}") from error
    shardings = None if mesh is None else param_shardings(config, mesh, sharding)
    tokenizer = read_tokenizer(folder, config.d_vocab)
    tensors = open_tensors(folder)
    try:
        weights = convert_weights(family, config, tensors, dtype)
        params = load_weights(weights, shardings, progress)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    config = dataclasses.replace(config, dtype=params["W_E"].dtype.name)
    return Transformer(config), params, tokenizer


def _family(model_type: Any, path: Path) -> Family:
    if not isinstance(model_type, str):
        raise ValueError(f"{path} does not say what architecture this is: model_type = {model_type!r}")
    if model_type not in FAMILIES:
        nearest = difflib.get_close_matches(model_type, FAMILIES, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"{path}: there is no table for architecture {model_type!r}; the nearest is {nearest!r}, "
            f"of {', '.join(FAMILIES)}"
        )
    return FAMILIES[model_type]
