"""jaxinterp without its engine: whole forwards under an intervention, batched by `vmap`.

What is measured is what resuming a run saves; the patches that cannot differ are skipped here too.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from peers.job import Job, Patch, Sweep, work

import jaxinterp as ji


@dataclasses.dataclass(frozen=True)
class Plain:
    """A model that can only `apply`: sweeps of it take the plain path."""

    model: Any

    @property
    def sites(self) -> Any:
        return self.model.sites

    def apply(self, *args: Any, **kwargs: Any) -> Any:
        return self.model.apply(*args, **kwargs)


def prepare(job: Job) -> Callable[[Sweep], Patch]:
    model = Plain(ji.Transformer(ji.TransformerConfig(**job.sizes)))
    params = {name: jnp.asarray(weight) for name, weight in job.weights.items()}
    metric = ji.logit_diff(job.correct, job.wrong)

    def begin(sweep: Sweep) -> Patch:
        def patch(cells: np.ndarray) -> np.ndarray:
            sets = [ji.at(**dict(zip(sweep.axes, cell, strict=True))) for cell in cells.tolist()]
            return ji.activation_patching(
                model, params, sweep.corrupted, sweep.clean, site=sweep.site, sets=sets, metric=metric
            ).values

        return patch

    return begin


if __name__ == "__main__":
    work(prepare, compiles=True)
