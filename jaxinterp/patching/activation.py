"""Activation patching: run one prompt with activations of another, and see what the metric makes of it.

Denoising (base corrupted, source clean) asks what suffices to restore a behaviour; noising (base clean,
source corrupted) what it needs. Specification: Heimersheim & Nanda 2024; Meng et al. 2022 for windows.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from jaxinterp.metrics import Metric, check_metric
from jaxinterp.model.interventions import Interventions, check_interventions, joined
from jaxinterp.model.sites import check_site
from jaxinterp.model.tap import check_capture
from jaxinterp.model.where import Geometry
from jaxinterp.patching.batches import Batch, edits_of, metric_of, prompts_of
from jaxinterp.patching.cells import Cells, Over, grid, joint_sets
from jaxinterp.patching.effects import effect_array
from jaxinterp.patching.endurance import Folder
from jaxinterp.patching.engine import Options, Sweep, plan_sweep, run_sweep
from jaxinterp.patching.nodes import Draw, first_difference, node_sweep
from jaxinterp.patching.observe import foreign, observe, observe_pair, whole_forwards
from jaxinterp.patching.plain import cell_edits, cell_edits_renormalised, metric_values
from jaxinterp.patching.plan import Plan
from jaxinterp.patching.tally import Tally
from jaxinterp.tasks.prompts import Prompts, as_prompts


def activation_patching(
    model: Any,
    params: Any,
    base: Any,
    source: Any,
    *,
    metric: Metric,
    site: str | None = None,
    over: Over = ("layer", "head", "pos"),
    normalize: bool | str = False,
    per_example: bool = False,
    renormalise: bool = False,
    roles: Mapping[str, Any] | None = None,
    sites: Sequence[str] | None = None,
    sets: Any = None,
    mask: Any = None,
    base_interventions: Interventions | None = None,
    source_interventions: Interventions | None = None,
    mesh: jax.sharding.Mesh | None = None,
    max_bytes: int | None = None,
    progress: bool | None = None,
    resume: Folder | None = None,
) -> xr.DataArray:
    """The effect of replacing activations of the base run by those of the source run, cell by cell.

    Args:
      base, source: tokens int[batch, pos] or `ji.Prompts`, aligned token by token: base is the run that is
        edited, source the one that activations come from. Any number: what does not fit at once runs in batches.
      metric: what effects are measured in.
      site: which activation; or `sites`, patched together in every cell (("q", "k", "v"), say).
      over: the axes of the sweep, a subset of the site's; what it leaves out is patched whole. "role" stands for
        named positions. A mapping gives the entries too: `{"layer": [3, 4], "head": None}`. Empty: one patch of
        everything.
      normalize: divide effects by (source - base), difference of means: 1 is the whole way. "per_prompt" divides each
        prompt's effect by its own difference.
      per_example: keep the prompts apart.
      renormalise: after entries of "pattern" were patched, scale the rows they are in to sum to 1.
      roles: `{"S2": int[batch], ...}`, the columns that "role" runs over; by default those of `base`.
      sets: joint patches instead of a grid: a list (or a labelled dict) of `ji.at(...)`, of lists of them (their
        union), or of `{site: such}`. The result has the axis `set`.
      mask: as in `apply`, for tokens given as arrays.
      base_interventions, source_interventions: edits under which the two runs stand.
      mesh: devices over which the cells are spread; parameters are replicated.
      max_bytes: memory for a chunk of cells, beside the parameters, two layers' weights once more, the runs of one
        batch and its effects (8 bytes for each cell and prompt); by default 80 MiB on CPUs, a quarter of what is free
        on an accelerator. A smaller one also means fewer prompts in a batch; one cell runs however little it is.
      progress: a bar with rate and time left; by default shown if the sweep takes more than a second.
      resume: a folder in which finished chunks are kept. After a kill, the same call goes on where it stopped, with a
        result that is the same bit for bit; SIGTERM and Ctrl-C finish the chunk in flight first.

    Returns:
      The effect, metric of the patched run - metric of the base run, in the metric's units, labelled by axis; the
      standard error over prompts is its coordinate `standard_error`, the runs' metrics are in `.attrs`.

    Raises:
      TypeError, ValueError: at the call, for anything that does not fit together; a `resume` folder that holds another
        sweep, or one of another model or version.
      OSError: `resume` cannot be read or written; what it held is kept.

    Example:
      >>> corrupted = tokens.at[:, 2].set(7)
      >>> metric = ji.logit_diff(3, 4)
      >>> effects = ji.activation_patching(
      ...     model, params, corrupted, tokens, site="z", over=("layer", "head"), metric=metric)
      >>> effects.dims, effects.shape == (model.config.n_layers, model.config.n_heads)
      (('layer', 'head'), True)
    """
    base, source = as_prompts(base, mask), as_prompts(source, mask)
    check_normalize(normalize)
    check_roles(over, roles)
    options = Options(mesh, max_bytes, progress, resume)
    sweep, cells = _patching(
        model, params, base, source, metric, site, over, renormalise, roles, sites, sets,
        base_interventions, source_interventions,
    )  # fmt: skip
    tally = run_sweep(sweep, options, per_example=per_example, per_prompt=normalize == "per_prompt")
    return effect_array(
        tally, cells.axes, base, normalize=normalize, per_example=per_example,
        site="+".join(sweep.names), method="activation_patching",
    )  # fmt: skip


def plan_patching(
    model: Any,
    params: Any,
    base: Any,
    source: Any,
    *,
    metric: Metric,
    site: str | None = None,
    over: Over = ("layer", "head", "pos"),
    roles: Mapping[str, Any] | None = None,
    sites: Sequence[str] | None = None,
    sets: Any = None,
    mask: Any = None,
    base_interventions: Interventions | None = None,
    source_interventions: Interventions | None = None,
    mesh: jax.sharding.Mesh | None = None,
    max_bytes: int | None = None,
) -> Plan:
    """What `activation_patching` would run: cells, where they start, operations, memory, time.

    Takes what decides about that; how effects are told (`normalize`, `per_example`) and `resume` do not. A dataset
    that fits one batch is run once, base and source, to see which cells can differ; of a larger one the plan says what
    could, by its tokens.

    Example:
      >>> corrupted = tokens.at[:, 2].set(7)
      >>> plan = ji.plan_patching(model, params, corrupted, tokens, site="z", metric=ji.logit_diff(3, 4))
      >>> plan.describe().splitlines()[0]
      '48 cells asked, 20 to run, 3 prompts in 1 batch'
    """
    base, source = as_prompts(base, mask), as_prompts(source, mask)
    sweep, _ = _patching(
        model, params, base, source, metric, site, over, False, roles, sites, sets,
        base_interventions, source_interventions,
    )  # fmt: skip
    return plan_sweep(sweep, Options(mesh, max_bytes))[0]


def _patching(
    model: Any,
    params: Any,
    base: Prompts,
    source: Prompts,
    metric: Metric,
    site: str | None,
    over: Over,
    renormalise: bool,
    roles: Mapping[str, Any] | None,
    sites: Sequence[str] | None,
    sets: Any,
    base_interventions: Interventions | None,
    source_interventions: Interventions | None,
) -> tuple[Sweep, Cells]:
    """The sweep that `activation_patching` asks for, checked."""
    geometry = check_pair(model, base, source, base_interventions, source_interventions, metric)
    cells = choose_cells(model, geometry, site, sites, sets, over, roles or base.roles)
    names = tuple(cells.masks)
    if renormalise and "pattern" not in names:
        raise ValueError(f"renormalise=True is for site 'pattern', got {', '.join(names)}")
    edits, source_edits = joined(base_interventions), joined(source_interventions)

    def draws(batch: Batch, prompts: Prompts, metric: Metric) -> list[Callable[[], Draw]]:
        def draw() -> Draw:
            if not edits and not source_edits:
                pair = observe_pair(model, params, prompts, prompts_of(source, batch), metric, names)
                if pair is not None:
                    observed, (_, values, source_metric) = pair
                    return Draw({}, values, source_metric, observed)
            theirs = edits_of(source_edits, model.sites, batch, source)
            values, source_metric = observe(model, params, prompts_of(source, batch), theirs, metric, names)[1:]
            return Draw(edits_of(edits, model.sites, batch, base), values, source_metric)

        return [draw]

    first = None if edits or source_edits else first_difference(base, source)
    write = cell_edits_renormalised if renormalise else cell_edits
    identity = "activation_patching", renormalise, source.tokens, source_edits
    return node_sweep(
        model, params, base, cells, metric, edits, draws,
        first=first, whole=foreign(source_edits), write=write, identity=identity,
    ), cells  # fmt: skip


def evaluate(
    model: Any,
    params: Any,
    base: Any,
    interventions: Interventions,
    *,
    metric: Metric,
    per_example: bool = False,
    mask: Any = None,
    base_interventions: Interventions | None = None,
) -> xr.DataArray:
    """The effect of any set of edits at once (the ablation of a circuit's complement, say).

    Args:
      base: tokens int[batch, pos] or `ji.Prompts`.
      interventions: as in `model.apply`; they come after `base_interventions`.

    Returns:
      A labelled scalar (or [batch] if `per_example`): metric of the edited run - metric of the base run, the two
      themselves in `.attrs` as `edited_metric` and `base_metric`.

    Example:
      >>> effect = ji.evaluate(model, params, tokens, {"z": ji.zero(ji.at(layer=0))}, metric=ji.logit_diff(3, 4))
      >>> bool(abs(effect.edited_metric - effect.base_metric - effect) < 1e-5)
      True
    """
    base = as_prompts(base, mask)
    geometry = check_run(model, base, base_interventions, metric)
    check_interventions(model.sites, interventions, geometry)
    standing, everything = joined(base_interventions), joined(base_interventions, interventions)
    tally = Tally.fresh((), 1, len(base), per_example=per_example)
    edited_total = 0.0
    for batch in whole_forwards(model, params, base, everything, metric):
        prompts, own_metric = prompts_of(base, batch), metric_of(metric, batch, base)
        base_metric, edited = (
            np.asarray(metric_values(model, params, prompts, edits_of(edits, model.sites, batch, base), own_metric))
            for edits in (standing, everything)
        )
        tally.open_work(base_metric, None, 1.0, opens=True)
        tally.add(np.arange(1), (edited - base_metric)[None], 0)
        tally.close_work()
        tally.close_batch(batch, per_prompt=False)
        edited_total += float(edited[: batch.n].sum())
    return effect_array(
        tally, (), base, normalize=False, per_example=per_example,
        edited_metric=edited_total / len(base), method="evaluate",
    )  # fmt: skip


def choose_cells(
    model: Any,
    geometry: Geometry,
    site: str | None,
    sites: Sequence[str] | None,
    sets: Any,
    over: Over,
    roles: Mapping[str, Any] | None,
) -> Cells:
    """The patches that `site`, `sites`, `sets` and `over` ask for; raises where they ask for nothing, or too much."""
    if isinstance(sites, str):
        raise TypeError(f"sites must be a tuple of site names, got the string {sites!r}; did you mean site={sites!r}?")
    if site is not None and sites is not None:
        raise ValueError("give site= or sites=, not both")
    patched = (site,) if site is not None else tuple(sites or ())
    for name in patched:
        check_site(model.sites, name)
    if sets is not None:
        return joint_sets(model.sites, patched, sets, geometry)
    if not patched:
        raise ValueError("which activation? give site='z' (or resid_pre, mlp_out, ...), sites= or sets=")
    return grid(model.sites, patched, over, geometry, roles)


def check_roles(over: Over, roles: Mapping[str, Any] | None) -> None:
    """Raises where named positions are given that nothing asks for."""
    if roles is not None and (not isinstance(over, Iterable) or "role" not in over):
        raise ValueError(f"roles= is given, but over={over!r} holds no 'role'")


def check_normalize(normalize: bool | str) -> None:
    """Raises unless it says which difference effects are divided by."""
    if normalize not in (False, True, "per_prompt"):
        raise ValueError(f"normalize must be False, True or 'per_prompt', got {normalize!r}")


def check_pair(
    model: Any,
    base: Prompts,
    source: Prompts,
    base_interventions: Interventions | None,
    source_interventions: Interventions | None,
    metric: Metric,
) -> Geometry:
    """Raises unless both runs fit the model and are aligned, with the same batch, positions and padding."""
    shapes = np.shape(base.tokens), np.shape(source.tokens)
    if shapes[0] != shapes[1]:
        raise ValueError(f"base has shape {shapes[0]}, source has {shapes[1]}; they must align token by token")
    masks = [np.ones(shapes[0], bool) if p.mask is None else np.asarray(p.mask) for p in (base, source)]
    if not np.array_equal(masks[0], masks[1]):
        row = int(np.argmax((masks[0] != masks[1]).any(axis=1)))
        raise ValueError(
            f"prompt {row}: base has {masks[0][row].sum()} tokens, source has {masks[1][row].sum()}; "
            "they must align token by token"
        )
    check_run(model, source, source_interventions, metric)
    return check_run(model, base, base_interventions, metric)


def check_tokens(model: Any, prompts: Prompts) -> None:
    """Raises for what is no model, and for prompts that are empty or that the model says it cannot read."""
    if not (hasattr(model, "apply") and hasattr(model, "sites")):
        raise TypeError(f"model must have apply and sites, as a ji.Transformer does, got {type(model).__name__}")
    if np.ndim(prompts.tokens) != 2 or 0 in np.shape(prompts.tokens):
        raise ValueError(f"empty prompt, or not int[batch, pos]: tokens have shape {np.shape(prompts.tokens)}")
    if hasattr(model, "check_prompt"):
        model.check_prompt(prompts.tokens, prompts.mask)


def check_run(model: Any, prompts: Prompts, interventions: Interventions | None, metric: Metric) -> Geometry:
    """Raises for prompts, edits or a metric that do not fit the model; returns the prompts' geometry."""
    check_tokens(model, prompts)
    mask = None if prompts.mask is None else jnp.asarray(prompts.mask)
    geometry = Geometry.of(prompts.tokens, mask)
    check_interventions(model.sites, joined(interventions), geometry)
    logits = model.sites.get("logits")
    check_metric(metric, geometry, None if logits is None else logits.sizes[-1])
    check_capture(model.sites, metric.capture, geometry)
    return geometry
