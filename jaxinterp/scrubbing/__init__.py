"""Causal scrubbing: graphs, hypotheses about them, and how much of a behaviour survives resampling."""

from jaxinterp.scrubbing import rewrites
from jaxinterp.scrubbing.adversary import Attack, adversary
from jaxinterp.scrubbing.baselines import ablations
from jaxinterp.scrubbing.blame import what_hurts
from jaxinterp.scrubbing.graph import Graph, Node
from jaxinterp.scrubbing.hypothesis import Feature, Hypothesis
from jaxinterp.scrubbing.result import ScrubResult
from jaxinterp.scrubbing.runner import scrub
from jaxinterp.scrubbing.samplers import Generator, Kernel, gaussian_kernel
from jaxinterp.scrubbing.search import direct_paths, fit_kernels, smallest_set
from jaxinterp.scrubbing.tables import Tables
from jaxinterp.scrubbing.transformer import transformer_graph

__all__ = [
    "Attack", "Feature", "Generator", "Graph", "Hypothesis", "Kernel", "Node", "ScrubResult", "Tables", "ablations",
    "adversary", "direct_paths", "fit_kernels", "gaussian_kernel", "rewrites", "scrub", "smallest_set",
    "transformer_graph", "what_hurts",
]  # fmt: skip
