"""Sweeps that outlive their process: finished chunks on disk, atomically, with the plan that they belong to.

The one file below `io/` that writes: a sweep that could not save itself would lose what it is here to keep.
"""

import contextlib
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from jaxinterp.patching.plan import Plan
from jaxinterp.patching.tally import Tally

Folder = str | os.PathLike

#: Seconds between two saves at least, and the share of the time that saving may take.
SAVING_PAUSE, SAVING_SHARE = 1.0, 0.05


class Store:
    """A folder that holds one sweep: its plan, and what it has found.

    Args:
      folder: made if it is not there.
      identity: what the sweep is, by part: a folder that holds another is refused.

    Raises:
      NotADirectoryError: it is a file.
      ValueError: the folder holds another sweep, or one of another model, or of other code; says which.
    """

    def __init__(self, folder: Any, identity: Mapping[str, str]) -> None:
        self.folder, self.identity = str(folder), dict(identity)
        if os.path.exists(folder) and not os.path.isdir(folder):
            raise NotADirectoryError(f"resume={self.folder!r} is a file: give a folder")
        options = ocp.CheckpointManagerOptions(
            max_to_keep=1, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        with self._telling("open"):
            self.manager = ocp.CheckpointManager(os.path.abspath(folder), options=options)

    def read(self) -> tuple[Plan, Tally] | None:
        """The plan and what was found so far; None in a new folder."""
        step = self.manager.latest_step()
        if step is None:
            return None
        items = ocp.args.Composite(plan=ocp.args.JsonRestore(), found=ocp.args.StandardRestore())
        with self._telling("read"):
            saved = self.manager.restore(step, args=items)
        others = [part for part, told in self.identity.items() if saved.plan["identity"].get(part) != told]
        if others:
            raise ValueError(
                f"resume={self.folder!r} holds a sweep of another {' and '.join(others)}: "
                "give the arguments it was begun with, or another folder"
            )
        fields: dict[str, Any] = {name: np.array(saved.found[name]) for name in saved.found}
        fields |= {name: np.zeros(shape) for name, shape in saved.plan["empty"].items()}
        return Plan.from_data(saved.plan["plan"]), Tally(**saved.plan["place"], **fields)

    def write(self, plan: Plan, tally: Tally) -> None:
        """Keeps the state as it is now; until that is done, the one before is what a reader finds."""
        fields = {field.name: getattr(tally, field.name) for field in dataclasses.fields(tally)}
        arrays = {name: value for name, value in fields.items() if isinstance(value, np.ndarray)}
        place = {name: value for name, value in fields.items() if name not in arrays}
        empty = {name: value.shape for name, value in arrays.items() if not value.size}
        data = {"identity": self.identity, "plan": plan.as_data(), "place": place, "empty": empty}
        items = ocp.args.Composite(
            plan=ocp.args.JsonSave(data),
            found=ocp.args.StandardSave({name: value for name, value in arrays.items() if name not in empty}),
        )
        with self._telling("write to"):
            self.manager.save((self.manager.latest_step() or 0) + 1, args=items)

    @contextlib.contextmanager
    def _telling(self, doing: str) -> Any:
        """Any failure of the disk as one OSError that names the folder."""
        try:
            yield
        except Exception as error:
            what = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise OSError(f"cannot {doing} resume={self.folder!r}, what it held is kept: {what}") from error


class Keeper:
    """Saves now and then; at SIGTERM or Ctrl-C after the chunk in flight, and then lets the signal do what it does."""

    def __init__(self, store: Store | None, plan: Plan, tally: Tally) -> None:
        self.store, self.plan, self.tally = store, plan, tally
        self.told: int | None = None
        self.before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}
        self.saved, self.took = time.monotonic(), 0.0

    def __enter__(self) -> "Keeper":
        if self.store is not None and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self.before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *raised: object) -> None:
        self._restore()

    def _restore(self) -> None:
        """Gives the signals back to whoever had them before."""
        for number, handler in self.before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        self.before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.told = number
        signal.signal(number, self.before[number] or signal.SIG_DFL)  # a second one is not waited for

    def __call__(self, *, last: bool = False) -> None:
        """Called after each chunk."""
        if self.store is None:
            return
        pause = max(SAVING_PAUSE, self.took / SAVING_SHARE)
        if last or self.told is not None or time.monotonic() - self.saved > pause:
            begun = time.monotonic()
            self.store.write(self.plan, self.tally)
            self.saved = time.monotonic()
            self.took = self.saved - begun
        if self.told is not None:
            told, self.told = self.told, None
            self._restore()
            signal.raise_signal(told)
