"""Finding what matters: estimates for everything, exact patches for the largest, and a bound on what is missed.

Nodes are ranked by an estimate that costs a few passes, and patched exactly in that order until a budget is spent. What
lies below is not known; of it a random sample is patched too. Whatever the estimates are worth, the sample bounds how
many nodes of at least some effect can be left (the exact hypergeometric limit: no assumption is made about effects).
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
from jaxinterp.patching.activation import activation_patching, check_pair
from jaxinterp.patching.cells import Cells, Over
from jaxinterp.tasks.prompts import as_prompts


@dataclasses.dataclass(frozen=True)
class Localization:
    """Nodes in the order of their estimates. Made by `ji.localize`.

    Attributes:
      nodes: over `node`: `estimate`; `effect`, exact, NaN where it was not measured; `sampled`, whether that was by
        chance and not by rank; the coordinates `site` and those of the sweep ("" or -1 where a site has no such axis).
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
        # the largest number of such nodes that would show so few in the sample at least this often
        possible = np.arange(seen, population - n + seen + 1)
        likely = stats.hypergeom.cdf(seen, population, possible, n) > 1 - self.confidence
        return int(possible[likely].max()) - seen


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
    method: str = "grad",
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
      method: of the estimates: "grad", "ig", "atp_star" or "jvp".
      confidence: of the bound on what is missed.
      Others as in `activation_patching`.

    Returns:
      `Localization`: `found()` lists the measured nodes, `missed(threshold)` bounds how many are left.

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
    for name, count in (("verify", verify), ("sample", sample)):
        if type(count) is not int or count < 0:
            raise ValueError(f"{name} must be an int of at least 0, got {count!r}")
    base, source = as_prompts(base, mask), as_prompts(source, mask)
    geometry = check_pair(model, base, source, base_interventions, source_interventions, metric)
    run: dict[str, Any] = {
        "metric": metric, "base_interventions": base_interventions, "source_interventions": source_interventions,
        "mesh": mesh, "max_bytes": max_bytes, "progress": progress,
    }  # fmt: skip
    estimates = attribution_patching(
        model, params, base, source, sites=names, over=over, method=method, roles=roles, **run
    )
    estimates = estimates if isinstance(estimates, dict) else {names[0]: estimates}
    grids = {name: cells_for(model.sites, name, over, geometry, roles or base.roles) for name in names}

    flat = np.concatenate([estimates[name].values.reshape(-1) for name in names])
    of_site = np.repeat(np.arange(len(names)), [len(grids[name]) for name in names])
    number = np.concatenate([np.arange(len(grids[name])) for name in names])
    order = np.argsort(-np.abs(flat), kind="stable")
    verify, n = min(verify, len(order)), len(order)
    sample = min(sample, n - verify)
    drawn = verify + np.asarray(jax.random.permutation(key, n - verify))[:sample]
    chosen = np.concatenate([np.arange(verify), drawn])
    effects = np.full(n, np.nan)
    if len(chosen):
        sets = []
        for place in order[chosen]:
            name = names[of_site[place]]
            where = grids[name].take(number[place : place + 1])[name]
            sets.append({name: jax.tree.map(lambda leaf: leaf[0], where)})
        exact = activation_patching(model, params, base, source, sets=sets, **run)
        effects[chosen] = exact.values
    sampled = np.isin(np.arange(n), drawn)

    axes = dict.fromkeys(axis.name for name in names for axis in grids[name].axes)
    coords: dict[str, Any] = {"site": ("node", np.array(names)[of_site[order]])}
    for axis in axes:
        coords[axis] = ("node", np.concatenate([_labels(grids[name], axis) for name in names])[order])
    nodes = xr.Dataset(
        {"estimate": ("node", flat[order]), "effect": ("node", effects), "sampled": ("node", sampled)},
        coords=coords, attrs=estimates[names[0]].attrs | {"site": "+".join(names), "method": f"localize ({method})"},
    )  # fmt: skip
    return Localization(nodes, verify, confidence)


def _labels(cells: Cells, name: str) -> np.ndarray:
    """What stands on an axis at each cell: -1, or "" for roles, where its site has no such axis."""
    for dim, axis in enumerate(cells.axes):
        if axis.name == name:
            return np.array(axis.labels)[np.unravel_index(np.arange(len(cells)), cells.shape)[dim]]
    return np.full(len(cells), "" if name == "role" else -1)
