"""Seeded language tasks: aligned clean and corrupted prompts with their answers and named positions."""

from jaxinterp.tasks import english, natural
from jaxinterp.tasks.agreement import agreement
from jaxinterp.tasks.brackets import brackets
from jaxinterp.tasks.indirect_objects import indirect_objects
from jaxinterp.tasks.pairs import PromptPair
from jaxinterp.tasks.prompts import Prompts, TokenPairs, pad, tokenize_pairs
from jaxinterp.tasks.splits import Split
from jaxinterp.tasks.successions import successions
from jaxinterp.tasks.tokenizer import word_tokenizer

__all__ = [
    "PromptPair",
    "Prompts",
    "Split",
    "TokenPairs",
    "agreement",
    "brackets",
    "english",
    "indirect_objects",
    "natural",
    "pad",
    "successions",
    "tokenize_pairs",
    "word_tokenizer",
]
