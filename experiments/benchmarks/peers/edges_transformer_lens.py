"""TransformerLens: edge attribution with its hooks, as it is usually written for it.

Streams are split for each reader (`use_split_qkv_input`, `use_hook_mlp_in`) and heads' results are apart
(`use_attn_result`). Forward hooks gather the difference of all writers' outputs between the two runs in one tensor;
backward hooks on the readers multiply it by their gradients. Parameters take gradients too, which nobody asked for but
which is how models come, unless the question says that they are frozen.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from peers.edges import Question, Ways, work
from peers.transformer_lens import build
from transformer_lens import HookedTransformer

Hook = tuple[str, Callable[..., torch.Tensor | None]]


class Edges:
    """The edges of a model: where writers and readers are hooked, and where they stand in the scores."""

    def __init__(self, model: HookedTransformer) -> None:
        self.model = model
        self.n_layers, self.n_heads = model.cfg.n_layers, model.cfg.n_heads
        self.n_writers = 1 + self.n_layers * (self.n_heads + 1)
        self.n_readers = self.n_layers * (3 * self.n_heads + 1) + 1

    def before(self, layer: int) -> int:
        """How many writers come before a layer."""
        return 1 + layer * (self.n_heads + 1)

    def writers(self) -> list[tuple[str, slice]]:
        """(hook, its writers)."""
        found = [("hook_embed", slice(0, 1))]
        for layer in range(self.n_layers):
            first = self.before(layer)
            found.append((f"blocks.{layer}.attn.hook_result", slice(first, first + self.n_heads)))
            found.append((f"blocks.{layer}.hook_mlp_out", slice(first + self.n_heads, self.before(layer + 1))))
        return found

    def readers(self) -> list[tuple[str, slice, int]]:
        """(hook, its readers, how many writers come before)."""
        found, first = [], 0
        for layer in range(self.n_layers):
            for kind in "qkv":
                found.append((f"blocks.{layer}.hook_{kind}_input", slice(first, first + self.n_heads)))
                first += self.n_heads
            found.append((f"blocks.{layer}.hook_mlp_in", slice(first, first + 1)))
            first += 1
        found.append((f"blocks.{self.n_layers - 1}.hook_resid_post", slice(first, first + 1)))
        before = [self.before(layer) + (self.n_heads if "mlp" in name else 0) for layer, name in self._layers(found)]
        return [(*one, count) for one, count in zip(found, before, strict=True)]

    def _layers(self, found: list[tuple[str, slice]]) -> list[tuple[int, str]]:
        """(layer, hook); what reads the last layer's output reads as a layer after it would."""
        return [(int(name.split(".")[1]) + name.endswith("resid_post"), name) for name, _ in found]

    def difference(self, base: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """What each writer puts out on the source run minus what it does on the base run, [batch, pos, writer, d]."""
        into = torch.zeros(*base.shape, self.n_writers, self.model.cfg.d_model)

        def gather(where: slice, sign: int) -> Callable[..., None]:
            def hook(output: torch.Tensor, hook: Any) -> None:
                output = output if output.ndim == 4 else output[:, :, None]
                into[:, :, where].add_(output, alpha=sign)

            return hook

        with torch.no_grad():
            for tokens, sign in ((source, 1), (base, -1)):
                hooks: list[Hook] = [(name, gather(where, sign)) for name, where in self.writers()]
                self.model.run_with_hooks(tokens, return_type=None, fwd_hooks=hooks)
        return into

    def add_scores(
        self,
        scores: torch.Tensor,
        difference: torch.Tensor,
        tokens: torch.Tensor,
        embedding: torch.Tensor,
        metric: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        """Adds to [writer, reader] what one gradient gives, with another embedding in place of the tokens' own."""

        def replace(output: torch.Tensor, hook: Any) -> torch.Tensor:
            return embedding.clone().requires_grad_()

        def multiply(where: slice, before: int) -> Callable[..., None]:
            @torch.no_grad()
            def hook(gradient: torch.Tensor, hook: Any) -> None:
                gradient = gradient if gradient.ndim == 4 else gradient[:, :, None]
                scores[:before, where] += torch.einsum("bpwd,bprd->wr", difference[:, :, :before], gradient)

            return hook

        into: list[Hook] = [("hook_embed", replace)]
        out_of: list[Hook] = [(name, multiply(where, before)) for name, where, before in self.readers()]
        with self.model.hooks(fwd_hooks=into, bwd_hooks=out_of):
            metric(self.model(tokens)).backward()


def prepare(question: Question) -> Ways:
    model = build(question.job).requires_grad_(not question.frozen)
    model.set_use_split_qkv_input(True)
    model.set_use_attn_result(True)
    model.set_use_hook_mlp_in(True)
    edges, rows = Edges(model), torch.arange(len(question.base))
    base, source = torch.from_numpy(question.base), torch.from_numpy(question.source)
    correct, wrong = torch.from_numpy(question.job.correct), torch.from_numpy(question.job.wrong)

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return (logits[rows, -1, correct] - logits[rows, -1, wrong]).mean()

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return metric(model(base))

    def score() -> np.ndarray:
        difference = edges.difference(base, source)
        embedding, total = model.embed(base).detach(), torch.zeros(edges.n_writers, edges.n_readers)
        for fraction, weight in zip(question.fractions, question.weights, strict=True):
            scores = torch.zeros_like(total)
            edges.add_scores(scores, difference, base, embedding + fraction * difference[:, :, 0], metric)
            total += weight * scores
        return total.numpy()

    return forward, score


if __name__ == "__main__":
    work(prepare)
