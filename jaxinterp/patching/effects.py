"""Effects as labelled arrays: the metric of edited runs minus that of the base run."""

import warnings
from typing import Any

import numpy as np
import xarray as xr

from jaxinterp.patching.cells import Axis
from jaxinterp.tasks.prompts import Prompts


def effect_array(
    edited: np.ndarray,
    base: np.ndarray,
    source: np.ndarray | None,
    axes: tuple[Axis, ...],
    prompts: Prompts,
    *,
    normalize: bool | str,
    per_example: bool,
    **attrs: Any,
) -> xr.DataArray:
    """Labelled effects.

    Args:
      edited: the metric of each cell's run, [cell, batch]. base: the metric of the base run, [batch].
      source: the metric of the source run, [batch], if there is one.
      normalize: divide by mean(source) - mean(base), or by each prompt's own difference ("per_prompt"); 0 is nothing,
        1 is the whole way.
      per_example: keep the `batch` axis, instead of the mean and its standard error over prompts.

    Returns:
      An array over the axes (and `batch`). Without `per_example` the standard error over prompts stands beside
      each mean as the coordinate `standard_error` (NaN for a single prompt). Metrics are in `.attrs`.
    """
    shape = tuple(len(axis.labels) for axis in axes)
    effects = (edited - base).reshape(*shape, len(base))
    attrs = {"base_metric": float(base.mean()), "n_prompts": len(base), **attrs}
    if source is not None:
        attrs["source_metric"] = float(source.mean())
    if normalize:
        assert source is not None
        distance = source - base if normalize == "per_prompt" else np.asarray(source.mean() - base.mean())
        nothing = abs(distance) < 1e-6 * max(1e-6, abs(source).max(), abs(base).max())
        if nothing.any():
            warnings.warn("source and base metrics are equal: normalized effects are NaN", stacklevel=3)
        effects = effects / np.where(nothing, np.nan, distance)
    attrs["normalized"] = int(bool(normalize))
    names = [axis.name for axis in axes]
    coords: dict[str, Any] = {axis.name: axis.labels for axis in axes}
    if (tokens := token_labels(prompts)) is not None:
        for name in {"pos", "query", "key"} & set(names):
            coords[f"{name}_token"] = (name, tokens)
    if per_example:
        return xr.DataArray(effects, dims=[*names, "batch"], coords=coords, name="effect", attrs=attrs)
    n = effects.shape[-1]
    error = effects.std(axis=-1, ddof=1) / np.sqrt(n) if n > 1 else np.full(shape, np.nan)
    coords["standard_error"] = (names, error)
    return xr.DataArray(effects.mean(axis=-1), dims=names, coords=coords, name="effect", attrs=attrs)


def token_labels(prompts: Prompts) -> list[str] | None:
    """A label for each position of prompts that are equally long: the first prompt's token, "…" behind it where prompts
    differ, and the role it plays in all of them. None if no tokenizer is known, or lengths differ.
    """
    strings = prompts.strings
    if strings is None or len({len(s) for s in strings}) > 1:
        return None
    roles = {int(index[0]): name for name, index in prompts.roles.items() if len(set(np.asarray(index).tolist())) == 1}
    labels = []
    for column, tokens in enumerate(zip(*strings, strict=True)):
        label = tokens[0] if len(set(tokens)) == 1 else f"{tokens[0]}…"
        labels.append(f"{label} ({roles[column]})" if column in roles else label)
    return labels
