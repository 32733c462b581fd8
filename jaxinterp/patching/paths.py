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
import jax.numpy as jnp
import numpy as np
import xarray as xr

from jaxinterp.metrics import Metric
from jaxinterp.model.block import mlp_output
from jaxinterp.model.config import suggest
from jaxinterp.model.interventions import Intervention, Interventions, add, at_layer, joined, replace, split_layers
from jaxinterp.model.layers import norm
from jaxinterp.model.params import Params, block_names
from jaxinterp.model.sites import SiteSpec, check_site
from jaxinterp.model.tap import Tap
from jaxinterp.model.transformer import Transformer
from jaxinterp.model.where import Geometry, Where
from jaxinterp.patching.activation import check_pair, check_run
from jaxinterp.patching.batches import Batch, cut, edits_of, metric_of, prompts_of
from jaxinterp.patching.cells import COORDINATES, Axis, union_mask
from jaxinterp.patching.cost import RUN_BYTES
from jaxinterp.patching.effects import effect_array
from jaxinterp.patching.endurance import Folder
from jaxinterp.patching.engine import Options, Sweep, Work, begins, can_resume, observe, run_sweep
from jaxinterp.patching.nodes import first_difference
from jaxinterp.patching.plain import captured
from jaxinterp.patching.reach import columns_read
from jaxinterp.tasks.prompts import Prompts, as_prompts

#: What may send: sites whose values are added to the stream, or are mapped linearly to what is.
SENDERS = ("embed", "pos_embed", "z", "result", "attn_out", "mlp_post", "mlp_out")

#: What may receive, and which stream it reads.
RECEIVERS = {"q_input": "pre", "k_input": "pre", "v_input": "pre", "mlp_in": "mid", "resid_final": "final"}

#: Sites that standing edits may be made at: others lie between a sender and the stream, or cut it.
STANDING = (
    "embed", "q_input", "k_input", "v_input", "ln1.scale", "ln1.normalized", "q_norm_in", "k_norm_in", "q", "k", "v",
    "rot_q", "rot_k", "scores", "pattern", "z", "ln2.scale", "ln2.normalized", "mlp_pre", "mlp_pre_linear", "mlp_mid",
    "mlp_post", "ln_final.scale", "ln_final.normalized", "logits",
)  # fmt: skip

MODES = ("direct", "ioi")


@dataclasses.dataclass(frozen=True)
class Side:
    """The senders, or the receivers, of a sweep over paths.

    Attributes:
      axes: shown in the result, in its order; their selectors are int[n].
      fixed: coordinates that all of them share, `{name of at: int}`.
      masks: `{site: bool of the site's rank, each axis full or 1}`, what may be selected at all.
    """

    axes: tuple[Axis, ...]
    fixed: Mapping[str, int]
    masks: Mapping[str, np.ndarray]

    @property
    def shape(self) -> tuple[int, ...]:
        """How many entries each axis has."""
        return tuple(len(axis.labels) for axis in self.axes)

    def coordinates(self, which: np.ndarray) -> dict[str, np.ndarray]:
        """`{name of at, or "site": int[cell]}` of some of its cells."""
        places = np.unravel_index(which, self.shape) if self.axes else ()
        found = {a.coordinate: a.selectors[place] for a, place in zip(self.axes, places, strict=True)}
        return found | {name: np.full(len(which), value) for name, value in self.fixed.items()}

    def wheres(self, which: np.ndarray, sites: Mapping[str, SiteSpec]) -> dict[str, Where]:
        """The coordinates of some of its cells at each site; a cell of another site selects nothing."""
        found = self.coordinates(which)
        out = {}
        for number, (site, mask) in enumerate(self.masks.items()):
            index = {name: value for name, value in found.items() if name != "site"}
            if "site" in found:
                here = (found["site"] == number).reshape(-1, *[1] * mask.ndim)
                masks = here & mask if not mask.all() else here
            else:
                masks = np.broadcast_to(mask, (len(which), *mask.shape))
            out[site] = Where({n: v for n, v in index.items() if sites[site].axis(n) is not None}, (), masks)
        return out

    def layers(self, site: str, sites: Mapping[str, SiteSpec]) -> np.ndarray:
        """bool[cell, layer]: where each cell selects anything of a site (one column if the site stands outside)."""
        spec, mask = sites[site], self.masks[site]
        which = np.arange(int(np.prod(self.shape)))
        found = self.coordinates(which)
        depth = spec.sizes[0] if spec.per_layer else 1
        assert depth is not None
        mask = np.broadcast_to(mask, (depth if spec.per_layer else mask.shape[0], *mask.shape[1:]))
        indexed = [(dim, found[n]) for n in found if n != "site" and (dim := spec.axis(n)) is not None]
        index = [values if mask.shape[dim] > 1 else np.zeros_like(values) for dim, values in indexed]
        chosen = (
            np.moveaxis(mask, [dim for dim, _ in indexed], range(len(indexed)))[tuple(index)] if index else mask[None]
        )
        if not spec.per_layer or "layer" in found:
            here = np.broadcast_to(chosen.reshape(len(chosen), -1).any(axis=1), len(which))
            chosen = here[:, None] & (np.arange(depth) == found["layer"][:, None] if spec.per_layer else True)
        else:
            chosen = np.broadcast_to(chosen.any(axis=tuple(range(2, chosen.ndim))), (len(which), depth))
        return chosen & (found["site"] == list(self.masks).index(site))[:, None] if "site" in found else chosen


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
        pos_embed`.
      receivers: the same, of `q_input k_input v_input` (k and v by kv_head), `mlp_in` and `resid_final`, whose effect
        on the logits is direct.
      mode: "direct": receivers read the base run's stream plus the senders' own change, nothing in between hears of
        it. "ioi": all other heads are frozen as in the base run, MLPs and norms are recomputed, and receivers read what
        arrives.
      over: what is swept, of `sender_` and `receiver_` with `site layer head pos neuron`; whatever it leaves out acts
        together. Empty: all senders into all receivers at once. All paths between heads, say:
        `over=("sender_layer", "sender_head", "receiver_site", "receiver_layer", "receiver_head")`. Axes hold the
        selected entries.
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
    if normalize not in (False, True, "per_prompt"):
        raise ValueError(f"normalize must be False, True or 'per_prompt', got {normalize!r}")
    check_pair(base, source)
    geometry = check_run(model, base, base_interventions, metric)
    check_run(model, source, source_interventions, metric)
    edits, source_edits = joined(base_interventions), joined(source_interventions)
    for site in edits:
        if site not in STANDING:
            raise ValueError(
                f"base_interventions edit {site!r}, between senders and what receivers read: path patching cannot add "
                f"changes up there; it can under edits at {', '.join(s for s in STANDING if s in model.sites)}"
            )
    options = Options(mesh, max_bytes, progress, resume)
    send = _side("sender", model, senders, SENDERS, over, geometry)
    receive = _side("receiver", model, receivers, tuple(RECEIVERS), over, geometry)
    for name in over:
        if name.split("_")[0] not in ("sender", "receiver"):
            raise ValueError(f"unknown axis {name!r} in over; names begin with sender_ or receiver_")
    if "pos_embed" in send.masks and model.config.positions == "qk":
        raise ValueError("site 'pos_embed' does not enter this model's stream: queries and keys read it apart")
    ioi = mode == "ioi" and not freeze_mlps
    sweep = _path_sweep(model, params, base, source, metric, send, receive, edits, source_edits, ioi, options)
    tally = run_sweep(sweep, options, per_example=per_example, per_prompt=normalize == "per_prompt")
    names = [f"sender_{a.name}" for a in send.axes] + [f"receiver_{a.name}" for a in receive.axes]
    axes = [dataclasses.replace(a, name=n) for a, n in zip((*send.axes, *receive.axes), names, strict=True)]
    effects = effect_array(
        tally, tuple(axes), base, normalize=normalize, per_example=per_example, method="path_patching", mode=mode,
    )  # fmt: skip
    return effects.transpose(*over, ...)


def _side(
    side: str, model: Transformer, wanted: Any, allowed: Sequence[str], over: Sequence[str], geometry: Geometry
) -> Side:
    """The senders or receivers that were asked for."""
    if isinstance(over, str):
        raise TypeError(f"over must be a tuple of axis names, got the string {over!r}; write over=({over!r},)")
    if not isinstance(wanted, Mapping) or not wanted:
        raise TypeError(f"{side}s must be {{site: ji.at(...)}}, got {wanted!r}")
    masks: dict[str, np.ndarray] = {}
    for site, wheres in wanted.items():
        spec = check_site(dict(model.sites), site)
        if site not in allowed:
            raise ValueError(
                f"site {site!r} cannot be a {side}: {', '.join(s for s in allowed if s in model.sites)} can"
            )
        masks[site] = union_mask(site, spec, wheres, geometry)
        if not masks[site].any():
            raise ValueError(f"{side}s select nothing at site {site!r}")
    names = [name.removeprefix(f"{side}_") for name in over if name.startswith(f"{side}_")]
    if len(set(names)) < len(names):
        raise ValueError(f"over={tuple(over)} names one axis twice")
    axes, fixed = [], {}
    for name in names:
        if name == "site":
            axes.append(Axis("site", "site", list(masks), np.arange(len(masks))))
            continue
        entries = _entries(side, name, model, masks, geometry)
        axes.append(Axis(name, COORDINATES[name], entries.tolist(), entries))
    for name in ("layer", "head", "pos"):
        shown = name in [axis.coordinate for axis in axes]
        if not shown and all(model.sites[site].axis(name) is not None for site in masks):
            entries = _entries(side, name, model, masks, geometry)
            if len(entries) == 1:
                fixed[name] = int(entries[0])
    return Side(tuple(axes), fixed, masks)


def _entries(
    side: str, name: str, model: Transformer, masks: Mapping[str, np.ndarray], geometry: Geometry
) -> np.ndarray:
    """int[n]: the entries of one axis that any of the sites selects."""
    chosen: np.ndarray | None = None
    for site, mask in masks.items():
        spec = model.sites[site]
        dim = spec.axis(COORDINATES[name]) if name in COORDINATES else None
        if dim is None:
            raise ValueError(f"over holds '{side}_{name}': site {site!r} has no such axis; its axes are {spec}")
        size = spec.shape(geometry.batch, geometry.pos)[dim]
        here = np.broadcast_to(mask.any(axis=tuple(i for i in range(mask.ndim) if i != dim)), size)
        if chosen is not None and len(chosen) != size:
            raise ValueError(f"over holds '{side}_{name}': its sites differ in it; sweep them apart")
        chosen = here if chosen is None else chosen | here
    assert chosen is not None
    return np.flatnonzero(chosen)


def _path_sweep(
    model: Transformer,
    params: Any,
    base: Prompts,
    source: Prompts,
    metric: Metric,
    send: Side,
    receive: Side,
    edits: Mapping[str, tuple[Intervention, ...]],
    source_edits: Mapping[str, tuple[Intervention, ...]],
    ioi: bool,
    options: Options,
) -> Sweep:
    """Every sender (or all of them together) with every receiver."""
    config, sites = model.config, model.sites
    names = tuple(receive.masks)
    resumes = can_resume(model, metric, names, edits)
    n_send, n_receive = int(np.prod(send.shape)), int(np.prod(receive.shape))
    # receivers of one site at a time where sites are an axis, so that one of them is all that a cell edits
    by_site = "site" in receive.coordinates(np.arange(n_receive))
    groups = [(name,) for name in names] if by_site else [names]
    reads = {site: receive.layers(site, sites) for site in names}
    reached = np.zeros((n_send, n_receive), bool)
    for name in names:
        reached |= _upstream(config, send, sites, RECEIVERS[name]).astype(int) @ reads[name].T.astype(int) > 0
    if not reached.any():
        raise ValueError("no sender lies before any receiver: there is no path between them")
    one_layer = "layer" in receive.coordinates(np.arange(1))
    receive_layers = [np.where(r.any(axis=1), r.argmax(axis=1), config.n_layers) for r in reads.values()]
    receiver_layer = np.min(
        [config.n_layers * (RECEIVERS[n] == "final") + r for n, r in zip(names, receive_layers, strict=True)], axis=0
    )
    send_pos = send.coordinates(np.arange(n_send)).get("pos", np.zeros(n_send, np.int64))

    def outline(batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        sender, receiver = np.divmod(np.arange(n_send * n_receive), n_receive)
        rows, read = begins(
            model,
            prompts_of(base, batch),
            metric_of(metric, batch, base),
            send_pos[sender],
            batch.first,
            resumes=resumes,
        )
        layers = receiver_layer[receiver] if resumes else np.zeros_like(receiver)
        return layers, rows, read & reached[sender, receiver] & (send_pos[sender] < batch.n_pos)

    def works(batch: Batch) -> Sequence[Callable[[], Work]]:
        prompts, own_metric = prompts_of(base, batch), metric_of(metric, batch, base)
        run = Prompts(prompts.tokens, prompts.mask)
        own = edits_of(edits, sites, batch, base)
        geometry = Geometry.of(run.tokens, None if run.mask is None else jnp.asarray(run.mask))
        kept = (*send.masks, "attn_out_pre_norm", "mlp_out_pre_norm", "mlp_in")
        kept = tuple(dict.fromkeys(site for site in kept if site in sites))
        slots = {  # the layers whose arriving changes anybody receives
            kind: np.flatnonzero(sum(reads[n].any(axis=0) for n in names if RECEIVERS[n] == kind))
            for kind in ("pre", "mid")
            if any(RECEIVERS[n] == kind for n in names)
        }
        if not one_layer:
            slots = {kind: np.arange(config.n_layers) for kind in slots}
        each = 2 * config.n_layers * geometry.batch * geometry.pos * config.d_model * 4
        together = max(1, (options.max_bytes or RUN_BYTES) // 4 // each)

        @functools.cache
        def runs() -> tuple[Any, ...]:
            theirs = prompts_of(source, batch)
            their_edits = edits_of(source_edits, sites, batch, source)
            values, source_metric = observe(model, params, theirs, their_edits, own_metric, tuple(send.masks))[1:]
            observed = observe(model, params, prompts, own, own_metric, ("z",))
            return observed, captured(model, params, run, own, kept), values, source_metric

        @functools.lru_cache(maxsize=1)
        def arriving(first: int) -> tuple[np.ndarray, Any, Any]:
            chosen = np.arange(first, min(first + together, n_send))
            _, cache, values, _ = runs()
            padded = np.pad(chosen, (0, min(together, n_send) - len(chosen)), mode="edge")
            wheres = {s: _of_batch(where, sites[s], batch) for s, where in send.wheres(padded, sites).items()}
            values = {site: values[site] for site in send.masks}
            changes, moved = _arriving(model, params, run, cache, values, own, wheres, slots, ioi=ioi)
            return chosen, changes, jax.device_get(moved)

        def work(first: int, group: tuple[str, ...]) -> Work:
            (run_of, _, base_metric), _, _, source_metric = runs()
            chosen, changes, moved = arriving(first)
            receivers = np.arange(n_receive)
            if by_site:
                receivers = np.flatnonzero(receive.coordinates(receivers)["site"] == names.index(group[0]))
            sender, receiver = (x.reshape(-1) for x in np.meshgrid(np.arange(len(chosen)), receivers, indexing="ij"))
            seen = columns_read(own_metric, prompts) if resumes else None
            live, rows = _arrivals(config, group, reads, slots, moved, seen)
            live, rows = live[sender, receiver], rows[sender, receiver]
            rows, read = begins(model, prompts, own_metric, rows, 0, resumes=resumes)
            layers = receiver_layer[receiver] if resumes else np.zeros_like(receiver)

            def take(which: np.ndarray) -> Any:
                found = receive.coordinates(receiver[which])
                wheres = receive.wheres(receiver[which], sites)
                cell: dict[str, Any] = {"sender": sender[which], "wheres": {}}
                for site in group:
                    where = _of_batch(wheres[site], sites[site], batch)
                    if "pos" in (sent := send.coordinates(chosen[sender[which]])):  # the change stands at one position
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
        outline=outline, works=works, draws=1, write=_arrive, resumes=resumes, one_layer=one_layer,
        one_head="head" in receive.coordinates(np.arange(1)) and (by_site or len(names) == 1),
        identity=("path_patching", ioi, sides, source.tokens, edits, source_edits),
    )  # fmt: skip


def _upstream(config: Any, send: Side, sites: Mapping[str, SiteSpec], kind: str) -> np.ndarray:
    """bool[sender, layer]: the layers at which its change can arrive (one column for the final stream)."""
    out: Any = False
    for site in send.masks:
        sent = send.layers(site, sites)
        if not sites[site].per_layer:  # the embedding comes before everything
            arrives = np.broadcast_to(sent, (len(sent), config.n_layers))
        else:
            since = np.maximum.accumulate(sent, axis=1)
            within = kind == "mid" and not config.parallel and site in ("z", "result", "attn_out")
            arrives = since if within else np.pad(since, ((0, 0), (1, 0)))[:, :-1]
        out = out | (sent.any(axis=1, keepdims=True) if kind == "final" else arrives)
    return out


def _arrivals(
    config: Any,
    group: tuple[str, ...],
    reads: Mapping[str, np.ndarray],
    slots: Mapping[str, np.ndarray],
    moved: Mapping[str, np.ndarray],
    seen: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """(bool[sender, receiver]: whether anything arrives that the metric can see, int: the first row where it does).

    Args:
      moved: bool[sender, slot, batch, pos], where a change is not 0. seen: bool[batch, pos], what the metric reads.
    """
    hit: Any = 0
    for site in group:
        kind = RECEIVERS[site]
        here, layers = moved[kind], slots.get(kind, np.zeros(1, int))
        if seen is not None and site in ("q_input", "mlp_in", "resid_final"):
            # behind the last block's heads no position hears of another
            last = (layers == config.n_layers - 1) | (kind == "final")
            here = here & (seen | ~last[:, None, None])
        rows = here.any(axis=2).astype(np.float32)  # [sender, slot, pos]
        chosen = reads[site] if kind == "final" else reads[site][:, layers]
        hit = hit + np.einsum("slp,rl->srp", rows, chosen.astype(np.float32), optimize=True)
    return hit.any(axis=-1), (hit > 0).argmax(axis=-1).astype(np.int32)


def _of_batch(where: Where, spec: SiteSpec, batch: Batch) -> Where:
    """Coordinates of cells as one batch has them."""
    return dataclasses.replace(where, mask=cut(where.mask, ("cell", *spec.axes), batch))


def _arrive(changes: Any, cell: Any) -> dict[str, tuple[Intervention, ...]]:
    """One cell's edits: what arrives from its sender is added to its receivers' inputs."""
    edits: dict[str, tuple[Intervention, ...]] = {}
    for site, where in cell["wheres"].items():
        kind = RECEIVERS[site]
        change = changes[kind][cell["sender"]]
        if kind == "final":
            change = change[0]
        elif "slot" in cell:
            change = change[cell["slot"][kind]][None]
        by_head = site in ("q_input", "k_input", "v_input")
        edits[site] = (add(change[..., None, :] if by_head else change, where),)
    return edits


@functools.partial(jax.jit, static_argnames=("model", "ioi"))
def _arriving(
    model: Transformer,
    params: Params,
    prompts: Prompts,
    base: Mapping[str, jax.Array],
    source: Mapping[str, jax.Array],
    standing: Mapping[str, tuple[Intervention, ...]],
    wheres: Any,
    slots: Mapping[str, jax.Array],
    *,
    ioi: bool,
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """(the change that arrives from each sender, where it is not 0).

    Args:
      base, source: activations of the two runs. standing: edits of the base run, which hold inside MLPs.
      wheres: `{site: Where}`, leaves leading with sender. slots: layers at which changes are kept.

    Returns:
      `{"pre": [sender, slot, batch, pos, d_model], "mid": the same, "final": with a single slot}`.
    """
    config, sites = model.config, model.sites
    geometry = Geometry.of(prompts.tokens, prompts.mask)

    def one(wheres: Mapping[str, Where]) -> dict[str, jax.Array]:
        sent = {site: (replace(source[site], where),) for site, where in wheres.items()}
        outside = Tap(sites, geometry, sent, {})
        change: Any = 0.0
        for site in ("embed", "pos_embed"):
            if site in sent:
                change = change + outside.edit(site, base[site]) - base[site]
        shape = (*prompts.tokens.shape, config.d_model)
        change = jnp.broadcast_to(jnp.asarray(change, params["W_E"].dtype), shape)
        inside = {name: p for name, p in standing.items() if name in ("ln2.scale", "ln2.normalized") or "mlp" in name}
        by_layer, shared = split_layers(sent, sites)
        both, both_shared = split_layers(joined(inside, {s: p for s, p in sent.items() if "mlp" in s}), sites)
        stood, stood_shared = split_layers(inside, sites)

        def step(change: jax.Array, scanned: Any) -> tuple[jax.Array, Any]:
            weights, kept, layer_edits, both_edits, stood_edits, layer = scanned
            tap = Tap(sites, geometry, at_layer(layer_edits, shared), {}, layer)

            def sent_by(site: str) -> jax.Array:
                return tap.edit(site, kept[site]) - kept[site]

            def through_norm(name: str, site: str, change: jax.Array) -> jax.Array:
                if not config.has_output_norm:
                    return change
                before, after = (
                    norm(config, name, weights, kept[site] + c, lambda _, x: x)
                    for c in (jnp.zeros_like(change), change)
                )
                return after - before

            heads = jnp.zeros_like(change)
            if "z" in sent:
                heads = heads + jnp.einsum("bphf,hfd->bpd", sent_by("z"), weights["W_O"])
            if "result" in sent:
                heads = heads + sent_by("result").sum(axis=2)
            heads = through_norm("ln1_post", "attn_out_pre_norm", heads)
            if "attn_out" in sent:
                heads = tap.edit("attn_out", kept["attn_out"] + heads) - kept["attn_out"]
            mid = change if config.parallel else change + heads
            mlp = jnp.zeros_like(change)
            if ioi and not config.attn_only:
                taps = (
                    Tap(sites, geometry, at_layer(stood_edits, stood_shared), {}, layer),
                    Tap(sites, geometry, at_layer(both_edits, both_shared), {}, layer),
                )
                before, after = (
                    mlp_output(config, weights, kept["mlp_in"] + c, t)
                    for c, t in zip((jnp.zeros_like(mid), mid), taps, strict=True)
                )
                moved = jnp.any(mid != 0, axis=-1, keepdims=True)
                for site in {"mlp_post", "mlp_out"} & set(sent):
                    moved |= jnp.any(sent_by(site) != 0, axis=-1, keepdims=True)
                mlp = jnp.where(moved, after - before, 0)
            else:
                if "mlp_post" in sent:
                    mlp = through_norm("ln2_post", "mlp_out_pre_norm", sent_by("mlp_post") @ weights["W_out"])
                if "mlp_out" in sent:
                    mlp = tap.edit("mlp_out", kept["mlp_out"] + mlp) - kept["mlp_out"]
            return change + heads + mlp, {"pre": change, "mid": mid}

        per_layer = {site: value for site, value in base.items() if sites[site].per_layer}
        weights = {name: params[name] for name in block_names(config)}
        scanned = weights, per_layer, by_layer, both, stood, jnp.arange(config.n_layers)
        final, found = jax.lax.scan(step, change, scanned)
        return {kind: found[kind][layers] for kind, layers in slots.items()} | {"final": final[None]}

    changes = jax.vmap(one)(wheres)
    moved = {kind: jnp.any(change != 0, axis=-1) for kind, change in changes.items()}
    if prompts.mask is not None:  # what stands in rows of padding reaches nothing
        moved = {kind: there & prompts.mask for kind, there in moved.items()}
    return changes, moved
