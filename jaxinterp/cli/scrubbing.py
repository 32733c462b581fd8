"""`jaxinterp scrub`: a built-in claim or a user's own, a table, a drawing and what was found as JSON."""

import argparse
import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import jax
from matplotlib import use

from jaxinterp.cards.induction import head_scores
from jaxinterp.io.corpus import read_corpus, standard_library
from jaxinterp.io.load import load
from jaxinterp.io.results import write_whole
from jaxinterp.plots import hypothesis_figure
from jaxinterp.scrubbing.brackets import Roles, bracket_claims
from jaxinterp.scrubbing.hypothesis import Hypothesis
from jaxinterp.scrubbing.induction import (
    InductionRoles,
    induction_claim,
    roles_by_score,
    without_heads,
)
from jaxinterp.scrubbing.result import WIDTH, recovered_above
from jaxinterp.scrubbing.runner import scrub as run
from jaxinterp.tasks.brackets import brackets
from jaxinterp.tasks.induction import helped_tokens, prompts_ending_in
from jaxinterp.tasks.text import tokenize_documents

#: Classes, and features, that are printed at most.
SHOWN = 20

#: Options that only some claims have.
OF = dict.fromkeys(("claim", "through", "count", "horizon", "proportion"), ("brackets",)) | {
    **dict.fromkeys(("refine", "heads", "repeats", "model", "corpus"), ("induction",)), "n": ("brackets", "induction"),
}  # fmt: skip


def scrub(options: argparse.Namespace) -> None:
    """`jaxinterp scrub`."""
    use("Agg")
    for name, whose in OF.items():
        if getattr(options, name) not in (None, []) and options.what not in whose:
            raise ValueError(f"--{name} is of {' and '.join(whose)} alone, and says nothing about {options.what!r}")
    floor = None
    if options.what == "brackets":
        hypothesis, params, dataset = _brackets(options)
    elif options.what == "induction":
        hypothesis, params, dataset, floor = _induction(options)
    else:
        hypothesis, params, dataset = _from_file(options.what)
    print(_shortened(hypothesis.describe()), end="\n\n")
    key = jax.random.key(options.seed)
    result = run(hypothesis, params, dataset, num_samples=options.samples, key=key)
    print(result)
    added = None
    if floor is not None:
        zero = run(floor, params, dataset, num_samples=options.samples, key=key)
        added = dict(zip(("recovered", "error"), recovered_above(result, zero), strict=True))
        low, high = (added["recovered"] + side * WIDTH * added["error"] for side in (-1, 1))
        gain = zero.loss - result.model_loss
        print(f"of the heads   {added['recovered']:8.1%}  ({low:.1%} to {high:.1%}) of the {gain:.4f} nats they add")
    classes = result.by_class
    if len(classes["class"]) < result.n_references:  # else each datum is a class of its own
        print(f"\n{'class':30} {'samples':>10} {'loss':>9} {'accuracy':>9}")
        for i, name in enumerate(classes["class"].values[:SHOWN]):
            count, loss, accuracy = (classes[column].values[i] for column in ("count", "loss", "accuracy"))
            print(f"{name!s:30.30} {count:10,.0f} {loss:9.4f} {accuracy:9.2%}")
        if (more := len(classes["class"]) - SHOWN) > 0:
            print(f"... and {more:,} more classes")
    print(f"\n{'feature':30} {'classes':>8} {'smallest':>9} {'alone':>6} {'itself':>7} {'entropy':>8}")
    weak = result.features
    for i, name in enumerate(weak.feature.values[:SHOWN]):
        each = weak.isel(feature=i)
        print(
            f"{name!s:30.30} {each.classes.item():8,} {each.smallest.item():9,} {each.singletons.item():6,} "
            f"{each['self'].item():7.2%} {each.entropy.item():8.3f}"
        )
    if (more := len(weak.feature) - SHOWN) > 0:
        print(f"... and {more:,} more features")
    folder = Path(options.output)
    told = {
        name: getattr(result, name)
        for name in ("recovered", "recovered_error", "loss", "loss_error", "accuracy", "accuracy_error", "model_loss",
                     "random_loss", "clipped_loss", "clipped_error", "non_finite", "n_samples", "n_references")
    }  # fmt: skip
    table, drawing = folder / "scrub.json", folder / "scrub.png"
    if added is not None:
        told["of the heads"] = added
    write_whole(table, lambda path: path.write_text(json.dumps({"hypothesis": hypothesis.describe()} | told, indent=1)))
    share = f"{result.recovered:.1%}" if added is None else f"{added['recovered']:.1%} of what the heads add"
    figure = hypothesis_figure(hypothesis, title=f"recovered {share}")
    write_whole(drawing, lambda path: figure.savefig(path, dpi=130, format="png"))
    print(f"\nwritten: {table}, {drawing}")


def _brackets(options: argparse.Namespace) -> tuple[Hypothesis, Any, Any]:
    """(hypothesis, params, dataset) of a claim about brackets."""
    model, params, _ = load("brackets")
    dataset = brackets(options.n or 10_000, seed=7, split="held_out")
    usual = Roles()
    roles = Roles(
        tuple(map(_head, options.count)) or usual.count,
        _head(options.horizon) if options.horizon else usual.horizon,
        _head(options.proportion) if options.proportion else usual.proportion,
    )
    through = tuple(options.through)
    return bracket_claims(model, params, dataset, options.claim or "1", roles=roles, through=through), params, dataset


def _induction(options: argparse.Namespace) -> tuple[Hypothesis, Any, Any, Hypothesis]:
    """(hypothesis, params, dataset, what 0 % is) of a claim about induction heads."""
    model, params, tokenizer = load(options.model or "induction")
    if tokenizer is None:
        raise ValueError(f"{options.model} has no tokenizer.json")
    for name, layer in (("heads", 1), ("repeats", 0)):
        if wrong := [head for head in getattr(options, name) if _head(head)[0] != layer]:
            raise ValueError(f"--{name}: expected heads of layer {layer}, got {wrong[0]!r}")
    corpus = read_corpus(options.corpus) if options.corpus else standard_library()
    train, listed, evaluation = (
        tokenize_documents(tokenizer, corpus.documents(part)) for part in ("train", "whitelist", "evaluation")
    )
    n_pos = min(128, model.config.n_ctx)
    helped = helped_tokens(train, listed, d_vocab=model.config.d_vocab, n_pos=n_pos)
    if not len(helped):
        raise ValueError(f"{corpus.source}: induction helps with no token that the whitelist part has 200 times")
    dataset = prompts_ending_in(evaluation, helped, n=options.n or 2000, n_pos=n_pos)
    scores, _ = head_scores(model, params, bos=train.bos, n=min(50, (model.config.n_ctx - 1) // 2))
    usual = roles_by_score(scores)
    roles = InductionRoles(
        tuple(_head(head)[1] for head in options.heads) or usual.induction,
        tuple(_head(head)[1] for head in options.repeats) or usual.repeats,
    )
    names = [f"a1.h{head}" for head in roles.induction], [f"a0.h{head}" for head in roles.repeats]
    print(
        f"{len(dataset):,} prompts of {corpus.source}, each up to one of {len(helped)} tokens that induction helps with"
    )
    print(f"induction heads: {' '.join(names[0])}; heads that attend to repeats: {' '.join(names[1])}\n")
    claim = induction_claim(model, params, dataset, roles, tuple(options.refine))
    return claim, params, dataset, without_heads(model, params, dataset, roles.induction)


def _head(text: str) -> tuple[int, int]:
    """A head's (layer, number)."""
    found = re.fullmatch(r"a?(\d+)\.h?(\d+)", text)
    if not found:
        raise ValueError(f"expected a head such as a1.h0, got {text!r}")
    return int(found[1]), int(found[2])


def _from_file(where: str) -> tuple[Hypothesis, Any, Any]:
    """(hypothesis, params, dataset) of a user's Python file, given as FILE.py:NAME."""
    file, _, name = where.rpartition(":")
    if not file.endswith(".py") or not name:
        raise ValueError(f"expected brackets, induction or FILE.py:NAME, got {where!r}")
    if not Path(file).is_file():
        raise FileNotFoundError(f"no such file: {file}")
    spec = importlib.util.spec_from_file_location(f"scrubbed_{Path(file).stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # as of a script: what lies beside it can be imported, and its classes find their module
    sys.modules[spec.name] = module
    sys.path.insert(0, str(Path(file).resolve().parent))
    spec.loader.exec_module(module)
    if not hasattr(module, name):
        raise ValueError(f"{file} has no {name!r}")
    found = getattr(module, name)
    found = found() if callable(found) else found
    if not isinstance(found, tuple) or len(found) != 3 or not isinstance(found[0], Hypothesis):
        raise TypeError(f"{where} must be (hypothesis, params, dataset), or a function that returns them")
    return found


def _shortened(text: str, most: int = 30) -> str:
    lines = text.splitlines()
    return (
        text
        if len(lines) <= most
        else "\n".join([*lines[: most - 5], f"  ... {len(lines) - most} more ...", *lines[-5:]])
    )
