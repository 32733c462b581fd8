"""Weights in an Orbax folder: each device writes and reads its own part of those that are divided."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding, SingleDeviceSharding

from jaxinterp.io.weights import byte_bar, check_enabled, check_finite
from jaxinterp.model.params import Params


def write_orbax(folder: Path, params: Params) -> None:
    """Writes weights to a folder that is not there yet, as one tree that Orbax reads too."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder.absolute(), params)


def open_orbax(folder: Path) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes and dtypes of the weights in a folder, none of them read.

    Raises:
      ValueError: not a whole Orbax folder.
    """
    with _telling(folder), ocp.StandardCheckpointer() as checkpointer:
        stored = checkpointer.metadata(folder.absolute()).item_metadata
        if stored is None:
            raise ValueError("what it holds cannot be told")
        return {name: jax.ShapeDtypeStruct(one.shape, one.dtype) for name, one in stored.items()}


def read_orbax(
    folder: Path,
    dtypes: Mapping[str, jnp.dtype],
    shardings: Mapping[str, NamedSharding] | None,
    progress: bool | None,
) -> Params:
    """Reads weights one after the other, each in the dtype and onto the devices that are asked for.

    Raises:
      ValueError: not a whole Orbax folder; a value that is NaN, infinite or too large for its dtype; float64 values,
        where JAX would make them float32.
    """
    for dtype in dtypes.values():
        check_enabled(dtype)
    default = SingleDeviceSharding(jax.local_devices()[0])
    stored, params = open_orbax(folder), {}
    total = sum(stored[name].size * dtype.itemsize for name, dtype in dtypes.items())
    with byte_bar("loading", total, progress) as bar, ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        for name, dtype in dtypes.items():
            sharding = default if shardings is None else shardings[name]
            wanted = ocp.ArrayRestoreArgs(sharding=sharding, global_shape=stored[name].shape, dtype=dtype)
            args = ocp.args.PyTreeRestore({name: stored[name]}, {name: wanted}, partial_restore=True)
            with _telling(folder):
                params[name] = checkpointer.restore(folder.absolute(), args=args)[name]
            check_weight(params[name], f"{name!r} in {folder}, read as {dtype},")
            bar.update(params[name].nbytes)
    return params


def check_weight(weight: Any, name: object) -> None:
    """Raises a ValueError if any value of a weight is NaN or infinite, wherever its parts lie."""
    parts = weight.addressable_shards if isinstance(weight, jax.Array) else ()
    for part in [part.data for part in parts if part.replica_id == 0] if parts else [weight]:
        check_finite(np.asarray(part), name)


@contextlib.contextmanager
def _telling(folder: Path) -> Iterator[None]:
    """Whatever is wrong with a folder as one ValueError that names it: Orbax has many types, and long texts."""
    try:
        yield
    except Exception as error:
        what = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{folder} is not a whole Orbax folder ({what}): save it again") from error
