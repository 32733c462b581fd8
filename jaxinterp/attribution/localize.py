"""Finding what matters: estimates for everything, exact patches for the largest, and a bound on what is missed.

Nodes are ranked by an estimate that costs a few passes, and patched exactly in that order until a budget is spent.
There are two ways to bound what lies below. A random sample of it is patched too: whatever the estimates are worth,
that bounds how many nodes of at least some effect can be left (the exact hypergeometric limit: nothing is assumed of
effects). And random halves of it are patched, each all at once: a node that does much does so in the halves that hold
it, and not in the others (the diagnostics of AtP*, Kramar et al. 2024).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import xarray as xr
from scipy import stats

from jaxinterp.attribution.estimates import cells_for, check_sites
from jaxinterp.attribution.patching import attribution_patching
from jaxinterp.metrics import Metric
from jaxinterp.model.interventions import Interventions
from jaxinterp.model.sampling import check_key
from jaxinterp.model.sites import SiteSpec
from jaxinterp.model.where import Geometry, PerExample, Where
from jaxinterp.patching.activation import activation_patching, check_pair
from jaxinterp.patching.cells import Cells, Over
from jaxinterp.tasks.prompts import as_prompts


@dataclasses.dataclass(frozen=True)
class Localization:
    """Nodes in the order of their estimates. Made by `ji.localize`.

    Attributes:
      nodes: over `node`: `estimate`; `effect`, exact, NaN where it was not measured; `sampled`, whether that was by
        chance and not by rank; the coordinates `site` and those of the sweep ("" or -1 where a site has no such axis).
        With `subsets`, of the nodes not measured by rank also `joint_effect`: what random halves of them do with the
        node, on average, more than without; and `joint_bound`, the upper confidence limit of its absolute value.
      n_ranked: how many were measured by rank. confidence: of the bounds.
    """

    nodes: xr.Dataset
    n_ranked: int
    confidence: float

    def found(self, n: int | None = None) -> xr.Dataset:
        """The measured nodes, the largest exact effect first; `n` of them, or all."""
        measured = self.nodes.isel(node=np.flatnonzero(~np.isnan(self.nodes.effect.values)))
        order = np.argsort(-np.abs(measured.effect.values), kind="stable")
        return measured.isel(node=order[:n])

    def missed(self, threshold: float) -> int:
        """At most how many nodes that were not measured have an absolute effect of at least `threshold`.

        Holds with the stated confidence over the draw of the sample, whatever the effects are.

        Raises:
          ValueError: a threshold that is not positive.
        """
        if not threshold > 0:
            raise ValueError(f"threshold must be positive, got {threshold!r}")
        rest = self.nodes.isel(node=slice(self.n_ranked, None))
        drawn = np.flatnonzero(rest.sampled.values)
        seen = int((np.abs(rest.effect.values[drawn]) >= threshold).sum())
        population, n = rest.sizes["node"], len(drawn)
        if not population:
            return 0
        # the largest number of such nodes that would show so few in the sample at least this often
        possible = np.arange(seen, population - n + seen + 1)
        likely = stats.hypergeom.cdf(seen, population, possible, n) > 1 - self.confidence
        return int(possible[likely].max()) - seen

    def largest_hidden(self) -> float:
        """No node below the ranked ones changes the metric by more, on average over random halves of the others.

        Holds with the stated confidence as far as differences of means are Student's, and for effects in such company:
        nodes that matter only while others are as in the base run may hide. 0 if nothing is left.

        Raises:
          ValueError: without `subsets`.
        """
        if "joint_bound" not in self.nodes:
            raise ValueError("no random halves were patched: give localize(..., subsets=40)")
        rest = self.nodes.joint_bound.values[self.n_ranked :]
        return float(rest.max()) if len(rest) else 0.0


def localize(
    model: Any,
    params: Any,
    base: Any,
    source: Any,
    *,
    metric: Metric,
    key: jax.Array,
    sites: Sequence[str] | None = None,
    site: str | None = None,
    over: Over | None = None,
    verify: int = 50,
    sample: int = 50,
    subsets: int = 0,
    method: str = "grad",
    steps: int | None = None,
    rule: str = "midpoint",
    path: str = "activations",
    confidence: float = 0.95,
    roles: Mapping[str, Any] | None = None,
    mask: Any = None,
    base_interventions: Interventions | None = None,
    source_interventions: Interventions | None = None,
    mesh: jax.sharding.Mesh | None = None,
    max_bytes: int | None = None,
    progress: bool | None = None,
) -> Localization:
    """Which nodes carry an effect: ranked by attribution, the first verified exactly, the rest bounded.

    Args:
      sites, site, over: as in `attribution_patching`; nodes of all sites are ranked together.
      key: for the sample; it is consumed.
      verify: how many nodes are patched exactly, in the order of their estimates.
      sample: how many of the others are, drawn at random.
      subsets: how many random halves of the others are patched, each all at once; some 40 tell what is large.
      method, steps, rule, path: of the estimates, as in `attribution_patching`.
      confidence: of the bound on what is missed.
      Others as in `activation_patching`.

    Returns:
      `Localization`: `found()` lists the measured nodes, `missed(threshold)` bounds how many are left,
      `largest_hidden()` how much any of them does.

    Example:
      >>> corrupted = tokens.at[:, 2].set(7)
      >>> result = ji.localize(model, params, corrupted, tokens, sites=("z", "mlp_out"),
      ...                      metric=ji.logit_diff(3, 4), verify=5, sample=5, key=jax.random.key(0))
      >>> result.found(3).sizes["node"], result.missed(0.1) >= 0
      (3, True)
    """
    names = check_sites(model, sites, site)
    check_key(key)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence!r}")
    for name, count in (("verify", verify), ("sample", sample), ("subsets", subsets)):
        if type(count) is not int or count < 0:
            raise ValueError(f"{name} must be an int of at least 0, got {count!r}")
    if 0 < subsets < 4:
        raise ValueError(f"subsets must be 0, or at least 4 for means with and without a node, got {subsets}")
    base, source = as_prompts(base, mask), as_prompts(source, mask)
    geometry = check_pair(model, base, source, base_interventions, source_interventions, metric)
    run: dict[str, Any] = {
        "metric": metric, "base_interventions": base_interventions, "source_interventions": source_interventions,
        "mesh": mesh, "max_bytes": max_bytes, "progress": progress,
    }  # fmt: skip
    estimates = attribution_patching(
        model,
        params,
        base,
        source,
        sites=names,
        over=over,
        method=method,
        steps=steps,
        rule=rule,
        path=path,
        roles=roles,
        **run,
    )
    assert isinstance(estimates, dict)  # for sites were given
    grids = {name: cells_for(model.sites, name, over, geometry, roles or base.roles) for name in names}

    flat = np.concatenate([estimates[name].values.reshape(-1) for name in names])
    of_site = np.repeat(np.arange(len(names)), [len(grids[name]) for name in names])
    number = np.concatenate([np.arange(len(grids[name])) for name in names])
    order = np.argsort(-np.abs(flat), kind="stable")
    verify, n = min(verify, len(order)), len(order)
    sample = min(sample, n - verify)
    sample_key, halves_key = jax.random.split(key)
    drawn = verify + np.asarray(jax.random.permutation(sample_key, n - verify))[:sample]
    chosen = np.concatenate([np.arange(verify), drawn])
    halves = _halves(halves_key, subsets if n > verify else 0, n - verify)

    def together(places: np.ndarray) -> dict[str, Where]:
        """Some nodes, given by their numbers before ranking, as one set."""
        found = {}
        for i, name in enumerate(names):
            if len(cells := number[places[of_site[places] == i]]):
                found[name] = _union(grids[name].take(cells)[name], model.sites[name], geometry)
        return found

    effects, joint = np.full(n, np.nan), np.full((2, n), np.nan)
    some = halves.any(axis=1)  # of few nodes a half may hold none: that does nothing
    sets = [together(order[[place]]) for place in chosen] + [together(order[verify:][half]) for half in halves[some]]
    if sets:
        exact = activation_patching(model, params, base, source, sets=sets, **run).values
        effects[chosen] = exact[: len(chosen)]
        of_halves = np.zeros(len(halves))
        of_halves[some] = exact[len(chosen) :]
        joint[:, verify:] = _with_and_without(halves, of_halves, confidence)
    sampled = np.isin(np.arange(n), drawn)

    axes = dict.fromkeys(axis.name for name in names for axis in grids[name].axes)
    coords: dict[str, Any] = {"site": ("node", np.array(names)[of_site[order]])}
    for axis in axes:
        coords[axis] = ("node", np.concatenate([_labels(grids[name], axis) for name in names])[order])
    found = {"estimate": flat[order], "effect": effects, "sampled": sampled}
    if subsets:
        found |= {"joint_effect": joint[0], "joint_bound": joint[1]}
    nodes = xr.Dataset(
        {name: ("node", values) for name, values in found.items()}, coords=coords,
        attrs=estimates[names[0]].attrs | {"site": "+".join(names), "method": f"localize ({method})"},
    )  # fmt: skip
    return Localization(nodes, verify, confidence)


def _halves(key: jax.Array, n: int, size: int) -> np.ndarray:
    """bool[n, size]: random halves; each node is in half of them, so that it is seen with and without the others."""
    ranks = jax.random.uniform(key, (n, size)).argsort(axis=0)
    return np.asarray(ranks < n // 2)


def _with_and_without(halves: np.ndarray, effects: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """(mean effect of the halves with each node - mean of those without, the upper limit of its absolute value).

    The limit is Student's, with Welch's degrees of freedom. Each node's holds by itself, which is enough for the
    largest of them: whichever node does most, its own limit fails with no more than the stated probability.
    """
    if not len(halves):
        return np.full(halves.shape[1], np.nan), np.full(halves.shape[1], np.nan)
    means, errors, freedom = [], [], []
    for chosen in (halves, ~halves):
        n = chosen.sum(axis=0)
        mean = (effects[:, None] * chosen).sum(axis=0) / n
        spread = (((effects[:, None] - mean) * chosen) ** 2).sum(axis=0) / (n - 1)
        means.append(mean)
        errors.append(spread / n)
        freedom.append((spread / n) ** 2 / (n - 1))
    difference, error = means[0] - means[1], errors[0] + errors[1]
    degrees = error**2 / np.maximum(freedom[0] + freedom[1], np.finfo(float).tiny)
    limit = stats.t.ppf(confidence, np.maximum(degrees, 1)) * np.sqrt(error)
    return difference, np.abs(difference) + limit


def _union(wheres: Where, spec: SiteSpec, geometry: Geometry) -> Where:
    """All that some cells select, as one selection. Leaves of `wheres` lead with `cell`."""
    index: list[Any] = [np.zeros((1, 1), int)] * len(spec.axes)
    shape = [1] * len(spec.axes)
    for name, where in wheres.index.items():
        dim = spec.axis(name)
        assert dim is not None
        at_prompts = isinstance(where, PerExample)
        index[dim] = np.asarray(where.index) if at_prompts else np.asarray(where)[:, None]
        if at_prompts:
            batch = spec.axes.index("batch")
            index[batch], shape[batch] = np.arange(geometry.batch)[None], geometry.batch
        shape[dim] = spec.shape(geometry.batch, geometry.pos)[dim]
    mask = np.zeros(shape, bool)
    mask[tuple(index)] = True
    return Where({}, (), mask)


def _labels(cells: Cells, name: str) -> np.ndarray:
    """What stands on an axis at each cell: -1, or "" for roles, where its site has no such axis."""
    for dim, axis in enumerate(cells.axes):
        if axis.name == name:
            return np.array(axis.labels)[np.unravel_index(np.arange(len(cells)), cells.shape)[dim]]
    return np.full(len(cells), "" if name == "role" else -1)
