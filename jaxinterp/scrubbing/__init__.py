"""Causal scrubbing: graphs, hypotheses about them, and how much of a behaviour survives resampling."""

from jaxinterp.scrubbing import rewrites
from jaxinterp.scrubbing.blame import what_hurts
from jaxinterp.scrubbing.graph import Graph, Node
from jaxinterp.scrubbing.hypothesis import Feature, Hypothesis
from jaxinterp.scrubbing.result import ScrubResult
from jaxinterp.scrubbing.runner import scrub
from jaxinterp.scrubbing.tables import Tables
from jaxinterp.scrubbing.transformer import transformer_graph

__all__ = [
    "Feature", "Graph", "Hypothesis", "Node", "ScrubResult", "Tables", "rewrites", "scrub",
    "transformer_graph", "what_hurts",
]  # fmt: skip
