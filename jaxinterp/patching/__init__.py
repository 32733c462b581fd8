"""Activation patching, ablation and causal tracing: what a behaviour needs, and what suffices for it."""
