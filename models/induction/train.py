"""Trains `induction` from nothing: `python models/induction/train.py`. Run it again after a kill and it goes on.

Attention-only, on the standard library of the running Python or on any folder of text (`--corpus`). Checkpoints
lie in `training/` inside the folder. A resumed run starts at the last one that was complete, with the batches
that would have come next: the result is the one an undisturbed run gives.
"""

import argparse
import hashlib
from pathlib import Path

import jax
import optax
from tqdm import tqdm

import jaxinterp as ji
from jaxinterp.cards.induction import head_scores
from jaxinterp.cards.make import make_card
from jaxinterp.io import checkpoints
from jaxinterp.io.corpus import package_of, read_corpus, standard_library
from jaxinterp.tasks.text import byte_pair_tokenizer, random_windows, tokenize_documents
from jaxinterp.training import adamw, sinusoidal_init, train

WEIGHT_DECAY = 0.1

#: How large the sinusoids of the positions are beside a normalised token, whose dimensions have a spread of 1. In
#: a small trial (d_model 64, 4 heads, 512 tokens, one seed, 600 steps of 1,536 tokens) the best previous-token head
#: had a score of 0.07 if positions were drawn at random, 0.13 at a scale of 1, 0.18 at 2 and 0.38 at 4; the loss
#: was lower in the same order.
POSITION_SCALE = 4.0

#: Steps between looks at the heads, so that a run shows when they form.
LOOK_EVERY = 500


def main() -> None:
    """Trains, saves the model with the manifest of its text, and writes its card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--layers", type=int, default=2, help="attention-only layers")
    parser.add_argument("--seed", type=int, default=0, help="decides the initial weights and the batches")
    parser.add_argument("--steps", type=int, default=8_000, help="training steps")
    parser.add_argument("--batch", type=int, default=16, help="rows per step")
    parser.add_argument("--n-ctx", type=int, default=128, help="tokens in a row")
    parser.add_argument("--d-model", type=int, default=256, help="width of the residual stream")
    parser.add_argument("--heads", type=int, default=8, help="heads per layer")
    parser.add_argument("--vocab", type=int, default=2048, help="tokens of the byte-pair tokenizer")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="at its peak")
    parser.add_argument("--corpus", type=Path, help="a folder of text; the standard library if not given")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where the model goes")
    parser.add_argument("--save-every", type=int, default=250, help="steps between checkpoints")
    args = parser.parse_args()
    for name in ("layers", "steps", "batch", "n_ctx", "d_model", "heads", "save_every"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}")
    if args.d_model % args.heads:
        parser.error(f"--d-model must be a multiple of --heads, got {args.d_model} and {args.heads}")
    if args.seed < 0:
        parser.error(f"--seed must not be negative, got {args.seed}")

    if args.n_ctx < 5:
        parser.error(f"--n-ctx must be at least 5, for two tokens to be read twice, got {args.n_ctx}")
    if args.vocab < 257:
        parser.error(f"--vocab must be at least 257, the bytes and <bos>, got {args.vocab}")
    if args.corpus is not None and not args.corpus.is_dir():
        parser.error(f"--corpus must be a folder, got {args.corpus}")

    corpus = standard_library() if args.corpus is None else read_corpus(args.corpus)
    # says now, and not after hours, if there is nothing to measure an interval on
    if len({package_of(path) for path in corpus.documents("evaluation")}) < 2:
        parser.error(f"--corpus must have at least two packages to evaluate on, or files at its top, got {args.corpus}")
    texts = corpus.documents("train")
    tokenizer = byte_pair_tokenizer(texts.values(), size=args.vocab)
    stream = tokenize_documents(tokenizer, texts)
    print(f"{corpus.source}: {len(texts)} files and {len(stream.tokens):,} tokens to train on, left out", end=" ")
    print(", ".join(f"{count} {reason}" for reason, count in corpus.left_out.items()) or "nothing")

    config = ji.TransformerConfig(
        n_layers=args.layers,
        d_model=args.d_model,
        n_heads=args.heads,
        d_vocab=tokenizer.get_vocab_size(),
        n_ctx=args.n_ctx,
        attn_only=True,
        positions="qk",
        tie_embeddings=False,
    )
    model = ji.Transformer(config)

    def loss(params: dict[str, jax.Array], rows: jax.Array, key: jax.Array) -> jax.Array:
        logits, _ = model.apply(params, rows[:, :-1], unroll=config.n_layers)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, rows[:, 1:])
        return losses.mean(where=rows[:, 1:] != stream.bos)  # `<bos>` fills up the rows of short files

    def look(step: int, params: dict[str, jax.Array]) -> None:
        scores, _ = head_scores(model, params, bos=stream.bos, n=min(50, (args.n_ctx - 1) // 2), draws=16)
        best = ", ".join(f"{name} {each.mean(0).max():.3f}" for name, each in scores.items())
        tqdm.write(f"step {step}: the best heads' scores are {best}")

    settings = {
        **{name: getattr(args, name) for name in ("layers", "seed", "batch", "n_ctx", "d_model", "heads", "vocab")},
        "learning_rate": args.learning_rate,
        "weight_decay": WEIGHT_DECAY,
        "position_scale": POSITION_SCALE,
        # other text, or another tokenizer, is another run
        "text": hashlib.sha256(stream.tokens.tobytes() + stream.ends.tobytes()).hexdigest()[:16],
    }
    params, record = train(
        loss,
        sinusoidal_init(model, args.seed, POSITION_SCALE),
        lambda step: random_windows(stream, step, seed=args.seed, size=args.batch, n_ctx=args.n_ctx),
        adamw(args.steps, args.learning_rate, weight_decay=WEIGHT_DECAY),
        steps=args.steps,
        settings=settings,
        folder=args.folder,
        save_every=args.save_every,
        snapshots=range(LOOK_EVERY, args.steps + 1, LOOK_EVERY),
        on_snapshot=look,
        seed=args.seed,
    )
    checkpoints.save(args.folder, model, params, tokenizer, stored_as="float16")
    corpus.write_manifest(args.folder)
    record.write(args.folder)
    card = make_card("induction", args.folder, corpus=args.corpus)
    card.write(args.folder)
    print(card.markdown())


if __name__ == "__main__":
    main()
