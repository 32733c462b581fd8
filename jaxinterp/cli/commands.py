"""What each command does: text goes in, the library is called, files and a table come out."""

import argparse
import dataclasses
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import xarray as xr
from matplotlib import use
from tokenizers import Tokenizer

from jaxinterp import tasks
from jaxinterp.attribution.edges import edge_attribution
from jaxinterp.attribution.localize import localize
from jaxinterp.attribution.patching import attribution_patching
from jaxinterp.cards.card import check_folder
from jaxinterp.cards.make import make_card
from jaxinterp.cli.report import print_effects, print_localization, print_models, print_sites
from jaxinterp.io.checkpoints import can_be_replaced, save
from jaxinterp.io.load import builtin_models, find_folder, load
from jaxinterp.io.prompts import FIELDS, read_pairs
from jaxinterp.io.results import save_effects, write_whole
from jaxinterp.metrics import Metric, log_prob, logit_diff, prob
from jaxinterp.model.config import suggest
from jaxinterp.model.sites import SiteSpec, check_site
from jaxinterp.patching.activation import activation_patching, plan_patching
from jaxinterp.plots import effects_heatmap
from jaxinterp.tasks.pairs import PromptPair
from jaxinterp.tasks.prompts import TokenPairs, tokenize_pairs

TASKS = (
    *("indirect_objects", "agreement", "successions", "interleaved_successions", "facts_about", "greater_than"),
    *("nesting", "arguments", "reflexives"),
    *("natural.indirect_objects", "natural.greater_than", "natural.agreement", "natural.facts"),
)


def list_models(options: argparse.Namespace) -> None:
    """`jaxinterp models`."""
    print_models({name: load(name)[0] for name in builtin_models()})


def list_sites(options: argparse.Namespace) -> None:
    """`jaxinterp sites MODEL`."""
    model, _, _ = load(options.model)
    print_sites(model.sites)


def convert(options: argparse.Namespace) -> None:
    """`jaxinterp convert`."""
    source, destination = find_folder(options.source), Path(options.destination).expanduser()
    if destination.resolve() == source.resolve():
        raise ValueError(f"{destination} is the model itself: give another folder")
    if destination.exists() and not options.overwrite and not can_be_replaced(destination):
        raise ValueError(f"{destination} holds what ji.save did not write: give another folder, or --overwrite")
    with jax.enable_x64(True):  # whatever precision the model has is kept
        model, params, tokenizer = load(source, dtype=options.dtype)
        save(destination, model, params, tokenizer, format=options.to)
    size = sum(weight.nbytes for weight in params.values())
    print(
        f"written: {destination} ({len(params)} weights, {model.config.dtype}, {size / 1e6:,.1f} MB, as {options.to})"
    )


def card(options: argparse.Namespace) -> None:
    """`jaxinterp card`."""
    use("Agg")
    folder = check_folder(options.output or Path("jaxinterp-results") / options.name, options.name)
    made = make_card(options.name, options.model, n=options.n, twin=options.twin, corpus=options.corpus)
    print(made.markdown())
    print("written: " + ", ".join(map(str, made.write(folder))))


def sweep(options: argparse.Namespace) -> None:
    """`jaxinterp sweep`."""
    question = _question(options)
    if options.plan:
        print(plan_patching(*question.runs, **question.asked).describe())
        return
    kept = Path(options.output) / "sweep" if options.resume else None
    effects = activation_patching(*question.runs, **question.asked, normalize=not options.raw, resume=kept)
    _tell(effects, question, options)


def attribute(options: argparse.Namespace) -> None:
    """`jaxinterp attribute`."""
    if options.verify is not None and options.verify < 1:
        raise ValueError(f"--verify must be at least 1, got {options.verify}")
    question = _question(options)
    how: dict[str, Any] = {"method": options.method}
    how |= {name: given for name in ("steps", "rule", "path") if (given := getattr(options, name)) is not None}
    scores = options.method == "atp_star"  # how much, without a direction
    effects = attribution_patching(*question.runs, **(question.asked | how), normalize=not (options.raw or scores))
    assert isinstance(effects, xr.DataArray)
    _tell(effects, question, options)
    if options.verify is None:
        return
    asked = question.asked | how | {"verify": options.verify, "sample": options.verify}
    result = localize(*question.runs, **asked, key=jax.random.key(options.seed))
    table = Path(options.output) / "localized.csv"
    write_whole(table, lambda path: result.nodes.to_dataframe().to_csv(path, index=False))
    print()
    print_localization(result, options.top)
    print(f"\nwritten: {table}")


def edges(options: argparse.Namespace) -> None:
    """`jaxinterp edges`."""
    question = _question(options, nodes=False)
    how: dict[str, Any] = {"method": options.method} | ({} if options.steps is None else {"steps": options.steps})
    found = edge_attribution(*question.runs, **(question.asked | how))
    folder = Path(options.output)
    top = found.top(min(options.top, int(found.scores.notnull().sum())))
    table, drawing = folder / "edges.csv", folder / "edges.dot"
    write_whole(
        table, lambda path: found.scores.to_dataframe().dropna(subset="effect").reset_index().to_csv(path, index=False)
    )
    write_whole(drawing, lambda path: path.write_text(found.dot(len(top)) + "\n"))
    attrs = found.scores.attrs
    print(
        f"{options.direction}: {options.metric} {attrs['base_metric']:+.3f} in the run that is patched, "
        f"{attrs['source_metric']:+.3f} in the other ({attrs['n_prompts']} prompts)\n"
    )
    for edge in top:
        print(f"{edge.writer.item():>8} -> {edge.reader.item():10} {float(edge):+.4f}")
    print(f"\nwritten: {table}, {drawing}")


@dataclasses.dataclass(frozen=True)
class Question:
    """What was typed, as the library takes it.

    Attributes:
      runs: model, params, base and source. asked: what else is the same in every technique.
    """

    runs: tuple[Any, Any, Any, Any]
    asked: dict[str, Any]
    prompts: TokenPairs


def _question(options: argparse.Namespace, *, nodes: bool = True) -> Question:
    if options.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    if options.top < 1:
        raise ValueError(f"--top must be at least 1, got {options.top}")
    model, params, tokenizer = load(options.model, dtype=options.dtype)
    if tokenizer is None:
        raise ValueError(f"{options.model} has no tokenizer.json, so text cannot be turned into tokens")
    over = tuple(options.over or _default_over(check_site(model.sites, options.site))) if nodes else ()
    prompts = _prompts(options, tokenizer, aligned="role" not in over)
    base, source = prompts.corrupted, prompts.clean
    if options.direction == "noising":
        base, source = source, base
    asked = {"metric": _metric(options.metric, prompts), "max_bytes": options.max_bytes}
    asked |= {"site": options.site, "over": over} if nodes else {}
    return Question((model, params, base, source), asked, prompts)


def _tell(effects: xr.DataArray, question: Question, options: argparse.Namespace) -> None:
    """Effects as files, a figure and a table."""
    folder = Path(options.output)
    effects.attrs |= {"model": options.model, "metric": options.metric, "direction": options.direction}
    written = [*save_effects(effects, folder)]
    if effects.ndim:
        title = f"{options.model}: {options.direction}, {options.site}, {len(question.prompts)} prompts"
        figure = effects_heatmap(effects, title=title)
        write_whole(folder / "effects.png", lambda path: figure.savefig(path, dpi=130))
        written.append(folder / "effects.png")
    print_effects(effects, question.prompts, options.top)
    print("\nwritten: " + ", ".join(map(str, written)))


def _default_over(spec: SiteSpec) -> list[str]:
    return [axis for axis in ("layer", "head", "kv_head", "pos", "query", "key") if axis in spec.axes]


def _prompts(options: argparse.Namespace, tokenizer: Tokenizer, *, aligned: bool) -> TokenPairs:
    """The prompts that were asked for: a file's, the command line's, or a generator's.

    Of `aligned` prompts all have one structure, so that a position means the same in all.
    """
    inline = {name: getattr(options, name) or [] for name in FIELDS}
    if options.prompts and any(inline.values()):
        raise ValueError("give --prompts FILE or inline pairs, not both")
    if options.prompts:
        return tokenize_pairs(read_pairs(options.prompts), tokenizer)
    if any(inline.values()):
        counts = {name: len(texts) for name, texts in inline.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(f"each inline pair needs all of --clean --corrupted --correct --wrong; got {counts}")
        pairs = [PromptPair(a, b, c, d, {}) for a, b, c, d in zip(*inline.values(), strict=True)]
        return tokenize_pairs(pairs, tokenizer)
    if options.task not in TASKS:
        raise ValueError(f"unknown task {options.task!r}; {suggest(options.task, TASKS)}")
    if options.n < 1:
        raise ValueError(f"--n must be at least 1, got {options.n}")
    package, _, name = options.task.rpartition(".")
    if package:
        drawn = getattr(tasks.natural, name)(options.n, tokenizer, seed=options.seed, alike=aligned)
        for reason, count in drawn.left_out.items():
            print(f"left out: {count} {reason}", file=sys.stderr)
        return drawn.pairs
    generate = getattr(tasks, name)
    pairs = _alike(generate, options) if aligned else generate(options.n, seed=options.seed, split="held_out")
    return tokenize_pairs(pairs, tokenizer)


def _alike(generate: Any, options: argparse.Namespace) -> list[PromptPair]:
    """Generated prompts of one structure, so that a position means the same in all: the commonest structure's."""
    pool: list[PromptPair] = []
    while len(pool) < 200 * options.n:
        pool = generate(len(pool) + 100 * options.n, seed=options.seed, split="held_out")
        structure, count = Counter(_structure(pair) for pair in pool).most_common(1)[0]
        if count >= options.n:
            break
    alike = [pair for pair in pool if _structure(pair) == structure]
    return alike[: options.n]


def _structure(pair: PromptPair) -> Any:
    return len(pair.clean.split()), tuple(sorted(pair.positions.items()))


def _metric(name: str, prompts: TokenPairs) -> Metric:
    if name == "logit_diff":
        return logit_diff(prompts.correct, prompts.wrong)
    return {"log_prob": log_prob, "prob": prob}[name](prompts.correct)
