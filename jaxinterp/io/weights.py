"""Weights on their way from files to devices: block by block, checked and cast, each device's part alone.

A weight is read into memory of its own, which JAX takes over on CPUs and copies to other devices. Besides that memory,
a block of the file is all that is held at a time.
"""

import dataclasses
import itertools
import math
import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from tqdm.auto import tqdm

from jaxinterp.io.files import StoredTensor
from jaxinterp.model.config import CHOICES, suggest
from jaxinterp.model.params import Params

#: Bytes that a thread maps at a time; and that it reads, checks, casts and puts in their place while the processor's
#: cache still holds them.
MAPPED, BLOCK = 2**24, 2**21

#: How many read at the same time.
THREADS = min(8, os.cpu_count() or 1)

#: Bytes that are left free after each row of a block, if it is a multiple of so many bytes long. Where rows lie that
#: regularly, columns share a few lines of the cache, and transposing is twice as slow.
GAP, GAP_FROM = 64, 512


@dataclasses.dataclass(frozen=True)
class Part:
    """Where a weight, or one entry of the stack that it is (of one layer, say), lies in a file.

    Attributes:
      tensor: the stored tensor it is in.
      view: from what the file holds to the part, without copying: axes split, moved and indexed.
    """

    tensor: StoredTensor
    view: Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class StoredWeight:
    """One of our weights, before it is read.

    Attributes:
      shape: with the layers first, if it has any.
      dtype: what it becomes.
      parts: by their place in its leading axes, `(layer,)` or `(layer, expert)`; `()` for a single one, the whole.
    """

    shape: tuple[int, ...]
    dtype: jnp.dtype
    parts: Mapping[tuple[int, ...], Part]

    @property
    def nbytes(self) -> int:
        """Bytes it takes once read."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self, index: tuple[slice, ...], pool: Executor, bar: tqdm) -> np.ndarray:
        """The values at an index, one slice for each axis, in new memory.

        Raises:
          ValueError: a value is NaN or infinite, or becomes so in this dtype; names the tensor in the file.
        """
        shape = tuple(len(range(*part.indices(size))) for part, size in zip(index, self.shape, strict=True))
        values = _new_memory(shape, self.dtype)
        n_stacked = len(next(iter(self.parts)))
        chosen = [range(size)[one] for one, size in zip(index[:n_stacked], self.shape, strict=False)]
        copies = []
        for target, place in zip(np.ndindex(shape[:n_stacked]), itertools.product(*chosen), strict=True):
            part = self.parts[place]
            copies.append((part, _copy(values[target], part, index[n_stacked:], pool)))
        for part, counts in copies:
            bad = bad_before = 0
            for count in counts:
                nbytes, more, more_before = count.result()
                bad, bad_before = bad + more, bad_before + more_before
                bar.update(nbytes)
            if bad_before:
                raise ValueError(f"{part.tensor} holds {bad_before} values that are NaN or infinite")
            if bad:
                raise ValueError(f"{part.tensor} holds {bad} values too large for {self.dtype}")
        return values


def load_weights(
    weights: Mapping[str, StoredWeight], shardings: Mapping[str, NamedSharding] | None, progress: bool | None
) -> Params:
    """Reads weights one after the other, and puts each where it belongs.

    Args:
      weights: what to read.
      shardings: where each goes; `None` puts all on the default device.
      progress: whether a bar is shown; `None`: on a terminal, when it takes longer than a second.

    Raises:
      ValueError: a value that is NaN, infinite, or too large for its dtype; float64 values, where JAX would make them
        float32.
    """
    for weight in weights.values():
        check_enabled(weight.dtype)
    total = sum(weight.nbytes for weight in weights.values())
    with byte_bar("loading", total, progress) as bar, ThreadPoolExecutor(THREADS) as pool:
        return {
            name: _place(weight, None if shardings is None else shardings[name], pool, bar)
            for name, weight in weights.items()
        }


def byte_bar(doing: str, total: int, progress: bool | None) -> tqdm:
    """A progress bar over bytes."""
    hidden = None if progress is None else not progress
    return tqdm(desc=doing, total=total, unit="B", unit_scale=True, unit_divisor=1024, delay=1, disable=hidden)


def resolve_dtype(dtype: Any) -> jnp.dtype:
    """A dtype that weights may have; raises a ValueError for others."""
    try:
        resolved = jnp.dtype(dtype)
    except TypeError:
        raise ValueError(f"unknown dtype {dtype!r}; {suggest(dtype, CHOICES['dtype'])}") from None
    if resolved.name not in CHOICES["dtype"]:
        raise ValueError(f"dtype {resolved.name!r} cannot hold weights; {suggest(resolved.name, CHOICES['dtype'])}")
    return resolved


def check_enabled(dtype: jnp.dtype) -> None:
    """Raises a ValueError for float64 where JAX would make it float32."""
    if dtype == np.float64 and jnp.result_type(float) != np.float64:
        raise ValueError("float64 weights need `with jax.enable_x64(True):` around the call, or dtype='float32'")


def check_finite(values: np.ndarray, name: object) -> None:
    """Raises a ValueError if any value is NaN or infinite; copies no more than a block at a time."""
    if bad := sum(_count_not_finite(values[block]) for block in blocks(values.shape, BLOCK // values.itemsize)):
        raise ValueError(f"{name} holds {bad} values that are NaN or infinite")


def blocks(shape: tuple[int, ...], limit: int) -> Iterator[tuple[slice, ...]]:
    """Indices that cover an array of some shape, in order and each once, with at most `limit` entries to an index.

    Example:
      >>> from jaxinterp.io.weights import blocks
      >>> list(blocks((5, 3), 6))
      [(slice(0, 2, None),), (slice(2, 4, None),), (slice(4, 6, None),)]
    """
    if math.prod(shape) <= limit:
        yield ()
        return
    row = math.prod(shape[1:])
    step = max(1, limit // row)
    for start in range(0, shape[0], step):
        rows = slice(start, start + step)
        if row <= limit:
            yield (rows,)
        else:
            yield from ((rows, *rest) for rest in blocks(shape[1:], limit))


def _count_not_finite(values: np.ndarray) -> int:
    """How many values are NaN or infinite: those whose exponent has all its bits set, as infinity's."""
    exponent = np.array(np.inf, values.dtype).view(f"u{values.itemsize}")
    exponents = values.view(exponent.dtype) & exponent
    return int(np.count_nonzero(exponents == exponent)) if exponents.max() == exponent else 0


def _copy(
    target: np.ndarray, part: Part, index: tuple[slice, ...], pool: Executor
) -> list[Future[tuple[int, int, int]]]:
    """Begins `target[...] = part[index]`, in the order in which the file has it; what each share finds when done."""
    strides = part.view(part.tensor.map()).strides
    order = sorted(range(target.ndim), key=lambda axis: -strides[axis])
    fastest = order.index(target.ndim - 1)
    target = target.transpose(order)
    bits = f"u{target.itemsize}"

    def share(outer: tuple[slice, ...]) -> tuple[int, int, int]:
        """Copies some of it; (bytes, values not finite, how many of them are not in the file either)."""
        # Mapped anew, so that pages that were read count no longer as memory of this process.
        source = part.view(part.tensor.map())[index].transpose(order)[outer]
        bad = bad_before = 0
        for block in blocks(source.shape, BLOCK // target.itemsize):
            values = source[block]
            result = _spaced_empty(values.shape, target.dtype, fastest)
            with np.errstate(over="ignore", invalid="ignore"):
                result[...] = values
            if count := _count_not_finite(result):
                bad, bad_before = bad + count, bad_before + _count_not_finite(values)
            target[outer][block].view(bits)[...] = result.view(bits)
        return source.size * target.itemsize, bad, bad_before

    return [pool.submit(share, outer) for outer in blocks(target.shape, MAPPED // target.itemsize)]


def _spaced_empty(shape: tuple[int, ...], dtype: jnp.dtype, axis: int) -> np.ndarray:
    """New memory, with a gap after each row: what follows one index of `axis`, along which it is to be read."""
    row = math.prod(shape[axis + 1 :])
    gap = 0 if row * dtype.itemsize % GAP_FROM else GAP // dtype.itemsize
    return np.empty((*shape[: axis + 1], row + gap), dtype)[..., :row].reshape(shape)


def _new_memory(shape: tuple[int, ...], dtype: jnp.dtype) -> np.ndarray:
    """An array in pages of its own, straight from the system: JAX takes such memory over on CPUs without copying it.

    Where the system can, it hands out all pages at once, which is twice as fast as one by one when they are written.
    NumPy would ask for huge pages, and to find those takes longer still.
    """
    flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_POPULATE", 0)
    pages = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=flags)
    return np.frombuffer(pages, np.uint8).view(dtype).reshape(shape)


def _place(weight: StoredWeight, sharding: NamedSharding | None, pool: Executor, bar: tqdm) -> jax.Array:
    """A weight on the default device, or on those of a mesh: each part is read once, for all devices that hold it."""
    # Waited for, so that no more than one array waits to be copied.
    if sharding is None:
        return jax.device_put(weight.read((slice(None),) * len(weight.shape), pool, bar)).block_until_ready()
    devices: dict[tuple[tuple[int, int, int], ...], list[jax.Device]] = {}
    for device, index in sharding.addressable_devices_indices_map(weight.shape).items():
        assert index is not None
        ends = tuple(part.indices(size) for part, size in zip(index, weight.shape, strict=True))
        devices.setdefault(ends, []).append(device)
    pieces = []
    for ends, holders in devices.items():
        values = weight.read(tuple(slice(*one) for one in ends), pool, bar)
        pieces += [jax.device_put(values, device).block_until_ready() for device in holders]
    return jax.make_array_from_single_device_arrays(weight.shape, sharding, pieces)
