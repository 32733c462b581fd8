"""What lowers a score: every part of a hypothesis left unscrubbed in turn."""

import dataclasses
from typing import Any

import jax
import xarray as xr

from jaxinterp.scrubbing.hypothesis import MAX_PLACES, Hypothesis
from jaxinterp.scrubbing.runner import ITSELF, ScrubResult, check_run, make_ready, run_ready, scrub
from jaxinterp.scrubbing.samplers import COMPILED
from jaxinterp.scrubbing.tables import Tables


def what_hurts(
    hypothesis: Hypothesis,
    params: Any,
    dataset: Any,
    *,
    num_samples: int,
    key: jax.Array,
    tables: Tables | None = None,
    max_places: int | None = MAX_PLACES,
    **run: Any,
) -> xr.Dataset:
    """How much is recovered if one part of a hypothesis is not resampled: what gains most hurts most.

    A part is a feature, which then keeps the very datum of its reader ("exact") instead of one that agrees; or a node
    that the output reads and the hypothesis leaves out, which is then run on the output's datum. All are run by one
    program, but for features whose sampler is "disagree", a kernel or a generator.

    Args:
      Others as in `ji.scrub`; all scrubs have the same key.

    Returns:
      Over `part`: `recovered`, its `error`, and `gain` over the hypothesis as it is, in descending order; `kind` is
      "feature" or "left out". `.attrs["recovered"]` is the hypothesis's own.

    Example:
      >>> graph = ji.Graph(
      ...     {
      ...         "a": ji.Node(lambda params, x: x[0] > 3, ("input",)),
      ...         "b": ji.Node(lambda params, x: x[1] > 3, ("input",)),
      ...         "either": ji.Node(lambda params, a, b: jnp.float32(a | b), ("a", "b")),
      ...     },
      ...     output="either",
      ...     loss=lambda either, x: jnp.abs(either - (x > 3).any()),
      ... )
      >>> claim = ji.Hypothesis(
      ...     graph,
      ...     interpretation={
      ...         "large": ji.Feature(lambda x: (x > 3).any(1), parents=("first",)),
      ...         "first": ji.Feature(lambda x: x[:, 0] > 3),
      ...     },
      ...     correspondence={"large": "either", "first": "a"},
      ... )
      >>> data = jax.random.randint(jax.random.key(0), (500, 2), 0, 7)
      >>> table = ji.scrubbing.what_hurts(claim, None, data, num_samples=5000, key=jax.random.key(1))
      >>> table.part.values.tolist(), float(table.recovered[0])
      (['b', 'first'], 1.0)
    """
    check_run(num_samples, key)
    ready = make_ready(hypothesis, params, dataset, tables=tables, apart=True, max_places=max_places)
    itself = ready.tables.classes(ITSELF, "")
    own = run_ready(ready, num_samples, key, **run)
    found: list[tuple[str, str, ScrubResult]] = []
    for name, sampler in hypothesis.samplers.items():
        if str(sampler) in COMPILED:
            changed = dataclasses.replace(hypothesis, samplers={**hypothesis.samplers, name: "exact"})
            result = scrub(
                changed, params, dataset, num_samples=num_samples, key=key, tables=tables, max_places=max_places, **run
            )
            found.append((name, "feature", result))
        elif sampler != "exact":
            classes = {one.table: itself for one in ready.plan if one.feature == name}
            found.append((name, "feature", run_ready(ready, num_samples, key, classes=classes, **run)))
    for one in ready.plan:
        if not one.feature and one.given == 1 and one.kind == "agree":  # of the root's own draw, if it was found
            found.append((one.node, "left out", run_ready(ready, num_samples, key, classes={one.table: itself}, **run)))
    found.sort(key=lambda row: -row[2].recovered)
    results = [result for _, _, result in found]
    return xr.Dataset(
        {
            "kind": ("part", [kind for _, kind, _ in found]),
            "recovered": ("part", [result.recovered for result in results]),
            "error": ("part", [result.recovered_error for result in results]),
            "gain": ("part", [result.recovered - own.recovered for result in results]),
        },
        coords={"part": [name for name, _, _ in found]}, attrs={"recovered": own.recovered},
    )  # fmt: skip
