"""A circuit grown edge by edge: attribution on the ablated complement, taken again after every edge.

    python experiments/grow_circuit.py

A run of a circuit reads the clean prompt; each reader of the residual stream sees the corrupted prompt's stream, plus
what the writers of its edges in the circuit put out more (in this run) than on the corrupted prompt. Of every edge that
is not in, the score is (what its writer puts out on the clean prompt - on the corrupted one) . d metric / d (what its
reader sees), in this run; the highest goes in. Beside it: edges in the order of EAP on the corrupted prompt, of EAP-IG,
greedily connected or not, and at random. Circuits are grown on some prompts and judged on others, by the share of the
way from the corrupted metric to the clean one; intervals are from a bootstrap over those prompts.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import Claim, interval, one_layout, options, table, verdicts, weights, write
from matplotlib.figure import Figure
from tqdm.auto import tqdm

import jaxinterp as ji
from jaxinterp.attribution.edges import nodes
from jaxinterp.model.attention import head_outputs, layer_data
from jaxinterp.model.block import mlp_output
from jaxinterp.model.params import block_names
from jaxinterp.model.resume import read_logits
from jaxinterp.model.tap import Tap
from jaxinterp.model.where import Geometry

#: How many edges a circuit gets, and at which sizes circuits are judged.
N_EDGES, SIZES = 80, (5, 10, 20, 30, 40, 60, 80)

READ = ("q_input", "k_input", "v_input")


@dataclass(frozen=True)
class Results:
    """Shares of the way to the clean metric by way of growing and size, `{way: {size: float[1 + draws]}}`."""

    shares: Mapping[str, Mapping[int, np.ndarray]]


#: Written before the first run.
CLAIMS = (
    Claim(
        "Attribution Patching as a Heuristic", "Attribution finds the next edge to add to a guess of a circuit",
        "share of the way at 60 of 2,188 edges, grown", lambda r: r.shares["grown"][60], at_least=0.8,
    ),
    Claim(
        "Attribution Patching as a Heuristic", "Every edit changes the gradients, which need to be taken again",
        "share at 40 edges, grown - EAP once", lambda r: r.shares["grown"][40] - r.shares["EAP"][40], at_least=0,
    ),
    Claim(
        "Hanna et al. 2024 (EAP-IG)", "Circuits of EAP-IG are more faithful than those of EAP",
        "share at 60 edges, EAP-IG - EAP", lambda r: r.shares["EAP-IG"][60] - r.shares["EAP"][60], at_least=0,
    ),
)  # fmt: skip


def streams(model: ji.Transformer, params: Any, prompts: ji.Prompts) -> tuple[dict[str, jax.Array], list[jax.Array]]:
    """(what readers read, by layer; what writers put out, in the order of `nodes`) of a plain run."""
    _, cache = model.apply(
        params, prompts.tokens, capture=("resid_pre", "mlp_in", "resid_final", "z", "mlp_out"), mask=prompts.mask
    )
    put_out = [cache["resid_pre"][0]]
    for layer in range(model.config.n_layers):
        put_out += [*by_head(cache["z"][layer], params["W_O"][layer]), cache["mlp_out"][layer]]
    return cache, put_out


def by_head(z: jax.Array, W_O: jax.Array) -> jax.Array:
    """What each head adds to the stream, [head, batch, pos, d_model]."""
    return jnp.einsum("bphf,hfd->hbpd", z, W_O)


@functools.partial(jax.jit, static_argnames=("model",))
def in_circuit(
    model: ji.Transformer, params: Any, clean: ji.Prompts, corrupted: ji.Prompts, metric: ji.Metric, circuit: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(each prompt's metric in a circuit, the scores of all edges, summed over prompts).

    Args:
      circuit: 0 or 1 for each edge, [writer, reader].
    """
    config, sites, n = model.config, model.sites, model.config.n_heads
    geometry = Geometry.of(clean.tokens, clean.mask)
    theirs, corrupted_out = streams(model, params, corrupted)
    _, clean_out = streams(model, params, clean)
    readers = np.arange(circuit.shape[1] - 1).reshape(config.n_layers, -1)

    def run(probes: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The metric's sum, and each prompt's, with probes added to what each reader sees."""
        out = clean_out[:1]

        def seen(columns: np.ndarray) -> jax.Array:
            changes = jnp.stack(out) - jnp.stack(corrupted_out[: len(out)])
            return jnp.einsum("wr,wbpd->rbpd", circuit[: len(out), columns], changes) + probes[columns]

        for layer in range(config.n_layers):
            weights = {name: params[name][layer] for name in block_names(config)}
            data = {name: jnp.asarray(each[layer]) for name, each in layer_data(config).items()}
            stream = theirs["resid_pre"][layer]
            own = jnp.moveaxis(seen(readers[layer, :-1]).reshape(len(READ), n, *stream.shape), 1, 3)
            edits = {site: (ji.replace(stream[:, :, None] + own[i]),) for i, site in enumerate(READ)}
            tap = Tap(sites, geometry, edits, {}, layer)
            z, _ = head_outputs(config, weights, data, stream, None, geometry, tap)
            out = [*out, *by_head(z, weights["W_O"])]
            stream = theirs["mlp_in"][layer] + seen(readers[layer, -1:])[0]
            out = [*out, mlp_output(config, weights, stream, Tap(sites, geometry, {}, {}, layer))]
        stream = theirs["resid_final"] + seen(np.array([circuit.shape[1] - 1]))[0]
        read = model.check_read(metric.positions, metric.columns, geometry)
        logits = read_logits(config, params, Tap(sites, geometry, {}, {}), stream, *read)
        each = metric.fn(logits, {}, *metric.data)
        return each.sum(), each

    zeros = jnp.zeros((circuit.shape[1], *clean_out[0].shape))
    grads, each = jax.grad(run, has_aux=True)(zeros)
    return each, jnp.einsum("wbpd,rbpd->wr", jnp.stack(clean_out) - jnp.stack(corrupted_out), grads)


def grown(model: ji.Transformer, params: Any, pairs: ji.TokenPairs, there: np.ndarray) -> np.ndarray:
    """Edges, int[edge, 2], in the order in which they go into the circuit."""
    metric, circuit = ji.logit_diff(pairs.correct, pairs.wrong), np.zeros(there.shape, np.float32)
    order = []
    for _ in tqdm(range(N_EDGES), desc="edges", unit="edge"):
        _, scores = in_circuit(model, params, pairs.clean, pairs.corrupted, metric, circuit)
        free = np.where(there & (circuit == 0), np.asarray(scores), -np.inf)
        order.append(np.unravel_index(free.argmax(), free.shape))
        circuit[order[-1]] = 1
    return np.array(order)


def ranked(scores: ji.EdgeScores, edges: Any) -> np.ndarray:
    """The numbers of writers and readers of some edges, int[edge, 2]."""
    writers, readers = (list(scores.scores[name].values) for name in ("writer", "reader"))
    pairs = zip(edges.writer.values, edges.reader.values, strict=True)
    return np.array([(writers.index(writer), readers.index(reader)) for writer, reader in pairs])


def measure(n: int, seed: int) -> tuple[Results, dict[str, np.ndarray], list[str], list[str]]:
    """(results, each way's edges in order, names of writers, names of readers)."""
    model, params, tokenizer = ji.load("english")
    writers, readers, there = nodes(model.config)
    growing, judging = one_layout(n, seed, tokenizer), one_layout(n, seed + 1, tokenizer)
    run = (model, params, growing.corrupted, growing.clean)
    metric = ji.logit_diff(growing.correct, growing.wrong)
    once, along = (ji.edge_attribution(*run, metric=metric, **how) for how in ({"method": "eap"}, {"method": "eap_ig"}))

    def highest(scores: ji.EdgeScores) -> np.ndarray:
        values = np.where(there, scores.scores.values, -np.inf)
        return np.stack(np.unravel_index(np.argsort(-values, axis=None)[:N_EDGES], there.shape), axis=1)

    ways = {
        "grown": grown(model, params, growing, there),
        "EAP": highest(once),
        "EAP-IG": highest(along),
        "EAP-IG, connected": ranked(along, along.greedy(N_EDGES)),
        "at random": np.random.default_rng(seed).permutation(np.argwhere(there))[:N_EDGES],
    }
    metric, drawn = ji.logit_diff(judging.correct, judging.wrong), weights(n, seed)

    def judged(circuit: np.ndarray) -> np.ndarray:
        each, _ = in_circuit(model, params, judging.clean, judging.corrupted, metric, circuit)
        return drawn @ np.asarray(each)

    nothing, all_of_it = judged(np.zeros(there.shape, np.float32)), judged(there.astype(np.float32))
    shares: dict[str, dict[int, np.ndarray]] = {}
    for way, order in ways.items():
        shares[way] = {}
        for size in SIZES:
            circuit = np.zeros(there.shape, np.float32)
            circuit[tuple(order[:size].T)] = 1
            shares[way][size] = (judged(circuit) - nothing) / (all_of_it - nothing)
    return Results(shares), ways, writers, readers


def figure(results: Results) -> Figure:
    """The share of the way by the number of edges."""
    drawing = Figure(figsize=(7, 4.5), layout="constrained")
    axes = drawing.subplots()
    for way, shares in results.shares.items():
        low, high = np.quantile([share[1:] for share in shares.values()], [0.025, 0.975], axis=1)
        line = axes.plot(SIZES, [share[0] for share in shares.values()], marker="o", markersize=4, label=way)
        axes.fill_between(SIZES, low, high, alpha=0.15, color=line[0].get_color(), linewidth=0)
    axes.axhline(1, color="0.7", linewidth=0.8)
    axes.axhline(0, color="0.7", linewidth=0.8)
    axes.set(xlabel="edges in the circuit, of 2,188", ylabel="share of the way from corrupted to clean metric")
    axes.legend(frameon=False)
    return drawing


def main() -> None:
    """Grows, judges, prints the tables, writes the files."""
    asked = options(__doc__ or "", n=32)
    results, ways, writers, readers = measure(asked.n, asked.seed)
    found = {way: {size: interval(share) for size, share in shares.items()} for way, shares in results.shares.items()}
    print(f"Share of the way, {asked.n} prompts to grow on and {asked.n} others to judge by\n")
    print(table(["edges", *found], [[str(size), *(str(each[size]) for each in found.values())] for size in SIZES]))
    names = [f"{writers[writer]} → {readers[reader]}" for writer, reader in ways["grown"]]
    print("\nThe first edges, grown: " + ", ".join(names[:20]))
    judged = verdicts(CLAIMS, results)
    told = {
        "prompts": asked.n, "seed": asked.seed, "claims": judged, "grown": names,
        "shares": {way: {str(size): each._asdict() for size, each in sizes.items()} for way, sizes in found.items()},
    }  # fmt: skip
    write(asked.output, "grow_circuit", told, figure(results))


if __name__ == "__main__":
    main()
