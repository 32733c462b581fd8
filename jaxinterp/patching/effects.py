"""Effects as labelled arrays: the metric of edited runs minus that of the base run."""

import warnings
from typing import Any

import numpy as np
import xarray as xr

from jaxinterp.patching.cells import Axis
from jaxinterp.patching.tally import Tally, whole_way
from jaxinterp.tasks.prompts import Prompts


def effect_array(
    tally: Tally,
    axes: tuple[Axis, ...],
    prompts: Prompts,
    *,
    normalize: bool | str,
    per_example: bool,
    **attrs: Any,
) -> xr.DataArray:
    """Labelled effects.

    Args:
      tally: of a finished sweep; effects are already divided by each prompt's own difference if normalize is
        "per_prompt".
      normalize: True divides by mean(source) - mean(base); 0 is nothing, 1 is the whole way.
      per_example: keep the `batch` axis, instead of the mean and its standard error over prompts.

    Returns:
      An array over the axes (and `batch`). Without `per_example` the standard error over prompts stands beside
      each mean as the coordinate `standard_error` (NaN for a single prompt). Metrics are in `.attrs`.
    """
    shape = tuple(len(axis.labels) for axis in axes)
    base, source = tally.base_each, tally.source_each
    n = len(base)
    attrs = {"base_metric": float(base.mean()), "n_prompts": n, **attrs}
    if not np.isnan(source).all():
        attrs["source_metric"] = float(source.mean())
    scale: Any = 1.0
    if normalize:
        scale = 1.0 if normalize == "per_prompt" else whole_way(base.mean(keepdims=True), source.mean(keepdims=True))[0]
        if np.isnan(whole_way(base, source) if normalize == "per_prompt" else scale).any():
            warnings.warn("source and base metrics are equal: normalized effects are NaN", stacklevel=3)
    attrs["normalized"] = int(bool(normalize))
    names = [axis.name for axis in axes]
    coords: dict[str, Any] = {axis.name: axis.labels for axis in axes}
    if (tokens := token_labels(prompts)) is not None:
        for name in {"pos", "query", "key"} & set(names):
            coords[f"{name}_token"] = (name, [tokens[i] for i in coords[name]])
    if per_example:
        each = (tally.each / scale).reshape(*shape, n)
        return xr.DataArray(each, dims=[*names, "batch"], coords=coords, name="effect", attrs=attrs)
    error = np.sqrt(tally.spread / (n * (n - 1) * scale**2)) if n > 1 else np.full(len(tally.mean), np.nan)
    coords["standard_error"] = (names, error.reshape(shape))
    mean = (tally.mean / scale).reshape(shape)
    return xr.DataArray(mean, dims=names, coords=coords, name="effect", attrs=attrs)


def token_labels(prompts: Prompts) -> list[str] | None:
    """A label for each position of prompts that are equally long: the first prompt's token, "…" behind it where prompts
    differ, and the role it plays in all of them. None if no tokenizer is known, or lengths differ.
    """
    strings = prompts.strings
    if strings is None or {len(s) for s in strings} != {np.shape(prompts.tokens)[1]}:
        return None
    roles = {int(index[0]): name for name, index in prompts.roles.items() if len(set(np.asarray(index).tolist())) == 1}
    labels = []
    for column, tokens in enumerate(zip(*strings, strict=True)):
        label = tokens[0] if len(set(tokens)) == 1 else f"{tokens[0]}…"
        labels.append(f"{label} ({roles[column]})" if column in roles else label)
    return labels
