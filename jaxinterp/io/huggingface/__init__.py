"""Checkpoints of other libraries: one conversion table per family, and what reads them."""

from jaxinterp.io.huggingface.convert import FAMILIES, read

__all__ = ["FAMILIES", "read"]
