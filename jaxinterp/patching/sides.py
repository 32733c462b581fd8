"""Senders and receivers of paths: which there are, and which of them lies before which."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxinterp.model.config import TransformerConfig
from jaxinterp.model.sites import SiteSpec, check_site
from jaxinterp.model.transformer import Transformer
from jaxinterp.model.where import Geometry, Where
from jaxinterp.patching.cells import COORDINATES, Axis, union_mask

#: What may send: sites whose values are added to the stream, or are mapped linearly to what is.
SENDERS = ("embed", "pos_embed", "ln_embed.normalized", "z", "result", "attn_out", "mlp_post", "expert_out", "mlp_out")

#: Those of them within the MLP.
MLP_SENDERS = ("mlp_post", "expert_out", "mlp_out")

#: What may receive, and which stream it reads.
RECEIVERS = {"q_input": "pre", "k_input": "pre", "v_input": "pre", "mlp_in": "mid", "resid_final": "final"}


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
        index = self.coordinates(which)
        of_site = index.pop("site", None)
        out = {}
        for number, (site, mask) in enumerate(self.masks.items()):
            here = np.ones(len(which), bool) if of_site is None else of_site == number
            masks = here.reshape(-1, *[1] * mask.ndim) & mask
            out[site] = Where({n: v for n, v in index.items() if sites[site].axis(n) is not None}, (), masks)
        return out

    def selected(self, site: str, sites: Mapping[str, SiteSpec], name: str, size: int) -> np.ndarray:
        """bool[cell, size]: which entries of an axis each cell selects at a site; one column if it has no such axis."""
        spec, mask = sites[site], self.masks[site]
        which = np.arange(int(np.prod(self.shape)))
        found = self.coordinates(which)
        dim = spec.axis(name)
        if dim is not None:
            mask = np.repeat(mask, size, axis=dim) if mask.shape[dim] == 1 else mask
        indexed = {d: found[n] for n in found if n not in ("site", name) and (d := spec.axis(n)) is not None}
        front = [*indexed, *([] if dim is None else [dim])]
        index = [values if mask.shape[d] > 1 else np.zeros_like(values) for d, values in indexed.items()]
        mask = np.moveaxis(mask, front, range(len(front)))
        mask = np.asarray(mask[tuple(index)] if index else mask[None])  # [cell or 1, size, ...] or [cell or 1, ...]
        chosen = np.any(mask.reshape(len(mask), 1 if dim is None else mask.shape[1], -1), axis=2)
        chosen = np.broadcast_to(chosen, (len(which), chosen.shape[1]))
        if dim is not None and name in found:
            chosen = chosen & (np.arange(size) == found[name][:, None])
        return chosen & (found["site"] == list(self.masks).index(site))[:, None] if "site" in found else chosen


def side_of(
    side: str, model: Transformer, wanted: Any, allowed: Sequence[str], over: Sequence[str], geometry: Geometry
) -> Side:
    """The senders or receivers that were asked for."""
    if isinstance(over, str):
        raise TypeError(f"over must be a tuple of axis names, got the string {over!r}; write over=({over!r},)")
    if isinstance(over, Mapping):
        raise TypeError(
            "over must be a tuple of axis names; which senders and receivers is for senders= and receivers="
        )
    if not isinstance(wanted, Mapping) or not wanted:
        raise TypeError(f"{side}s must be {{site: ji.at(...)}}, got {wanted!r}")
    masks: dict[str, np.ndarray] = {}
    for site, wheres in wanted.items():
        spec = check_site(dict(model.sites), site)
        if site not in allowed:
            raise ValueError(
                f"site {site!r} cannot be a {side}: {', '.join(s for s in allowed if s in model.sites)} can"
            )
        several = wheres if isinstance(wheres, (list, tuple)) else (wheres,)
        if not several or not all(isinstance(where, Where) for where in several):
            raise TypeError(f"{side}s[{site!r}] must be ji.at(...), or a tuple of them, got {wheres!r}")
        masks[site] = union_mask(site, spec, wheres, geometry)
        if not masks[site].any():
            raise ValueError(f"{side}s select nothing at site {site!r}")
    names = [name.removeprefix(f"{side}_") for name in over if name.startswith(f"{side}_")]
    coordinates = [COORDINATES.get(name, name) for name in names]
    if len(set(coordinates)) < len(coordinates):
        raise ValueError(f"over={tuple(over)} names one axis twice")
    axes, fixed = [], {}
    for name in names:
        if name == "site":
            axes.append(Axis("site", "site", list(masks), np.arange(len(masks))))
            continue
        entries = _entries(side, name, model, masks, geometry)
        axes.append(Axis(name, COORDINATES[name], entries.tolist(), entries))
    for name in ("layer", "head", "pos"):
        dims = [model.sites[site].axis(name) for site in masks]
        sizes = {model.sites[site].sizes[dim] for site, dim in zip(masks, dims, strict=True) if dim is not None}
        if name not in coordinates and None not in dims and len(sizes) == 1:
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
        dim = spec.axis(COORDINATES[name]) if name in COORDINATES and name != "role" else None
        if dim is None:
            raise ValueError(f"over holds '{side}_{name}': site {site!r} has no such axis; its axes are {spec}")
        size = spec.shape(geometry.batch, geometry.pos)[dim]
        here = np.broadcast_to(mask.any(axis=tuple(i for i in range(mask.ndim) if i != dim)), size)
        if chosen is not None and len(chosen) != size:
            raise ValueError(f"over holds '{side}_{name}': its sites differ in it; sweep them apart")
        chosen = here if chosen is None else chosen | here
    assert chosen is not None
    return np.flatnonzero(chosen)


def upstream(config: TransformerConfig, send: Side, sites: Mapping[str, SiteSpec], kind: str) -> np.ndarray:
    """bool[sender, layer]: the layers at which its change can arrive (one column for the final stream)."""
    out: Any = False
    for site in send.masks:
        sent = send.selected(site, sites, "layer", config.n_layers)
        if not sites[site].per_layer:  # the embedding comes before everything
            arrives = np.broadcast_to(sent, (len(sent), config.n_layers))
        else:
            since = np.maximum.accumulate(sent, axis=1)
            within = kind == "mid" and not config.parallel and site in ("z", "result", "attn_out")
            arrives = since if within else np.pad(since, ((0, 0), (1, 0)))[:, :-1]
        out = out | (sent.any(axis=1, keepdims=True) if kind == "final" else arrives)
    return out
