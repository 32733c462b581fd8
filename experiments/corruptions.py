"""Attribution patching of head outputs under different corrupted prompts: when does it agree with patching?

    python experiments/corruptions.py

Denoising: activations of the clean run are put into the corrupted one. Indirect objects, measured by the logit
difference, are corrupted by one name, by three, by random words in one place or several, or by noise on embeddings.
Lists of random things that are read twice, "A and again : A", measured by the log-probability of the word that comes
next in the first reading, have other random things in the second reading, the first, or both (AB, BA, BB, BC). All
corruptions of a task share their clean prompts. Cells are heads, over all positions, and heads at named positions;
intervals are from a bootstrap over prompts.

The lists are in the form that the model has read in training, for it does not copy any words whatever: the
log-probability of the right word, where words drawn from the whole vocabulary are read twice, is told too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import common
import numpy as np
from common import Claim
from matplotlib.figure import Figure

import jaxinterp as ji

#: Things in a list, and what stands between its two readings.
READING, BETWEEN = 10, ("and", "again", ":")

#: Tokens below are special.
FIRST_WORD = 3

#: Noise on embeddings, in standard deviations of those of the words at S2 (Meng et al. 2022).
NOISE = 3.0

#: How many of the last words are corrupted, or spared.
LAST = 5

GRAINS: Mapping[str, tuple[str, ...]] = {"heads": ("layer", "head"), "heads by role": ("layer", "head", "role")}


@dataclass(frozen=True)
class Corruption:
    """A corrupted run.

    Attributes:
      tokens: int[batch, pos].
      edits: interventions under which it stands.
    """

    tokens: np.ndarray
    edits: Mapping[str, ji.Intervention] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """Clean prompts, a metric, and corruptions by name."""

    clean: ji.Prompts
    metric: ji.Metric
    corruptions: Mapping[str, Corruption]


@dataclass(frozen=True)
class Found:
    """Mean effects under one corruption.

    Attributes:
      estimates, exact: float[1 + draws, cell].
      whole: the source's metric less the base's, float[1 + draws].
      base_metric, source_metric: means over prompts.
    """

    estimates: np.ndarray
    exact: np.ndarray
    whole: np.ndarray
    base_metric: float
    source_metric: float

    def r(self) -> np.ndarray:
        """Pearson's r over cells."""
        return common.pearson(self.estimates, self.exact)

    def error(self) -> np.ndarray:
        """The relative error."""
        return common.relative_error(self.estimates, self.exact)

    def share(self) -> np.ndarray:
        """The largest share of the way from base to source that a single cell goes."""
        return (self.exact / self.whole[:, None]).max(axis=1)


#: `{(corruption, grain): what was found}`; no two corruptions have one name.
Results = Mapping[tuple[str, str], Found]

SWAP, ABC, S2_WORD, ONE_WORD = "one name (swap)", "three names (ABC)", "random word at S2", "random word anywhere"
LAST_WORDS, OTHER_WORDS = f"last {LAST} words random", f"all but the last {LAST} random"
S2_NOISE, NOISE_EVERYWHERE = "noise at S2", "noise everywhere"
ONE_COUNTERFACTUAL, TWO_COUNTERFACTUALS = ("AB", "BA", "BB"), "BC"


def _better(section: str, says: str, one: str, other: str) -> Claim:
    return Claim(
        section,
        says,
        f"Pearson's r over heads: {one}, less {other}",
        lambda results: results[one, "heads"].r() - results[other, "heads"].r(),
        at_least=0,
    )


def _repeat_claims(one: str) -> tuple[Claim, Claim, Claim]:
    predicted = "prompts with one counterfactual (AB or BB or BA) will work much better than the prompt BC"
    return (
        _better("Future Work", predicted, one, TWO_COUNTERFACTUALS),
        Claim(
            "Future Work",
            predicted,
            f"relative error over heads: {TWO_COUNTERFACTUALS}, as a multiple of {one}",
            lambda results: results[TWO_COUNTERFACTUALS, "heads"].error() / results[one, "heads"].error(),
            at_least=1.5,
        ),
        Claim(
            "Single vs Multi Features Dependence",
            "attribution patching will totally break on multi-feature dependence, but so will activation patching",
            f"largest share of the way that a head goes by exact patching: {one}, less {TWO_COUNTERFACTUALS}",
            lambda results: results[one, "heads"].share() - results[TWO_COUNTERFACTUALS, "heads"].share(),
            at_least=0,
        ),
    )


#: Written before the first run.
CLAIMS = (
    *(claim for one in ONE_COUNTERFACTUAL for claim in _repeat_claims(one)),
    *(
        _better(
            "Does This Make Any Sense?",
            "it works best when the two prompts differ by one key feature, rather than many that all compose",
            SWAP,
            other,
        )
        for other in (ABC, LAST_WORDS, OTHER_WORDS)
    ),
    *(
        _better(
            "Other Variants",
            "it is fairly reliant on having a sensible run of the model for the corrupted prompt",
            SWAP,
            other,
        )
        for other in (S2_WORD, S2_NOISE, NOISE_EVERYWHERE)
    ),
)


def names(pairs: ji.TokenPairs, tokenizer: Any, rng: np.random.Generator) -> np.ndarray:
    """The clean prompts with three fresh names at IO, S1 and S2: nobody is named twice."""
    ids = tokenizer.get_vocab()
    every = {ids[name] for name in ji.tasks.english.vocabulary.NAMES}
    tokens = np.array(pairs.clean.tokens)
    for row, prompt in enumerate(tokens):
        fresh = rng.choice(sorted(every - set(prompt.tolist())), 3, replace=False)
        prompt[[int(pairs.clean.roles[role][row]) for role in ("IO", "S1", "S2")]] = fresh
    return tokens


def noise(params: Any, pairs: ji.TokenPairs, where: ji.Where, rng: np.random.Generator) -> dict[str, ji.Intervention]:
    """Normal noise on the embeddings of some positions, another draw for each prompt."""
    tokens = pairs.clean.tokens
    embeddings = np.asarray(params["W_E"])
    spread = NOISE * embeddings[tokens[:, pairs.clean.roles["S2"][0]]].std()
    return {"embed": ji.add(rng.normal(0, spread, (*tokens.shape, embeddings.shape[1])).astype(np.float32), where)}


def indirect_objects(n: int, seed: int, params: Any, tokenizer: Any) -> Task:
    """Indirect objects, of one layout."""
    pairs = common.one_layout(n, seed, tokenizer)
    rng = np.random.default_rng((seed, 1))
    clean = np.asarray(pairs.clean.tokens)
    n_pos, s2 = clean.shape[1], common.differing(pairs)[0]
    random = rng.integers(FIRST_WORD, tokenizer.get_vocab_size(), clean.shape)
    pos = np.arange(n_pos)
    places = {
        S2_WORD: pos == s2,
        ONE_WORD: pos == rng.integers(1, n_pos, (n, 1)),
        LAST_WORDS: pos >= n_pos - LAST,
        OTHER_WORDS: (pos > 0) & (pos < n_pos - LAST),
    }
    corruptions = {
        SWAP: Corruption(np.asarray(pairs.corrupted.tokens)),
        ABC: Corruption(names(pairs, tokenizer, rng)),
        **{name: Corruption(np.where(where, random, clean)) for name, where in places.items()},
        S2_NOISE: Corruption(clean, noise(params, pairs, ji.at(pos=s2), rng)),
        NOISE_EVERYWHERE: Corruption(clean, noise(params, pairs, ji.at(), rng)),
    }
    return Task(pairs.clean, ji.logit_diff(pairs.correct, pairs.wrong), corruptions)


def read_twice(n: int, seed: int, tokenizer: Any, words: Sequence[int], between: Sequence[int]) -> Task:
    """Lists of different random words that are read twice, up to the last but one of the second reading."""
    rng = np.random.default_rng((seed, 2))
    drawn = np.stack([rng.choice(words, 3 * READING, replace=False) for _ in range(n)]).reshape(n, 3, READING)
    readings = dict(zip("ABC", drawn.transpose(1, 0, 2), strict=True))
    before, amid = np.full((n, 1), tokenizer.token_to_id("<bos>")), np.tile(np.array(between, np.int32), (n, 1))

    def tokens(first: str, second: str) -> np.ndarray:
        return np.concatenate([before, readings[first], amid, readings[second][:, :-1]], axis=1).astype(np.int32)

    clean = tokens("A", "A")
    roles = {"BEFORE": READING - 1, "ANSWER": READING, "END": clean.shape[1] - 1}
    corrupted = {name: Corruption(tokens(*name)) for name in (*ONE_COUNTERFACTUAL, TWO_COUNTERFACTUALS)}
    prompts = ji.Prompts(clean, roles={name: np.full(n, column) for name, column in roles.items()})
    return Task(prompts, ji.log_prob(readings["A"][:, -1]), corrupted)


def compared(model: Any, params: Any, task: Task, corruption: Corruption, draws: np.ndarray) -> dict[str, Found]:
    """Estimates and exact effects under one corruption, by grain."""
    base = ji.Prompts(corruption.tokens, roles=task.clean.roles)
    pair = {
        "model": model, "params": params, "base": base, "source": task.clean, "metric": task.metric,
        "base_interventions": corruption.edits, "per_example": True,
    }  # fmt: skip
    whole = ji.activation_patching(**pair, site="resid_pre", over={"layer": [0]})
    found = {}
    for grain, over in GRAINS.items():
        exact = ji.activation_patching(**pair, site="z", over=over)
        estimates = ji.attribution_patching(**pair, site="z", over=over).transpose(*exact.dims)
        means = [common.mean_effects(effects, draws) for effects in (estimates, exact, whole)]
        metrics = exact.attrs["base_metric"], exact.attrs["source_metric"]
        found[grain] = Found(means[0], means[1], means[2][:, 0], *metrics)
    return found


def agreement(tasks: Mapping[str, Task], results: Results) -> list[dict[str, Any]]:
    """How well estimates agree with patching under each corruption, with intervals."""
    rows = []
    for task, each in tasks.items():
        for corruption in each.corruptions:
            for grain in GRAINS:
                found = results[corruption, grain]
                pair = found.estimates, found.exact
                told: dict[str, Any] = {"task": task, "corruption": corruption, "cells": grain}
                told |= {"base metric": found.base_metric, "source metric": found.source_metric}
                measures = {
                    "r": common.pearson, "slope": common.slope, "relative error": common.relative_error,
                    "top-20 recall": common.recall,
                }  # fmt: skip
                told |= {name: common.interval(measure(*pair)) for name, measure in measures.items()}
                rows.append(told | {"largest share": common.interval(found.share())})
    return rows


MEASURES = ("r", "slope", "relative error", "top-20 recall", "largest share")


def figure_of(rows: list[dict[str, Any]]) -> Figure:
    """Each measure across, each corruption down, a colour for each grain."""
    shown = ("r", "relative error", "largest share")
    titles = ("Pearson's r (1 is right)", "relative error (0 is right)", "largest share of the way (exact)")
    figure = Figure(figsize=(12, 5.4), layout="constrained")
    order = list(dict.fromkeys((row["task"], row["corruption"]) for row in rows))
    height = {key: -number - 0.8 * (key[0] != order[0][0]) for number, key in enumerate(order)}
    panels = figure.subplots(1, len(shown), sharey=True)
    for axes, name, title in zip(panels, shown, titles, strict=True):
        for grain, colour, shift in zip(GRAINS, ("C0", "C1"), (0.14, -0.14), strict=True):
            chosen = [row for row in rows if row["cells"] == grain]
            y = [height[row["task"], row["corruption"]] + shift for row in chosen]
            value, low, high = np.array([row[name] for row in chosen]).T
            axes.hlines(y, low, high, color=colour, linewidth=2)
            axes.plot(value, y, "o", color=colour, markersize=5, label=grain)
        axes.set_title(title, fontsize=11)
        axes.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(list(height.values()), [corruption for _, corruption in order])
    panels[0].legend(loc="best", frameon=True)
    figure.supxlabel("indirect objects above, lists read twice below; lines are 95 % intervals over prompts")
    return figure


def main() -> None:
    asked = common.options(__doc__, n=32)
    model, params, tokenizer = common.english()
    ids = tokenizer.get_vocab()
    things, between = ([ids[word] for word in words] for words in (ji.tasks.english.vocabulary.OBJECTS, BETWEEN))
    tasks = {
        "indirect objects": indirect_objects(asked.n, asked.seed, params, tokenizer),
        "lists": read_twice(asked.n, asked.seed, tokenizer, things, between),
    }
    anything = read_twice(asked.n, asked.seed, tokenizer, range(FIRST_WORD, tokenizer.get_vocab_size()), ())
    copied = ji.evaluate(model, params, anything.clean, {}, metric=anything.metric).attrs["base_metric"]
    draws = common.weights(asked.n, asked.seed)
    results = {
        (name, grain): found
        for task in tasks.values()
        for name, corruption in task.corruptions.items()
        for grain, found in compared(model, params, task, corruption, draws).items()
    }
    rows = agreement(tasks, results)
    metrics = ("base metric", "source metric")
    lines = [
        [
            row["task"],
            row["corruption"],
            row["cells"],
            *(f"{row[m]:.2f}" for m in metrics),
            *(str(row[m]) for m in MEASURES),
        ]
        for row in rows
    ]
    print(common.table(["task", "corruption", "cells", *metrics, *MEASURES], lines))
    uniform = -np.log(model.config.d_vocab)
    print(f"\nany words read twice: the log-probability of the right one is {copied:.1f}; of any one, {uniform:.1f}")
    judged = common.verdicts(CLAIMS, results)
    told = {
        "n": asked.n, "seed": asked.seed, "site": "z", "method": "grad", "claims": judged, "agreement": rows,
        "log-probability where any words are read twice": copied,
    }  # fmt: skip
    common.write(asked.output, "corruptions", told, figure_of(rows))


if __name__ == "__main__":
    main()
