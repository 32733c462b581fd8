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
SENDERS = ("embed", "pos_embed", "z", "result", "attn_out", "mlp_post", "mlp_out")

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


def side_of(
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


def upstream(config: TransformerConfig, send: Side, sites: Mapping[str, SiteSpec], kind: str) -> np.ndarray:
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
