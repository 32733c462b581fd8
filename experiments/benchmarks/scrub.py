"""Samples of causal scrubbing a second: ours against a look-up implementation in PyTorch, by hand for each claim.

    pip install torch && python experiments/benchmarks/scrub.py

The claims of Redwood about brackets, with the source's heads, on the built-in classifier and 10,000 strings. Both sides
look up what depends on one string alone, and draw agreeing strings from a table of classes; neither pass that fills
the tables is timed. (Ours finds by itself that the embedding at a position has few different values, and looks up what
follows from it and one string, too.) Ours goes through `ji.scrub`, warm, errors and all; PyTorch returns the mean loss,
on one thread and on all, each with the better of some chunk sizes. The mean losses must agree. A claim that has no
hand-written counterpart is timed as well: the same machinery serves it. At last ten million draws of claim 1, and how
much the process grew.
"""

import argparse
import json
import os
import platform
import resource
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from sweep import table

import jaxinterp as ji
from jaxinterp.scrubbing.brackets import bracket_claims
from jaxinterp.scrubbing.graph import values
from jaxinterp.tasks.brackets import OPEN, count, horizon, horizon_classes, open_proportion, start_open

N_POS, D_HEAD = 42, 28


class ByHand:
    """Claims 1, 1+3 and 1+2+3 (1b, 2a, 3a), written out for this model and these heads."""

    def __init__(self, graph: ji.Graph, params: Any, data: Any) -> None:
        tokens = np.asarray(data.tokens)
        self.n = len(tokens)
        self.params = {name: torch.tensor(np.asarray(weight)) for name, weight in params.items()}
        self.label = torch.tensor(np.asarray(data.label)).long()
        self.mask = torch.tensor(np.asarray(data.mask))
        named = ["embed", "a0.h0", "a0.h1", "m0", "a1.h0", "a1.h1", "m1", "a2.h0", "a2.h1", "m2"]
        kinds = [f"{head}.{kind}" for head in ("a0.h1", "a1.h0", "a2.h0", "a2.h1") for kind in "qkv"]
        parts = [(name, None) for name in named + kinds]
        found = jax.jit(lambda data: jax.lax.map(lambda x: values(graph, params, x, parts), data, batch_size=500))(data)
        self.of = {n: torch.tensor(np.asarray(v)).squeeze(2 if n in kinds else -3) if n in kinds else
                   torch.tensor(np.asarray(v)) for (n, _), v in zip(parts, found, strict=True)}  # fmt: skip
        self.bias = self.params["b_O"]
        rest = ("embed", "a0.h0", "a0.h1", "m0", "a1.h1", "m1", "m2")
        self.rest = sum(self.of[name][:, 0] for name in rest) + self.bias.sum(0)
        self.first = {head: self.of[head][:, 0].contiguous() for head in ("a1.h0", "a2.h0", "a2.h1")}
        adder = np.stack([count(tokens), start_open(tokens)], axis=1)
        share = np.where(start_open(tokens), open_proportion(tokens)[:, 1].round(9), -1)
        everywhere = (horizon_classes(tokens) >= 0).all(1)
        self.classes = {
            name: self.table(feature)
            for name, feature in {
                "adder": adder, "horizon": horizon(tokens), "everywhere": everywhere, "share": share,
                "first bracket": start_open(tokens), "length": (tokens >= OPEN).sum(1),
            }.items()
        }  # fmt: skip
        rows = [self.table(horizon_classes(tokens)[:, i]) for i in range(N_POS)]
        self.rows = tuple(torch.stack(parts) for parts in zip(*rows, strict=True))

    @staticmethod
    def table(feature: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(data by class, where a datum's class begins, how many it holds)."""
        _, codes, sizes = np.unique(feature.reshape(len(feature), -1), axis=0, return_inverse=True, return_counts=True)
        codes = codes.reshape(-1)
        starts = np.cumsum(sizes) - sizes
        arrays = np.argsort(codes, kind="stable"), starts[codes], sizes[codes]
        return tuple(torch.tensor(array) for array in arrays)  # type: ignore[return-value]

    def agree(self, name: str, given: torch.Tensor) -> torch.Tensor:
        """One that agrees, for each."""
        order, start, size = self.classes[name]
        return order[start[given] + (torch.rand(len(given)) * size[given]).long()]

    def any(self, n: int) -> torch.Tensor:
        """One of all, n times."""
        return torch.randint(self.n, (n,))

    def normed(self, name: str, layer: int | None, x: torch.Tensor) -> torch.Tensor:
        """LayerNorm."""
        w, b = (self.params[f"{name}.{part}"] for part in "wb")
        return torch.nn.functional.layer_norm(x, x.shape[-1:], *((w, b) if layer is None else (w[layer], b[layer])))

    def project(self, kind: str, layer: int, head: int, x: torch.Tensor) -> torch.Tensor:
        """Queries, keys or values of a stream."""
        return (
            self.normed("ln1", layer, x) @ self.params[f"W_{kind}"][layer, head] + self.params[f"b_{kind}"][layer, head]
        )

    def attend(self, layer: int, head: int, q: Any, k: Any, v: Any, mask: Any) -> torch.Tensor:
        """What a head writes for some queries."""
        scores = q @ k.transpose(-1, -2) / D_HEAD**0.5
        pattern = scores.masked_fill(~mask[:, None], torch.finfo(scores.dtype).min).softmax(-1)
        return pattern @ v @ self.params["W_O"][layer, head]

    def mlp(self, layer: int, x: torch.Tensor) -> torch.Tensor:
        """What an MLP adds."""
        p = self.params
        pre = self.normed("ln2", layer, x) @ p["W_in"][layer] + p["b_in"][layer]
        return pre.relu() @ p["W_out"][layer] + p["b_out"][layer]

    def loss(self, x: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Of the stream at position 0."""
        logits = self.normed("ln_final", None, x) @ self.params["W_U"] + self.params["b_U"]
        return torch.nn.functional.cross_entropy(logits, self.label[reference])

    def claim_1(self, n: int) -> torch.Tensor:
        """Each head's output, looked up."""
        reference = self.any(n)
        x = self.rest[self.any(n)] + self.first["a2.h1"][self.agree("horizon", reference)]
        for head in ("a1.h0", "a2.h0"):
            x = x + self.first[head][self.agree("adder", reference)]
        return self.loss(x, reference)

    def horizon_head(self, reference: torch.Tensor) -> torch.Tensor:
        """Each row's keys and values looked up, each of its own string."""
        own = self.agree("everywhere", reference)
        order, start, size = self.rows
        drawn = (torch.rand(N_POS, len(own)) * size[:, own]).long()
        at = order.gather(1, start[:, own] + drawn).T  # [n, pos]
        places = torch.arange(N_POS)
        k, v = (self.of[f"a2.h1.{kind}"][at, places] for kind in "kv")
        q = self.of["a2.h1.q"][at[:, 0], 0][:, None]
        return self.attend(2, 1, q, k, v, self.mask[self.agree("length", own)])[:, 0]

    def claim_13(self, n: int) -> torch.Tensor:
        """The horizon head from its rows."""
        reference = self.any(n)
        x = self.rest[self.any(n)] + self.horizon_head(reference)
        for head in ("a1.h0", "a2.h0"):
            x = x + self.first[head][self.agree("adder", reference)]
        return self.loss(x, reference)

    def count_head(self, layer: int, reference: torch.Tensor) -> torch.Tensor:
        """A count head, of whose input position 1 is made anew."""
        own, head = self.agree("adder", reference), f"a{layer}.h0"
        row = self.row_1(layer, self.agree("adder", own))
        other = self.any(len(own))
        k, v = (self.of[f"{head}.{kind}"][other] for kind in "kv")
        k[:, 1], v[:, 1] = (self.project(kind, layer, 0, row) for kind in "KV")
        return self.attend(layer, 0, self.of[f"{head}.q"][other, :1], k, v, self.mask[other])[:, 0]

    def row_1(self, layer: int, own: torch.Tensor) -> torch.Tensor:
        """What a count head reads at position 1."""
        share, first, other = self.agree("share", own), self.agree("first bracket", own), self.any(len(own))
        mask, written = self.mask[other], self.of["a0.h0"][share, 1]
        q, k, v = (self.of[f"a0.h1.{kind}"][other] for kind in "qkv")
        for whole, kind in ((q, "q"), (k, "k"), (v, "v")):
            whole[:, 1] = self.of[f"a0.h1.{kind}"][first, 1]
        if layer == 1:
            x = self.of["embed"][first, 1] + written + self.bias[0]
            x = x + self.attend(0, 1, q[:, 1:2], k, v, mask)[:, 0]
            return x + self.mlp(0, x)
        x, a0 = self.of["embed"][other], self.of["a0.h0"][other]
        x[:, 1], a0[:, 1] = self.of["embed"][first, 1], written
        x = x + a0 + self.attend(0, 1, q, k, v, mask) + self.bias[0]
        x = x + self.mlp(0, x)
        row = x[:, 1] + self.bias[1]
        for head in (0, 1):
            q = self.project("Q", 1, head, x[:, 1:2])
            k, v = (self.project(kind, 1, head, x) for kind in "KV")
            row = row + self.attend(1, head, q, k, v, mask)[:, 0]
        return row + self.mlp(1, row)

    def claim_123(self, n: int) -> torch.Tensor:
        """The count heads from position 1 as well."""
        reference = self.any(n)
        x = self.rest[self.any(n)] + self.horizon_head(reference)
        x = x + self.count_head(1, reference) + self.count_head(2, reference)
        return self.loss(x, reference)


def rate(call: Callable[[], Any], n: int, seconds: float = 4.0) -> float:
    """Samples a second of a warm call of n samples."""
    call()
    times = []
    while sum(times) < seconds:
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return n / float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("jaxinterp-results"), help="folder for scrub.json")
    options = parser.parse_args()
    model, params, _ = ji.load("brackets")
    data = ji.tasks.brackets(10_000, seed=7, split="held_out")
    graph = ji.scrubbing.transformer_graph(model, params, data[:32], read=0)
    by_hand, key = ByHand(graph, params, data), jax.random.key(0)
    unseen = bracket_claims(model, params, data, "1")
    first = ji.Feature(lambda data: np.asarray(data.tokens)[:, 1:3], ("count of a1.h0", "horizon"))
    unseen = ji.Hypothesis(
        unseen.graph,
        {"out": ji.Feature(None, ("last", "middle")), "last": first, "middle": ji.Feature(lambda d: d.lengths, ())}
        | {name: unseen.interpretation[name] for name in ("count of a1.h0", "horizon")},
        {"out": "logits", "last": "m2", "middle": "m1", "count of a1.h0": "a1.h0", "horizon": "a2.h1"},
    )
    claims = {
        "1": (bracket_claims(model, params, data, "1"), by_hand.claim_1, 2**22, (2**13, 2**15)),
        "1+3": (bracket_claims(model, params, data, "1+3"), by_hand.claim_13, 2**19, (2**8, 2**10)),
        "1+2+3": (bracket_claims(model, params, data, "1+2+3"), by_hand.claim_123, 2**17, (2**6, 2**7, 2**8)),
        "not foreseen": (unseen, None, 2**20, ()),
    }
    found, rows = {}, []
    for name, (claim, theirs, n, chunks) in claims.items():

        def ours(claim: Any = claim, n: int = n) -> Any:
            return ji.scrub(claim, params, data, num_samples=n, key=key, progress=False)

        begun = time.perf_counter()
        result = ours()
        one = {"first call, s": time.perf_counter() - begun, "ours": rate(ours, n), "loss": result.loss}
        if theirs is not None:
            with torch.no_grad():
                loss = float(np.mean([theirs(chunks[-1]) for _ in range(max(8, 40_000 // chunks[-1]))]))
                if abs(loss - result.loss) > 0.1:
                    raise ValueError(f"claim {name}: our loss is {result.loss:.3f}, PyTorch's {loss:.3f}")
                for threads in (1, os.cpu_count() or 1):
                    torch.set_num_threads(threads)
                    one[f"PyTorch, {threads} threads"] = max(
                        rate(lambda theirs=theirs, chunk=chunk: theirs(chunk), chunk, seconds=2) for chunk in chunks
                    )
                one["PyTorch's loss"] = loss
        found[name] = one
        best = max((value for label, value in one.items() if label.endswith("threads")), default=None)
        rows.append([name, f"{one['ours']:,.0f}", "" if best is None else f"{best:,.0f}",
                     "" if best is None else f"{one['ours'] / best:.1f}", f"{one['first call, s']:.1f}"])  # fmt: skip
        print(
            table(["claim", "ours, samples/s", "PyTorch, the better", "ratio", "our first call, s"], rows), flush=True
        )
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    ji.scrub(claims["1"][0], params, data, num_samples=10**7, key=key, progress=False)
    many = {"seconds": time.perf_counter() - begun,
            "MiB more": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024}  # fmt: skip
    print(f"10,000,000 draws of claim 1: {many['seconds']:.1f} s, {many['MiB more']:.0f} MiB more than before")
    options.output.mkdir(parents=True, exist_ok=True)
    machine = {"system": platform.platform(), "cores": os.cpu_count(), "jax": version("jax"), "torch": version("torch")}
    path = options.output / "scrub.json"
    path.write_text(
        json.dumps({"machine": machine, "strings": len(data.tokens), "claims": found, "ten million": many}, indent=1)
        + "\n"
    )
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
