"""A transformer as a computational graph: each head and MLP a node, each reader connected to every earlier writer."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxinterp.model.attention import attend, layer_data, project
from jaxinterp.model.block import mlp_output
from jaxinterp.model.config import TransformerConfig
from jaxinterp.model.layers import embed, norm, token_positions, unembed
from jaxinterp.model.params import Params, block_names, check_params, weight_axes
from jaxinterp.model.tap import Tap
from jaxinterp.model.transformer import Transformer
from jaxinterp.model.where import Geometry
from jaxinterp.scrubbing.graph import Graph, Node


def transformer_graph(
    model: Transformer,
    params: Params,
    examples: Any,
    *,
    read: int | None = -1,
    heads: bool = True,
    inputs: Literal["stream", "qkv"] | None = None,
    label: Callable[[Any], Any] | None = None,
    loss: Callable[[Any, Any], Any] | None = None,
    correct: Callable[[Any, Any], Any] | None = None,
) -> Graph:
    """The graph of a transformer's forward pass on one prompt.

    Nodes: `embed`, what enters block 0; `a0.h1`, what a head adds to the stream (`a0`, what a layer's attention does);
    `m0`, what an MLP adds; `mask`, which positions attention may see, if prompts are padded; `logits`. Every node reads
    all earlier writers directly, so that an edge is a direct path. Where norms stand behind the sum (norm_position
    "post"), the stream itself is a node: `resid0.mid`, `resid0.post`.

    Args:
      examples: some data whose leaves lead with an example axis, all prompts of one length: `{"tokens": ..., "mask":
        ...}`, an object with such attributes (`ji.Prompts`, a task's data), or int[example, pos]. A datum may hold
        more, for features and labels. Rewrites are checked on them.
      read: the position whose logits are the output, [d_vocab_out]; None for all, [pos, d_vocab_out].
      heads: whether each head is a node, or each layer's attention one.
      inputs: "stream" shows what a head reads as a node of its own, `a1.h0.in` (`m1.in` for MLPs); "qkv" each of
        `a1.h0.q_in`, `a1.h0.k_in`, `a1.h0.v_in`; None hides them in the heads.
      label: datum -> the right token's number, by default its `label` if it has one; for the loss.
      loss: `loss(logits, datum)`, by default the cross-entropy of the label, in nats.
      correct: `correct(logits, datum)`, by default whether the label's logit is the largest.

    Example:
      >>> graph = ji.scrubbing.transformer_graph(model, params, tokens)
      >>> graph.parents("a1.h0")
      ('embed', 'a0.h0', 'a0.h1', 'a0.h2', 'a0.h3', 'm0')
    """
    config = model.config
    check_params(config, params)
    params = jax.tree.map(jnp.asarray, params)
    if inputs not in (None, "stream", "qkv"):
        raise ValueError(f"inputs must be None, 'stream' or 'qkv', got {inputs!r}")
    if heads and config.qk_norm == "all":
        raise ValueError("qk_norm='all' norms the heads together, so that they are no nodes; give heads=False")
    tokens, mask = prompt_of(examples)
    model.check_prompt(tokens, mask)
    n_pos = jnp.shape(tokens)[1]
    if read is not None and not -n_pos <= read < n_pos:
        raise ValueError(f"read= is position {read} of prompts with {n_pos}")

    parts = _Parts(config, n_pos, masked=mask is not None)
    nodes: dict[str, Node] = {"embed": Node(parts.embed, ("input",), by_row=(False,))}
    hidden: set[str] = set()
    masks = ("mask",) if mask is not None else ()
    if masks:
        nodes["mask"] = Node(lambda params, datum: prompt_of(datum)[1], ("input",))
    place = ("pos_embed",) if config.positions == "qk" else ()
    if place:
        nodes["pos_embed"] = Node(parts.place, ("input",), by_row=(False,))
    writers = ["embed"]

    def stream(name: str, *, shown: bool = False) -> str:
        nodes[name] = Node(None, tuple(writers), "sum")
        if not shown:
            hidden.add(name)
        return name

    def normed(name: str, layer: int, which: str) -> None:
        """The stream behind a norm: what was written before is in it, and no longer a term."""
        total = stream(f"{name}.sum")
        nodes[name] = Node(parts.norm(layer, which), (total,), by_row=(True,))
        writers[:] = [name]

    for layer in range(config.n_layers):
        before = list(writers)
        written = []
        for head in range(config.n_heads) if heads else [None]:
            name = f"a{layer}" if head is None else f"a{layer}.h{head}"
            shared = None if inputs == "qkv" else stream(f"{name}.in", shown=inputs == "stream")
            for kind in "qkv":
                reads = shared or stream(f"{name}.{kind}_in", shown=True)
                also = () if kind == "v" else place
                by_row = (True,) * (1 + len(also))
                nodes[f"{name}.{kind}"] = Node(parts.project(layer, head, kind), (reads, *also), by_row=by_row)
                hidden.add(f"{name}.{kind}")
            read_by = (*(f"{name}.{kind}" for kind in "qkv"), *masks)
            nodes[name] = Node(Attention(parts, layer, head), read_by, by_row=(True, *(False for _ in read_by[1:])))
            written.append(name)
        if "b_O" in params:
            nodes[f"a{layer}.b_O"] = Node(parts.constant("b_O", layer), by_row=())
            hidden.add(f"a{layer}.b_O")
            written.append(f"a{layer}.b_O")
        if config.has_output_norm:
            total = f"a{layer}.sum"
            nodes[total] = Node(None, tuple(written), "sum")
            hidden.add(total)
            nodes[f"a{layer}.normed"] = Node(parts.norm(layer, "ln1_post"), (total,), by_row=(True,))
            written = [f"a{layer}.normed"]
        writers += written
        if config.has_post_norm and (config.attn_only or not config.parallel):
            normed(f"resid{layer}.mid" if not config.attn_only else f"resid{layer}.post", layer, "ln1")
        if config.attn_only:
            continue
        after, writers = writers, list(before) if config.parallel else list(writers)
        reads = stream(f"m{layer}.in", shown=inputs is not None)
        writers = after
        nodes[f"m{layer}"] = Node(parts.mlp(layer), (reads,), by_row=(True,))
        writers.append(f"m{layer}")
        if config.has_post_norm and not config.parallel:
            normed(f"resid{layer}.post", layer, "ln2")

    reads = stream("logits.in", shown=inputs is not None)
    if read is None:
        nodes["logits"] = Node(parts.unembed(one=False), (reads,), by_row=(True,))
    else:
        nodes["logits.read"] = Node(None, (reads,), "rows", rows=(read % n_pos,))
        hidden.add("logits.read")
        nodes["logits"] = Node(parts.unembed(one=True), ("logits.read",))
    label, has_own_loss = label or _label_in(examples), loss is None

    def check(data: Any) -> None:
        found, has_mask = prompt_of(data)[0], prompt_of(data)[1] is not None
        if jnp.shape(found)[1:] != (n_pos,) or has_mask != bool(masks):
            told = f"[datum, {n_pos}] tokens with{'' if masks else 'out'} a mask, as in its examples"
            raise ValueError(f"the graph is of {told}; got {jnp.shape(found)} with{'' if has_mask else 'out'} one")
        model.check_prompt(*prompt_of(data))
        labels = np.asarray(jax.vmap(label)(data)) if has_own_loss and label is not None else np.zeros(1)
        if not 0 <= labels.min() <= labels.max() < config.d_vocab_out:
            raise ValueError(
                f"labels run from {labels.min()} to {labels.max()}, expected 0 to {config.d_vocab_out - 1}"
            )

    if label is not None:
        loss = loss or (lambda logits, datum: -jax.nn.log_softmax(logits)[..., label(datum)])
        correct = correct or (lambda logits, datum: logits.argmax(-1) == label(datum))
    return Graph(
        nodes, "logits", hidden=frozenset(hidden), examples=(params, examples),
        loss=loss, correct=correct, check=check,
    )  # fmt: skip


def prompt_of(datum: Any) -> tuple[Any, Any]:
    """(tokens, mask or None) of a datum, or of data."""
    if isinstance(datum, Mapping):
        return datum["tokens"], datum.get("mask")
    if hasattr(datum, "tokens"):
        return datum.tokens, getattr(datum, "mask", None)
    return datum, None


def _label_in(data: Any) -> Callable[[Any], Any] | None:
    if isinstance(data, Mapping) and "label" in data:
        return lambda datum: datum["label"]
    return (lambda datum: datum.label) if hasattr(data, "label") else None


class _Parts:
    """The functions of the nodes, each of one datum: `[rows, ...]` in, `[rows, ...]` out."""

    def __init__(self, config: TransformerConfig, n_pos: int, *, masked: bool) -> None:
        self.config, self.n_pos, self.masked = config, n_pos, masked
        self.tap = Tap({}, Geometry(1, n_pos), {}, {})

    def weights(self, params: Params, layer: int, head: int | None = None) -> Params:
        """One block's weights, of one head (with the keys and values it shares) if one is given."""
        own = {name: params[name][layer] for name in block_names(self.config)}
        if head is None:
            return own
        axes, numbers = weight_axes(self.config), {"head": head, "kv_head": head // self.config.groups}
        for name in own:
            for dim, axis in enumerate(axes[name][1:]):
                if axis in numbers:
                    own[name] = jax.lax.dynamic_slice_in_dim(own[name], numbers[axis], 1, axis=dim)
        return own

    def of_heads(self, head: int | None) -> TransformerConfig:
        """The configuration of one head alone, or of all."""
        if head is None:
            return self.config
        return dataclasses.replace(self.config, n_heads=1, n_kv_heads=1)

    def embed(self, params: Params, datum: Any, *, rows: Any = None) -> jax.Array:
        return self._embedded(params, datum, rows)[0]

    def place(self, params: Params, datum: Any, *, rows: Any = None) -> jax.Array:
        return self._embedded(params, datum, rows)[1]

    def _embedded(self, params: Params, datum: Any, rows: Any) -> tuple[Any, Any]:
        tokens, mask = prompt_of(datum)
        tokens = tokens[None] if rows is None else tokens[None, rows]
        geometry = Geometry(1, self.n_pos, None if mask is None else mask[None], rows=self._index(rows))
        x, place = embed(self.config, params, tokens, token_positions(geometry), self.tap)
        return x[0], None if place is None else place[0]

    @staticmethod
    def _index(rows: Any) -> Any:
        return None if rows is None else jnp.asarray(rows)

    def norm(self, layer: int, which: str) -> Callable[..., jax.Array]:
        def fn(params: Params, x: jax.Array, *, rows: Any = None) -> jax.Array:
            return norm(self.config, which, self.weights(params, layer), x, self.tap)

        return fn

    def constant(self, name: str, layer: int) -> Callable[..., jax.Array]:
        return lambda params, *, rows=None: params[name][layer]

    def project(self, layer: int, head: int | None, kind: str) -> Callable[..., jax.Array]:
        def fn(params: Params, x: jax.Array, place: jax.Array | None = None, *, rows: Any = None) -> jax.Array:
            weights = self.weights(params, layer, head)
            read = norm(self.config, "ln1", weights, x, self.tap) if self.config.has_pre_norm else x
            read = read if place is None else read + place
            return project(self.of_heads(head), weights, kind, read[None], self.tap)[0]

        return fn

    def mlp(self, layer: int) -> Callable[..., jax.Array]:
        def fn(params: Params, x: jax.Array, *, rows: Any = None) -> jax.Array:
            return mlp_output(self.config, self.weights(params, layer), x[None], self.tap)[0]

        return fn

    def unembed(self, *, one: bool) -> Callable[..., jax.Array]:
        def fn(params: Params, x: jax.Array, *, rows: Any = None) -> jax.Array:
            logits = unembed(self.config, params, x[None], self.tap)[0]
            return logits[0] if one else logits

        return fn


@dataclasses.dataclass(frozen=True, eq=False)
class Attention:
    """What a head (or a layer's heads) adds to the stream: the function of its node.

    Attributes:
      kept: bool[query, key]: sources from which it is added; None for all. Attention is normalised over all.
    """

    parts: _Parts
    layer: int
    head: int | None
    kept: np.ndarray | None = None

    def __call__(
        self, params: Params, q: Any, k: Any, v: Any, mask: Any = None, *, rows: np.ndarray | None = None
    ) -> jax.Array:
        """[rows, d_model], from queries, keys and values [pos, head, d_head]."""
        own = self.parts.of_heads(self.head)
        data = {name: jnp.asarray(stacked[self.layer]) for name, stacked in layer_data(self.parts.config).items()}
        geometry = Geometry(1, self.parts.n_pos, None if mask is None else mask[None])
        seen = geometry._replace(rows=None if rows is None else jnp.asarray(rows))
        tap = self.parts.tap if self.kept is None else _Sources(self.kept if rows is None else self.kept[rows])
        z, _ = attend(own, data, q[None], k[None], v[None], seen, geometry, tap)
        return self.written(params, z[0])

    def written(self, params: Params, z: jax.Array) -> jax.Array:
        """[pos, head, d_head] as it is added to the stream."""
        return jnp.einsum("phf,hfd->pd", z, self.parts.weights(params, self.layer, self.head)["W_O"])

    def identity(self, params: Params, v: jax.Array, *, rows: Any = None) -> jax.Array:
        """What it would add if every position attended to itself alone."""
        groups = self.parts.config.groups if self.head is None else 1
        return self.written(params, jnp.repeat(v, groups, axis=1))


class _Sources:
    """A tap that leaves out attention to some sources."""

    def __init__(self, kept: np.ndarray) -> None:
        self.kept = kept

    def __call__(self, name: str, x: jax.Array) -> jax.Array:
        return x * self.kept if name == "pattern" else x

    edit = __call__

    def wants(self, *names: str) -> bool:
        return False
