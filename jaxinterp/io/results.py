"""Results on disk: a labelled netCDF file that xarray opens, and a CSV, written whole or not at all."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import xarray as xr


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` on a temporary sibling and moves it into place; after a failure nothing partial is left.

    Raises:
      OSError: the folder cannot be made or written, or the disk is full; names the file.
    """
    aside = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(aside)
        os.replace(aside, path)
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def save_effects(effects: xr.DataArray, folder: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Writes `effects.nc` and `effects.csv` (one row per cell) into a folder; returns their paths.

    Example:
      >>> import tempfile, xarray as xr
      >>> effects = ji.ablation(model, params, tokens, site="z", over=("layer", "head"), metric=ji.logit_diff(3, 4))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     labelled, table = ji.save_effects(effects, folder)
      ...     bool((xr.load_dataarray(labelled) == effects).all())
      True
    """
    labelled, table = Path(folder) / "effects.nc", Path(folder) / "effects.csv"
    write_whole(labelled, lambda path: effects.to_netcdf(path, engine="scipy"))
    cells = effects if effects.ndim else effects.expand_dims("cell")  # a table has at least one row
    write_whole(table, lambda path: cells.to_dataframe().reset_index().to_csv(path, index=False))
    return labelled, table
