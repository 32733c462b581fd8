"""The card of `induction`: what its heads attend to in repeated tokens, and its losses beside n-gram models."""

from collections.abc import Mapping

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from matplotlib.figure import Figure
from tokenizers import Tokenizer

from jaxinterp.cards.card import Card, Measure, loss_figure, mean, ratio, training_text
from jaxinterp.cards.losses import chunks, token_losses
from jaxinterp.io.corpus import LINE, PARTS, package_of
from jaxinterp.model.params import Params
from jaxinterp.model.transformer import Transformer
from jaxinterp.tasks.ngrams import fit_ngrams, ngram_losses
from jaxinterp.tasks.text import all_windows, repeats, tokenize_documents
from jaxinterp.training import TrainingRecord

TEXT = """
## Data

{source}: {n_train:,} files with {train_tokens:,} tokens to train on, {n_evaluation:,} with {evaluation_tokens:,} to
evaluate on, of {n_packages:,} packages. A file belongs to the part that the hash of its package's name decides,
{train_share} packages in 100 to training, {whitelist_share} to `whitelist` (where the tokens that induction helps with
can be listed without a model), {selection_share} to `selection` (where heads can be chosen) and {evaluation_share} to
`evaluation`, so that nothing measured here was trained on. Lines of {line} characters or more that an earlier file has
are left out, and so are files that are mostly such lines (licences, copied modules). `manifest.json` has the hash of
every file; on another version of Python this card says how many differ. The tokenizer is a byte-level BPE of
{d_vocab:,} tokens, learnt from the training part.{note}

## Recipe

    python models/induction/train.py                                # the one that comes with the library
    python models/induction/train.py --seed 1 --folder FOLDER       # another seed
    python models/induction/train.py --layers 1 --folder TWIN       # the one-layer twin
    python models/induction/train.py --corpus DIR --folder FOLDER   # the same on any folder of text
    jaxinterp card induction --twin TWIN                            # this card

{layers} of {n_heads} heads of {d_head}, without MLPs; LayerNorm before attention and before the
unembedding, which is not tied to the embedding. Positions are added to the input of queries and keys alone, so
that the stream and the values hold tokens and nothing about where they stand. Rows are `<bos>` and {n_ctx} tokens
of one file, wherever they lie in it: real text only, none of it repeated on purpose. The position embedding
starts as large sinusoids in a quarter of the dimensions, in which the token embedding starts at 0: attending to
the token before is then within reach of one head, and without a head that does it there is nothing for induction
to build on. AdamW (β₂ 0.98, weight decay on matrices alone), gradient norm clipped at 1, a short warmup, a cosine to a
tenth of the learning rate. {cost}

## How it was measured

- *Scores* are the attention that a head pays, in the second of two readings of {n_random} different random
  tokens, `<bos> r1 … rn r1 … rn`, to the token after the one it stands on was read before (induction), to the
  token before (previous token), and to the one it stands on when it was read before (duplicate token). The best
  head of each kind is chosen on one half of the draws and measured on the other.
- *Losses* are means over all tokens of the evaluation part, in rows as in training, with 95 % intervals from a
  bootstrap over packages, for files of one package resemble each other. The bigram and trigram models (interpolated
  Kneser-Ney) are fitted on the training part and read the same rows.
- *Induction applies* to a token that has followed its predecessor before in the same row.

## Limits

It has read {where} and nothing else: other kinds of text are far from it. It has {size:,} parameters. Attention to the
right token in random repeats says what a head does there, not that it does nothing else. Packages are of very different
sizes, and a mean over tokens is mostly over the few largest.
"""


def card(
    model: Transformer,
    params: Params,
    tokenizer: Tokenizer,
    record: TrainingRecord | None,
    *,
    train: Mapping[str, str],
    evaluation: Mapping[str, str],
    source: str,
    note: str = "",
    twin: tuple[Transformer, Params, TrainingRecord | None] | None = None,
    draws: int = 100,
    seed: int = 0,
) -> Card:
    """What the model's heads do on repeated random tokens, and how well it predicts text it was not trained on.

    Args:
      model, params, tokenizer: what is measured, as `load` gives them.
      record: how it was trained, if that is known.
      train: the texts it was trained on, by path; the n-gram models are fitted on them.
      evaluation: texts of other packages, by path (`io.corpus.package_of` says of which).
      source: where the texts are from, in words.
      note: a sentence on the texts, that they are not what the model was trained on, say.
      twin: a model of one layer with the same tokenizer, to compare with, and how it was trained.
      draws: how many rows of random tokens.
      seed: decides the draws and the bootstrap.

    Raises:
      ValueError: a tokenizer or a twin that does not fit the model, fewer than four draws, evaluation texts of fewer
        than two packages.
    """
    config = model.config
    if tokenizer.get_vocab_size() != config.d_vocab:
        raise ValueError(f"the tokenizer has {tokenizer.get_vocab_size()} tokens, the model {config.d_vocab}")
    if twin is not None and (twin[0].config.d_vocab, twin[0].config.n_ctx) != (config.d_vocab, config.n_ctx):
        raise ValueError(
            f"the twin has {twin[0].config.d_vocab} tokens and a context of {twin[0].config.n_ctx}, "
            f"the model {config.d_vocab} and {config.n_ctx}"
        )
    if twin is not None and (twin[0].config.n_layers, config.n_layers > 1) != (1, True):
        raise ValueError(
            f"a model of several layers is compared with a twin of one; got {config.n_layers} and "
            f"{twin[0].config.n_layers} layers"
        )
    if draws < 4:
        raise ValueError(f"draws must be at least 4, to choose heads on one half and measure on the other: {draws}")
    packages, package_of_file = np.unique([package_of(path) for path in evaluation], return_inverse=True)
    if len(packages) < 2:
        raise ValueError(f"intervals over packages need at least two with evaluation texts, got {len(packages)}")
    learnt, unseen = (tokenize_documents(tokenizer, texts) for texts in (train, evaluation))
    rows, document = all_windows(unseen, config.n_ctx)
    package = package_of_file[document]
    train_rows, _ = all_windows(learnt, config.n_ctx)
    losses = {"this model": token_losses(model, params, rows)}
    if twin is not None:
        losses["the one-layer twin"] = token_losses(*twin[:2], rows)
    for n, name in ((2, "a bigram model"), (3, "a trigram model")):
        ngrams = fit_ngrams(train_rows, train_rows[:, 1:] != learnt.bos, n=n, d_vocab=config.d_vocab)
        losses[name] = ngram_losses(ngrams, rows)

    real = rows[:, 1:] != unseen.bos
    again = repeats(rows)[:, 1:]

    def loss(name: str, values: np.ndarray, where: np.ndarray = real, *, below: bool = False) -> Measure:
        value, low, high, n = package_mean(values, real & where, package, seed=seed)
        bar = ("interval below 0", bool(high < 0)) if below else (None, None)
        return Measure(name, float(value), float(low), float(high), n, "nats", *bar)

    own = losses["this model"]
    n_random = min(50, (config.n_ctx - 1) // 2)
    scores, random_losses = head_scores(model, params, bos=unseen.bos, n=n_random, draws=draws, seed=seed)
    first, second = random_losses[:, 1:n_random].mean(1), random_losses[:, n_random + 1 :].mean(1)
    measures = {
        f"Heads, on {n_random} random tokens read twice": [
            *(_best_head(name, each) for name, each in scores.items()),
            mean("loss in the first reading", first),
            mean("loss in the second reading", second),
            mean("second reading minus first", second - first),
        ],
        "Loss per token of evaluation text": [
            *(loss(name, values) for name, values in losses.items()),
            *(loss(f"this model minus {name}", own - losses[name]) for name in ("a bigram model", "a trigram model")),
            loss("where induction applies", own, again),
            loss("elsewhere", own, ~again),
        ],
    }
    if twin is not None:
        difference = own - losses["the one-layer twin"]
        measures["This model minus the one-layer twin"] = [
            loss("where induction applies", difference, again, below=True),
            loss("elsewhere", difference, ~again),
            loss("all tokens", difference),
        ]

    figures = {
        "heads.png": (_heads_figure(scores), "attention of each head on repeated random tokens"),
        "positions.png": (
            _positions_figure(losses, real, package, seed),
            "loss by position in the context, and 95 % of the bootstrap over packages",
        ),
    }
    if record is not None:
        levels = {f"{name}, evaluation text": losses[name][real].mean() for name in losses if "gram" in name}
        figures["loss.png"] = (loss_figure(record, reference=levels), "training loss")
    text = TEXT.format(
        source=source[0].upper() + source[1:],
        n_train=len(train),
        train_tokens=len(learnt.tokens),
        n_evaluation=len(evaluation),
        n_packages=len(packages),
        line=LINE,
        layers=f"{config.n_layers} layer{'s' if config.n_layers > 1 else ''}",
        evaluation_tokens=len(unseen.tokens),
        n_random=n_random,
        cost=training_text(record) + ("" if twin is None else f" The twin. {training_text(twin[2])}"),
        where=source,
        size=sum(weight.size for weight in params.values()),
        note=f" {note}" if note else "",
        **{f"{part}_share": share for part, share in PARTS.items()},
        **{name: getattr(config, name) for name in ("d_vocab", "n_heads", "d_head", "n_ctx")},
    )
    summary = (
        f"A transformer of {config.n_layers} attention-only layer{'s' if config.n_layers > 1 else ''}, trained on "
        f"{source}. {again[real].mean():.0%} of the tokens of the evaluation text have followed their predecessor "
        "before in the same row, where a head that finds the earlier place knows what comes next."
    )
    return Card("induction", summary, measures, text, figures)


def head_scores(
    model: Transformer, params: Params, *, bos: int = 0, n: int = 50, draws: int = 100, seed: int = 0
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What every head attends to while it reads `n` random tokens for the second time.

    On `<bos> r1 … rn r1 … rn`, tokens all different, the mean over the second reading of the attention paid
    `n - 1` tokens back (induction), one token back (previous token), and `n` tokens back (duplicate token).

    Args:
      model, params: a causal model without padding.
      bos: the token that stands first, and is not drawn.
      n: how many tokens are read twice.
      draws: how many rows of tokens.
      seed: decides the tokens.

    Returns:
      Scores in [0, 1] by name, float[draw, layer, head], and the losses of the 2n tokens after `<bos>` in nats,
      float[draw, 2n].

    Raises:
      ValueError: a context, or a vocabulary, that is too small for so many tokens.

    Example:
      >>> from jaxinterp.cards.induction import head_scores
      >>> scores, losses = head_scores(model, params, n=7, draws=2)
      >>> scores["induction"].shape, losses.shape  # draw, layer, head; draw, token
      ((2, 2, 4), (2, 14))
    """
    config = model.config
    if n < 2 or 2 * n + 1 > config.n_ctx or n > config.d_vocab - 1:
        raise ValueError(f"n must be 2 to {min((config.n_ctx - 1) // 2, config.d_vocab - 1)}, got {n}")
    others = np.delete(np.arange(config.d_vocab), bos)
    order = np.random.default_rng(seed).random((draws, len(others))).argsort(axis=1)
    block = others[order[:, :n]]
    rows = np.concatenate([np.full((draws, 1), bos), block, block], axis=1).astype(np.int32)
    back = {"induction": n - 1, "previous token": 1, "duplicate token": n}
    query = np.arange(n + 1, 2 * n + 1)

    @jax.jit
    def run(params: Params, rows: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
        logits, cache = model.apply(params, rows, capture=("pattern",))
        paid = {
            name: cache["pattern"][..., query, query - each].mean(-1).transpose(1, 0, 2) for name, each in back.items()
        }
        return paid, optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], rows[:, 1:])

    found = [run(params, chunk) for chunk in chunks(rows)]
    scores = {name: np.concatenate([np.asarray(paid[name]) for paid, _ in found])[:draws] for name in back}
    return scores, np.concatenate([np.asarray(losses) for _, losses in found])[:draws]


def package_mean(
    values: np.ndarray, where: np.ndarray, package: np.ndarray, *, bins: int | None = None, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """A mean over tokens with its 95 % interval from a bootstrap over the packages that the tokens are in.

    Args:
      values: float[row, pos]. where: bool[row, pos], the tokens that count. package: int[row].
      bins: how many stretches of positions have a mean each; `None` for one mean over all.
      seed: of the bootstrap.

    Returns:
      mean, low, high, each a number or float[bin], and how many packages have tokens that count.

    Raises:
      ValueError: fewer than two packages have tokens that count.

    Example:
      >>> from jaxinterp.cards.induction import package_mean
      >>> values = np.array([[1.0, 3.0], [2.0, 0.0], [3.0, 3.0]])
      >>> value, low, high, n = package_mean(values, values > 0, np.array([0, 0, 1]))
      >>> float(value), bool(low <= value <= high), n
      (2.4, True, 2)
    """
    width = values.shape[1]
    stretch = np.minimum(np.arange(width) * (bins or 1) // width, (bins or 1) - 1)
    shape = int(package.max()) + 1, bins or 1
    sums, counts = np.zeros(shape), np.zeros(shape)
    index = np.broadcast_to(package[:, None], values.shape), np.broadcast_to(stretch, values.shape)
    np.add.at(sums, index, np.where(where, values, 0))
    np.add.at(counts, index, where)
    has_any = counts.any(axis=1)
    sums, counts = sums[has_any], counts[has_any]
    if len(sums) < 2:
        raise ValueError(f"an interval needs tokens in at least two packages, got {len(sums)}")

    value, low, high = ratio(sums, counts, seed=seed)
    if bins is None:
        return value[0], low[0], high[0], len(sums)
    return value, low, high, len(sums)


def _best_head(name: str, scores: np.ndarray) -> Measure:
    """The head with the highest score in half of the draws, measured on the rest."""
    half = len(scores) // 2
    layer, head = np.unravel_index(scores[:half].mean(0).argmax(), scores.shape[1:])
    return mean(f"best {name} head, L{layer}H{head}", scores[half:, layer, head], unit="%")


def _heads_figure(scores: Mapping[str, np.ndarray]) -> Figure:
    n_layers, n_heads = next(iter(scores.values())).shape[1:]
    figure, panels = plt.subplots(1, len(scores), figsize=(10, 1.2 + 0.45 * n_layers), layout="constrained")
    for axes, (name, each) in zip(panels, scores.items(), strict=True):
        means = each.mean(0)
        image = axes.imshow(means, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        for (layer, head), value in np.ndenumerate(means):
            axes.text(head, layer, f"{value:.2f}", ha="center", va="center", size=7, color="w" if value < 0.6 else "k")
        axes.set(title=name, xlabel="head", xticks=range(n_heads), yticks=range(n_layers))
    panels[0].set_ylabel("layer")
    figure.colorbar(image, ax=panels, label="attention")
    return figure


def _positions_figure(losses: Mapping[str, np.ndarray], real: np.ndarray, package: np.ndarray, seed: int) -> Figure:
    figure, axes = plt.subplots(figsize=(7.5, 3.2), layout="constrained")
    n_ctx = real.shape[1]
    bins = min(32, n_ctx)
    middles = (np.arange(bins) + 0.5) * n_ctx / bins
    for number, (name, values) in enumerate(losses.items()):
        value, low, high, _ = package_mean(values, real, package, bins=bins, seed=seed)
        axes.plot(middles, value, color=f"C{number}", linewidth=1, label=name)
        axes.fill_between(middles, low, high, color=f"C{number}", alpha=0.15, linewidth=0)
    axes.set(xlabel="position in the context", ylabel="loss (nats per token)")
    figure.legend(loc="outside right center", frameon=False)
    return figure
