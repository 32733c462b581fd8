"""The shortcut gate: what predictors that understand nothing score on a task's evaluation.

A task of two answers is worth little if looking at one place, a few words, or which words there are tells the right
one. Each predictor sees a prompt through such a keyhole, is fitted to prompts, and is scored on others.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np
from scipy import sparse

from jaxinterp.cards.linear import fit_logistic
from jaxinterp.tasks.pairs import PromptPair

#: What a predictor sees of a prompt when it judges an answer, as names of features: (words, answer, other) -> names.
Keyhole = Callable[[Sequence[str], str, str], Iterable[str]]

#: The widest slot looked at, from either end, and the longest n-gram (the answer is its last word).
SLOTS, LONGEST = 40, 5


def keyholes(nouns: Mapping[str, Collection[str]]) -> Mapping[str, Keyhole]:
    """The predictors of the gate, by name; `nouns` are words of which the first and the last are looked at, by kind.

    Example:
      >>> from jaxinterp.cards.shortcuts import keyholes
      >>> list(keyholes({"animal": {"dog"}})["last animal"]("the dog near it".split(), "is", "are"))
      ['dog is', 'itself False', 'other False']
    """

    def seen(word: str | None, answer: str, other: str) -> list[str]:
        return [f"{word} {answer}", f"itself {word == answer}", f"other {word == other}"]

    def slot(index: int) -> Keyhole:
        def look(words: Sequence[str], answer: str, other: str) -> list[str]:
            return seen(words[index] if -len(words) <= index < len(words) else None, answer, other)

        return look

    def ngram(n: int) -> Keyhole:
        def look(words: Sequence[str], answer: str, other: str) -> list[str]:
            window = words[len(words) - (n - 1) :] if n > 1 else ()
            names = [f"{' '.join(window[i:])} {answer}" for i in range(len(window) + 1)]
            return [*names, f"in window {answer in window}", f"other in window {other in window}"]

        return look

    def bag(words: Sequence[str], answer: str, other: str) -> list[str]:
        count, others = words.count(answer), words.count(other)
        return [*(f"{word} {answer}" for word in set(words)), f"count {count}", f"counts {count} {others}"]

    def noun(among: Collection[str], step: int) -> Keyhole:
        def look(words: Sequence[str], answer: str, other: str) -> list[str]:
            return seen(next((word for word in words[::step] if word in among), None), answer, other)

        return look

    slots = {f"slot {index}": slot(index) for index in (*range(SLOTS), *range(-1, -SLOTS - 1, -1))}
    ngrams = {f"{n}-gram": ngram(n) for n in range(1, LONGEST + 1)}
    first = {f"first {kind}": noun(among, 1) for kind, among in nouns.items()}
    last = {f"last {kind}": noun(among, -1) for kind, among in nouns.items()}
    return slots | ngrams | {"bag of words": bag} | first | last


def accuracy(look: Keyhole, fitted: Sequence[PromptPair], scored: Sequence[PromptPair]) -> float:
    """How often a predictor picks the right answer of two: fitted to some prompts, scored on others; a tie is half.

    Example:
      >>> from jaxinterp.cards.shortcuts import accuracy, keyholes
      >>> pairs = ji.tasks.indirect_objects(300, seed=0)
      >>> accuracy(keyholes({})["bag of words"], pairs[:200], pairs[200:])
      1.0
    """
    columns: dict[str, int] = {}

    def matrix(pairs: Sequence[PromptPair]) -> sparse.csr_matrix:
        rows, where, signs = [], [], []
        for row, pair in enumerate(pairs):
            words = pair.clean.split()
            for answer, other, sign in ((pair.correct, pair.wrong, 1.0), (pair.wrong, pair.correct, -1.0)):
                for name in look(words, answer, other):
                    if pairs is fitted or name in columns:
                        rows.append(row)
                        where.append(columns.setdefault(name, len(columns)))
                        signs.append(sign)
        return sparse.csr_matrix((signs, (rows, where)), shape=(len(pairs), len(columns)))

    train = matrix(fitted)
    # The difference between the two answers; half of the cases are turned round, since a label is needed for both.
    turn = np.where(np.arange(len(fitted)) % 2, 1.0, -1.0)
    weights, _ = fit_logistic(sparse.diags(turn) @ train, turn > 0, bias=False)
    margins = matrix(scored)[:, : len(weights)] @ weights
    return float(np.mean(np.where(np.abs(margins) < 1e-9, 0.5, margins > 0)))


def gate(
    scored: Sequence[PromptPair], trained: Sequence[PromptPair], nouns: Mapping[str, Collection[str]]
) -> dict[str, float]:
    """Each predictor's accuracy on an evaluation, fitted to training prompts.

    Of the slots only the best is kept, under the name "fixed slot", of the n-grams the best, and of what looks at the
    first or at the last word of a kind the best.

    Example:
      >>> from jaxinterp.cards.shortcuts import gate
      >>> pairs = ji.tasks.indirect_objects(200, seed=0)
      >>> sorted(gate(pairs[:100], pairs[100:], {"object": ji.tasks.english.vocabulary.OBJECTS}))
      ['bag of words', 'first noun', 'fixed slot', 'last noun', 'n-gram']
    """
    groups = {"slot": "fixed slot", "first": "first noun", "last": "last noun"}
    found: dict[str, float] = {}
    for name, look in keyholes(nouns).items():
        group = "n-gram" if name.endswith("-gram") else groups.get(name.split()[0], name)
        found[group] = max(found.get(group, 0.0), accuracy(look, trained, scored))
    return found
