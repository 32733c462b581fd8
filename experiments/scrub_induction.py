"""Causal scrubbing of induction heads in two-layer attention-only models that were trained here.

    python experiments/scrub_induction.py [MODEL ...]

Each MODEL is a folder of `models/induction/train.py`, one for each seed; by default the built-in model alone.

The source (causal scrubbing, section 5.2) finds in its model that a naive hypothesis recovers 35 % of what induction
heads add, and 86 % with three refinements: three consecutive tokens compared, the current position's part of layer 0
read by queries and values, heads of layer 0 that attend to repeats taken as if they attended to the current position.

The protocol, fixed before any model was scrubbed. Text is split by package into four parts, of which the model was
trained on the first. A token is *whitelisted* (part 2, without the model) if, where it is the current one, an equal
mixture of a bigram model and of what followed its earlier occurrences in the row predicts the next token better than
the bigram model alone, by a 95 % interval (over files) that lies below 0, with 200 occurrences or more. *Heads* are
chosen on part 3: induction heads are those of layer 1 with an induction score of 0.1 or more on repeated random tokens
whose resampling raises the loss after whitelisted tokens, by an interval above 0 (if none is both, the two with the
highest score); heads that attend to repeats are those of layer 0 with a duplicate-token score of 0.1 or more, three
at most (if none has, the three with the highest). *Evaluation* is on part 4: prompts of `<bos>` and 127 tokens of one
file that end in a whitelisted token, at most 2,000 drawn at random; the loss is that of the true next token. 100 % is
the model; 0 % is the model with the outputs of the chosen heads resampled. Intervals of parts 3 and 4 are from a
bootstrap over packages (over files, when the protocol was fixed; those of one package resemble each other, and three in
four are of four packages).

Claims: the naive hypothesis recovers 25 to 45 % (the whole interval); with all refinements it recovers 81 % or more
(the low end); each refinement, added last, recovers more than without it (interval above 0). Controls: keys that read
two tokens before instead of one; all refinements on the heads of layer 1 with the lowest induction scores, as many as
were chosen.

Explanations, added after the first model (seed 0) had been scrubbed, in which the naive hypothesis recovered 9 %, all
refinements 47 %, and those without "repeats" 63 %. (a) No head of layer 0 attends to repeats (no score is above 0.1),
so that "repeats" takes away what those heads do tell: without it the other refinements recover more. (b) Heads of layer
0 look not at the token before alone but over many, and what is missing is what keys read: left as they are, keys add
more than queries, and more than values. (c) Then comparing eight consecutive tokens recovers more than three. (d) Added
after (c) had failed in seed 0: keys tell also what token they stand on, the one that would be copied.
"""

import argparse
import dataclasses
import itertools
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from common import Interval, interval, table, weights
from matplotlib.figure import Figure

import jaxinterp as ji
from jaxinterp.cards.induction import head_scores
from jaxinterp.io.corpus import Corpus, package_of, read_corpus, standard_library
from jaxinterp.io.results import write_whole
from jaxinterp.scrubbing.induction import (
    REFINEMENTS,
    InductionRoles,
    induction_claim,
    roles_by_score,
    without_heads,
)
from jaxinterp.tasks.induction import helped_tokens, prompts_ending_in
from jaxinterp.tasks.text import tokenize_documents

#: Tokens in a prompt, with `<bos>`; prompts at most; occurrences that a whitelisted token has at least.
N_POS, PROMPTS, OCCURRENCES = 128, 2000, 200

#: The refinements without "repeats".
WITHOUT = " + ".join(REFINEMENTS[:2])

#: A head of this score or more attends to what the score is about.
SCORE = 0.1


def by_prompt(claim: ji.Hypothesis, params: Any, data: Any, n: int, key: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """(mean loss of each prompt's samples, its loss in the model)."""
    n = max(n, len(data))  # each prompt at least once
    result = ji.scrub(claim, params, data, num_samples=n, key=key).by_datum
    return result.loss.values, result.model_loss.values


def over_packages(values: np.ndarray, package: np.ndarray, seed: int = 0) -> np.ndarray:
    """The mean over prompts, float[1 + draws, ...], of values [prompt, ...], packages drawn with replacement."""
    _, which = np.unique(package, return_inverse=True)
    sums = np.zeros((which.max() + 1, *values.shape[1:]))
    np.add.at(sums, which, values)
    each = weights(len(sums), seed)
    return np.tensordot(each, sums, 1) / (each @ np.bincount(which)).reshape(-1, *[1] * (values.ndim - 1))


def roles_of(
    model: Any, params: Any, data: Any, package: np.ndarray, bos: int, n: int, key: jax.Array
) -> tuple[InductionRoles, Any]:
    """(the heads' roles by the rule above, what they rest on)."""
    scores, _ = head_scores(model, params, bos=bos, n=50)
    costs = {}
    for head in range(model.config.n_heads):
        loss, plain = by_prompt(without_heads(model, params, data, (head,)), params, data, n, key)
        costs[head] = interval(over_packages(loss - plain, package))
    useful = [head for head, cost in costs.items() if cost.low > 0]
    means = {name: each.mean(0).tolist() for name, each in scores.items()}
    return roles_by_score(scores, least=SCORE, among=useful), {"scores": means, "costs": costs}


def scrubbed(
    model: Any,
    params: Any,
    data: Any,
    package: np.ndarray,
    roles: InductionRoles,
    others: tuple[int, ...],
    n: int,
    key: jax.Array,
) -> dict[str, np.ndarray]:
    """What each hypothesis recovers: float[1 + draws] by its name."""
    zero, plain = by_prompt(without_heads(model, params, data, roles.induction), params, data, n, key)
    found = {}

    def recovered(claim: ji.Hypothesis, floor: np.ndarray = zero) -> np.ndarray:
        loss, _ = by_prompt(claim, params, data, n, key)
        sums = over_packages(np.stack([floor - loss, floor - plain], axis=1), package)
        return sums[:, 0] / sums[:, 1]

    for count in range(len(REFINEMENTS) + 1):
        for chosen in itertools.combinations(REFINEMENTS, count):
            name = " + ".join(chosen) or "naive"
            found[name] = recovered(induction_claim(model, params, data, roles, chosen))
    found["control: keys two before"] = recovered(induction_claim(model, params, data, roles, REFINEMENTS, offset=2))
    if others:
        wrong = dataclasses.replace(roles, induction=others)
        floor, _ = by_prompt(without_heads(model, params, data, wrong.induction), params, data, n, key)
        found["control: other heads"] = recovered(induction_claim(model, params, data, wrong, REFINEMENTS), floor)
    for kind in "qkv":
        found[f"{WITHOUT}, {kind} as it is"] = recovered(
            induction_claim(model, params, data, roles, REFINEMENTS[:2], whole=kind)
        )
    found["eight tokens + current position"] = recovered(
        induction_claim(model, params, data, roles, REFINEMENTS[:2], width=8)
    )
    found[f"{WITHOUT}, keys read their own token"] = recovered(
        induction_claim(model, params, data, roles, REFINEMENTS[:2], own_token=True)
    )
    found["added, nats"] = over_packages(zero - plain, package)
    return found


def looked_back(model: Any, params: Any, data: Any, most: int = 16) -> list[list[float]]:
    """The mean attention that each head of layer 0 pays to 0, 1, ... tokens before, where there are so many."""

    @jax.jit
    def run(params: Any, tokens: jax.Array) -> jax.Array:
        _, cache = model.apply(params, tokens, capture=("pattern",))
        query = np.arange(most, tokens.shape[1])
        return cache["pattern"][0][..., query[:, None], query[:, None] - np.arange(most)].mean((0, 2))

    return np.asarray(run(params, data.tokens[:256])).tolist()


def verdicts(found: dict[str, np.ndarray]) -> dict[str, tuple[Interval, str]]:
    """Each claim's quantity, and whether it is held."""
    whole = " + ".join(REFINEMENTS)
    naive, full = interval(found["naive"]), interval(found[whole])
    told = {
        "naive recovers 25 to 45 %": (naive, naive.low >= 0.25 and naive.high <= 0.45),
        "all refinements recover 81 % or more": (full, full.low >= 0.81),
    }
    for name in REFINEMENTS:
        rest = " + ".join(other for other in REFINEMENTS if other != name)
        more = interval(found[whole] - found[rest])
        told[f"{name!r}, added last, recovers more"] = more, more.low > 0
    more = interval(found[WITHOUT] - found[whole])
    told["(a) without 'repeats' more is recovered"] = more, more.low > 0
    for kind in "qv":
        more = interval(found[f"{WITHOUT}, k as it is"] - found[f"{WITHOUT}, {kind} as it is"])
        told[f"(b) keys as they are add more than {kind} as it is"] = more, more.low > 0
    more = interval(found["eight tokens + current position"] - found[WITHOUT])
    told["(c) eight tokens recover more than three"] = more, more.low > 0
    more = interval(found[f"{WITHOUT}, keys read their own token"] - found[WITHOUT])
    told["(d) keys that read their own token recover more"] = more, more.low > 0
    return {claim: (value, "held" if held else "not held") for claim, (value, held) in told.items()}


def figure_of(results: dict[str, dict[str, Interval]]) -> Figure:
    """What each hypothesis recovers, for each model."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    names = [name for name in next(iter(results.values())) if "nats" not in name]
    for number, (model, found) in enumerate(results.items()):
        places = np.arange(len(names)) + 0.8 * (number + 0.5) / len(results) - 0.4
        values = [found[name] for name in names if name in found]
        errors = np.array([[one.value - one.low, one.high - one.value] for one in values]).T
        axes.errorbar(
            [one.value for one in values], places[: len(values)], xerr=errors, fmt="o", capsize=3, label=model
        )
    axes.axvline(0.35, color="0.7", linestyle=":", label="the source: naive, all refinements")
    axes.axvline(0.86, color="0.7", linestyle=":")
    axes.set(yticks=range(len(names)), yticklabels=names, xlabel="recovered of what the induction heads add")
    axes.invert_yaxis()
    axes.set_title("Causal scrubbing of induction heads")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure


def of_model(given: str, name: str, corpus: Corpus, samples: int) -> dict[str, Any]:
    """Everything that is found of one model, printed and as JSON values."""
    key = jax.random.key(0)
    model, params, tokenizer = ji.load(given)
    streams = {
        part: tokenize_documents(tokenizer, corpus.documents(part))
        for part in ("train", "whitelist", "selection", "evaluation")
    }
    tokens = helped_tokens(
        streams["train"], streams["whitelist"], d_vocab=model.config.d_vocab, n_pos=N_POS, occurrences=OCCURRENCES
    )
    selection, data = (
        prompts_ending_in(streams[part], tokens, n=PROMPTS, n_pos=N_POS) for part in ("selection", "evaluation")
    )
    chosen_in, package = (
        np.array([package_of(path) for path in corpus.documents(part)])[prompts.document]
        for part, prompts in (("selection", selection), ("evaluation", data))
    )
    roles, rest = roles_of(model, params, selection, chosen_in, streams["train"].bos, samples // 4, key)
    n_packages = len(set(package))
    print(f"\n{name}: {len(tokens)} tokens, {len(data):,} prompts of {n_packages} packages, {roles}\n")
    rank = np.argsort(rest["scores"]["induction"][1], kind="stable")
    others = tuple(int(head) for head in rank if head not in roles.induction)[: len(roles.induction)]
    found = scrubbed(model, params, data, package, roles, others, samples, key)
    recovered = {label: interval(values) for label, values in found.items()}
    print(table(["hypothesis", "recovered"], [[label, str(value)] for label, value in recovered.items()]))
    held = verdicts(found)
    rows = [[claim, str(value), verdict] for claim, (value, verdict) in held.items()]
    print(table(["claim", "value", "verdict"], rows), flush=True)
    return {
        "tokens": [tokenizer.decode([token]) for token in tokens.tolist()],
        "prompts": len(data), "packages": n_packages,
        "roles": dataclasses.asdict(roles), "roles rest on": rest,
        "layer 0 looks back": looked_back(model, params, data), "recovered": recovered, "claims": held,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["induction"], help="built-in names or folders, one for each seed")
    parser.add_argument("--samples", type=int, default=20_000, help="samples for each hypothesis (default 20000)")
    parser.add_argument("--corpus", type=Path, help="the folder of text that the models were trained on")
    parser.add_argument("--output", type=Path, default=Path("jaxinterp-results"), help="folder for results")
    asked = parser.parse_args()
    corpus: Corpus = standard_library() if asked.corpus is None else read_corpus(asked.corpus)
    made = {"jax": version("jax"), "intervals": "over packages"}
    kept, parts = {}, asked.output / "scrub_induction"
    parts.mkdir(parents=True, exist_ok=True)
    for given in asked.models:
        name = Path(given).name
        part, how = parts / f"{name}.json", made | {"samples": asked.samples, "text": corpus.source}
        done = json.loads(part.read_text()) if part.is_file() else {}
        if done.get("how") != how:  # else this model was done before
            done = {"how": how, **of_model(given, name, corpus, asked.samples)}
            write_whole(part, lambda path, done=done: path.write_text(json.dumps(done, indent=1) + "\n"))
            jax.clear_caches()  # programs of one model are no use to the next, and a process can hold so many
        kept[name] = done
    (asked.output / "scrub_induction.json").write_text(json.dumps({"models": kept}, indent=1) + "\n")
    results = {
        name: {label: Interval(*each) for label, each in done["recovered"].items()} for name, done in kept.items()
    }
    figure_of(results).savefig(asked.output / "scrub_induction.png", dpi=130)
    print(f"\nwrote {asked.output / 'scrub_induction'}.json, .png")


if __name__ == "__main__":
    main()
