"""Estimates for a dataset: what every method of attribution is given and gives, batch by batch, as labelled arrays."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from jaxinterp.metrics import Metric, score, score_read
from jaxinterp.model.interventions import Intervention
from jaxinterp.model.sites import SiteSpec, check_site
from jaxinterp.model.transformer import Transformer
from jaxinterp.model.where import Geometry, PerExample
from jaxinterp.patching.batches import Batch, cells_of, edits_of, make_batches, metric_of, prompts_of
from jaxinterp.patching.cells import COORDINATES, Axis, Cells, Over, grid
from jaxinterp.patching.cost import RUN_BYTES
from jaxinterp.patching.effects import effect_array
from jaxinterp.patching.engine import Options
from jaxinterp.patching.observe import foreign
from jaxinterp.patching.tally import Tally
from jaxinterp.tasks.prompts import Prompts

#: Sites of one stream for each head, which exist only where somebody names them.
SPLIT = ("q_input", "k_input", "v_input", "result", "expert_out")

#: Sites, each with which of its axes are not summed over.
Kept = tuple[tuple[str, tuple[bool, ...]], ...]


class Pair(NamedTuple):
    """One batch's two runs, and what they are scored by.

    Attributes:
      base: the prompts of the run that would be edited. edits: under which it stands. source, source_edits: likewise.
    """

    base: Prompts
    edits: Any
    source: Prompts
    source_edits: Any
    metric: Metric


class Estimates(NamedTuple):
    """What a method finds for one batch.

    Attributes:
      effects: `{site: array of the site's rank}`, axes full where they are kept, else 1.
      base_metric, source_metric: [batch]; None without a source.
      errors: `{site: [batch] or [layer, batch]}`, the sum of an integral's estimates minus what it should be.
    """

    effects: dict[str, jax.Array]
    base_metric: jax.Array
    source_metric: jax.Array | None
    errors: dict[str, jax.Array]


def check_sites(model: Any, sites: Any, site: str | None = None) -> tuple[str, ...]:
    """Names of sites, checked: `sites`, or a single one."""
    if (site is None) == (sites is None):
        raise ValueError("which activations? give sites=('z', 'mlp_out', ...), or site= for a single one")
    sites = sites if site is None else (site,)
    if isinstance(sites, str):
        raise TypeError(f"sites must be a tuple of site names, got the string {sites!r}; write sites=({sites!r},)")
    names = tuple(sites)
    for name in names:
        check_site(dict(model.sites), name)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"sites is empty, or names a site twice: {names}")
    return names


def observed(
    model: Any,
    params: Any,
    prompts: Prompts,
    edits: Any,
    metric: Metric,
    names: tuple[str, ...],
    remat: str | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(the metric, [batch]; the named sites' activations) of an edited run. Only logits that are read are computed."""
    if partly := tuple(name for name in names if metric.capture.get(name) is not None):
        values, cache = observed(
            model, params, prompts, edits, metric, tuple(n for n in names if n not in partly), remat
        )
        _, others = model.apply(params, prompts.tokens, edits, capture=partly, mask=prompts.mask)
        return values, cache | others
    capture = metric.capture | dict.fromkeys(names)
    if not isinstance(model, Transformer):
        logits, cache = model.apply(params, prompts.tokens, edits, capture=capture, mask=prompts.mask)
        values = score(metric, logits, cache, Geometry.of(prompts.tokens, prompts.mask))
    else:
        logits, cache = model.apply(
            params, prompts.tokens, edits, capture=capture, mask=prompts.mask,
            positions=metric.positions, columns=metric.columns, remat=remat,
        )  # fmt: skip
        values = score_read(metric, logits, cache)
    return values, {name: cache[name] for name in names}


def toward(values: Mapping[str, jax.Array], amount: Mapping[str, jax.Array]) -> dict[str, tuple[Intervention, ...]]:
    """Edits that move each site a fraction of the way to some values; the derivative at 0 is what patching them does.

    Args:
      values: `{site: array}`, the site's rank, every axis full or 1.
      amount: `{site: array}` likewise: one fraction for each entry of the axes that it has.
    """
    return {name: (Intervention(_toward, (values[name], amount[name])),) for name in amount}


def _toward(x: jax.Array, value: jax.Array, amount: jax.Array) -> jax.Array:
    return x + amount * (value - x)


def nothing(values: Mapping[str, jax.Array], kept: Kept) -> dict[str, jax.Array]:
    """Zeros for each entry of the axes that are kept, `{site: the site's rank}`."""
    return {
        name: jnp.zeros(
            [n if keep else 1 for n, keep in zip(values[name].shape, axes, strict=True)], values[name].dtype
        )
        for name, axes in kept
    }


def sum_to(effects: jax.Array, axes: tuple[bool, ...]) -> jax.Array:
    """Effects of a site's rank, summed over the axes that are not kept."""
    return effects.sum(tuple(dim for dim, keep in enumerate(axes) if not keep), keepdims=True)


def estimated(
    model: Any,
    params: Any,
    base: Prompts,
    grids: Mapping[str, Cells],
    metric: Metric,
    edits: Any,
    of_batch: Callable[[Batch, Prompts, Any, Metric, Kept], Estimates],
    options: Options,
    *,
    copies: int = 1,
    together: bool = False,
    normalize: bool | str = False,
    per_example: bool,
    **told: Any,
) -> dict[str, xr.DataArray]:
    """Labelled estimates of all cells, `{site: array}`, from what a method finds for one batch after another.

    Args:
      grids: the cells of each site. edits: of the base run.
      of_batch: `(batch, its prompts, its edits, its metric, what is kept of each site) -> Estimates`.
      copies: how many runs of the base a method has under way at a time.
      together: whether prompts may not run apart, for edits of another run may mix them.
      told: for `.attrs`.
    """
    names = tuple(grids)
    kept = tuple((name, axes_kept(model.sites[name], cells)) for name, cells in grids.items())
    tallies = {name: Tally.fresh((), len(cells), len(base), per_example=per_example) for name, cells in grids.items()}
    errors: dict[str, Any] = {}
    together = together or foreign(edits)
    size = None if together else prompts_at_a_time(model, params, base, names, options, copies)
    with tqdm(total=len(base), desc="prompts", unit="prompt", delay=1, disable=options.hidden) as bar:
        for batch in even_batches(base, metric, size, options):
            own_metric, own_edits = metric_of(metric, batch, base), edits_of(edits, model.sites, batch, base)
            found = of_batch(batch, options.spread(prompts_of(base, batch)), own_edits, own_metric, kept)
            base_metric = np.asarray(found.base_metric)
            source_metric = None if found.source_metric is None else np.asarray(found.source_metric)
            for name, tally in tallies.items():
                part, numbers = cells_of(grids[name], model.sites, batch, base)
                effects = _by_cell(np.asarray(found.effects[name]), model.sites[name], part.axes)
                tally.add_batch(
                    batch, base_metric, source_metric, numbers, effects, per_prompt=normalize == "per_prompt"
                )
            for name, error in found.errors.items():
                errors[name] = errors.get(name, 0.0) + np.abs(np.asarray(error)[..., : batch.n]).sum(axis=-1)
            bar.update(batch.n)
    arrays = {}
    for name in names:
        missing = {"completeness_error": float(np.max(errors[name]) / len(base))} if name in errors else {}
        arrays[name] = effect_array(
            tallies[name], grids[name].axes, base, normalize=normalize, per_example=per_example,
            site=name, **told, **missing,
        )  # fmt: skip
    return arrays


def cells_for(
    sites: Mapping[str, SiteSpec], name: str, over: Over | None, geometry: Geometry, roles: Mapping[str, Any] | None
) -> Cells:
    """The entries of a site's result."""
    if over is None:
        over = [axis for axis in sites[name].axes if axis in COORDINATES]
    return grid(sites, (name,), over, geometry, roles)


def axes_kept(spec: SiteSpec, cells: Cells) -> tuple[bool, ...]:
    """Which of a site's axes are not summed over: those of its cells, and prompts."""
    dims = {spec.axis(axis.coordinate) for axis in cells.axes}
    return tuple(axis == "batch" or dim in dims for dim, axis in enumerate(spec.axes))


def _by_cell(estimates: np.ndarray, spec: SiteSpec, axes: Sequence[Axis]) -> np.ndarray:
    """[cell, batch] from an array of the site's rank, full where cells or prompts differ."""
    dims = [dim for axis in axes if (dim := spec.axis(axis.coordinate)) is not None]
    batch = spec.axes.index("batch")
    others = tuple(dim for dim in range(estimates.ndim) if dim not in (*dims, batch))
    apart = estimates.transpose(*dims, batch, *others).reshape([estimates.shape[dim] for dim in (*dims, batch)])
    for number, axis in enumerate(axes):
        if isinstance(axis.selectors, PerExample):
            shape = [1] * apart.ndim
            index = np.asarray(axis.selectors.index)  # [entry, batch]
            shape[number], shape[-1] = index.shape
            apart = np.take_along_axis(apart, index.reshape(shape), axis=number)
        elif len(axis.selectors) < apart.shape[number] or (np.diff(axis.selectors) != 1).any():
            apart = apart.take(axis.selectors, axis=number)
    return apart.reshape(-1, apart.shape[-1])


def prompts_at_a_time(
    model: Any, params: Any, base: Prompts, names: Sequence[str], options: Options, copies: int
) -> int:
    """How many prompts fit the budget with what a backward pass keeps of each."""
    n_pos = np.shape(base.tokens)[1]
    itemsize = max([4, *(leaf.dtype.itemsize for leaf in jax.tree.leaves(params))])
    held = sum(int(np.prod(model.sites[name].shape(1, n_pos))) for name in names)
    kept = sum(int(np.prod(spec.shape(1, n_pos))) for name, spec in model.sites.items() if name not in SPLIT)
    return max(1, (options.max_bytes or RUN_BYTES) // (itemsize * (held + kept * copies)))


def part_of(pair: Pair, batch: Batch, sites: Mapping[str, SiteSpec], options: Options) -> Pair:
    """One batch of a dataset's two runs."""
    base, edits, source, source_edits, metric = pair
    return Pair(
        options.spread(prompts_of(base, batch)), edits_of(edits, sites, batch, base),
        options.spread(prompts_of(source, batch)), edits_of(source_edits, sites, batch, source),
        metric_of(metric, batch, base),
    )  # fmt: skip


def even_batches(
    base: Prompts, metric: Metric, size: int | None, options: Options, *, by_position: bool = False
) -> list[Batch]:
    """Every prompt in batches of at most `size`, filled up so that a mesh's devices have equal shares.

    Args:
      size: None for prompts that must run together: one batch, left as it is.
      by_position: whether the result needs all positions, so that padding behind a batch's prompts stays.
    """
    cut = metric.positions is not None and not metric.capture and not by_position
    batches = make_batches(base, np.zeros(len(base), int), size or len(base), cut=cut)
    if options.mesh is None or size is None:
        return batches
    even = options.mesh.size
    return [dataclasses.replace(b, rows=np.pad(b.rows, (0, -len(b.rows) % even), mode="edge")) for b in batches]
