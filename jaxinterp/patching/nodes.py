"""Sweeps whose cells overwrite activations: what activation patching, ablation and causal tracing share."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxinterp.metrics import Metric
from jaxinterp.model.interventions import Intervention
from jaxinterp.model.transformer import Transformer
from jaxinterp.patching.batches import Batch, cells_of, metric_of, prompts_of
from jaxinterp.patching.cells import Cells
from jaxinterp.patching.engine import Sweep, Work, begins
from jaxinterp.patching.observe import Observed, can_resume, foreign, observe
from jaxinterp.patching.plain import cell_edits
from jaxinterp.patching.reach import along, columns_read, confined, differing, starts, unread
from jaxinterp.tasks.prompts import Prompts


@dataclasses.dataclass(frozen=True)
class Draw:
    """What one batch's cells write, and over which run.

    Attributes:
      edits: those the base run stands under.
      values: `{site: array}`, the site's rank, every axis full or 1.
      source_metric: [batch], where there is a source.
      observed: what `observe` gives for the base run, where that was run with the source.
    """

    edits: Mapping[str, tuple[Intervention, ...]]
    values: Mapping[str, jax.Array]
    source_metric: np.ndarray | None = None
    observed: Observed | None = None


def node_sweep(
    model: Any,
    params: Any,
    base: Prompts,
    cells: Cells,
    metric: Metric,
    edits: Mapping[str, tuple[Intervention, ...]],
    draws: Callable[[Batch, Prompts, Metric], Sequence[Callable[[], Draw]]],
    *,
    n_draws: int = 1,
    first: np.ndarray | None = None,
    whole: bool = False,
    write: Callable[[Any, Any], Any] = cell_edits,
    identity: Any = (),
) -> Sweep:
    """A sweep of cells that overwrite activations.

    Args:
      edits: of the base run in every draw; a draw may have more.
      draws: what is written to a batch, given with its prompts and metric; `n_draws` of them, averaged over.
      first: int[prompt], the first column at which what is written can differ; by default 0.
      whole: whether what is written may mix prompts, so that they may not run apart.
    """
    names = tuple(cells.masks)
    resumes = can_resume(model, metric, names, edits)
    first = np.zeros(len(base), int) if first is None else first

    def places(batch: Batch) -> tuple[Cells, np.ndarray, np.ndarray, np.ndarray]:
        """(cells, their numbers, the layers and rows that they edit first)."""
        part, numbers = cells_of(cells, model.sites, batch, base)
        layers, rows = starts(part, model.sites) if resumes else np.zeros((2, len(part)), np.int32)
        return part, numbers, layers, rows

    def seen(part: Cells, prompts: Prompts, metric: Metric, rows: np.ndarray, start: int) -> tuple[Any, Any]:
        """(int[cell]: where its run starts, bool[cell]: whether the metric can see it)."""
        begun, read = begins(model, prompts, metric, rows, start, resumes=resumes)
        if resumes and isinstance(model, Transformer):
            read &= ~unread(part, model.sites, columns_read(metric, prompts))
            for number, axis in enumerate(part.axes):
                alone = isinstance(axis.selectors, np.ndarray) and axis.coordinate in ("pos", "query")
                if model.config.causal and alone:
                    read &= along(part, number, axis.selectors) >= start
        return begun, read

    def outline(batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        part, _, layers, rows = places(batch)
        prompts, own_metric = prompts_of(base, batch), metric_of(metric, batch, base)
        begun, live = seen(part, prompts, own_metric, rows, batch.first)
        return layers, begun, live

    def works(batch: Batch) -> Sequence[Callable[[], Work]]:
        part, numbers, layers, rows = places(batch)
        prompts, own_metric = prompts_of(base, batch), metric_of(metric, batch, base)
        jobs = draws(batch, prompts, own_metric)

        def work(draw: Callable[[], Draw]) -> Work:
            drawn = draw()
            observed = drawn.observed or observe(model, params, prompts, drawn.edits, own_metric, names)
            run, standing, base_metric = observed
            told = prompts if resumes else Prompts(prompts.tokens)  # whole forwards may be read at padding, too
            differs, first_row = differing(part, model.sites, told, standing, drawn.values)
            # tokens say more than activations, which two programs need not round alike
            begun, read = seen(part, prompts, own_metric, rows, max(first_row, batch.first))
            return Work(
                prompts=prompts, edits=drawn.edits, metric=own_metric, run=run, base_metric=base_metric,
                source_metric=drawn.source_metric, numbers=numbers, live=differs & read, layers=layers, rows=begun,
                values={site: drawn.values[site] for site in names}, take=part.take, share=1 / n_draws,
            )  # fmt: skip

        return [functools.partial(work, draw) for draw in jobs]

    return Sweep(
        model=model, params=params, base=base, metric=metric, names=names, n_cells=len(cells), first=first,
        outline=outline, works=works, draws=n_draws, write=write, resumes=resumes, one_layer=confined(cells),
        one_head=len(names) == 1 and any(axis.coordinate == "head" for axis in cells.axes),
        whole=whole or foreign(edits), kept=(*names, *names),
        identity=(
            edits, [(a.name, a.labels, a.selectors) for a in cells.axes], cells.masks, identity
        ),
    )  # fmt: skip


def first_difference(base: Prompts, source: Prompts) -> np.ndarray:
    """int[prompt]: the first column at which two batches' tokens differ; the last if they do not."""
    differ = np.asarray(base.tokens) != np.asarray(source.tokens)
    return np.where(differ.any(axis=1), differ.argmax(axis=1), differ.shape[1] - 1)
