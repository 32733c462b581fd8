"""Harvested activations on disk: shards of `.npy` files, and an index of what they hold.

    harvest.json                            what was harvested, how it is laid out, and how many rows each shard has
    shard-00000/arrays/resid_post.npy       one file for each site; its axes are those of a cache
    shard-00000/gradients/resid_post.npy    likewise, if there was a metric
    shard-00000/coordinates/token.npy       what the rows are

The index names no files, so nothing outside the folder can be reached; nothing in it is ever unpickled.
"""

import contextlib
import dataclasses
import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import jax.numpy as jnp
import numpy as np

from jaxinterp.io.files import check_format, read_json
from jaxinterp.io.results import write_whole

INDEX, FORMAT, VERSION = "harvest.json", "jaxinterp-harvest", 1

#: Where a shard lies until it is whole.
PARTIAL = ".partial"

#: What a shard holds.
KINDS = ("arrays", "gradients", "coordinates")

#: Axes that shards cut: prompts, or the tokens of all prompts one after the other.
ROW_AXES = ("batch", "row")


@dataclasses.dataclass(frozen=True)
class Layout:
    """One array, as the index describes it.

    Attributes:
      axes: names of its axes.
      sizes: their sizes, `None` for the rows.
      dtype: of its numbers. `.npy` files know no bfloat16: its bits are stored as uint16.
      kept: `{axis: entries of the site that were kept}`, a number where the axis is gone. Others are whole.
    """

    axes: tuple[str, ...]
    sizes: tuple[int | None, ...]
    dtype: str
    kept: Mapping[str, int | list[int]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = [axis for axis in self.axes if axis in ROW_AXES]
        nones = [axis for axis, size in zip(self.axes, self.sizes, strict=True) if size is None]
        if len(rows) != 1 or rows != nones or any(type(size) is not int or size < 0 for size in self.fixed):
            raise ValueError(f"axes {self.axes} of sizes {self.sizes} are not those of rows")
        if jnp.dtype(self.dtype) != jnp.bfloat16 and jnp.dtype(self.dtype).kind not in "fiub":
            raise ValueError(f"dtype {self.dtype!r} is none of numbers")
        if not isinstance(self.kept, dict) or not set(self.kept).isdisjoint(ROW_AXES):
            raise ValueError(f"kept is {self.kept!r}, expected {{axis: entries}}")

    @property
    def fixed(self) -> tuple[int, ...]:
        """The sizes of all axes but the rows."""
        return tuple(size for size in self.sizes if size is not None)

    @property
    def row_dim(self) -> int:
        """Which dimension the rows are."""
        return self.sizes.index(None)

    @property
    def stored_dtype(self) -> np.dtype:
        """The dtype in the file."""
        return np.dtype(np.uint16) if jnp.dtype(self.dtype) == jnp.bfloat16 else np.dtype(self.dtype)

    def shape(self, rows: int) -> tuple[int, ...]:
        """The shape for a number of rows."""
        return tuple(rows if size is None else size for size in self.sizes)


@dataclasses.dataclass(frozen=True)
class Index:
    """What a folder holds; `harvest.json`.

    Attributes:
      identity: hashes of what was asked for, by part.
      prompts: how many there are.
      batch: how many run together. shard_prompts: how many a shard holds, a multiple of that.
      layouts: `{kind: {name: Layout}}`.
      shards: how many rows each shard has that is whole.
    """

    identity: Mapping[str, str]
    prompts: int
    batch: int
    shard_prompts: int
    layouts: Mapping[str, Mapping[str, Layout]]
    shards: tuple[int, ...] = ()

    @property
    def n_shards(self) -> int:
        """How many shards there will be."""
        return -(-self.prompts // self.shard_prompts)

    @property
    def complete(self) -> bool:
        """Whether all shards are there."""
        return len(self.shards) == self.n_shards

    def write(self, folder: Path) -> None:
        """Puts it into a folder, in the place of the one before."""
        text = json.dumps({"format": FORMAT, "version": VERSION, **dataclasses.asdict(self)}, indent=1) + "\n"
        write_whole(folder / INDEX, lambda path: path.write_text(text, encoding="utf-8"))

    @classmethod
    def read(cls, folder: Path) -> "Index":
        """The one in a folder.

        Raises:
          FileNotFoundError: there is none.
          ValueError: it is malformed, or of another format or version.
        """
        path = folder / INDEX
        if not path.is_file():
            raise FileNotFoundError(f"{folder} is not a harvest: it has no {INDEX}")
        content = read_json(path)
        check_format(path, content, FORMAT, VERSION)
        try:
            fields = {field.name: content[field.name] for field in dataclasses.fields(cls)}
            layouts = {
                kind: {
                    name: Layout(tuple(told["axes"]), tuple(told["sizes"]), told["dtype"], told["kept"])
                    for name, told in fields["layouts"][kind].items()
                }
                for kind in KINDS
            }
            index = cls(**fields | {"layouts": layouts, "shards": tuple(fields["shards"])})
            counts = (index.prompts, index.batch, index.shard_prompts)
            if any(type(n) is not int or n < 1 for n in counts) or any(
                type(n) is not int or n < 0 for n in index.shards
            ):
                raise ValueError("it counts what cannot be")
            if len(index.shards) > index.n_shards or not isinstance(index.identity, dict):
                raise ValueError("its parts do not agree")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path} is malformed: {error!r}") from error
        return index


def shard_folder(folder: Path, number: int) -> Path:
    """Where a shard lies."""
    return folder / f"shard-{number:05d}"


def array_file(shard: Path, kind: str, name: str) -> Path:
    """Where an array lies in a shard; names of sites may hold anything."""
    return shard / kind / f"{quote(name, safe='')}.npy"


class ShardWriter:
    """Writes the shards of a harvest one after the other, batch by batch; each is there once it is whole.

    Args:
      folder: with no shard but those that the index counts.
      index: what has been written so far; replaced as shards are closed.
    """

    def __init__(self, folder: Path, index: Index) -> None:
        self.folder, self.index = folder, index
        self.partial = folder / PARTIAL
        self.files: dict[tuple[str, str], tuple[BinaryIO, int]] = {}  # and where its numbers begin
        self.rows = self.written = 0

    def open(self, coordinates: Mapping[str, np.ndarray]) -> None:
        """Begins a shard, of as many rows as there are coordinates."""
        shutil.rmtree(self.partial, ignore_errors=True)  # left by a run that was killed
        self.rows, self.written = len(next(iter(coordinates.values()))), 0
        for kind, layouts in self.index.layouts.items():
            for name, layout in layouts.items():
                path = array_file(self.partial, kind, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                file = path.open("wb")
                self.files[kind, name] = file, 0
                descr = np.lib.format.dtype_to_descr(layout.stored_dtype)
                header = {"descr": descr, "fortran_order": False, "shape": layout.shape(self.rows)}
                np.lib.format.write_array_header_1_0(file, header)
                self.files[kind, name] = file, file.tell()
        for name, values in coordinates.items():
            self._put("coordinates", name, values, slice(None))

    def append(self, kinds: Mapping[str, Mapping[str, np.ndarray]], selected: Any) -> None:
        """Writes the next rows of every array: those of its rows that are `selected`, int[n] or a slice."""
        counts = [self._put(kind, name, array, selected) for kind in kinds for name, array in kinds[kind].items()]
        self.written += counts[0]

    def _put(self, kind: str, name: str, array: np.ndarray, selected: Any) -> int:
        """Writes rows of one array behind those that were written; returns how many."""
        (file, begin), layout = self.files[kind, name], self.index.layouts[kind][name]
        dim, n = layout.row_dim, 0
        lead, rest = math.prod(layout.fixed[:dim]), math.prod(layout.fixed[dim:])
        for number, rows in enumerate(array.reshape(lead, array.shape[dim], rest)):  # at most one of them is copied
            part = np.ascontiguousarray(rows[selected]).view(layout.stored_dtype)
            n = len(part)
            file.seek(begin + (number * self.rows + self.written) * rest * part.itemsize)
            file.write(part.data)
        return n

    def close(self) -> None:
        """Puts the shard into its place, and counts it."""
        assert self.written == self.rows, f"a shard of {self.rows} rows has {self.written}"
        self._close_files()
        place = shard_folder(self.folder, len(self.index.shards))
        shutil.rmtree(place, ignore_errors=True)  # moved there by a run that was killed before it was counted
        os.replace(self.partial, place)
        self.index = dataclasses.replace(self.index, shards=(*self.index.shards, self.rows))
        self.index.write(self.folder)

    def abandon(self) -> None:
        """Removes what there is of a shard that is not whole."""
        with contextlib.suppress(OSError):  # what could not be written cannot be flushed
            self._close_files()
        self.files = {}
        shutil.rmtree(self.partial, ignore_errors=True)

    def _close_files(self) -> None:
        for file, _ in self.files.values():
            file.close()
        self.files = {}
