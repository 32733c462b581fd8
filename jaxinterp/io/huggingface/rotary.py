"""The config rows for rotary positions, in the spellings of new files and old ones."""

from collections.abc import Iterable, Mapping
from typing import Any

from jaxinterp.io.huggingface.table import Field
from jaxinterp.model.config import RotaryScaling, suggest

#: Types of rotary scaling: what each needs, in their names and in ours.
SCALINGS: dict[str, dict[str, str]] = {
    "default": {},
    "linear": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "low_freq_factor": "low_freq_factor",
        "high_freq_factor": "high_freq_factor",
        "original_max_position_embeddings": "original_n_ctx",
    },
}


def rotary_fields(
    base: float,
    *,
    base_names: tuple[str, ...] = ("rope_theta",),
    share: float | None = None,
    share_names: tuple[str, ...] = ("partial_rotary_factor",),
    kinds: Iterable[str] = SCALINGS,
) -> tuple[Field, ...]:
    """The rows for rotary positions: all in `rope_parameters`, or in fields of their own in older files.

    Args:
      base: what the rotary base is where a file does not say.
      base_names: what older files call it.
      share: how much of a head is rotated where a file does not say; `None` for families that rotate all of it,
        in which a file must not say.
      share_names: what older files call that.
      kinds: the types of scaling that the family may have.
    """
    share_rows = [] if share is None else list(share_names)

    def parameters(theirs: Mapping[str, Any]) -> Mapping[str, Any]:
        new, old = theirs["rope_parameters"] or {}, theirs["rope_scaling"] or {}
        if new and old and new != old:
            raise ValueError(f"differs from rope_scaling = {old!r}; expected one of the two")
        return new or old

    def find(entry: str, names: Iterable[str], default: Any, theirs: Mapping[str, Any]) -> Any:
        if entry in parameters(theirs):
            return parameters(theirs)[entry]
        given = {name: theirs[name] for name in names if theirs[name] is not None}
        if len(set(given.values())) > 1:
            raise ValueError(f"{' and '.join(map(repr, given))} differ: {given!r}")
        return next(iter(given.values()), default)

    def their_width(theirs: Mapping[str, Any]) -> int:
        head = theirs.get("head_dim") or theirs["hidden_size"] // theirs["num_attention_heads"]
        return int(head * find("partial_rotary_factor", share_rows, share, theirs))

    def to_base(_: Any, theirs: Mapping[str, Any]) -> Any:
        found = find("rope_theta", base_names, base, theirs)
        width = 0 if share is None else their_width(theirs)
        # an odd width rotates one dimension more, at the frequencies of its own: base^(-2i / width)
        return found ** ((width + 1) / width) if width % 2 else found

    def to_width(_: Any, theirs: Mapping[str, Any]) -> int:
        width = their_width(theirs)
        return width + width % 2

    def to_scaling(value: Any, theirs: Mapping[str, Any]) -> RotaryScaling | None:
        return read_scaling(value, theirs, kinds, ["partial_rotary_factor"] if share_rows else [])

    return (
        # First, so that what is wrong in an old file's field is not said of the new field.
        Field("rope_scaling", None, None, to_scaling),
        Field("rope_parameters", None, None, to_scaling),
        Field("rope_parameters", None, "rotary_scaling", lambda _, theirs: to_scaling(parameters(theirs), theirs)),
        Field("rope_parameters", None, "rotary_base", to_base),
        *([Field("rope_parameters", None, "rotary_dim", to_width)] if share_rows else []),
        *(Field(name, None, None) for name in (*base_names, *share_rows)),
    )


def read_scaling(
    parameters: Any, theirs: Mapping[str, Any], kinds: Iterable[str] = SCALINGS, others: Iterable[str] = ()
) -> RotaryScaling | None:
    """The scaling that one of their dicts of rotary parameters describes; `None` if there is none.

    Args:
      parameters: the dict, or `None`.
      theirs: all of their fields.
      kinds: the types that are supported.
      others: entries that the dict may have besides those of its type and the base.

    Raises:
      ValueError: a type that is not supported, an entry that is missing or unknown.
    """
    if parameters is not None and not isinstance(parameters, Mapping):
        raise ValueError("expected a dict, or null")
    parameters = parameters or {}
    kind = parameters.get("rope_type", parameters.get("type")) or "default"
    if kind not in kinds:
        raise ValueError(f"rotary scaling of type {kind!r} is not supported; {suggest(kind, kinds)}")
    entries = SCALINGS[kind]
    known = ("rope_type", "type", "rope_theta", *entries, *others)
    if unknown := set(parameters) - set(known):
        raise ValueError(f"unknown entry {min(unknown)!r} for type {kind!r}; {suggest(min(unknown), known)}")
    values = {"original_max_position_embeddings": theirs["max_position_embeddings"], **parameters}
    if missing := [name for name in entries if name not in values]:
        raise ValueError(f"rotary scaling of type {kind!r} lacks {missing[0]!r}")
    return RotaryScaling(**{ours: values[name] for name, ours in entries.items()}) if entries else None
