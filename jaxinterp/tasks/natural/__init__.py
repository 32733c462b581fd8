"""Tasks in natural English for any tokenizer: pairs whose tokens align, and an account of what was left out.

Each function takes a `tokenizers.Tokenizer` and gives `NaturalPairs`: the prompts and answers as arrays, the texts, and
which words could not be used because this tokenizer does not have them as one token.
"""

from jaxinterp.tasks.natural.agreement import agreement
from jaxinterp.tasks.natural.alignment import TextPair
from jaxinterp.tasks.natural.collection import NaturalPairs
from jaxinterp.tasks.natural.facts import facts
from jaxinterp.tasks.natural.greater_than import greater_than
from jaxinterp.tasks.natural.indirect_objects import indirect_objects

__all__ = ["NaturalPairs", "TextPair", "agreement", "facts", "greater_than", "indirect_objects"]
