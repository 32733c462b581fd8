"""What is printed."""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from jaxinterp.attribution.localize import Localization
from jaxinterp.io.huggingface import FAMILIES
from jaxinterp.model.sites import SiteSpec
from jaxinterp.model.transformer import Transformer
from jaxinterp.tasks.prompts import TokenPairs


def print_models(models: Mapping[str, Transformer]) -> None:
    """One line for each built-in model, and what else can be loaded."""
    for name, model in models.items():
        c = model.config
        print(f"{name:12}{c.n_layers} layers, {c.n_heads} heads, d_model {c.d_model}, vocabulary {c.d_vocab}")
    print(f"also: a folder written by ji.save, or by transformers ({', '.join(FAMILIES)})")


def print_sites(sites: Mapping[str, SiteSpec]) -> None:
    """A model's sites with their axes; sizes that the prompt decides are left out."""
    width = max(map(len, sites))
    for name, spec in sites.items():
        print(f"{name:{width}}  {spec}")


def print_effects(effects: xr.DataArray, prompts: TokenPairs, top: int) -> None:
    """What was run, and the largest effects with their standard errors over prompts."""
    attrs = effects.attrs
    strings = prompts.clean.strings
    if strings is not None:
        print(f"clean:     {' '.join(strings[0])}")
        assert prompts.corrupted.strings is not None
        print(f"corrupted: {' '.join(prompts.corrupted.strings[0])}")
    print(
        f"{attrs['direction']}: {attrs['metric']} {attrs['base_metric']:+.3f} in the run that is patched, "
        f"{attrs['source_metric']:+.3f} in the other ({attrs['n_prompts']} prompts)\n"
    )
    values, errors = effects.values.ravel(), effects.coords["standard_error"].values.ravel()
    unit = "share of the way" if attrs["normalized"] else attrs["metric"]
    names = [str(name) for name in effects.dims]
    header = [*names, *(f"{n}_token" for n in names if f"{n}_token" in effects.coords)]
    table = [[*header, f"effect ({unit})"]]
    for flat in np.argsort(-abs(values), kind="stable")[:top]:
        index = np.unravel_index(flat, effects.shape)
        row = [str(effects.coords[n].values[i]) for n, i in zip(names, index, strict=True)]
        row += [
            str(effects.coords[f"{n}_token"].values[i])
            for n, i in zip(names, index, strict=True)
            if f"{n}_token" in effects.coords
        ]
        error = "" if np.isnan(errors[flat]) else f" ± {errors[flat]:.4f}"
        table.append([*row, f"{values[flat]:+.4f}{error}"])
    _print_table(table)
    if "completeness_error" in attrs:
        print(
            f"\nestimates fail to add up by {attrs['completeness_error']:.4f} {attrs['metric']}, a mean over prompts, "
            "in the worst layer"
        )


def print_localization(result: Localization, top: int) -> None:
    """The largest measured effects beside their estimates, and what may be left."""
    found = result.found(top)
    print("exact effects beside estimates, in the metric's own units\n")
    axes = [str(name) for name in found.coords]
    table = [[*axes, "estimate", "effect", ""]]
    for i in range(found.sizes["node"]):
        node = found.isel(node=i)
        row = [str(node[axis].item()) for axis in axes]
        table.append(
            [*row, f"{float(node.estimate):+.4f}", f"{float(node.effect):+.4f}", "sampled" * bool(node.sampled)]
        )
    _print_table(table)
    by_rank = found.effect.values[~found.sampled.values]  # not the smallest of what was drawn at random
    smallest = float(abs(by_rank).min()) if len(by_rank) else float(abs(found.effect).min())
    unmeasured = int(result.nodes.effect.isnull().sum())
    print(
        f"\nof {unmeasured} nodes not patched, at most {result.missed(smallest) if smallest else unmeasured} have an "
        f"effect of {smallest:.4f} or more ({result.confidence:.0%} confidence)"
    )


def _print_table(table: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
