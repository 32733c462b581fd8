"""TransformerLens: its patching helpers, one forward for each patch.

The helpers run unchanged; the cells are given through their own `index_df`.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from peers.job import Job, Patch, Sweep, work
from transformer_lens import HookedTransformer, HookedTransformerConfig, patching

#: (site, axes) -> the helper that sweeps them, and its order of axes.
HELPERS = {
    ("z", ("layer", "head")): (patching.get_act_patch_attn_head_out_all_pos, ["layer", "head"]),
    ("z", ("layer", "head", "pos")): (patching.get_act_patch_attn_head_out_by_pos, ["layer", "pos", "head"]),
    ("resid_pre", ("layer", "pos")): (patching.get_act_patch_resid_pre, ["layer", "pos"]),
}


def build(job: Job) -> HookedTransformer:
    """The model as it is: nothing folded, nothing centred."""
    sizes = dict(job.sizes)
    config = HookedTransformerConfig(
        **sizes, act_fn="gelu_new", normalization_type="LN", init_weights=False, device="cpu", dtype=torch.float32
    )
    model = HookedTransformer(config)
    state = model.state_dict()
    weights = {name: torch.from_numpy(weight) for name, weight in job.weights.items()}
    state |= {"embed.W_E": weights["W_E"], "pos_embed.W_pos": weights["W_pos"], "unembed.W_U": weights["W_E"].T}
    state |= {"unembed.b_U": torch.zeros(sizes["d_vocab"])}
    state |= {f"ln_final.{part}": weights[f"ln_final.{part}"] for part in "wb"}
    for layer in range(sizes["n_layers"]):
        for name, weight in job.block(layer).items():
            part = "" if name.startswith("ln") else "mlp." if name.endswith(("_in", "_out")) else "attn."
            state[f"blocks.{layer}.{part}{name}"] = torch.from_numpy(weight)
    model.load_state_dict(state)
    return model


def prepare(job: Job) -> Callable[[Sweep], Patch]:
    torch.set_grad_enabled(False)
    model = build(job)
    rows = torch.arange(len(job.correct))
    correct, wrong = torch.from_numpy(job.correct), torch.from_numpy(job.wrong)

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return (logits[rows, -1, correct] - logits[rows, -1, wrong]).mean()

    def begin(sweep: Sweep) -> Patch:
        helper, order = HELPERS[sweep.site, sweep.axes]
        corrupted, cache = torch.from_numpy(sweep.corrupted), model.run_with_cache(torch.from_numpy(sweep.clean))[1]
        base = metric(model(corrupted))

        def patch(cells: np.ndarray) -> np.ndarray:
            index = pd.DataFrame(cells, columns=list(sweep.axes))[order]
            return (helper(model, corrupted, cache, metric, index_axis_names=None, index_df=index) - base).numpy()

        return patch

    return begin


if __name__ == "__main__":
    work(prepare, compiles=False)
