"""What lowers a score: every part of a hypothesis left unscrubbed in turn."""

import dataclasses
from typing import Any

import jax
import xarray as xr

from jaxinterp.scrubbing.hypothesis import Feature, Hypothesis
from jaxinterp.scrubbing.runner import scrub


def what_hurts(
    hypothesis: Hypothesis, params: Any, dataset: Any, *, num_samples: int, key: jax.Array, **run: Any
) -> xr.Dataset:
    """How much is recovered if one part of a hypothesis is not resampled: what gains most hurts most.

    A part is a feature, which then keeps the very datum of its reader ("exact") instead of one that agrees; or a node
    that the output reads and the hypothesis leaves out, which is then run on the output's datum.

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
    own = scrub(hypothesis, params, dataset, num_samples=num_samples, key=key, **run)
    others: dict[str, tuple[str, Hypothesis]] = {}
    for name, kind in hypothesis.samplers.items():
        if kind != "exact":
            others[name] = "feature", dataclasses.replace(hypothesis, samplers={**hypothesis.samplers, name: "exact"})
    root = hypothesis.interpretation[hypothesis.root]
    spoken = {hypothesis.correspondence[parent] for parent in root.parents}
    for node in hypothesis.graph.parents(hypothesis.graph.output) if root.parents else ():
        if node not in spoken and node not in hypothesis.correspondence.values():
            with_node = Feature(root.values, (*root.parents, node))
            others[node] = (
                "left out",
                dataclasses.replace(
                    hypothesis,
                    interpretation={**hypothesis.interpretation, hypothesis.root: with_node, node: Feature()},
                    correspondence={**hypothesis.correspondence, node: node},
                    samplers={**hypothesis.samplers, node: "exact"},
                ),
            )
    rows = []
    for name, (kind, changed) in others.items():
        found = scrub(changed, params, dataset, num_samples=num_samples, key=key, **run)
        rows.append((name, kind, found.recovered, found.recovered_error, found.recovered - own.recovered))
    rows.sort(key=lambda row: -row[4])
    columns = list(zip(*rows, strict=True)) or [(), (), (), (), ()]
    names = ("kind", "recovered", "error", "gain")
    return xr.Dataset(
        {name: ("part", list(column)) for name, column in zip(names, columns[1:], strict=True)},
        coords={"part": list(columns[0])}, attrs={"recovered": own.recovered},
    )  # fmt: skip
