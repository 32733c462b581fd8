"""A dataset of prompts in batches: which prompts run together, and what of them a batch holds.

Prompts of similar length, whose edits begin at similar positions, share a batch. Batches of one group have one shape
and one plan, so that ten thousand prompts compile no more programs than a few hundred.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxinterp.metrics import Metric
from jaxinterp.model.interventions import Intervention
from jaxinterp.model.sites import SiteSpec
from jaxinterp.model.where import TOKEN_AXES, PerExample, Where
from jaxinterp.patching.buckets import bucket_starts
from jaxinterp.patching.cells import Cells
from jaxinterp.tasks.prompts import Prompts

#: Lengths, and first positions, that prompts are sorted into at most.
MOST_BUCKETS = 3

#: What another group costs, in operations: it compiles some five programs of its own, a few seconds each.
GROUP_COST = 5e12


@dataclasses.dataclass(frozen=True)
class Batch:
    """Prompts that run together.

    Attributes:
      group: the number of its group; batches of a group have the same shape.
      rows: int[b], numbers of prompts. Of these the first `n` are its own, others fill it up.
      n_pos: columns of the token array that it holds; behind them lies nothing but padding.
      first: no prompt in it differs before this column.
    """

    group: int
    rows: np.ndarray
    n: int
    n_pos: int
    first: int


def make_batches(prompts: Prompts, first: np.ndarray, size: int, *, cut: bool, operations: float = 0.0) -> list[Batch]:
    """Every prompt in one batch of at most `size`; a dataset that fits one batch is left as it is.

    Args:
      first: int[prompt], the first column at which each prompt can differ from what it is compared with.
      cut: whether padding behind all of a batch's prompts may be left out.
      operations: what one column of one prompt costs, over the whole sweep; decides how many groups are worth it.
    """
    n, n_pos = np.shape(prompts.tokens)
    if n <= size:
        return [Batch(0, np.arange(n), n, n_pos, int(first.min()))]
    mask = None if prompts.mask is None or not cut else np.asarray(prompts.mask)
    lengths = np.full(n, n_pos) if mask is None else n_pos - np.argmax(mask[:, ::-1], axis=1)

    def groups(most_ends: int, most_begins: int) -> list[tuple[int, int, np.ndarray]]:
        """(the column behind the last, the first that differs, the prompts) of each group."""
        # the same few buckets as for start positions, from the other end
        ends = n_pos - bucket_starts(n_pos - lengths, n_pos, most_ends)
        found = []
        for end in np.unique(ends):
            here = np.flatnonzero(ends == end)
            begins = bucket_starts(np.minimum(first[here], end - 1), int(end), most_begins)
            found += [(int(end), int(begin), here[begins == begin]) for begin in np.unique(begins)]
        return found

    def price(found: list[tuple[int, int, np.ndarray]]) -> float:
        return sum(GROUP_COST + operations * len(rows) * (end - begin) for end, begin, rows in found)

    few = range(1, MOST_BUCKETS + 1)
    batches = []
    best = min([groups(a, b) for a in few for b in few], key=price)
    for group, (end, begin, chosen) in enumerate(best):
        parts = -(-len(chosen) // size)
        most = -(-len(chosen) // parts)
        for part in np.array_split(chosen, parts):
            rows = np.pad(part, (0, most - len(part)), mode="edge")
            batches.append(Batch(group, rows, len(part), end, begin))
    return batches


def whole(batch: Batch, prompts: Prompts) -> bool:
    """Whether a batch is the whole dataset in its order, so that nothing needs to be cut."""
    n, n_pos = np.shape(prompts.tokens)
    return batch.n_pos == n_pos and len(batch.rows) == n and np.array_equal(batch.rows, np.arange(n))


def prompts_of(prompts: Prompts, batch: Batch) -> Prompts:
    """A batch's tokens and mask, what programs read: roles or labels would compile them again."""
    if whole(batch, prompts):
        return Prompts(prompts.tokens, prompts.mask)
    rows, columns = batch.rows, slice(batch.n_pos)
    mask = None if prompts.mask is None else np.asarray(prompts.mask)[rows, columns]
    return Prompts(np.asarray(prompts.tokens)[rows, columns], mask)


def metric_of(metric: Metric, batch: Batch, prompts: Prompts) -> Metric:
    """A metric with a batch's data, answers and positions alone."""
    if whole(batch, prompts):
        return metric

    def part(leaf: Any) -> Any:
        return leaf[batch.rows] if np.ndim(leaf) else leaf

    columns = part(metric.columns) if np.ndim(metric.columns) == 2 else metric.columns
    positions = metric.positions
    positions = jax.tree.map(part, positions) if isinstance(positions, PerExample) else positions
    capture = {site: where_of(where, batch) for site, where in metric.capture.items()}
    return Metric(metric.fn, *jax.tree.map(part, metric.data), positions=positions, columns=columns, capture=capture)


def where_of(where: Where | None, batch: Batch) -> Where | None:
    """Coordinates of a capture with a batch's prompts' own positions."""
    if where is None:
        return None
    return dataclasses.replace(where, index={a: _coordinate_of(a, i, batch) for a, i in where.index.items()})


def edits_of(
    edits: Mapping[str, tuple[Intervention, ...]], sites: Mapping[str, SiteSpec], batch: Batch, prompts: Prompts
) -> dict[str, tuple[Intervention, ...]]:
    """Edits of the whole dataset as edits of one batch: values, masks and coordinates of its prompts."""
    if whole(batch, prompts):
        return dict(edits)
    n, batch_columns = np.shape(prompts.tokens)

    def one(edit: Intervention, spec: SiteSpec) -> Intervention:
        values = tuple(cut(value, spec.axes, batch) for value in edit.values)
        where = edit.where
        if where is None:
            return dataclasses.replace(edit, values=values)
        index = {axis: _coordinate_of(axis, value, batch) for axis, value in where.index.items()}
        slices = []
        for axis, bounds in where.slices:  # columns as a mask, of which a batch may have none
            if axis in TOKEN_AXES and min(bounds[0] or 0, bounds[1] or 0) >= 0:
                columns = np.zeros(batch_columns, bool)
                columns[slice(*bounds)] = True
                index[axis] = columns[: batch.n_pos]
            elif axis != "batch":
                slices.append((axis, bounds))
        chosen = np.zeros(n, bool)
        for _, bounds in (entry for entry in where.slices if entry[0] == "batch"):
            chosen[slice(*bounds)] = True
            index["batch"] = chosen[batch.rows]
        if "batch" in where.index:
            chosen[np.asarray(where.index["batch"])] = True
            index["batch"] = chosen[batch.rows]
        mask = None if where.mask is None else cut(where.mask, spec.axes, batch)
        return dataclasses.replace(edit, values=values, where=Where(index, tuple(slices), mask))

    return {site: tuple(one(edit, sites[site]) for edit in several) for site, several in edits.items()}


def cut(value: Any, axes: Sequence[str], batch: Batch) -> Any:
    """A batch's part of an array with these axes, each full or 1."""
    for dim, axis in enumerate(axes):
        if np.shape(value)[dim] == 1:
            continue
        if axis == "batch":
            value = value[(slice(None),) * dim + (batch.rows,)]
        elif axis in TOKEN_AXES:
            value = value[(slice(None),) * dim + (slice(batch.n_pos),)]
    return value


def _coordinate_of(axis: str, index: Any, batch: Batch) -> Any:
    """A coordinate as a batch has it: prompts' own positions are its prompts', boolean ones as long as it."""
    if isinstance(index, PerExample):
        return PerExample(index.index[batch.rows])
    if axis in TOKEN_AXES and getattr(index, "dtype", None) == bool:
        return index[: batch.n_pos]
    return index


def cells_of(cells: Cells, sites: Mapping[str, SiteSpec], batch: Batch, prompts: Prompts) -> tuple[Cells, np.ndarray]:
    """(the cells that a batch can have, their numbers among all). Cells behind its last column are none of them."""
    everything = np.arange(len(cells), dtype=np.int32)
    if whole(batch, prompts):
        return cells, everything
    kept, axes = [], []
    for axis in cells.axes:
        keep = np.arange(len(axis.labels))
        selectors = axis.selectors
        if isinstance(selectors, PerExample):
            selectors = PerExample(selectors.index[:, batch.rows])
        elif selectors is not None and axis.coordinate in TOKEN_AXES:
            keep = np.flatnonzero(selectors < batch.n_pos)
            selectors = selectors[keep]
        kept.append(keep)
        axes.append(dataclasses.replace(axis, labels=[axis.labels[i] for i in keep], selectors=selectors))
    masks = {
        site: None if mask is None else cut(mask, ("cell", *sites[site].axes), batch)
        for site, mask in cells.masks.items()
    }
    numbers = everything.reshape(cells.shape)[np.ix_(*kept)].reshape(-1) if axes else everything
    return Cells(tuple(axes), masks), numbers
