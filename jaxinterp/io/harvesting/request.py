"""What is to be harvested, checked, and what it will look like on disk."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxinterp.io.harvesting.program import columns_of, differs_by_prompt, harvested, stored_axes
from jaxinterp.io.harvesting.shards import KINDS, ROW_AXES, Layout
from jaxinterp.io.weights import resolve_dtype
from jaxinterp.metrics import Metric, check_metric
from jaxinterp.model.interventions import Intervention, Interventions, check_interventions, joined
from jaxinterp.model.sites import SiteSpec, check_site
from jaxinterp.model.tap import check_capture
from jaxinterp.model.where import TOKEN_AXES, Geometry, Where, compact_indices
from jaxinterp.patching.activation import check_tokens
from jaxinterp.patching.batches import Batch, edits_of, metric_of, prompts_of, where_of
from jaxinterp.patching.cost import cost_of
from jaxinterp.patching.fingerprints import fingerprint, fingerprint_of_code, fingerprint_of_metric
from jaxinterp.patching.reach import n_layers
from jaxinterp.tasks.prompts import Prompts, as_prompts

#: Prompts' tokens that are looked at together before anything runs.
CHECKED_TOKENS = 2**22


@dataclasses.dataclass(frozen=True)
class Request:
    """What is to be harvested, checked.

    Attributes:
      wheres: `{site: what of it}`. edits: under which the model runs.
      flatten: whether rows are tokens. dtype: of what is stored, None for the model's own.
    """

    model: Any
    params: Any
    prompts: Prompts
    wheres: dict[str, Where | None]
    edits: dict[str, tuple[Intervention, ...]]
    metric: Metric | None
    flatten: bool
    dtype: str | None

    @property
    def n_pos(self) -> int:
        """How many columns the prompts have."""
        return self.prompts.tokens.shape[1]

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        """What the program is given for one batch: its prompts, and what belongs to them."""
        metric = None if self.metric is None else metric_of(self.metric, batch, self.prompts)
        edits = edits_of(self.edits, self.model.sites, batch, self.prompts)
        wheres = {site: where_of(where, batch) for site, where in self.wheres.items()}
        return prompts_of(self.prompts, batch), edits, metric, wheres


def checked(
    model: Any,
    params: Any,
    dataset: Any,
    mask: Any,
    sites: Any,
    interventions: Interventions | None,
    metric: Metric | None,
    flatten: bool,
    dtype: Any,
) -> Request:
    """What is asked for; raises where that cannot be meant."""
    if not isinstance(dataset, Prompts) and not hasattr(dataset, "dtype") and not isinstance(dataset, Sequence):
        raise TypeError(
            f"dataset must be tokens int[batch, pos] or a ji.Prompts, got {type(dataset).__name__}; a stream of "
            "tokens is written to an array on disk first, with np.lib.format.open_memmap"
        )
    if isinstance(sites, str) or not isinstance(sites, Iterable):
        raise TypeError(f"sites must be a tuple of site names or {{site: ji.at(...)}}, got {sites!r}")
    prompts = as_prompts(dataset, mask)
    prompts = Prompts(np.asarray(prompts.tokens), None if prompts.mask is None else np.asarray(prompts.mask))
    _check_prompts(model, prompts)
    geometry = Geometry.of(prompts.tokens, prompts.mask)
    wheres = check_capture(model.sites, sites, geometry)
    if not wheres:
        raise ValueError("which activations? sites names none")
    for site, where in wheres.items():
        _check_where(site, check_site(model.sites, site), where, prompts, flatten)
    if flatten:
        first, *others = (
            (site, columns_of(where, str(model.sites[site].row_axis), prompts)) for site, where in wheres.items()
        )
        for site, columns in others:
            if first[1].shape[1] != columns.shape[1] or (first[1] != columns).any():
                raise ValueError(
                    f"flatten=True needs the same positions of all sites: {first[0]!r} and {site!r} differ"
                )
    check_interventions(model.sites, joined(interventions), geometry)
    if metric is not None:
        logits = model.sites.get("logits")
        check_metric(metric, geometry, None if logits is None else logits.sizes[-1])
        check_capture(model.sites, metric.capture, geometry)
    stored = None if dtype is None else resolve_dtype(dtype).name
    return Request(model, params, prompts, wheres, joined(interventions), metric, flatten, stored)


def _check_prompts(model: Any, prompts: Prompts) -> None:
    """Raises for prompts that the model cannot read; looks at some at a time, for there may be very many."""
    step = max(1, CHECKED_TOKENS // max(1, np.size(prompts.tokens) // max(1, len(prompts.tokens))))
    if prompts.mask is not None and prompts.mask.shape != prompts.tokens.shape:
        raise ValueError(f"mask has shape {prompts.mask.shape}, tokens have {prompts.tokens.shape}")
    for first in range(0, max(1, len(prompts.tokens)), step):
        try:
            check_tokens(model, prompts if step >= len(prompts.tokens) else prompts[first : first + step])
        except (TypeError, ValueError) as error:
            if not first:
                raise
            raise type(error)(f"of the prompts from {first} on: {error}") from error


def _check_where(site: str, spec: SiteSpec, where: Where | None, prompts: Prompts, flatten: bool) -> None:
    """Raises for coordinates that are no rows' own."""
    if "batch" not in spec.axes:
        raise ValueError(f"site {site!r} has no axis batch: {spec}")
    if flatten and spec.row_axis is None:
        raise ValueError(f"site {site!r} has no axis over tokens, which flatten=True needs: {spec}")
    if where is None:
        return
    if "batch" in where.axes:
        raise ValueError(f"site {site!r}: batch= is not for a harvest; select prompts in the dataset")
    one = None if prompts.mask is None else prompts.mask[:1]
    try:
        compact_indices(where, spec, Geometry(1, prompts.tokens.shape[1], one))
    except ValueError as error:
        raise ValueError(f"site {site!r}: {error}") from error


def layouts_of(request: Request) -> tuple[dict[str, dict[str, Layout]], int]:
    """(what is stored; the bytes of one prompt's activations and gradients). Traces the program, compiles nothing."""
    one = Batch(0, np.arange(1), 1, request.n_pos, 0)
    shapes, _ = harvested.eval_shape(
        request.model, request.params, *request.inputs(one), flatten=request.flatten, dtype=None
    )
    layouts: dict[str, dict[str, Layout]] = {kind: {} for kind in KINDS}
    n_bytes = 0
    for kind, site in [(kind, site) for kind, each in shapes.items() for site in each]:
        x = shapes[kind][site]
        dtype = x.dtype
        if request.dtype is not None and jnp.issubdtype(dtype, jnp.floating):
            if jnp.dtype(request.dtype).itemsize > dtype.itemsize:
                raise ValueError(f"dtype={request.dtype!r} is wider than site {site!r}, which is {dtype}")
            dtype = jnp.dtype(request.dtype)
        axes = stored_axes(request.model.sites[site], request.wheres[site], request.flatten)
        sizes = tuple(None if axis in ROW_AXES else size for axis, size in zip(axes, x.shape, strict=True))
        layouts[kind][site] = Layout(axes, sizes, dtype.name, _kept(request, site))
        n_bytes += x.size * dtype.itemsize
    for name, each in rows_of(request, 0, 1)[0].items():
        axes = ("row" if request.flatten else "batch", name.rpartition(".")[2] if "." in name else "pos")[: each.ndim]
        layouts["coordinates"][name] = Layout(axes, (None, *each.shape[1:]), each.dtype.name)
    return layouts, n_bytes


def _kept(request: Request, site: str) -> dict[str, int | list[int]]:
    """The entries of a site that are kept, by axis, where they are the same for all prompts."""
    spec, where = request.model.sites[site], request.wheres[site]
    if where is None:
        return {}
    kept: dict[str, int | list[int]] = {}
    for dim, index in compact_indices(where, spec, Geometry(1, request.n_pos)).items():
        axis = spec.axes[dim]
        if axis in TOKEN_AXES and (
            differs_by_prompt(where, axis, request.prompts) or (request.flatten and axis == spec.row_axis)
        ):
            continue  # told by coordinates
        entries = np.asarray(index).reshape(-1)
        gone = axis not in stored_axes(spec, where, request.flatten)
        kept[axis] = entries[0].item() if gone else entries.tolist()
    return kept


def rows_of(request: Request, first: int, last: int) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """(coordinates of some prompts' rows; bool[prompt, n]: which kept positions are rows, None if prompts are)."""
    part = Batch(0, np.arange(first, last), last - first, request.n_pos, 0)
    prompts = prompts_of(request.prompts, part)
    wheres = {site: where_of(where, part) for site, where in request.wheres.items()}
    differing = {
        f"{site}.{axis}": columns_of(where, axis, prompts).astype(np.int32)
        for site, where in wheres.items()
        if where is not None
        for axis in TOKEN_AXES
        if axis in where.index and differs_by_prompt(where, axis, prompts)
        if not (request.flatten and axis == request.model.sites[site].row_axis)
    }
    if not request.flatten:
        masked = {} if prompts.mask is None else {"mask": prompts.mask}
        return {"token": prompts.tokens, **masked, **differing}, None
    site = next(iter(wheres))
    columns = columns_of(wheres[site], str(request.model.sites[site].row_axis), prompts)
    columns = np.broadcast_to(columns, (last - first, columns.shape[1]))
    there = np.ones(prompts.tokens.shape, bool) if prompts.mask is None else prompts.mask
    rows = np.take_along_axis(there, columns, axis=1)
    prompt, place = np.nonzero(rows)
    pos = columns[prompt, place]
    table = {"prompt": first + prompt, "pos": pos.astype(np.int32), "token": prompts.tokens[prompt, pos]}
    return table | {name: each[prompt] for name, each in differing.items()}, rows


def identify(request: Request, n_devices: int) -> dict[str, str]:
    """What a harvest is, part by part, as hashes."""
    return {
        "model": fingerprint((request.model, request.params)),
        "dataset": fingerprint((request.prompts.tokens, request.prompts.mask)),
        "sites": fingerprint(request.wheres),
        "interventions": fingerprint(request.edits),
        "metric": "" if request.metric is None else fingerprint_of_metric(request.metric),
        "flatten": str(request.flatten),
        "dtype": str(request.dtype),
        "version of the code": fingerprint_of_code(),
        "number of devices": str(n_devices),
    }


def bytes_at_work(request: Request) -> int:
    """The memory that one prompt takes in the forward pass, and in the backward pass if there is one; an estimate."""
    one = Geometry(1, request.n_pos)
    forward = cost_of(request.model, request.params, one, request.metric, (), resumes=False).bytes(0)
    return forward if request.metric is None else forward * (1 + n_layers(request.model.sites))
