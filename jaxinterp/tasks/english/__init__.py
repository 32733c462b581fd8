"""A corpus of more than fifty mechanisms, and the tasks among them: what `english` is trained and measured on.

Every task has held-out sentences made so that shortcuts do not answer them, and a gate that measures it
(`jaxinterp/cards/shortcuts.py`). The tasks are in `ji.tasks` too.
"""

from jaxinterp.tasks.english.agreement import agreement
from jaxinterp.tasks.english.arguments import arguments
from jaxinterp.tasks.english.biographies import Biography, biographies
from jaxinterp.tasks.english.facts import facts_about
from jaxinterp.tasks.english.greater_than import greater_than
from jaxinterp.tasks.english.indirect_objects import indirect_objects
from jaxinterp.tasks.english.nesting import nesting
from jaxinterp.tasks.english.reflexives import reflexives
from jaxinterp.tasks.english.successions import interleaved_successions
from jaxinterp.tasks.english.tokenizer import word_tokenizer

__all__ = [
    "Biography",
    "agreement",
    "arguments",
    "biographies",
    "facts_about",
    "greater_than",
    "indirect_objects",
    "interleaved_successions",
    "nesting",
    "reflexives",
    "word_tokenizer",
]
