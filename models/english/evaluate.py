"""How well a trained `english` does on held-out prompts: `python models/english/evaluate.py [--folder F]`."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import optax
from tokenizers import Tokenizer

import jaxinterp as ji
from jaxinterp.tasks import PromptPair, agreement, indirect_objects, successions
from jaxinterp.tasks.corpus import batch

TASKS = {"indirect objects": indirect_objects, "agreement": agreement, "successions": successions}
CHUNK = 100


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % Wilson interval of a proportion."""
    p = hits / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    return centre - half, centre + half


def last_logits(model: ji.Transformer, params: dict, tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    """Logits of the word after each text, `[text, vocab]`; padding on the right is out of a causal model's sight."""
    apply = jax.jit(lambda params, tokens: model.apply(params, tokens)[0])
    rows = [tokenizer.encode(text).ids for text in texts]
    tokens = np.full((len(rows), max(map(len, rows))), tokenizer.token_to_id("<pad>"), np.int32)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = ids
    ends = np.array([len(ids) - 1 for ids in rows])
    chunks = [np.asarray(apply(params, tokens[i : i + CHUNK])) for i in range(0, len(rows), CHUNK)]
    return np.concatenate(chunks)[np.arange(len(rows)), ends]


def score(model: ji.Transformer, params: dict, tokenizer: Tokenizer, pairs: list[PromptPair]) -> dict[str, int | float]:
    """Counts of right answers: between the two, of all words, and between the two after the corruption."""
    correct, wrong = (
        np.array([tokenizer.token_to_id(getattr(p, name)) for p in pairs]) for name in ("correct", "wrong")
    )
    clean, corrupted = (
        last_logits(model, params, tokenizer, [getattr(p, name) for p in pairs]) for name in ("clean", "corrupted")
    )
    rows = np.arange(len(pairs))
    difference = clean[rows, correct] - clean[rows, wrong]
    return {
        "choice": int((difference > 0).sum()),
        "top-1": int((clean.argmax(-1) == correct).sum()),
        "corrupted": int((corrupted[rows, wrong] > corrupted[rows, correct]).sum()),
        "logit difference": float(difference.mean()),
    }


def corpus_loss(model: ji.Transformer, params: dict, tokenizer: Tokenizer, split: str, seed: int) -> float:
    """Mean loss in nats per word on 4,000 rows of fresh text of a split."""

    @jax.jit
    def loss(params: dict, rows: np.ndarray) -> jax.Array:
        logits, _ = model.apply(params, rows[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, rows[:, 1:]).mean()

    ids, n_ctx = tokenizer.get_vocab(), model.config.n_ctx
    rows = (batch(ids, step, seed=seed, size=CHUNK, n_ctx=n_ctx, split=split) for step in range(40))
    return float(np.mean([loss(params, each) for each in rows]))


def report(model: ji.Transformer, params: dict, tokenizer: Tokenizer, *, n: int = 4000, seed: int = 1) -> Iterator[str]:
    """The model card's table, line by line: accuracy with 95 % intervals on held-out prompts, and losses."""
    yield "| task | right of the two | top-1 of all words | corrupted: right of the two | logit difference |"
    yield "|---|---|---|---|---|"
    for name, task in TASKS.items():
        scores = score(model, params, tokenizer, task(n, seed=seed, split="held_out"))
        cells = []
        for column in ("choice", "top-1", "corrupted"):
            low, high = (100 * bound for bound in wilson(scores[column], n))
            cells.append(f"{100 * scores[column] / n:.2f} % ({low:.2f} to {high:.2f})")
        yield f"| {name} | {' | '.join(cells)} | {scores['logit difference']:.2f} |"
    yield ""
    losses = {split: corpus_loss(model, params, tokenizer, split, seed) for split in ("train", "held_out")}
    yield (
        f"{n:,} prompts per task. Loss on fresh text: {losses['train']:.3f} nats per word of the training split, "
        f"{losses['held_out']:.3f} of the held-out split."
    )


def main() -> None:
    """Prints the table for the model in a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where the model is")
    parser.add_argument("--n", type=int, default=4000, help="held-out prompts per task")
    parser.add_argument("--seed", type=int, default=1, help="which held-out prompts")
    args = parser.parse_args()
    for line in report(*ji.load(args.folder), n=args.n, seed=args.seed):
        print(line)


if __name__ == "__main__":
    main()
