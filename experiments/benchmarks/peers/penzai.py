"""penzai: the clean, the corrupted and many patched worlds in one jitted forward.

GPT-2 is put together from penzai's own layers (it has no variant of it). At each site stands a layer that lets patched
worlds read the clean one; which world is patched where is an argument, so that a sweep compiles once. Only the last
position is unembedded.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from peers.job import Job, Patch, Sweep, work
from penzai import pz

MASKED = np.float32(-1e30)
WORLDS = 24  # patched at once; memory has room for hundreds, which take longer on two cores
EMBEDDING, NEURONS, HEADS = ("embedding",), ("neurons",), ("heads", "projection")
AXES = {"layer": "layer", "head": "heads", "pos": "seq"}  # ours -> penzai's

Named = pz.nx.NamedArray


@pz.pytree_dataclass
class AddPositions(pz.nn.Layer):
    """Adds learned position embeddings."""

    table: pz.nn.EmbeddingTable

    def __call__(self, x: Named, *, token_positions: Named, **_: Any) -> Named:
        return x + self.table.embeddings.value[{"vocabulary": token_positions}]


@pz.pytree_dataclass
class LastPosition(pz.nn.Layer):
    """Drops the positions that the metric does not read."""

    def __call__(self, x: Named, **_: Any) -> Named:
        return x[{"seq": -1}]


@pz.pytree_dataclass
class ReadClean(pz.nn.Layer):
    """`RewireComputationPaths` as a choice, which costs less than its matrix product over worlds: the side input named
    after the site says where a world reads the first, clean one.
    """

    site: str = dataclasses.field(metadata={"pytree_node": False})
    layer: int = dataclasses.field(metadata={"pytree_node": False})

    def __call__(self, x: Named, **side_inputs: Any) -> Named:
        if self.site not in side_inputs:
            return x
        patched = side_inputs[self.site][{"layer": self.layer}]
        return pz.nx.nmap(jnp.where)(patched, x[{"worlds": 0}], x)


def build(job: Job) -> pz.nn.Sequential:
    """GPT-2: tokens with axes (worlds, batch, seq) to logits with axes (worlds, batch, vocabulary)."""
    sizes, weights = job.sizes, job.weights

    def named(value: np.ndarray, *axes: str) -> pz.ParameterValue:
        return pz.ParameterValue(label="", value=pz.nx.wrap(jnp.asarray(value)).tag(*axes))

    def affine(weight: np.ndarray, bias: np.ndarray, reads: tuple[str, ...], writes: tuple[str, ...]) -> pz.nn.Affine:
        linear = pz.nn.Linear(named(weight, *reads, *writes), in_axis_names=reads, out_axis_names=writes)
        return pz.nn.Affine([linear, pz.nn.AddBias(named(bias, *writes), new_axis_names=())])

    def norm(scale: np.ndarray, shift: np.ndarray) -> pz.nn.LayerNorm:
        by = pz.nn.Linear(named(scale, *EMBEDDING), in_axis_names=(), out_axis_names=())
        added = pz.nn.AddBias(named(shift, *EMBEDDING), new_axis_names=())
        return pz.nn.LayerNorm([pz.nn.Standardize("embedding", epsilon=sizes["eps"]), by, added])

    def block(layer: int) -> pz.nn.Sequential:
        of = job.block(layer)
        query, key, value = (affine(np.moveaxis(of[f"W_{x}"], 0, 1), of[f"b_{x}"], EMBEDDING, HEADS) for x in "QKV")
        output = affine(of["W_O"], of["b_O"], HEADS, EMBEDDING)
        queries, keys = ({"seq": seq, "heads": "h", "projection": "p"} for seq in ("tq", "tkv"))
        pattern, causal = {"seq": "tq", "heads": "h", "kv_seq": "tkv"}, pz.nn.ApplyCausalAttentionMask(MASKED)
        attention = pz.nn.Attention(
            input_to_query=pz.nn.Sequential([query, pz.nn.ConstantRescale(by=sizes["d_head"] ** -0.5)]),
            input_to_key=key,
            input_to_value=value,
            query_key_to_attn=pz.nn.Sequential(
                [pz.nn.NamedEinsum((queries, keys), pattern), causal, pz.nn.Softmax("kv_seq")]
            ),
            attn_value_to_output=pz.nn.Sequential(
                [pz.nn.NamedEinsum((pattern, keys), queries), ReadClean("z", layer), output]
            ),
        )
        thinking = [
            norm(of["ln2.w"], of["ln2.b"]),
            affine(of["W_in"], of["b_in"], EMBEDDING, NEURONS),
            pz.nn.Elementwise(partial(jax.nn.gelu, approximate=True)),
            affine(of["W_out"], of["b_out"], NEURONS, EMBEDDING),
        ]
        halves = [norm(of["ln1.w"], of["ln1.b"]), attention], thinking
        return pz.nn.Sequential([
            ReadClean("resid_pre", layer), *(pz.nn.Residual(pz.nn.Sequential(half)) for half in halves)
        ])  # fmt: skip

    tables = (named(weights[name], "vocabulary", "embedding") for name in ("W_E", "W_pos"))
    tokens, positions = (pz.nn.EmbeddingTable(table, vocabulary_axis="vocabulary") for table in tables)
    return pz.nn.Sequential([
        pz.nn.EmbeddingLookup(tokens),
        AddPositions(positions),
        *(block(layer) for layer in range(sizes["n_layers"])),
        LastPosition(),
        norm(weights["ln_final.w"], weights["ln_final.b"]),
        pz.nn.EmbeddingDecode(tokens),
    ])  # fmt: skip


@jax.jit
def metrics(model: Any, tokens: Named, patched: dict[str, Named], correct: jax.Array, wrong: jax.Array) -> jax.Array:
    """The metric of every world."""
    positions = pz.nx.arange("seq", tokens.named_shape["seq"])
    logits = model(tokens, token_positions=positions, **patched).unwrap("worlds", "batch", "vocabulary")
    rows = jnp.arange(len(correct))
    return (logits[:, rows, correct] - logits[:, rows, wrong]).mean(axis=1)


def prepare(job: Job) -> Callable[[Sweep], Patch]:
    model, sizes = build(job), job.sizes

    def begin(sweep: Sweep) -> Patch:
        axes = {"layer": sizes["n_layers"], "head": sizes["n_heads"], "pos": sweep.clean.shape[1]}
        if sweep.site == "resid_pre":
            del axes["head"]

        def together(cells: np.ndarray, size: int) -> np.ndarray:
            """One forward: the clean world, the corrupted one, and `size` that are patched."""
            patched = np.zeros([2 + size, *axes.values()], bool)
            for world, cell in enumerate(cells.tolist(), start=2):
                at = dict(zip(sweep.axes, cell, strict=True))
                patched[world][tuple(at.get(axis, slice(None)) for axis in axes)] = True
            tokens = pz.nx.wrap(np.stack([sweep.clean, *[sweep.corrupted] * (1 + size)]))
            where = {sweep.site: pz.nx.wrap(patched).tag("worlds", *(AXES[axis] for axis in axes))}
            found = metrics(model, tokens.tag("worlds", "batch", "seq"), where, job.correct, job.wrong)
            return np.asarray(found[2:] - found[1])[: len(cells)]

        def patch(cells: np.ndarray) -> np.ndarray:
            size = -(-len(cells) // -(-len(cells) // WORLDS))
            return np.concatenate([together(cells[i : i + size], size) for i in range(0, len(cells), size)])

        return patch

    return begin


if __name__ == "__main__":
    work(prepare, compiles=True)
