"""Seeded language tasks: aligned clean and corrupted prompts with their answers and named positions."""

from jaxinterp.tasks import english, natural
from jaxinterp.tasks.brackets import brackets
from jaxinterp.tasks.english import (
    agreement,
    arguments,
    biographies,
    facts_about,
    greater_than,
    indirect_objects,
    interleaved_successions,
    nesting,
    reflexives,
    word_tokenizer,
)
from jaxinterp.tasks.pairs import PromptPair
from jaxinterp.tasks.prompts import Prompts, TokenPairs, pad, tokenize_pairs
from jaxinterp.tasks.splits import Split
from jaxinterp.tasks.successions import successions

__all__ = [
    "PromptPair",
    "Prompts",
    "Split",
    "TokenPairs",
    "agreement",
    "arguments",
    "biographies",
    "brackets",
    "english",
    "facts_about",
    "greater_than",
    "indirect_objects",
    "interleaved_successions",
    "natural",
    "nesting",
    "pad",
    "reflexives",
    "successions",
    "tokenize_pairs",
    "word_tokenizer",
]
