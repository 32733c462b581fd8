"""Path patching: what one component's change does through what another reads of it, and through nothing else.

direct: a private copy of the receiver's input gets the senders' change; no other component hears of it (Goldowsky-Dill
et al. 2023; Heimersheim & Nanda 2024). ioi: every head but the senders is frozen, MLPs and norms are recomputed, and
the receivers get what arrives at them (Wang et al. 2023, Appendix B). Both are two steps: what arrives at each layer,
found once for each sender, and runs of the base prompt under that change of the receivers' inputs.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import xarray as xr

from jaxinterp.metrics import Metric
from jaxinterp.model.config import suggest
from jaxinterp.model.interventions import Intervention, Interventions, add, joined, replace
from jaxinterp.model.sites import SiteSpec
from jaxinterp.model.transformer import Transformer
from jaxinterp.model.where import Where
from jaxinterp.patching.activation import check_normalize, check_pair
from jaxinterp.patching.arrivals import arrivals, arriving
from jaxinterp.patching.batches import Batch, cut, edits_of, metric_of, prompts_of
from jaxinterp.patching.cost import RUN_BYTES
from jaxinterp.patching.effects import effect_array
from jaxinterp.patching.endurance import Folder
from jaxinterp.patching.engine import Options, Sweep, Work, begins, run_sweep
from jaxinterp.patching.nodes import first_difference
from jaxinterp.patching.observe import can_resume, foreign, observe
from jaxinterp.patching.plain import captured
from jaxinterp.patching.reach import columns_read
from jaxinterp.patching.sides import RECEIVERS, SENDERS, Side, side_of, upstream
from jaxinterp.tasks.prompts import Prompts, as_prompts

#: Sites that standing edits may be made at: others lie between a sender and the stream, or cut it.
STANDING = (
    "embed", "ln_embed.scale", "ln_embed.normalized", "ln1.scale", "ln1.normalized", "q_norm_in", "k_norm_in",
    "q", "k", "v", "rot_q", "rot_k", "scores", "pattern", "z", "ln2.scale", "ln2.normalized", "router", "mlp_pre",
    "mlp_pre_linear", "mlp_mid", "mlp_post", "final_pre", "final_post", "ln_final.scale", "ln_final.normalized",
    "logits",
)  # fmt: skip

#: The site of the stream that each kind of receiver reads.
STREAMS = {"pre": "resid_pre", "mid": "mlp_in", "final": "resid_final"}

MODES = ("direct", "ioi")


def check_standing(model: Any, edits: Mapping[str, Any]) -> None:
    """Raises for edits of a base run under which what senders write does not add up in what receivers read."""
    for site in edits:
        if site not in STANDING:
            raise ValueError(
                f"base_interventions edit {site!r}, between senders and what receivers read: path patching cannot add "
                f"changes up there; it can under edits at {', '.join(s for s in STANDING if s in model.sites)}"
            )


def path_patching(
    model: Transformer,
    params: Any,
    base: Any,
    source: Any,
    *,
    senders: Mapping[str, Any],
    receivers: Mapping[str, Any],
    metric: Metric,
    mode: str = "direct",
    over: Sequence[str] = (),
    only: Any = None,
    freeze_mlps: bool = False,
    normalize: bool | str = False,
    per_example: bool = False,
    mask: Any = None,
    base_interventions: Interventions | None = None,
    source_interventions: Interventions | None = None,
    mesh: jax.sharding.Mesh | None = None,
    max_bytes: int | None = None,
    progress: bool | None = None,
    resume: Folder | None = None,
) -> xr.DataArray:
    """The effect of what senders, taken from the source run, do through the receivers' inputs alone.

    Args:
      base, source: as in `activation_patching`.
      senders: `{site: ji.at(...)}` (or a tuple of such, their union), of `z result attn_out mlp_post mlp_out embed
        pos_embed`; where the embedding is normed, of `ln_embed.normalized` instead of the last two, and where there are
        experts, of `expert_out` instead of `mlp_post`.
      receivers: the same, of `q_input k_input v_input` (k and v by kv_head), `mlp_in` and `resid_final`, whose effect
        on the logits is direct.
      mode: "direct": the senders' own change is added to what receivers read, nothing in between hears of it. "ioi":
        all other heads are frozen as in the base run, MLPs and norms are recomputed, and what receivers read is
        overwritten by what arrives. Of a receiver behind another, the first lets it hear of the other, the second not.
      over: what is swept, of `sender_` and `receiver_` with `site layer head pos neuron`; whatever it leaves out acts
        together. Empty: all senders into all receivers at once. All paths between heads, say:
        `over=("sender_layer", "sender_head", "receiver_site", "receiver_layer", "receiver_head")`. Axes hold the
        selected entries.
      only: bool, of the shape that the result has: which of its paths to run. The others are NaN.
      freeze_mlps: in mode "ioi", freeze the MLPs as well, which leaves the direct paths.
      base_interventions: edits under which the base run stands; inside heads and MLPs, or at the embedding.
      Others as in `activation_patching`.

    Returns:
      The effect, metric of the run with patched paths - metric of the base run, labelled by the axes in `over`. Paths
      whose sender does not lie before their receiver do not exist: their effect is exactly 0.

    Raises:
      TypeError, ValueError: at the call: sites that cannot send or receive, no sender before any receiver, an
        architecture whose stream is normed between blocks (post-norm), so that nothing adds up along it.

    Example:
      >>> corrupted = tokens.at[:, 2].set(7)
      >>> effects = ji.path_patching(
      ...     model, params, corrupted, tokens, senders={"z": ji.at(layer=0)}, receivers={"q_input": ji.at(layer=1)},
      ...     over=("sender_head", "receiver_head"), metric=ji.logit_diff(3, 4))
      >>> effects.dims, effects.shape
      (('sender_head', 'receiver_head'), (4, 4))
    """
    base, source = as_prompts(base, mask), as_prompts(source, mask)
    if not isinstance(model, Transformer):
        raise TypeError(
            f"path patching reads the model's weights: it needs a ji.Transformer, got {type(model).__name__}"
        )
    if model.config.has_post_norm:
        raise ValueError(
            "path patching adds changes up along the stream, which this model norms between blocks (post-norm)"
        )
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}; {suggest(mode, MODES)}")
    if freeze_mlps and mode != "ioi":
        raise ValueError("freeze_mlps=True is for mode='ioi'; direct paths never pass through MLPs")
    check_normalize(normalize)
    geometry = check_pair(model, base, source, base_interventions, source_interventions, metric)
    edits, source_edits = joined(base_interventions), joined(source_interventions)
    check_standing(model, edits)
    options = Options(mesh, max_bytes, progress, resume)
    send = side_of("sender", model, senders, SENDERS, over, geometry)
    receive = side_of("receiver", model, receivers, tuple(RECEIVERS), over, geometry)
    for name in over:
        if name.split("_")[0] not in ("sender", "receiver"):
            raise ValueError(f"unknown axis {name!r} in over; names begin with sender_ or receiver_")
    if "pos_embed" in send.masks and model.config.positions == "qk":
        raise ValueError("site 'pos_embed' does not enter this model's stream: queries and keys read it apart")
    if model.config.embed_norm and (normed := {"embed", "pos_embed"} & set(send.masks)):
        raise ValueError(
            f"site {min(normed)!r} does not add up along the stream, for it is normed first: send 'ln_embed.normalized'"
        )
    if "mlp_post" in send.masks and model.config.n_experts is not None:
        raise ValueError("site 'mlp_post' does not add up along the stream, for a router weighs it: send 'expert_out'")
    names = [f"sender_{a.name}" for a in send.axes] + [f"receiver_{a.name}" for a in receive.axes]
    asked = np.ones((*send.shape, *receive.shape), bool) if only is None else _asked(only, names, over, send, receive)
    ioi = mode == "ioi" and not freeze_mlps
    sweep = _path_sweep(
        model, params, base, source, metric, send, receive, asked, edits, source_edits, ioi, mode == "ioi", options
    )
    tally = run_sweep(sweep, options, per_example=per_example, per_prompt=normalize == "per_prompt")
    for found in (tally.each,) if per_example else (tally.mean, tally.spread):
        found[~asked.reshape(-1)] = np.nan
    axes = [dataclasses.replace(a, name=n) for a, n in zip((*send.axes, *receive.axes), names, strict=True)]
    effects = effect_array(
        tally, tuple(axes), base, normalize=normalize, per_example=per_example, method="path_patching", mode=mode,
    )  # fmt: skip
    return effects.transpose(*over, ...)


def _asked(only: Any, names: Sequence[str], over: Sequence[str], send: Side, receive: Side) -> np.ndarray:
    """Which paths to run, by the axes of senders and then of receivers."""
    sizes = dict(zip(names, (*send.shape, *receive.shape), strict=True))
    only, shape = np.asarray(only), tuple(sizes[name] for name in over)
    if only.dtype != bool or only.shape != shape:
        raise ValueError(f"only must be bool{list(shape)}, as over={tuple(over)}; got {only.dtype}{list(only.shape)}")
    return only.transpose([tuple(over).index(name) for name in names])


def _path_sweep(
    model: Transformer,
    params: Any,
    base: Prompts,
    source: Prompts,
    metric: Metric,
    send: Side,
    receive: Side,
    asked: np.ndarray,
    edits: Mapping[str, tuple[Intervention, ...]],
    source_edits: Mapping[str, tuple[Intervention, ...]],
    ioi: bool,
    overwrite: bool,
    options: Options,
) -> Sweep:
    """Every sender (or all of them together) with every receiver.

    Args:
      asked: bool, by the axes of both sides: which of these to run.
      ioi: whether MLPs carry changes on. overwrite: whether receivers read what arrived whatever happens before them.
    """
    config, sites = model.config, model.sites
    names = tuple(receive.masks)
    resumes = can_resume(model, metric, names, edits)
    n_send, n_receive = int(np.prod(send.shape)), int(np.prod(receive.shape))
    # receivers of one site at a time where sites are an axis, so that one of them is all that a cell edits
    by_site = "site" in receive.coordinates(np.arange(n_receive))
    groups = [(name,) for name in names] if by_site else [names]
    reads = {site: receive.selected(site, sites, "layer", config.n_layers) for site in names}
    reached = np.zeros((n_send, n_receive), bool)
    for name in names:
        reached |= upstream(config, send, sites, RECEIVERS[name]).astype(int) @ reads[name].T.astype(int) > 0
    if not reached.any():
        raise ValueError("no sender lies before any receiver: there is no path between them")
    reached &= asked.reshape(n_send, n_receive)
    one_layer = "layer" in receive.coordinates(np.arange(1))
    receive_layers = [np.where(r.any(axis=1), r.argmax(axis=1), config.n_layers) for r in reads.values()]
    receiver_layer = np.min(
        [config.n_layers * (RECEIVERS[n] == "final") + r for n, r in zip(names, receive_layers, strict=True)], axis=0
    )
    slots = {  # the layers whose arriving changes anybody receives
        kind: np.flatnonzero(sum(reads[n].any(axis=0) for n in names if RECEIVERS[n] == kind))
        for kind in ("pre", "mid")
        if any(RECEIVERS[n] == kind for n in names)
    }
    if not one_layer:
        slots = {kind: np.arange(config.n_layers) for kind in slots}
    streams = {kind: STREAMS[kind] for kind in (*slots, "final")} if overwrite else {}
    kept = dict.fromkeys((*send.masks, "attn_out_pre_norm", "mlp_out_pre_norm", "mlp_in", *streams.values()))
    captures = tuple(site for site in kept if site in sites)
    budget = options.max_bytes or RUN_BYTES  # decides which senders go together, and so belongs to the plan
    send_pos = send.coordinates(np.arange(n_send)).get("pos", np.zeros(n_send, np.int64))

    def outline(batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        sender, receiver = np.divmod(np.arange(n_send * n_receive), n_receive)
        prompts, own_metric = prompts_of(base, batch), metric_of(metric, batch, base)
        rows, read = begins(model, prompts, own_metric, send_pos[sender], batch.first, resumes=resumes)
        layers = receiver_layer[receiver] if resumes else np.zeros_like(receiver)
        return layers, rows, read & reached[sender, receiver] & (send_pos[sender] < batch.n_pos)

    def works(batch: Batch) -> Sequence[Callable[[], Work]]:
        prompts, own_metric = prompts_of(base, batch), metric_of(metric, batch, base)
        own = edits_of(edits, sites, batch, base)
        each = 2 * config.n_layers * prompts.tokens.size * config.d_model * 4
        together = max(1, budget // 4 // each)

        @functools.cache
        def runs() -> tuple[Any, ...]:
            theirs = prompts_of(source, batch)
            their_edits = edits_of(source_edits, sites, batch, source)
            values, source_metric = observe(model, params, theirs, their_edits, own_metric, tuple(send.masks))[1:]
            observed = observe(model, params, prompts, own, own_metric, ("z",))
            return observed, captured(model, params, prompts, own, captures), values, source_metric

        @functools.lru_cache(maxsize=1)
        def change_of(first: int) -> tuple[np.ndarray, Any, Any]:
            chosen = np.arange(first, min(first + together, n_send))
            _, cache, values, _ = runs()
            padded = np.pad(chosen, (0, min(together, n_send) - len(chosen)), mode="edge")
            wheres = {s: _of_batch(where, sites[s], batch) for s, where in send.wheres(padded, sites).items()}
            values = {site: values[site] for site in send.masks}
            changes, moved = arriving(model, params, prompts, cache, values, own, wheres, slots, ioi=ioi)
            if overwrite:  # what the receivers read in the base run, the change included
                stood = {k: cache[s][slots[k]] if k in slots else cache[s][None] for k, s in streams.items()}
                changes = {kind: stood[kind] + change for kind, change in changes.items()}
            return chosen, changes, jax.device_get(moved)

        def work(first: int, group: tuple[str, ...]) -> Work:
            (run_of, _, base_metric), _, _, source_metric = runs()
            chosen, changes, moved = change_of(first)
            receivers = np.arange(n_receive)
            if by_site:
                receivers = np.flatnonzero(receive.coordinates(receivers)["site"] == names.index(group[0]))
            sender, receiver = (x.reshape(-1) for x in np.meshgrid(np.arange(len(chosen)), receivers, indexing="ij"))
            seen = columns_read(own_metric, prompts) if resumes else None
            at_rows = {site: receive.selected(site, sites, "pos", batch.n_pos)[:, : batch.n_pos] for site in group}
            live, rows = arrivals(config, group, reads, at_rows, slots, moved, seen)
            live, rows = live[sender, receiver], rows[sender, receiver]
            rows, read = begins(model, prompts, own_metric, rows, batch.first, resumes=resumes)
            layers = receiver_layer[receiver] if resumes else np.zeros_like(receiver)

            def take(which: np.ndarray) -> Any:
                found = receive.coordinates(receiver[which])
                wheres = receive.wheres(receiver[which], sites)
                sent = send.coordinates(chosen[sender[which]])
                cell: dict[str, Any] = {"sender": sender[which], "wheres": {}}
                for site in group:
                    where = _of_batch(wheres[site], sites[site], batch)
                    # the change stands at one position; what else is overwritten matters to receivers in a row alone
                    if "pos" in sent and (not overwrite or (one_layer and len(group) == 1)):
                        where = dataclasses.replace(where, index={"pos": sent["pos"], **where.index})
                    cell["wheres"][site] = where
                if one_layer:
                    own_slots = {RECEIVERS[site] for site in group}
                    cell["slot"] = {kind: np.searchsorted(slots[kind], found["layer"]) for kind in own_slots}
                return cell

            return Work(
                prompts=prompts, edits=own, metric=own_metric, run=run_of, base_metric=base_metric,
                source_metric=source_metric, numbers=chosen[sender] * n_receive + receiver, live=live & read,
                layers=layers, rows=rows, values=changes, take=take, opens=first == 0 and group == groups[0],
            )  # fmt: skip

        return [functools.partial(work, first, group) for first in range(0, n_send, together) for group in groups]

    sides = [([(a.name, a.labels) for a in side.axes], dict(side.masks)) for side in (send, receive)]
    return Sweep(
        model=model, params=params, base=base, metric=metric, names=names, n_cells=n_send * n_receive,
        first=np.zeros(len(base), int) if edits or source_edits else first_difference(base, source),
        outline=outline, works=works, draws=1, write=_overwrite if overwrite else _arrive,
        resumes=resumes, one_layer=one_layer, whole=foreign(edits) or foreign(source_edits),
        kept=(*captures, *send.masks),
        one_head="head" in receive.coordinates(np.arange(1)) and (by_site or len(names) == 1),
        identity=("path_patching", ioi, overwrite, sides, asked, source.tokens, budget, edits, source_edits),
    )  # fmt: skip


def _of_batch(where: Where, spec: SiteSpec, batch: Batch) -> Where:
    """Coordinates of cells as one batch has them."""
    return dataclasses.replace(where, mask=cut(where.mask, ("cell", *spec.axes), batch))


def _arrive(changes: Any, cell: Any) -> dict[str, tuple[Intervention, ...]]:
    """One cell's edits: what arrives from its sender is added to its receivers' inputs."""
    return _at_receivers(add, changes, cell)


def _overwrite(inputs: Any, cell: Any) -> dict[str, tuple[Intervention, ...]]:
    """One cell's edits: its receivers' inputs are overwritten by what was recorded when its sender's change arrived."""
    return _at_receivers(replace, inputs, cell)


def _at_receivers(
    edit: Callable[[Any, Where], Intervention], changes: Any, cell: Any
) -> dict[str, tuple[Intervention, ...]]:
    edits: dict[str, tuple[Intervention, ...]] = {}
    for site, where in cell["wheres"].items():
        kind = RECEIVERS[site]
        change = changes[kind][cell["sender"]]
        if kind == "final":
            change = change[0]
        elif "slot" in cell:
            change = change[cell["slot"][kind]][None]
        by_head = site in ("q_input", "k_input", "v_input")
        edits[site] = (edit(change[..., None, :] if by_head else change, where),)
    return edits
