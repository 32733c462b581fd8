"""What is asked about edges and what is answered: as in `job.py`, files in a folder.

`job.json` says, beside what a `Job` is, the two runs and where on the way between them gradients are taken. A worker
adds `scores.npy` and `told.json`. It does one thing in its life, so that what it measures of its memory is due to that.
"""

import ctypes
import dataclasses
import gc
import json
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from peers.job import Job


@dataclasses.dataclass(frozen=True)
class Question:
    """The scores of all edges: what letting a reader see a writer's source output does to the base run.

    Writers are the input, then layer by layer the heads and the MLP. Readers are layer by layer the heads' queries,
    their keys, their values and the MLP, then the logits.

    Attributes:
      job: the model, and the metric: the mean over prompts of the difference of two logits.
      base, source: tokens, int[batch, pos]. Gradients are of the base run, under a changed embedding.
      fractions, weights: how far the embedding has gone from base to source at each gradient, and what it counts.
      rule: of that quadrature, None for a single gradient of the base run.
      frozen: where a library can tell parameters to take no gradients, do so.
      repetitions: how many warm calls are timed.
    """

    job: Job
    base: np.ndarray
    source: np.ndarray
    fractions: list[float]
    weights: list[float]
    rule: str | None
    frozen: bool
    repetitions: int

    @classmethod
    def read(cls, folder: Path) -> "Question":
        """The question that lies in a folder."""
        said = json.loads((folder / "job.json").read_text())
        plain = (said[name] for name in ("fractions", "weights", "rule", "frozen", "repetitions"))
        return cls(Job.read(folder), np.array(said["base"]), np.array(said["source"]), *plain)


#: (a plain forward of the base run, the scores [writer, reader]; what stands where there is no edge does not matter).
Ways = tuple[Callable[[], Any], Callable[[], np.ndarray]]


def resident(which: str = "RSS") -> int:
    """The size of this process in memory, in bytes: now, or ("HWM") the largest since `forget_largest`."""
    found = re.search(rf"Vm{which}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found.group(1))


def forget_largest() -> None:
    """Begins to look for the largest size anew. Linux alone can: `ru_maxrss` would keep what loading took."""
    Path("/proc/self/clear_refs").write_text("5")


def release() -> None:
    """Gives back what was freed, which would hide what is taken next."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def work(prepare: Callable[[Question], Ways]) -> None:
    """Answers the question in the folder named on the command line: scores, seconds and memory."""
    folder = Path(sys.argv[1])
    question = Question.read(folder)
    forward, score = prepare(question)
    forward()
    release()
    before, largest, taken, seconds, processor_seconds = resident(), [], [], [], []
    scores = np.zeros(())
    for _ in range(1 + question.repetitions):
        release()
        forget_largest()
        here = resident()
        begun, worked = time.perf_counter(), time.process_time()
        scores = score()
        seconds.append(time.perf_counter() - begun)
        processor_seconds.append(time.process_time() - worked)
        largest.append(resident("HWM") - before)
        taken.append(largest[-1] + before - here)
    told = {
        "model_bytes": before, "first_seconds": seconds[0], "seconds": statistics.median(seconds[1:]),
        "processor_seconds": statistics.median(processor_seconds[1:]), "each": seconds[1:],
        "first_bytes": largest[0], "bytes": max(largest[1:]), "call_bytes": max(taken[1:]),
    }  # fmt: skip
    np.save(folder / "scores.npy", scores)
    (folder / "told.json").write_text(json.dumps(told))
