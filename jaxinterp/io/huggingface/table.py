"""What a family's conversion table is, and what turns its rows into our config and our weights.

A table has two parts. Each row of `fields` says what one of their config fields is called here; each row of
`weights` gives a tensor's name, its axes and our names:

    ("model.layers.{layer}.self_attn.k_proj.weight", "(kv_head d_head) d_model", "W_K")
    ("transformer.h.{layer}.attn.c_attn.weight", "d_model (qkv head d_head)", "W_Q W_K W_V")

    ("model.layers.{layer}.self_attn.qkv_proj.weight", "(head+kv_head+kv_head d_head) d_model", "W_Q W_K W_V")

    ("bert.embeddings.LayerNorm.(weight|gamma)", "d_model", "ln_embed.w")

A name with alternatives stands for the first of them that a file holds. Axes in brackets are fused in the file. Their
order is the file's; ours is in `weight_axes`, and the transpose follows from the names. An axis that none of our
weights has (`qkv`) is divided among the weights named; one with plus signs holds their axes one after another, and a
number in it entries that nothing reads.
"""

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxinterp.io.files import StoredTensor
from jaxinterp.io.weights import BLOCK, Part, StoredWeight, blocks, resolve_dtype
from jaxinterp.model.config import TransformerConfig, suggest
from jaxinterp.model.params import weight_axes, weight_shapes

#: The default of a config field that must be there.
REQUIRED = object()


class Field(NamedTuple):
    """One row of the config table.

    Attributes:
      theirs: the field's name in `config.json`.
      default: what its absence means.
      ours: the field of `TransformerConfig` it sets; `None` if it sets none.
      via: how its value becomes ours, given the value and all of their fields; `None` keeps it. May raise a
        ValueError for what is not supported.
    """

    theirs: str
    default: Any
    ours: str | None
    via: Callable[[Any, Mapping[str, Any]], Any] | None = None


@dataclasses.dataclass(frozen=True)
class Family:
    """How one family of checkpoints is written, as a table.

    Attributes:
      architectures: the values of `architectures` in `config.json` that the table describes.
      prefix: what the names of most tensors begin with, except in files written without the head.
      constants: fields of `TransformerConfig` that all members share.
      fields: the config table.
      harmless: config fields that do not change what the model computes.
      weights: rows of (their tensor, its axes, our weights).
      unread: their tensors that are passed over: buffers, and heads beside the logits.
      copies: their tensors that may repeat another one's values when embeddings are tied, and that other.
    """

    architectures: tuple[str, ...]
    prefix: str
    constants: Mapping[str, Any]
    fields: tuple[Field, ...]
    harmless: tuple[str, ...]
    weights: tuple[tuple[str, str, str], ...]
    unread: tuple[str, ...]
    copies: Mapping[str, str]


_HARMLESS = """
    _name_or_path name_or_path _num_labels architectures model_type transformers_version dtype torch_dtype
    torchscript use_bfloat16 use_cache return_dict output_attentions output_hidden_states output_scores
    return_dict_in_generate attn_implementation _attn_implementation _attn_implementation_autoset
    cache_implementation gradient_checkpointing chunk_size_feed_forward initializer_range is_decoder
    id2label label2id num_labels problem_type finetuning_task task_specific_params tokenizer_class prefix
    bos_token_id eos_token_id pad_token_id sep_token_id decoder_start_token_id forced_bos_token_id
    forced_eos_token_id bad_words_ids suppress_tokens begin_suppress_tokens max_length min_length do_sample
    early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p typical_p
    repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size num_return_sequences
    remove_invalid_values is_llama_config transformers.js_config output_past
    exponential_decay_length_penalty tf_legacy_loss unsloth_version unsloth_fixed
"""

#: Config fields that no family's computation depends on: bookkeeping, training, token ids and generation.
HARMLESS = tuple(_HARMLESS.split())

#: Their names of activation functions.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_new",
    "gelu_fast": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


def activation(name: Any, theirs: Mapping[str, Any]) -> str:
    """Our name of an activation function."""
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation; {suggest(name, ACTIVATIONS)}")
    return ACTIVATIONS[name]


def only(*supported: Any) -> Callable[[Any, Mapping[str, Any]], None]:
    """A converter that refuses every value but these."""

    def check(value: Any, theirs: Mapping[str, Any]) -> None:
        if not any(value is one or (value == one and type(value) is type(one)) for one in supported):
            raise ValueError(f"not supported; expected {' or '.join(map(repr, supported))}")

    return check


#: Rows of every family: what older files say is off.
EVERYWHERE = (
    Field("is_encoder_decoder", False, None, only(False)),
    Field("tie_encoder_decoder", False, None, only(False)),
    Field("add_cross_attention", False, None, only(False)),
    Field("pruned_heads", None, None, only(None, {})),
    Field("rope_interleaved", False, None, only(False, None)),
)


#: Their names of what a layer's queries see.
LAYER_TYPES = ("sliding_attention", "full_attention")


def layer_windows(layer_types: Any, n_layers: int, size: int | None) -> tuple[int | None, ...] | None:
    """The window of each layer, from its type; `None` if no layer has one.

    Raises:
      ValueError: another number of types than layers, a type that does not exist, a window without a size.
    """
    if len(layer_types) != n_layers:
        raise ValueError(f"{len(layer_types)} entries for num_hidden_layers = {n_layers}")
    for kind in layer_types:
        if kind not in LAYER_TYPES:
            raise ValueError(f"unknown layer type {kind!r}; {suggest(kind, LAYER_TYPES)}")
        if kind == "sliding_attention" and size is None:
            raise ValueError("'sliding_attention' needs a window, but the config has none")
    if "sliding_attention" not in layer_types:
        return None
    return tuple(size if kind == "sliding_attention" else None for kind in layer_types)


def convert_config(family: Family, theirs: Mapping[str, Any]) -> TransformerConfig:
    """Our config from theirs.

    Raises:
      ValueError: a field that is missing, has a value that is not supported, or is in neither the table nor
        the list of harmless ones and so may change what the model computes.
    """
    if not isinstance(theirs.get("architectures") or [], list):
        raise ValueError(f"architectures must be a list, got {theirs['architectures']!r}")
    for name in theirs.get("architectures") or ():
        if name not in family.architectures:
            raise ValueError(f"unsupported architecture {name!r}; {suggest(name, family.architectures)}")
    rows = family.fields + EVERYWHERE
    known = {row.theirs: row.default for row in rows}
    for name, value in theirs.items():
        if name not in known and name not in HARMLESS + family.harmless and value is not None:
            raise ValueError(
                f"unknown field {name!r} = {value!r} may change what the model computes; {suggest(name, known)}"
            )
    values = {name: theirs.get(name, default) for name, default in known.items()}
    if missing := [name for name, value in values.items() if value is REQUIRED]:
        raise ValueError(f"missing field {missing[0]!r}")
    for row in rows:
        if row.default is REQUIRED and (type(values[row.theirs]) is not int or values[row.theirs] < 1):
            raise ValueError(f"{row.theirs} must be a positive integer, got {values[row.theirs]!r}")
    ours: dict[str, Any] = dict(family.constants)
    for row in rows:
        value = values[row.theirs]
        try:
            converted = value if row.via is None else row.via(value, values)
        except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise ValueError(f"{row.theirs} = {value!r}: {error}") from error
        if row.ours is not None:
            ours[row.ours] = converted
    return TransformerConfig(**ours)


def split_axes(stored: str, sizes: Mapping[str, int], shares: int) -> tuple[list[str], list[int], tuple[int, ...]]:
    """A row's axes with fused ones apart, their sizes, and the shape of the tensor in the file.

    Example:
      >>> split_axes("(kv_head d_head) d_model", {"kv_head": 2, "d_head": 4, "d_model": 8}, 1)
      (['kv_head', 'd_head', 'd_model'], [2, 4, 8], (8, 8))
    """

    def size(axis: str) -> int:
        return sum(_part_sizes(axis, sizes)) if "+" in axis else sizes.get(axis, shares)

    groups = [match.strip("()").split() for match in re.findall(r"\([^)]*\)|\S+", stored)]
    fused = tuple(math.prod(map(size, group)) for group in groups)
    axes = [axis for group in groups for axis in group]
    return axes, list(map(size, axes)), fused


def _part_sizes(axis: str, sizes: Mapping[str, int]) -> list[int]:
    """The sizes of what an axis with plus signs holds one after another."""
    return [int(part) if part.isdigit() else sizes[part] for part in axis.split("+")]


def unstack(
    values: np.ndarray, stored: str, sizes: Mapping[str, int], targets: list[tuple[str, ...]]
) -> list[np.ndarray]:
    """Views of one of their tensors, one for each of our weights, with axes in our order.

    Args:
      values: the tensor as the file holds it.
      stored: its axes, as the row has them.
      sizes: of every axis.
      targets: the axes of each of our weights, without `layer`.
    """
    axes, apart, _ = split_axes(stored, sizes, len(targets))
    views = []
    for i, (part, found) in enumerate(_parts(values.reshape(apart), axes, sizes, len(targets))):
        # Where every head has its own keys, a file may say `head` for what we call `kv_head`.
        wanted = [axis.removeprefix("kv_") for axis in targets[i]]
        found = [axis.removeprefix("kv_") for axis in found]
        shared = next((k for k, axis in enumerate(found) if axis not in wanted), None)
        part = part if shared is None else np.moveaxis(part, shared, 0)[i]
        kept = [axis for k, axis in enumerate(found) if k != shared]
        views.append(part.transpose([kept.index(axis) for axis in wanted]))
    return views


def _parts(
    whole: np.ndarray, axes: list[str], sizes: Mapping[str, int], shares: int
) -> list[tuple[np.ndarray, list[str]]]:
    """What each weight is found in, with its axes: the piece that is its own of an axis with plus signs, or all."""
    for k, axis in enumerate(axes):
        if "+" in axis:
            names, ends = axis.split("+"), np.cumsum(_part_sizes(axis, sizes))
            pieces = zip(names, np.split(whole, ends[:-1], axis=k), strict=True)
            return [(piece, [*axes[:k], name, *axes[k + 1 :]]) for name, piece in pieces if not name.isdigit()]
    return [(whole, axes)] * shares


def spellings(name: str) -> list[str]:
    """The names that one with alternatives stands for.

    Example:
      >>> spellings("cls.predictions.(decoder.|)bias")
      ['cls.predictions.decoder.bias', 'cls.predictions.bias']
    """
    parts = re.split(r"\(([^)]*)\)", name)
    choices = [part.split("|") if number % 2 else [part] for number, part in enumerate(parts)]
    return ["".join(chosen) for chosen in itertools.product(*choices)]


def _numbered(name: str, sizes: Mapping[str, int]) -> dict[tuple[int, ...], str]:
    """The names that one with numbers stands for, by where each tensor belongs in the stack of our weight."""
    axes = [axis for axis in ("layer", "expert") if f"{{{axis}}}" in name]
    places = itertools.product(*(range(sizes[axis]) for axis in axes))
    return {place: name.format(**dict(zip(axes, place, strict=True))) for place in places}


def convert_weights(
    family: Family, config: TransformerConfig, tensors: Mapping[str, StoredTensor], dtype: Any
) -> dict[str, StoredWeight]:
    """Where each of our weights lies among their tensors; none of them is read, but for copies that must be equal.

    Raises:
      ValueError: a tensor is missing, not used, or of the wrong shape or dtype.
    """
    if config.n_layers > len(tensors):
        raise ValueError(f"config.json says {config.n_layers} layers, but there are only {len(tensors)} tensors")
    if (config.n_experts or 0) > len(tensors):
        raise ValueError(f"config.json says {config.n_experts} experts, but there are only {len(tensors)} tensors")
    axes, shapes = weight_axes(config), weight_shapes(config)
    sizes = {axis: size for name in axes for axis, size in zip(axes[name], shapes[name], strict=True)}
    rows = [
        (_numbered(theirs, sizes), stored, ours.split())
        for theirs, stored, ours in family.weights
        if ours.split()[0] in axes
    ]
    wanted = [name for names, _, _ in rows for name in names.values()]
    unread = [name for pattern in family.unread for name in _numbered(pattern, sizes).values()]
    copies = family.copies if config.tie_embeddings else {}
    found = _match(tensors, wanted, {*unread, *copies}, family.prefix)
    for names, stored, ours in rows:
        expected = split_axes(stored, sizes, len(ours))[2]
        for name in names.values():
            if found[name].shape != expected:
                raise ValueError(
                    f"{found[name]} has shape {found[name].shape}, config.json implies {expected} ({stored})"
                )
    file_dtypes = [found[name].float_dtype for name in wanted]
    target = resolve_dtype(functools.reduce(jnp.promote_types, file_dtypes) if dtype is None else dtype)
    for name, original in copies.items():
        if {name, original} <= set(found) and not _equal(found[name], found[original]):
            raise ValueError(f"{found[name]} differs from {original!r}, but config.json ties them")

    weights = {}
    for names, stored, ours in rows:
        n_stacked = len(next(iter(names)))  # axes that the file has in the names of its tensors
        targets = [axes[name][n_stacked:] for name in ours]
        for i, name in enumerate(ours):
            view = functools.partial(_view, stored=stored, sizes=sizes, targets=targets, i=i)
            parts = {place: Part(found[tensor], view) for place, tensor in names.items()}
            weights[name] = StoredWeight(shapes[name], target, parts)
    return {name: weights[name] for name in axes}


def _view(
    values: np.ndarray, stored: str, sizes: Mapping[str, int], targets: list[tuple[str, ...]], i: int
) -> np.ndarray:
    return unstack(values, stored, sizes, targets)[i]


def _equal(tensor: StoredTensor, other: StoredTensor) -> bool:
    """Whether two tensors hold the same values; compares a block at a time."""
    if tensor.shape != other.shape:
        return False
    pairs = ((tensor.map()[block], other.map()[block]) for block in blocks(tensor.shape, BLOCK))
    return all(np.array_equal(values, others) for values, others in pairs)


def _match(
    tensors: Mapping[str, StoredTensor], wanted: Iterable[str], passed_over: set[str], prefix: str
) -> dict[str, StoredTensor]:
    """The tensors by the names that the table has for them, alternatives and all.

    Raises:
      ValueError: one that the table has no use for, or one it needs that is missing.
    """
    spelt = {name: spellings(name) for name in wanted}
    known = passed_over.union(*spelt.values())
    found: dict[str, StoredTensor] = {}
    unused = []
    for name in sorted(tensors, key=lambda name: name not in known):  # full names first
        full = name if name in known else prefix + name
        if full in known and full not in found:
            found[full] = tensors[name]
        else:
            unused.append(name)
    chosen = {name: next((one for one in spelt[name] if one in found), None) for name in spelt}
    unused += [name for name in found if name not in passed_over.union(chosen.values())]
    if unused:
        raise ValueError(f"nothing here uses {_some(unused)}: the model would not be what was trained")
    if missing := [spelt[name][0] for name in spelt if chosen[name] is None]:
        raise ValueError(f"missing {_some(missing)}")
    return found | {name: found[one] for name, one in chosen.items() if one is not None}


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
