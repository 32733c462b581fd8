"""Attribution patching: what patching an activation would do, to first order, for all activations at once.

    effect of patching a  ~  (a_source - a_base) . d metric / d a (base)

One run of each kind and one backward pass, whatever the number of sites (Nanda 2023; Syed et al. 2023). The gradient is
that of the run which is modified: with a corrupted base this estimates denoising, with a clean one noising.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import xarray as xr

from jaxinterp.attribution.atp_star import check_droppable, with_fixes
from jaxinterp.attribution.derivatives import check_differentiable
from jaxinterp.attribution.estimates import Estimates, Kept, Pair, cells_for, check_sites, estimated
from jaxinterp.attribution.forward import in_forward_mode
from jaxinterp.attribution.gradients import at_base
from jaxinterp.attribution.integrated import along_activations, along_inputs, quadrature
from jaxinterp.attribution.softmax import KEYS, QUERIES
from jaxinterp.metrics import Metric
from jaxinterp.model.config import suggest
from jaxinterp.model.interventions import Interventions, joined
from jaxinterp.patching.activation import check_normalize, check_pair, check_roles
from jaxinterp.patching.batches import Batch, edits_of, prompts_of
from jaxinterp.patching.cells import Over
from jaxinterp.patching.engine import Options
from jaxinterp.patching.observe import foreign
from jaxinterp.tasks.prompts import Prompts, as_prompts

#: How estimates are made.
METHODS = ("grad", "ig", "atp_star", "jvp")

#: What integrated gradients follow.
PATHS = {"activations": along_activations, "inputs": along_inputs}


def attribution_patching(
    model: Any,
    params: Any,
    base: Any,
    source: Any,
    *,
    metric: Metric,
    sites: Sequence[str] | None = None,
    site: str | None = None,
    over: Over | None = None,
    method: str = "grad",
    steps: int | None = None,
    rule: str = "midpoint",
    path: str = "activations",
    grad_drop: bool = True,
    normalize: bool | str = False,
    per_example: bool = False,
    roles: Mapping[str, Any] | None = None,
    mask: Any = None,
    base_interventions: Interventions | None = None,
    source_interventions: Interventions | None = None,
    mesh: jax.sharding.Mesh | None = None,
    max_bytes: int | None = None,
    progress: bool | None = None,
) -> xr.DataArray | dict[str, xr.DataArray]:
    """What `activation_patching` would find, estimated to first order around the base run.

    Estimates are exact where the metric is affine in the activation, and good where the patch is small. They fail where
    something saturates or several things cancel: whole residual streams (norms), attention patterns near 0 or 1.
    `ji.localize` verifies the largest.

    Args:
      base, source: as in `activation_patching`: base is the run that would be edited. Any number, in batches.
      sites: which activations; one pass of each kind serves all of them. `site` for a single one.
      over: the axes of the result, as in `activation_patching`; what it leaves out is summed over, as if patched
        together. None: all that each site has, but for features (d_model, d_head).
      method: "grad", the gradient of the base run; "ig", integrated gradients, the average of gradients on the way from
        base to source; `.attrs["completeness_error"]` is by how much their sum fails to be what it should, a mean over
        prompts of absolute errors, of the worst layer; "atp_star", with patched patterns for queries and keys (at any
        of their sites), and GradDrop; "jvp", as "grad", in forward mode: a forward for each entry of the result.
      steps, rule: for "ig": how many gradients (by default 5), and where on the way: "left", "right", "midpoint" or
        "gauss-legendre".
      path: for "ig": what goes from base to source: "activations", the site itself, one layer at a time, so that its
        entries add up to the effect of patching all of it; or "inputs", the embedding.
      grad_drop: for "atp_star": whether the result is a score, the mean absolute estimate while each layer's additions
        are left out of the gradient in turn; False leaves estimates of effects.
      normalize, per_example, roles, mask: as in `activation_patching`.
      base_interventions, source_interventions: edits under which the two runs stand; a site that they edit is patched
        behind them. `ji.stop_gradient` freezes what derivatives shall not go through.
      mesh: devices over which the prompts are spread; parameters are replicated.
      max_bytes: memory for a batch of prompts; by default 512 MiB.
      progress: a bar with rate and time left; by default shown if it takes more than a second.

    Returns:
      For `site` the estimated effect, labelled as `activation_patching` labels its own; for `sites` `{site: array}`.

    Raises:
      TypeError, ValueError: at the call, for what does not fit together.

    Example:
      >>> corrupted = tokens.at[:, 2].set(7)
      >>> effects = ji.attribution_patching(
      ...     model, params, corrupted, tokens, sites=("z", "mlp_out"), metric=ji.logit_diff(3, 4))
      >>> effects["z"].dims, effects["mlp_out"].dims
      (('layer', 'pos', 'head'), ('layer', 'pos'))
    """
    names = check_sites(model, sites, site)
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; {suggest(method, METHODS)}")
    if method != "ig" and (steps is not None or rule != "midpoint" or path != "activations"):
        raise ValueError(f"steps=, rule= and path= mean nothing for method={method!r}; they are for 'ig'")
    if path not in PATHS:
        raise ValueError(f"unknown path {path!r}; {suggest(str(path), PATHS)}")
    if method != "atp_star" and not grad_drop:
        raise ValueError(f"grad_drop= means nothing for method={method!r}; it is for 'atp_star'")
    points = quadrature(rule, 5 if steps is None else steps) if method == "ig" else ()
    methods: dict[str, Callable[..., Estimates]] = {
        "grad": at_base, "ig": PATHS[path], "jvp": in_forward_mode,
        "atp_star": functools.partial(with_fixes, grad_drop=grad_drop),
    }  # fmt: skip
    if method == "atp_star" and grad_drop:
        check_droppable(model)
    through = {"pattern", "scores"} & set(base_interventions or ())
    if method == "atp_star" and through and {*QUERIES, *KEYS} & set(names):
        raise ValueError(
            f"base_interventions edit {min(through)!r}, which 'atp_star' follows queries and keys through: "
            "use another method for them"
        )
    base, source = as_prompts(base, mask), as_prompts(source, mask)
    check_normalize(normalize)
    if normalize and method == "atp_star" and grad_drop:
        raise ValueError("normalize= means nothing for scores, which have no direction; give grad_drop=False")
    if roles is not None:
        check_roles(over or (), roles)
    options = Options(mesh, max_bytes, progress)
    geometry = check_pair(model, base, source, base_interventions, source_interventions, metric)
    check_differentiable(model, params, base, base_interventions, metric)
    grids = {name: cells_for(model.sites, name, over, geometry, roles or base.roles) for name in names}
    edits, source_edits = joined(base_interventions), joined(source_interventions)

    def of_batch(batch: Batch, prompts: Prompts, own: Any, metric: Metric, kept: Kept) -> Estimates:
        theirs = edits_of(source_edits, model.sites, batch, source)
        pair = Pair(prompts, own, options.spread(prompts_of(source, batch)), theirs, metric)
        return methods[method](model, params, pair, kept, "products", *points)

    arrays = estimated(
        model, params, base, grids, metric, edits, of_batch, options,
        copies=len(points[0]) if points else 1, together=foreign(source_edits), normalize=normalize,
        per_example=per_example, method=f"attribution_patching ({method})",
    )  # fmt: skip
    return arrays if site is None else arrays[site]
