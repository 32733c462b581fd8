"""nnsight: the batched sweep of its documentation ("Layer x position map" under activation patching).

The clean run is traced once and kept; then a line of patches is one forward, an invoke for each patch.
"""

from collections.abc import Callable
from typing import Any

import nnsight
import numpy as np
import torch
from peers.job import Job, Patch, Sweep, lines, work
from transformers import GPT2Config, GPT2LMHeadModel


class Batched(nnsight.NNsight):
    """A model whose invokes are batched, as the documentation says for models without a tokenizer."""

    def _batch_size(self, *inputs: Any, **kwargs: Any) -> int:
        return len(inputs[0]) if inputs else 0

    def _batch(self, invokes: list[Any], fn: Any) -> tuple[tuple[torch.Tensor], dict[str, Any]]:
        return (torch.cat([inputs[0] for inputs, _ in invokes]),), {}


def build(job: Job) -> Batched:
    """GPT-2 of transformers, with the job's weights."""
    sizes = job.sizes
    config = GPT2Config(
        vocab_size=sizes["d_vocab"], n_positions=sizes["n_ctx"], n_embd=sizes["d_model"], n_layer=sizes["n_layers"],
        n_head=sizes["n_heads"], n_inner=sizes["d_mlp"], layer_norm_epsilon=sizes["eps"],
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    width, weights = sizes["d_model"], {name: torch.from_numpy(weight) for name, weight in job.weights.items()}
    state = {
        "wte.weight": weights["W_E"], "wpe.weight": weights["W_pos"],
        "ln_f.weight": weights["ln_final.w"], "ln_f.bias": weights["ln_final.b"],
    }  # fmt: skip
    for layer in range(sizes["n_layers"]):
        of = {name: torch.from_numpy(weight) for name, weight in job.block(layer).items()}
        into = [of[f"W_{name}"].movedim(0, 1).reshape(width, -1) for name in "QKV"]
        parts = {
            "ln_1.weight": of["ln1.w"], "ln_1.bias": of["ln1.b"],
            "ln_2.weight": of["ln2.w"], "ln_2.bias": of["ln2.b"],
            "attn.c_attn.weight": torch.cat(into, dim=1),
            "attn.c_attn.bias": torch.cat([of[f"b_{name}"].flatten() for name in "QKV"]),
            "attn.c_proj.weight": of["W_O"].reshape(-1, width), "attn.c_proj.bias": of["b_O"],
            "mlp.c_fc.weight": of["W_in"], "mlp.c_fc.bias": of["b_in"],
            "mlp.c_proj.weight": of["W_out"], "mlp.c_proj.bias": of["b_out"],
        }  # fmt: skip
        state |= {f"h.{layer}.{name}": weight for name, weight in parts.items()}
    model.transformer.load_state_dict(state)
    return Batched(model)


def prepare(job: Job) -> Callable[[Sweep], Patch]:
    torch.set_grad_enabled(False)
    model = build(job)
    d_head, rows = job.sizes["d_head"], torch.arange(len(job.correct))
    correct, wrong = torch.from_numpy(job.correct), torch.from_numpy(job.wrong)

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return (logits[rows, -1, correct] - logits[rows, -1, wrong]).mean()

    def read(block: Any, site: str) -> Any:
        return block.attn.c_proj.input if site == "z" else block.input

    def begin(sweep: Sweep) -> Patch:
        tokens, site = torch.from_numpy(sweep.corrupted), sweep.site
        with model.trace(torch.from_numpy(sweep.clean)):
            clean = nnsight.save([read(block, site).detach() for block in model.transformer.h])
        with model.trace(tokens):
            base = metric(model.lm_head.output).save()

        def patch(cells: np.ndarray) -> np.ndarray:
            metrics: list[torch.Tensor] = []
            for line in lines(cells):
                with model.trace() as tracer:
                    values = nnsight.save({})
                    for number, cell in enumerate(line.tolist()):
                        at = dict(zip(sweep.axes, cell, strict=True))
                        layer, head, pos = at["layer"], at.get("head"), at.get("pos", slice(None))
                        width = slice(None) if head is None else slice(head * d_head, (head + 1) * d_head)
                        with tracer.invoke(tokens):
                            read(model.transformer.h[layer], site)[:, pos, width] = clean[layer][:, pos, width]
                            values[number] = metric(model.lm_head.output)
                metrics += [values[number] for number in range(len(line))]
            return (torch.stack(metrics) - base).numpy()

        return patch

    return begin


if __name__ == "__main__":
    work(prepare, compiles=False)
