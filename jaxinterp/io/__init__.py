"""What lies on disk: models, prompts and results."""

from jaxinterp.io.checkpoints import save
from jaxinterp.io.load import builtin_models, load
from jaxinterp.io.prompts import read_pairs
from jaxinterp.io.results import save_effects

__all__ = ["builtin_models", "load", "read_pairs", "save", "save_effects"]
