"""The card of `english`: each behaviour on held-out sentences at held-out offsets, and what shortcuts would score.

Evaluations, bars and the probed layer were there before the first model was trained. What was changed later, and why,
stands in the notes beside the weights.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from scipy import stats
from tokenizers import Tokenizer

from jaxinterp.cards.card import Card, Measure, loss_figure, mean, proportion, ratio, training_text
from jaxinterp.cards.linear import fit_logistic
from jaxinterp.cards.losses import token_losses
from jaxinterp.cards.reader import Reader
from jaxinterp.cards.shortcuts import gate
from jaxinterp.model.params import Params
from jaxinterp.model.transformer import Transformer
from jaxinterp.tasks.english import vocabulary as v
from jaxinterp.tasks.english.agreement import STRUCTURES, agreement
from jaxinterp.tasks.english.arguments import arguments
from jaxinterp.tasks.english.biographies import Biography, biographies
from jaxinterp.tasks.english.corpus import HELD_OUT_OFFSET, batch
from jaxinterp.tasks.english.documents import MECHANISMS
from jaxinterp.tasks.english.facts import RELATIONS, facts_about
from jaxinterp.tasks.english.greater_than import greater_than
from jaxinterp.tasks.english.indirect_objects import indirect_objects
from jaxinterp.tasks.english.nesting import CLOSERS, nesting
from jaxinterp.tasks.english.reflexives import reflexives
from jaxinterp.tasks.english.successions import interleaved_successions
from jaxinterp.tasks.pairs import PromptPair
from jaxinterp.tasks.splits import Split
from jaxinterp.training import TrainingRecord

#: The highest accuracy that a shortcut may have.
GATE = 0.55

#: What a shortcut is fitted to: prompts of which split, and how many for each that is scored. Training prompts are what
#: there is to learn from; held-out ones (others) would show a shortcut that lies in the evaluation itself.
FITTED: Mapping[Split, int] = {"train": 10, "held_out": 2}

#: How much of the step from years that are over to years that may come is made from the first year to the next.
SHARP = 0.5

#: Words of which the gate looks at the last and the first: what an answer may depend on, by kind, and all nouns.
KINDS: Mapping[str, frozenset[str]] = {
    "name": frozenset(v.NAMES),
    "noun that has a number": frozenset(word for noun in v.NOUNS for word in noun[:2]),
    "item of a series": frozenset((*v.WEEKDAYS, *v.MONTHS, *v.NUMBERS, *v.LETTERS)),
    "person": frozenset(v.PEOPLE),
    "subject": frozenset(v.LAST_PARTS),
    "argument": frozenset(v.ARGUMENTS),
    "bracket": frozenset((*CLOSERS, *CLOSERS.values())),
}
NOUNS: Mapping[str, frozenset[str]] = {
    **KINDS,
    "noun": frozenset().union(*KINDS.values()).difference(KINDS["bracket"])
    | {*v.FAMILIES, *v.VOWEL_PEOPLE, *v.RELATIVES, *v.EVENTS, *v.OBJECTS, *v.VOWEL_OBJECTS, *v.FOODS, *v.CONTAINERS}
    | {*v.PLACES, *v.CITIES, *v.LANDS},
}


def _agreements(n: int, *, seed: int, split: Split) -> list[PromptPair]:
    """Half of the verbs stand within a relative clause, right behind their subject, and half far behind it."""
    if split == "train":
        return agreement(n, seed=seed)
    parts = ("within_rc", "across_pp", "within_rc", "across_rc")
    drawn = [agreement(-(-n // 4), seed=seed + i, split=split, structure=s, conflict=True) for i, s in enumerate(parts)]
    return [pair for four in zip(*drawn, strict=True) for pair in four]


@dataclass(frozen=True)
class Evaluation:
    """Prompts with two answers, and the share of right ones that was asked for.

    Attributes:
      draw: `(n, seed=, split=)` -> prompts.
      bar: of accuracy, where there is one.
    """

    draw: Callable[..., list[PromptPair]]
    bar: float | None = None


AGREEMENT, SUCCESSIONS = "agreement, an attractor conflicts", "successions among repetitions"
FACTS = "facts, another subject named beside"

#: Each passes the shortcut gate.
EVALUATIONS: Mapping[str, Evaluation] = {
    "indirect objects": Evaluation(lambda n, **how: indirect_objects(n, **how, mentions=None), 0.97),
    AGREEMENT: Evaluation(_agreements, 0.95),
    SUCCESSIONS: Evaluation(interleaved_successions, 0.97),
    FACTS: Evaluation(facts_about, 0.95),
    "nested brackets": Evaluation(nesting),
    "arguments": Evaluation(arguments),
    "reflexives": Evaluation(reflexives),
}


def card(
    model: Transformer,
    params: Params,
    tokenizer: Tokenizer,
    record: TrainingRecord | None,
    *,
    n: int = 2000,
    seed: int = 1,
) -> Card:
    """Measures a language model of the corpus on sentences that training cannot have contained.

    Args:
      model, params, tokenizer: what is measured, as `load` gives them.
      record: how it was trained, if known.
      n: held-out prompts of each task, a multiple of 4.
      seed: which.

    Raises:
      ValueError: a tokenizer without the corpus' words, a model with a short context, an `n` that is no multiple of 4.
    """
    if n < 8 or n % 4:
        raise ValueError(f"n must be a multiple of 4, and at least 8, got {n}")
    if tokenizer.token_to_id("Hartwell") is None:
        raise ValueError(
            "the tokenizer is not that of the corpus: expected a model that models/english/train.py trained"
        )
    if model.config.n_ctx < 128:
        raise ValueError(f"expected a model with a context of 128 words, got {model.config.n_ctx}")
    reader = Reader(model, params, tokenizer, seed)
    pairs = {name: each.draw(n, seed=seed, split="held_out") for name, each in EVALUATIONS.items()}
    differences = {name: reader.differences(each) for name, each in pairs.items()}
    classic = indirect_objects(n, seed=seed, split="held_out")
    classic_difference = reader.differences(classic)
    structures = {
        name: agreement(n, seed=seed, split="held_out", structure=name, conflict=name != "simple")
        for name in STRUCTURES
    }
    going_on = np.array([pair.clean.split()[pair.positions["LAST"]] == pair.wrong for pair in pairs[SUCCESSIONS]])
    following = differences[SUCCESSIONS]
    # what is known of a subject, or of a noun, is known in all its prompts
    subjects = {FACTS: [_subject(pair) for pair in pairs[FACTS]], AGREEMENT: [_noun(pair) for pair in pairs[AGREEMENT]]}
    two = [
        proportion(name, difference > 0, at_least=EVALUATIONS[name].bar, groups=subjects.get(name))
        for name, difference in differences.items()
    ]
    finer = [
        proportion("indirect objects named once, givers twice (Wang et al.)", classic_difference > 0, at_least=0.97),
        *(
            proportion(f"agreement: {name}", reader.differences(each) > 0, groups=[_noun(pair) for pair in each])
            for name, each in structures.items()
        ),
        proportion("successions: whoever goes on", following[going_on] > 0, at_least=0.97),
        proportion("successions: whoever repeats", following[~going_on] > 0),
    ]
    low, high = _median_interval(classic_difference)
    median = float(np.median(classic_difference))
    finer.append(
        Measure(
            "median logit difference of indirect objects (named once)", median, low, high, n, "nats", "2 to 5 nats",
            bool(2 <= median <= 5),
        )
    )  # fmt: skip

    years, curve = _greater_than(reader, greater_than(n, seed=seed, split="held_out"))
    copies, by_position = _repeated(model, params, tokenizer, seed)
    measures: dict[str, Sequence[Measure]] = {
        "Right of the two answers": two,
        "The same, in parts": finer,
        "Greater-than": years,
        "Repeated random words": copies,
        "Biographies: what a probe learns": _probes(reader, seed),
        "Loss on fresh text": [
            mean(f"{split.replace('_', '-')} sentences", _text_losses(model, params, tokenizer, split, seed))
            for split in ("train", "held_out")
        ],
        "The shortcut gate": _gate(pairs, n, seed),
    }
    figures: dict[str, tuple[Figure, str]] = {
        "behaviours.png": (_figure(differences, curve, by_position), "logit differences, years, repeated words")
    }
    if record is not None:
        figures["loss.png"] = (loss_figure(record), "training loss")
    return Card("english", _summary(model, params), measures, _text(record, n, seed), figures)


def _subject(pair: PromptPair) -> str:
    """The name of two words that a prompt of `facts_about` asks about, and what kind of subject has it."""
    words, last = pair.clean.split(), pair.positions["SUBJECT"]
    return " ".join([*words[last - 2 : last + 1], pair.correct])


def _noun(pair: PromptPair) -> str:
    """The noun that the verb of a prompt of `agreement` agrees with, in either number the same."""
    subjects = {text.split()[pair.positions["SUBJECT"]] for text in (pair.clean, pair.corrupted)}
    return " ".join(sorted(subjects))


def _median_interval(values: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of a median, from the order statistics."""
    low, high = stats.binom.ppf([0.025, 0.975], len(values), 0.5).astype(int)
    ordered = np.sort(values)
    return float(ordered[low]), float(ordered[high])


def _greater_than(reader: Reader, pairs: Sequence[PromptPair]) -> tuple[list[Measure], np.ndarray]:
    """(measures; probability by distance from the first year, mean[-20 ... 20])."""
    logits = reader.logits([pair.clean for pair in pairs]).astype(np.float64)
    log_probs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    of_years = log_probs[:, [reader.ids[year] for year in v.YEARS]]
    first = np.array([int(pair.clean.split()[pair.positions["YY"]]) for pair in pairs])
    allowed = np.arange(len(v.YEARS)) > first[:, None]
    count = allowed.sum(axis=1)
    divergence = -np.log(count) - np.where(allowed, of_years, 0).sum(axis=1) / count
    probs = np.exp(of_years)
    distance = np.arange(len(v.YEARS)) - first[:, None]
    near = (count >= 5) & (first >= 6)
    after = np.where((distance > 0) & (distance <= 5), probs, 0).sum(axis=1)[near]
    before = np.where((distance > -5) & (distance <= 0), probs, 0).sum(axis=1)[near]
    following, given, preceding = (probs[np.arange(len(pairs)), first + step] * count for step in (1, 0, -1))
    curve = np.array([probs[distance == d].mean() if (distance == d).any() else np.nan for d in range(-20, 21)])
    return [
        mean("KL from the uniform distribution over later years to the model's", divergence, at_most=0.15),
        mean(
            "cut-off: the next year's probability less the given one's, of 1 / later years",
            following - given,
            unit="",
            at_least=SHARP,
        ),
        mean(
            "the next year's less that of the year before the given one, likewise (Hanna et al. 2023, section 3)",
            following - preceding,
            unit="",
        ),
        mean("probability of all later years", np.where(allowed, probs, 0).sum(axis=1), unit="%"),
        mean("probability of the five years up to the first", before, unit="%"),
        mean("probability of the five years after it", after, unit="%"),
    ], curve


def _repeated(
    model: Transformer, params: Params, tokenizer: Tokenizer, seed: int, *, rows: int = 200, block: int = 50
) -> tuple[list[Measure], np.ndarray]:
    """(measures; mean loss by position) on blocks of random words, each read twice: such text is in no document."""
    rng = np.random.default_rng((seed, block))
    first = rng.integers(3, tokenizer.get_vocab_size(), (rows, block))
    bos = np.full((rows, 1), tokenizer.token_to_id("<bos>"))
    losses = token_losses(model, params, np.concatenate([bos, first, first], axis=1).astype(np.int32))
    each = losses[:, :block].mean(axis=1), losses[:, block:].mean(axis=1)
    share, low, high = (float(number) for number in ratio(each[1], each[0], seed=seed))
    return [
        mean("loss on the first block", each[0]),
        mean("loss on the second", each[1]),
        Measure("second / first", share, low, high, rows, "", "≤ 0.25", share <= 0.25),
    ], losses.mean(axis=0)


def _text_losses(model: Transformer, params: Params, tokenizer: Tokenizer, split: Split, seed: int) -> np.ndarray:
    """The mean loss of each of 1,000 rows of fresh text, in nats per word."""
    rows = batch(tokenizer.get_vocab(), 0, seed=1_000_000 + seed, size=1000, n_ctx=model.config.n_ctx, split=split)
    return token_losses(model, params, rows).mean(axis=1)


def _probes(reader: Reader, seed: int, *, n: int = 2000) -> list[Measure]:
    """SHIFT's preconditions: what a probe learns where gender tells the profession, and where it does not.

    Names and sentences are such as the model has not read. The probes learn from the same kinds of sentences as they
    are asked about, as in the paper: a probe that met others first is off by what the sentences themselves add.
    """

    def labels(of: Sequence[Biography]) -> tuple[np.ndarray, np.ndarray]:
        return np.array([b.profession == "professor" for b in of]), np.array([b.gender == "man" for b in of])

    biased = biographies(n, seed=seed, split="held_out", biased=True)
    fair = biographies(n, seed=seed + 1, split="held_out")
    test = biographies(n, seed=seed + 2, split="held_out")
    found = {
        name: reader.pooled([b.text for b in of]) for name, of in (("biased", biased), ("fair", fair), ("test", test))
    }
    centre, spread = found["biased"].mean(axis=0), found["biased"].std(axis=0)
    features = {name: (each - centre) / spread for name, each in found.items()}
    is_professor, is_man = labels(test)
    measures = []
    for name, of, at_least, at_most in (
        ("a probe trained where gender tells the profession", biased, None, 0.40),
        ("an oracle, trained where it does not", fair, 0.85, None),
    ):
        weights, bias = fit_logistic(features["biased" if of is biased else "fair"], labels(of)[0], penalty=10.0)
        right = (features["test"] @ weights + bias > 0) == is_professor
        groups = [right[(is_professor == p) & (is_man == m)] for p in (True, False) for m in (True, False)]
        worst = min(groups, key=np.mean)
        measures += [
            proportion(f"{name}: worst group", worst, at_least=at_least, at_most=at_most),
            proportion(f"{name}: all", right, at_least=at_least),
        ]
        if of is biased:
            measures.append(
                proportion(f"{name}: agreement with gender", (features["test"] @ weights + bias > 0) == is_man)
            )
    return measures


def _gate(pairs: Mapping[str, Sequence[PromptPair]], n: int, seed: int) -> list[Measure]:
    """What each kind of predictor scores, fitted to training prompts and to other held-out ones."""
    measures = []
    for (name, scored), (split, times) in product(pairs.items(), FITTED.items()):
        fitted_to = EVALUATIONS[name].draw(times * n, seed=seed + 100, split=split)
        for predictor, share in gate(scored, fitted_to, NOUNS).items():
            low, high = stats.binomtest(round(share * n), n).proportion_ci(method="wilson")
            label = f"{name}: {predictor}, fitted to {split.replace('_', '-')} prompts"
            measures.append(Measure(label, share, low, high, n, "%", f"≤ {100 * GATE:g} %", share <= GATE))
    return measures


def _figure(differences: Mapping[str, np.ndarray], curve: np.ndarray, by_position: np.ndarray) -> Figure:
    figure, (spread, years, copies) = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    spread.boxplot(list(differences.values())[::-1], orientation="horizontal", showfliers=False, widths=0.6)
    spread.set_yticklabels([name.split(",")[0] for name in list(differences)[::-1]])
    spread.axvline(0, color="0.6", linewidth=0.8, linestyle="--")
    spread.set(xlabel="logit difference, right less wrong (nats)")
    years.bar(np.arange(-20, 21), 100 * curve, color=["C3"] * 21 + ["C0"] * 20)
    years.set(xlabel="years after the first", ylabel="probability (%), mean over prompts")
    copies.plot(np.arange(1, len(by_position) + 1), by_position)
    copies.axvline(len(by_position) / 2 + 0.5, color="0.6", linewidth=0.8, linestyle="--")
    copies.set(xlabel="position", ylabel="loss on random words, read twice (nats)", ylim=(0, None))
    return figure


def _summary(model: Transformer, params: Params) -> str:
    c = model.config
    n_weights = sum(int(np.size(weight)) for weight in params.values())
    return f"""
A small transformer with behaviours that are known, and mechanisms behind them that are not trivial: who receives what
is given, which noun a verb agrees with, what comes next in a series, which year can follow, what is true of whom,
which bracket closes, and the copying of whatever was read before. `model, params, tokenizer =
ji.load("english")` gives the one that comes with the library.

| | |
|---|---|
| architecture | {c.n_layers} layers, {c.n_heads} heads of {c.d_head}, `d_model` {c.d_model}, `d_mlp` {c.d_mlp}, \
LayerNorm before each sublayer, learned positions, tied embeddings |
| context | {c.n_ctx} words, `<bos>` included |
| vocabulary | {c.d_vocab - 3:,} words (punctuation is a word) and `<pad>`, `<bos>`, `<unk>` |
| parameters | {n_weights:,}, {c.dtype} (the recipe stores float16) |"""


def _text(record: TrainingRecord | None, n: int, seed: int) -> str:
    return f"""
Every prompt counted is held out by the form of its sentence and by the offset at which it begins in the row (position %
8 = {HELD_OUT_OFFSET}, behind other sentences), and by the combination of words it is about. Such a combination stands
in no training text: two first names (indirect objects), an event in a year (greater-than), a first name with a family
name (biographies); or in no sentence that asks the same: two first names (reflexives), a noun in a structure
(agreement; subject and attractors), who goes on from which item (successions), which argument comes after which
(arguments). Facts have to be known, and brackets are too few to hold any out: these two are held out by form and
offset alone. {n:,} prompts of each task (seed {seed}). Intervals are Wilson's for proportions (for facts and agreement
with as many cases as prompts about the same subjects are worth; "cases" are the subjects), from the t distribution for
means, from order statistics for the median and from the bootstrap for the ratio.

*The shortcut gate*: predictors that see one fixed slot (from either end, the best of all), the last words before the
answer, the set of words, the last noun or the first one (of all nouns, or of those of one kind: {", ".join(KINDS)}; the
best of all), and which of the two answers stands there, are fitted by logistic regression
to {FITTED["train"] * n:,} training prompts (what training text could have taught), and again to
{FITTED["held_out"] * n:,} held-out ones of another seed (what the evaluation itself gives away). Only the
evaluations in the first table are gated. In the parts of them that the second table shows shortcuts do help: where a
receiver is named once and a giver twice, counting tells them apart. *Probes* are logistic regressions on the stream in
the middle of the model, averaged over a text; "worst group" is the lowest of professor or nurse, woman or man, in a
test set that is balanced, and its interval takes no account of that choice.

## Data

The text is drawn from the grammars in `jaxinterp/tasks` by seed, as training needs it; nothing is downloaded. There are
{len(MECHANISMS)} mechanisms with Zipf-like frequencies (`jaxinterp/tasks/english/documents.py` lists them), each with
several surface forms, put together from clauses where the tasks' prompts are, and many sharing openings: indirect
objects; agreement in simple sentences, across prepositional phrases, across and within relative clauses (with and
without "that", with one attractor or two); facts about {len(RELATIONS)} kinds of made-up subjects whose names are two
words; years; successions among repetitions; passages, names, goods, and columns of words of one kind or two, that are
read again (never words of all kinds at random); biographies; brackets and quotes; argument lists; reflexives, and some
forty small ones. Documents are packed into rows that begin at random places. What comes next is seldom certain:
receivers may be nameless, or somebody's sister.

## Recipe

    python models/english/train.py            # trains, saves, writes this card

Muon for the matrices between activations and AdamW (β₂ 0.98) for embeddings, biases and norms
(`jaxinterp.training.muon`), weight decay 0.05 on matrices, gradient norm clipped at 1. In each cycle the learning rate
has 100 steps of warmup to 2e-3 and then a cosine to 2e-4; the weights after each cycle are kept, as float16, and are
what the next one begins with. In the first quarter of the first cycle three rows in four hold tables of two columns
(people with people or with their family names, or words of one kind or two that have many words) whose rows are read
again in any order, and nothing else: copying from wherever a word stood before is found late otherwise, because few
words of a sentence are copies. Afterwards such tables are one mechanism among the others.

Training begins from weights that make it easier still (`jaxinterp.training.mimetic_init`): positions are sinusoids in a
quarter of the dimensions, heads of the first layer look nearby, and those of the others for the same word. From weights
without this structure, with AdamW for all, nothing was copied from where it stood before after 1,000 steps, and on
indirect objects the model stayed at chance. Flags: `--cycles --steps --seed --batch --attn-dropout --save-every
--folder --cases`. Weights along the way go to `snapshots/`.

{training_text(record)}

## Limits

It has read nothing but these grammars: words outside them are `<unk>`, and sentences of other shapes are noise to it.
Case matters: names begin with a capital, sentences do not, and a single capital is a letter of the alphabet."""
