"""jaxinterp: transformer forwards that accept interventions as data.

    model, params, tokenizer = ji.load("english")
    logits, cache = model.apply(params, tokens, {"z": ji.zero(ji.at(layer=2, head=1))}, capture=("resid_post",))

Examples in docstrings assume `import jax, numpy as np, jax.numpy as jnp, jaxinterp as ji` and a small
`model, params, tokens` such as those.
"""

from jaxinterp import scrubbing, tasks
from jaxinterp.attribution.ablation import attribution_ablation
from jaxinterp.attribution.attention import attention_attribution, value_attribution
from jaxinterp.attribution.edge_effects import edge_effects
from jaxinterp.attribution.edges import EdgeScores, edge_attribution
from jaxinterp.attribution.forward import attribution_to_logits
from jaxinterp.attribution.freeze import freeze_attention, freeze_norms
from jaxinterp.attribution.gradients import gradients
from jaxinterp.attribution.localize import Localization, localize
from jaxinterp.attribution.patching import attribution_patching
from jaxinterp.io.checkpoints import save
from jaxinterp.io.harvesting.harvest import harvest
from jaxinterp.io.harvesting.opened import Harvest, ShardedArray, open_harvest
from jaxinterp.io.load import builtin_models, load
from jaxinterp.io.prompts import read_pairs
from jaxinterp.io.results import save_effects
from jaxinterp.metrics import Metric, cross_entropy, kl_divergence, log_prob, logit_diff, prob, rank
from jaxinterp.model.config import RotaryScaling, TransformerConfig
from jaxinterp.model.factored import FactoredMatrix, ov_circuit, qk_circuit
from jaxinterp.model.generate import Generation, generate
from jaxinterp.model.interventions import (
    Intervention,
    add,
    apply_fn,
    combine,
    joined,
    lerp,
    partition,
    project_out,
    replace,
    replace_along,
    scale,
    stop_gradient,
    zero,
)
from jaxinterp.model.place import count_selected, place
from jaxinterp.model.processing import center_unembedding, center_writing_weights, fold_layer_norm, fold_value_biases
from jaxinterp.model.run import Run
from jaxinterp.model.sites import SiteSpec
from jaxinterp.model.transformer import Transformer
from jaxinterp.model.where import Where, at, per_example
from jaxinterp.patching.ablation import ablation
from jaxinterp.patching.activation import activation_patching, evaluate, plan_patching
from jaxinterp.patching.cells import layer_windows
from jaxinterp.patching.paths import path_patching
from jaxinterp.patching.plan import Plan
from jaxinterp.patching.tracing import causal_tracing
from jaxinterp.plots import effects_heatmap, hypothesis_figure
from jaxinterp.scrubbing import Feature, Graph, Hypothesis, Node, ScrubResult, scrub
from jaxinterp.tasks.prompts import Prompts, TokenPairs, tokenize_pairs
from jaxinterp.tasks.texts import to_single_token, to_str_tokens, to_string, to_tokens

__all__ = [
    "EdgeScores",
    "FactoredMatrix",
    "Feature",
    "Generation",
    "Graph",
    "Harvest",
    "Hypothesis",
    "Intervention",
    "Localization",
    "Metric",
    "Node",
    "Plan",
    "Prompts",
    "RotaryScaling",
    "Run",
    "ScrubResult",
    "ShardedArray",
    "SiteSpec",
    "TokenPairs",
    "Transformer",
    "TransformerConfig",
    "Where",
    "ablation",
    "activation_patching",
    "add",
    "apply_fn",
    "at",
    "attention_attribution",
    "attribution_ablation",
    "attribution_patching",
    "attribution_to_logits",
    "builtin_models",
    "causal_tracing",
    "center_unembedding",
    "center_writing_weights",
    "combine",
    "count_selected",
    "cross_entropy",
    "edge_attribution",
    "edge_effects",
    "effects_heatmap",
    "evaluate",
    "fold_layer_norm",
    "fold_value_biases",
    "freeze_attention",
    "freeze_norms",
    "generate",
    "gradients",
    "harvest",
    "hypothesis_figure",
    "joined",
    "kl_divergence",
    "layer_windows",
    "lerp",
    "load",
    "localize",
    "log_prob",
    "logit_diff",
    "open_harvest",
    "ov_circuit",
    "partition",
    "path_patching",
    "per_example",
    "place",
    "plan_patching",
    "prob",
    "project_out",
    "qk_circuit",
    "rank",
    "read_pairs",
    "replace",
    "replace_along",
    "save",
    "save_effects",
    "scale",
    "scrub",
    "scrubbing",
    "stop_gradient",
    "tasks",
    "to_single_token",
    "to_str_tokens",
    "to_string",
    "to_tokens",
    "tokenize_pairs",
    "value_attribution",
    "zero",
]
