"""A harvest read back: arrays that lie in many files, memory-mapped, by shards, by rows, or in shuffled batches."""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxinterp.io.harvesting.shards import KINDS, Index, Layout, array_file, shard_folder
from jaxinterp.model.config import suggest


@dataclasses.dataclass(frozen=True, eq=False)
class ShardedArray:
    """An array that lies in several files, memory-mapped as they are read. Made by `open_harvest`.

    Attributes:
      shape: of all shards together.
      axes: names of its axes; that of its rows is "batch" (prompts), or "row" (tokens).
      dtype: of its numbers.
      kept: `{axis: entries of the site that were kept}`, a number where the axis is gone. Others are whole.
    """

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    dtype: np.dtype
    kept: Mapping[str, int | list[int]]
    _layout: Layout = dataclasses.field(repr=False)
    _paths: tuple[Path, ...] = dataclasses.field(repr=False)
    _starts: np.ndarray = dataclasses.field(repr=False)

    def __len__(self) -> int:
        """How many rows it has."""
        return self.shape[self._layout.row_dim]

    def shard(self, number: int) -> np.ndarray:
        """One shard, mapped: nothing is read before it is used.

        Raises:
          ValueError: the file is not what the index says.
        """
        path = self._paths[number]
        rows = int(self._starts[number + 1] - self._starts[number])
        try:
            stored = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(
                f"{path} is missing or not whole ({error}): remove the folder, and harvest again"
            ) from error
        expected = self._layout.shape(rows), self._layout.stored_dtype
        if (stored.shape, stored.dtype) != expected:
            raise ValueError(
                f"{path} holds {stored.dtype}{list(stored.shape)}, the index says {expected[1]}{list(expected[0])}"
            )
        return stored.view(self.dtype)

    def shards(self) -> Iterator[np.ndarray]:
        """Every shard in turn, mapped."""
        return (self.shard(number) for number in range(len(self._paths)))

    def rows(self, indices: Any) -> np.ndarray:
        """Some rows, in the order in which they are asked for, wherever they lie.

        Args:
          indices: int[n], from 0 to `len(self) - 1`.

        Returns:
          An array in memory with the axes of `self`, n long where its rows are.

        Raises:
          TypeError, ValueError: indices that are not int[n], or out of range.
        """
        indices = np.asarray(indices)
        if indices.ndim != 1 or (indices.dtype.kind not in "iu" and indices.size):
            raise TypeError(f"indices must be int[n], got {indices.dtype}{list(indices.shape)}")
        outside = indices[(indices < 0) | (indices >= len(self))]
        if outside.size:
            raise ValueError(f"row {outside[0]} is out of range: there are {len(self)}, counted from 0")
        dim = self._layout.row_dim
        found = np.empty(self._layout.shape(len(indices)), self.dtype)
        order = np.argsort(indices, kind="stable")  # a file is read from its beginning to its end
        ends = np.searchsorted(indices[order], self._starts)
        for number in np.flatnonzero(np.diff(ends)).tolist():
            here = order[ends[number] : ends[number + 1]]
            own = indices[here].astype(np.int64) - self._starts[number]
            found[(slice(None),) * dim + (here,)] = np.take(self.shard(number), own, axis=dim)
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All of it, in memory."""
        if copy is False:
            raise ValueError("shards that lie in several files cannot be one array without a copy")
        dim = self._layout.row_dim
        parts = [*self.shards(), np.empty(self._layout.shape(0), self.dtype)]
        return np.concatenate(parts, axis=dim).astype(dtype or self.dtype, copy=False)


@dataclasses.dataclass(frozen=True, eq=False)
class Harvest:
    """What `ji.harvest` wrote. Made by `open_harvest`.

    Attributes:
      folder: where it lies.
      complete: whether all prompts are in it; if not, it holds those of the shards that are whole.
      arrays: each site's activations, `{site: ShardedArray}`.
      gradients: d metric / d activation, likewise; empty if there was no metric.
      coordinates: what the rows are. Of prompts, "token" [batch, pos] and "mask", where there was one, and "SITE.pos"
        [batch, n], the columns that were kept of a site where they differ by prompt. Of tokens, "prompt", "pos" (its
        column) and "token", [row] each.
    """

    folder: Path
    complete: bool
    arrays: Mapping[str, ShardedArray]
    gradients: Mapping[str, ShardedArray]
    coordinates: Mapping[str, ShardedArray]

    def __len__(self) -> int:
        """How many rows each array has."""
        return len(next(iter(self.arrays.values())))

    def batches(self, sites: Any, size: int, *, seed: int) -> Iterator[dict[str, np.ndarray]]:
        """All rows once, in an order drawn from the whole harvest, `{site: size rows}` at a time; fewer at the end.

        Activations of several sites belong together, row by row. The order takes 8 bytes of memory for each row.

        Args:
          sites: names. size: how many rows. seed: of the order; another for each epoch.

        Raises:
          TypeError, ValueError: a site that was not harvested, a size that is not a positive int.
        """
        if isinstance(sites, str):
            raise TypeError(f"sites must be a tuple of names, got the string {sites!r}")
        for name in sites:
            if name not in self.arrays:
                raise ValueError(f"site {name!r} was not harvested; {suggest(name, self.arrays)}")
        if type(size) is not int or size < 1:
            raise ValueError(f"size must be a positive int, got {size!r}")
        return self._batches(tuple(sites), size, seed)

    def _batches(self, sites: tuple[str, ...], size: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
        order = np.random.default_rng(seed).permutation(len(self))
        for first in range(0, len(order), size):
            yield {name: self.arrays[name].rows(order[first : first + size]) for name in sites}


def open_harvest(folder: str | os.PathLike[str]) -> Harvest:
    """A harvest that lies in a folder, finished or not; its arrays are read as they are used.

    Raises:
      FileNotFoundError: the folder holds no harvest.
      ValueError: its index is malformed, or a file is missing, cut short, or not what the index says.

    Example:
      >>> _ = ji.harvest(model, params, tokens, {"resid_post": ji.at(layer=1)}, "folder", flatten=True)
      >>> harvest = ji.open_harvest("folder")
      >>> harvest.arrays["resid_post"].axes, harvest.arrays["resid_post"].shape
      (('row', 'd_model'), (18, 32))
      >>> harvest.arrays["resid_post"].rows([7, 3]).shape
      (2, 32)
      >>> [harvest.coordinates[name].rows([7, 3]).tolist() for name in ("prompt", "pos")]
      [[1, 0], [1, 3]]
      >>> [batch["resid_post"].shape for batch in harvest.batches(("resid_post",), 10, seed=0)]
      [(10, 32), (8, 32)]
    """
    folder = Path(folder)
    index = Index.read(folder)
    shards = [shard_folder(folder, number) for number in range(len(index.shards))]
    starts = np.concatenate([[0], np.cumsum(index.shards, dtype=np.int64)]).astype(np.int64)

    def opened(kind: str, name: str, layout: Layout) -> ShardedArray:
        array = ShardedArray(
            layout.shape(int(starts[-1])), layout.axes, np.dtype(jnp.dtype(layout.dtype)), layout.kept, layout,
            tuple(array_file(shard, kind, name) for shard in shards), starts,
        )  # fmt: skip
        for _ in array.shards():  # which looks at each file's size and header
            pass
        return array

    kinds = {kind: {n: opened(kind, n, layout) for n, layout in index.layouts[kind].items()} for kind in KINDS}
    return Harvest(folder, index.complete, **kinds)
