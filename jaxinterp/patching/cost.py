"""What a resumed run costs: operations (a multiply-add is two) and bytes, from the architecture alone."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxinterp.metrics import Metric
from jaxinterp.model.config import TransformerConfig
from jaxinterp.model.params import block_names
from jaxinterp.model.run import n_positions_read
from jaxinterp.model.sites import SiteSpec
from jaxinterp.model.transformer import Transformer
from jaxinterp.model.where import Geometry

#: What the runs of one batch of prompts, and one chunk of whole forwards, may take unless the caller says otherwise.
RUN_BYTES = 512 * 2**20

#: What a chunk of cells may take on CPUs, whose caches more of it would not fit.
CPU_BYTES = 80 * 2**20

#: What reading a block's weights costs a chunk, in rows of arithmetic: an estimate, which decides about speed alone.
WEIGHT_ROWS = 96


def chunk_bytes() -> int:
    """What a chunk of cells may take unless the caller says otherwise: on an accelerator, a quarter of what is free."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return CPU_BYTES
    stats = device.memory_stats() or {}
    return max(CPU_BYTES, (stats.get("bytes_limit", 4 * 2**30) - stats.get("bytes_in_use", 0)) // 4)


@dataclasses.dataclass(frozen=True)
class Cost:
    """What the cells of one shape of batch cost.

    Attributes:
      model: of any kind; operations of models other than `ji.Transformer` are not known, and counted in runs.
      batch, n_pos: prompts in a batch, and their columns.
      n_read: positions of each prompt whose logits are read. n_columns: columns of the unembedding.
      apart: whether each cell edits one layer alone, and starts with it (`model/branch.py`); otherwise all blocks are
        run whole, from the first that any cell of a chunk edits.
      behind, one_head: of cells that run apart, whether they start behind the heads of the block they edit, and whether
        they edit one head alone.
      itemsize: bytes of one number. weights: bytes of one layer's weights, where they are known.
      sites: those that are patched.
    """

    model: Any
    batch: int
    n_pos: int
    n_read: int
    n_columns: int
    apart: bool
    behind: bool
    one_head: bool
    itemsize: int
    weights: int
    sites: tuple[str, ...]

    @property
    def known(self) -> bool:
        """Whether operations are; else each cell counts as one."""
        return isinstance(self.model, Transformer)

    def operations(self, layer: Any, start: Any) -> Any:
        """Of one cell, continued from a block and a position: int, or arrays of them."""
        if not self.known:
            return np.ones(np.broadcast_shapes(np.shape(layer), np.shape(start)))
        config: TransformerConfig = self.model.config
        rows = self.n_pos - np.asarray(start)
        after = np.maximum(config.n_layers - 1 - np.asarray(layer), 0)  # blocks behind the edited one
        inside = np.asarray(layer) < config.n_layers
        block = _heads(config, rows, rows, self.n_pos) + _rest(config, rows)
        columns = self.n_columns * config.unembed + config.d_model * (config.final_act_fn is not None)
        unembedding = 2 * self.n_read * config.d_model * columns
        if not self.apart:
            return self.batch * (block * (inside + after) + unembedding)
        last = _heads(config, rows, self.n_read, self.n_pos) + _rest(config, self.n_read)
        heads = _heads(config, rows, rows, self.n_pos) / (config.n_kv_heads if self.one_head else 1)
        first = _rest(config, rows) if self.behind else _rest(config, rows) + heads
        total = first * inside + block * np.maximum(after - 1, 0) + last * (after > 0) + unembedding
        return self.batch * total

    def overhead(self, layer: int) -> float:
        """Of one chunk that starts at a block, beside its cells': weights are read, however few rows there are."""
        if not self.known:
            return 0.0
        config: TransformerConfig = self.model.config
        row = _heads(config, 1, 1, self.n_pos) + _rest(config, 1)
        return max(0, config.n_layers - layer) * WEIGHT_ROWS * row

    def stream(self, start: int) -> int:
        """Bytes of one cell's residual stream, continued from a position."""
        return self.itemsize * self.batch * (self.n_pos - start) * self.model.config.d_model

    def bytes(self, start: int) -> int:
        """Of one cell at its widest, continued from a position."""
        rows = self.n_pos - start
        sites: Mapping[str, SiteSpec] = self.model.sites
        patched = [int(np.prod(sites[s].shape(self.batch, self.n_pos)[int(sites[s].per_layer) :])) for s in self.sites]
        written = 2 * max(patched, default=0) * rows // self.n_pos
        if self.apart and self.one_head and self.known and not self.behind:
            written //= self.model.config.n_kv_heads
        wide = max(4, self.itemsize)
        read = 3 * wide * self.batch * self.n_read * self.n_columns
        if not self.known:
            widest = [
                int(np.prod(spec.shape(self.batch, rows)[int(spec.per_layer) :])) for s, spec in sites.items()
                if s != "logits"
            ]  # fmt: skip
            return 8 * wide * max(widest) + wide * written + read
        config: TransformerConfig = self.model.config
        heads = (config.n_heads * 3 + 2 * config.n_kv_heads) * config.d_head
        mlp = 0 if config.attn_only else (4 if config.gated else 3) * config.d_mlp * (config.n_experts or 1)
        attention = 3 * wide * config.n_heads * self.n_pos
        by_row = wide * (6 * config.d_model + max(heads, mlp)) + attention
        return self.batch * rows * by_row + wide * written + read


def _heads(config: TransformerConfig, rows: Any, queries: Any, keys: int) -> Any:
    """One prompt's queries, keys, values, scores and weighted values, before `W_O`."""
    width = config.n_heads * config.d_head
    project = 2 * config.d_model * (queries * width + 2 * rows * config.n_kv_heads * config.d_head)
    return project + 4 * queries * keys * width


def mlp_width(config: TransformerConfig) -> int:
    """How many columns, `d_model` long, a block's MLP (or its experts, all of them, and their router) multiplies by."""
    if config.attn_only:
        return 0
    neurons = (3 if config.gated else 2) * config.d_mlp
    return neurons if config.n_experts is None else config.n_experts * (neurons + 1)


def _rest(config: TransformerConfig, rows: Any) -> Any:
    """One prompt's `W_O` and MLP."""
    return 2 * rows * config.d_model * (config.n_heads * config.d_head + mlp_width(config))


def cost_of(
    model: Any,
    params: Any,
    geometry: Geometry,
    metric: Metric | None,
    sites: Sequence[str],
    *,
    resumes: bool,
    one_layer: bool = False,
    one_head: bool = False,
) -> Cost:
    """The cost of cells that patch these sites, on the resumed path or the plain one; no logits without a metric."""
    order = list(model.sites)
    leaves = [np.asarray(leaf) if np.isscalar(leaf) else leaf for leaf in jax.tree.leaves(params)]
    n_read, n_columns = geometry.pos, model.sites["logits"].sizes[-1] if "logits" in model.sites else 1
    if metric is None:
        n_read = 0
    elif resumes:
        n_read = n_positions_read(metric.positions, geometry)
        n_columns = n_columns if metric.columns is None else np.shape(metric.columns)[-1]
    weights = 0
    if isinstance(model, Transformer):
        leaves_of = [leaf for name, leaf in params.items() if name in block_names(model.config)]
        weights = sum(leaf.nbytes for leaf in leaves_of) // model.config.n_layers
    behind = resumes and isinstance(model, Transformer) and all(order.index(s) >= order.index("z") for s in sites)
    return Cost(
        model=model, batch=geometry.batch, n_pos=geometry.pos, n_read=n_read, n_columns=n_columns or 1,
        apart=resumes and one_layer and isinstance(model, Transformer), behind=behind, one_head=one_head,
        weights=weights, itemsize=max([4, *(leaf.dtype.itemsize for leaf in leaves)]), sites=tuple(sites),
    )  # fmt: skip
