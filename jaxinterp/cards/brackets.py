"""The card of `brackets`: how often it is right about held-out strings of each kind and length, and how sure."""

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from scipy.special import expit
from tokenizers import Tokenizer

from jaxinterp.cards.card import Card, Measure, loss_figure, proportion, ratio, training_text
from jaxinterp.model.params import Params
from jaxinterp.model.transformer import Transformer
from jaxinterp.tasks.bracket_strings import KINDS, MAX_BRACKETS, MIXTURE, NEAR_MISSES
from jaxinterp.tasks.brackets import CLOSE, N_TOKENS, OPEN, Brackets, bracket_tokenizer, brackets
from jaxinterp.training import TrainingRecord

#: What was asked for: right about this share of balanced strings, and of each kind of near miss.
BAR = 0.995

#: What no balanced string has, and can be seen without following its depth: bool[batch].
SHORTCUTS: Mapping[str, Callable[[Brackets], np.ndarray]] = {
    "not as many ( as )": lambda data: (data.tokens == OPEN).sum(1) * 2 != data.lengths,
    "the first is )": lambda data: data.tokens[:, 1] == CLOSE,
    "the last is (": lambda data: data.tokens[np.arange(len(data)), data.lengths] == OPEN,
}
ANY = "any of the three"

#: Strings that the model reads at once.
CHUNK = 500


def card(
    model: Transformer,
    params: Params,
    tokenizer: Tokenizer,
    record: TrainingRecord | None,
    *,
    n: int = 4000,
    seed: int = 1,
) -> Card:
    """Measures a bracket classifier on strings that training cannot have contained.

    Args:
      model: two logits are read at position 0: unbalanced, balanced.
      params: its weights.
      tokenizer: that of the task.
      record: how it was trained, if known.
      n: held-out strings of each kind; four times as many of the mixture.
      seed: which.

    Raises:
      ValueError: a model or tokenizer of something else.

    Example:
      >>> from jaxinterp.cards.brackets import card
      >>> from jaxinterp.tasks.brackets import bracket_tokenizer
      >>> sizes = dict(n_layers=1, d_model=8, n_heads=2, d_vocab=5, d_vocab_out=2, n_ctx=42)
      >>> untrained = ji.Transformer(ji.TransformerConfig(**sizes, causal=False, tie_embeddings=False))
      >>> weights = untrained.init(jax.random.key(0))
      >>> measured = card(untrained, weights, bracket_tokenizer(), None, n=25)
      >>> list(measured.measures)[::3]
      ['Held-out strings by kind', 'Near misses that shortcuts tell']
    """
    config = model.config
    if (config.causal, config.d_vocab_out) != (False, 2) or config.n_ctx < N_TOKENS:
        raise ValueError(
            f"expected a bidirectional model of {N_TOKENS} positions and 2 logits, got causal={config.causal}, "
            f"n_ctx={config.n_ctx}, d_vocab_out={config.d_vocab_out}"
        )
    if tokenizer.get_vocab() != bracket_tokenizer().get_vocab():
        raise ValueError("the tokenizer is not that of the task: expected jaxinterp.tasks.brackets.bracket_tokenizer()")

    by_kind: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    strings: dict[str, list[str]] = {}
    told: dict[str, list[np.ndarray]] = {name: [] for name in (*SHORTCUTS, ANY)}
    for number, kind in enumerate(KINDS):
        data = brackets(n, seed=(seed, number), split="held_out", kinds=(kind,))
        if kind in NEAR_MISSES:
            seen = {name: shortcut(data) for name, shortcut in SHORTCUTS.items()}
            for name, each in (seen | {ANY: np.any(list(seen.values()), axis=0)}).items():
                told[name].append(each)
        by_kind[kind] = np.asarray(data.label), _logit_differences(model, params, data)
        strings[kind] = data.strings
    kinds = [
        proportion(
            f"{kind}: {KINDS[kind].meaning}",
            _right(*by_kind[kind]),
            at_least=BAR if kind in ("balanced", *NEAR_MISSES) else None,
            groups=strings[kind],
        )
        for kind in KINDS
    ]
    near = np.concatenate([_right(*by_kind[kind]) for kind in NEAR_MISSES])
    drawn = [string for kind in NEAR_MISSES for string in strings[kind]]
    kinds.append(proportion("all near misses together", near, at_least=BAR, groups=drawn))

    mixed = brackets(4 * n, seed=(seed, len(KINDS)), split="held_out")
    difference = _logit_differences(model, params, mixed)
    right = _right(mixed.label, difference)
    string, code = np.unique(mixed.strings, return_inverse=True)
    lengths = [
        proportion(f"{low} to {low + 9} brackets, {name}", right[chosen], groups=code[chosen])
        for low in range(1, MAX_BRACKETS, 10)
        for label, name in ((1, "balanced"), (0, "not balanced"))
        if (chosen := (mixed.lengths >= low) & (mixed.lengths < low + 10) & (mixed.label == label)).any()
    ]
    losses = np.logaddexp(0, np.where(mixed.label == 1, -difference, difference))
    sure = [proportion("accuracy on the mixture", right, groups=code)]
    for name, each, unit in (
        ("loss on the mixture", losses, "nats"),
        ("probability of the chosen answer, less accuracy", expit(abs(difference)) - right, "%"),
    ):
        value, low, high = (float(number) for number in ratio(np.bincount(code, each), np.bincount(code)))
        sure.append(Measure(name, value, low, high, len(string), unit))
    figures: dict[str, tuple[Figure, str]] = {
        "strings.png": (
            _figure(by_kind, mixed, right, code),
            "logit differences by kind of string, and wrong answers by length",
        )
    }
    if record is not None:
        curve = loss_figure(record)
        curve.axes[0].set_ylabel("training loss (nats per string)")
        figures["loss.png"] = (curve, "training loss")
    measures: dict[str, Sequence[Measure]] = {
        "Held-out strings by kind": kinds,
        "Held-out strings by length": lengths,
        "Loss and calibration": sure,
        "Near misses that shortcuts tell": [
            proportion(name, np.concatenate(each), groups=drawn) for name, each in told.items()
        ],
    }
    return Card("brackets", _summary(model, params), measures, _text(record, n, seed), figures)


def _logit_differences(model: Transformer, params: Params, data: Brackets) -> np.ndarray:
    """The logit for balanced less that for unbalanced, at position 0: float[batch]."""
    chunks = (data[start : start + CHUNK] for start in range(0, len(data), CHUNK))
    logits = np.concatenate([model.apply(params, each.tokens, mask=each.mask)[0][:, 0] for each in chunks])
    return logits[:, 1] - logits[:, 0]


def _right(label: np.ndarray, difference: np.ndarray) -> np.ndarray:
    return (difference > 0) == (label == 1)


def _figure(
    by_kind: dict[str, tuple[np.ndarray, np.ndarray]], mixed: Brackets, right: np.ndarray, code: np.ndarray
) -> Figure:
    """On the left the spread of the logit difference in each kind, on the right wrong answers by length.

    Equal strings of the mixture have the same `code`.
    """
    figure, (spread, wrong) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for row, (label, difference) in enumerate(by_kind.values()):
        for color, each in (("C0", difference[label == 1]), ("C3", difference[label == 0])):
            if len(each):
                low, first, median, third, high = np.percentile(each, [0, 25, 50, 75, 100])
                spread.hlines(row, low, high, color=color, linewidth=1)
                spread.hlines(row, first, third, color=color, linewidth=5)
                spread.plot(median, row, "|", color="white")
    spread.axvline(0, color="0.6", linewidth=0.8, linestyle="--")
    spread.set(
        yticks=range(len(by_kind)),
        yticklabels=list(by_kind),
        xlabel="logit for balanced less that for unbalanced\n(all strings, the middle half thick; blue if balanced)",
    )
    spread.invert_yaxis()
    # Odd lengths are never balanced, and rare: "dropped" shows them.
    for name, color, wanted in (("balanced", "C0", 1), ("not balanced", "C3", 0)):
        chosen = (mixed.label == wanted) & (mixed.lengths % 2 == 0)
        lengths = np.unique(mixed.lengths[chosen])
        of_length = [chosen & (mixed.lengths == n) for n in lengths]
        each = [proportion("wrong", ~right[which], groups=code[which]) for which in of_length]
        values, lows, highs = (100 * np.array([getattr(m, end) for m in each]) for end in ("value", "low", "high"))
        wrong.plot(lengths, values, ".", color=color, label=name)
        wrong.vlines(lengths, lows, highs, color=color, linewidth=0.8, alpha=0.6)
    wrong.set(xlabel="brackets", ylabel="wrong answers (%), with 95 % intervals", yscale="symlog", ylim=(0, 100))
    wrong.yaxis.set_major_formatter("{x:g}")
    wrong.legend(frameon=False)
    return figure


def _summary(model: Transformer, params: Params) -> str:
    c = model.config
    n_weights = sum(int(np.size(weight)) for weight in params.values())
    return f"""
A small transformer that tells whether a string of up to {MAX_BRACKETS} brackets is balanced, made to be taken apart by
causal scrubbing. `model, params, tokenizer = ji.load("brackets")` gives the one that comes with the library.

| | |
|---|---|
| architecture | {c.n_layers} layers, {c.n_heads} heads of {c.d_head}, `d_model` {c.d_model}, `d_mlp` {c.d_mlp}, \
bidirectional attention, LayerNorm before each sublayer, learned positions |
| input | `<start>` 0, `<pad>` 1, `<end>` 2, `(` 3, `)` 4: `<start>`, the brackets, `<end>`, and `<pad>` up to \
{N_TOKENS} tokens, which the mask hides |
| output | two logits at position 0, unbalanced and balanced; those of other positions mean nothing |
| parameters | {n_weights:,}, {c.dtype} |

```python
import jaxinterp as ji
from jaxinterp.tasks.brackets import tokenize_brackets

model, params, tokenizer = ji.load("brackets")
prompts = tokenize_brackets(["(()())", "(()))("])
logits, _ = model.apply(params, prompts.tokens, mask=prompts.mask)
print(logits[:, 0, 1] - logits[:, 0, 0])  # above 0: balanced
```"""


def _text(record: TrainingRecord | None, n: int, seed: int) -> str:
    shares = ", ".join(f"{kind} {100 * MIXTURE.count(kind) / len(MIXTURE):g} %" for kind in KINDS)
    return f"""
An answer is right if the larger logit is that of the label. Every string counted is held out; {n:,} of each kind and
{4 * n:,} of the mixture were drawn (seed {seed}). A short string, of which there are few, can be drawn more than once:
"cases" are different strings. Intervals are Wilson's for proportions, as wide as for so many, and from a bootstrap over
strings in the third table.

To be balanced is to have as many of each bracket and the right ends, so that no set of balanced strings and others can
hide them from predictors that see no more. How far these go is in the last table, and the model's figures by kind go
further.

## Data

Strings are drawn by seed from `ji.tasks.brackets`; nothing is downloaded. The mixture is {shares}; what each kind is
stands in the first table. Lengths are the larger of two uniform draws. Half of the balanced strings are uniform among
all of their length, the others shallower or deeper.

One string in ten is held out, by a hash of the string: whatever the seed, training never contains it.
`ji.tasks.brackets(1000, seed=0, split="held_out", kinds=("dip",))` draws such strings of one kind.

## Recipe

    python models/brackets/train.py           # trains, saves, writes training.json and this card

The loss is the cross-entropy of the two logits at position 0. AdamW (β₂ 0.98, decay on matrices alone), gradient
norm clipped at 1, a warmup and then a cosine to a tenth; the numbers stand at the top of the recipe. Checkpoints go
to `training/`; a run that is killed goes on from the last one when it is started again, and ends with the same
weights to the bit on the same machine. Flags: `--steps --seed --batch --save-every --folder`.

{training_text(record)}

## Limits

No string has more than {MAX_BRACKETS} brackets, none is empty, and there is one kind of bracket. Odd lengths are never
balanced and are rarer than even ones. The shares of right answers are those of the kinds above: a string that someone
makes up to deceive the model is of none of them. Nothing here says which parts of the model, or which features of the
string, decide."""
