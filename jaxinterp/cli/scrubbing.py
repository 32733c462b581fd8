"""`jaxinterp scrub`: a built-in claim or a user's own, a table, a drawing and what was found as JSON."""

import argparse
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import jax
from matplotlib import use

from jaxinterp.io.load import load
from jaxinterp.io.results import write_whole
from jaxinterp.plots import hypothesis_figure
from jaxinterp.scrubbing.brackets import Roles, bracket_claims
from jaxinterp.scrubbing.hypothesis import Hypothesis
from jaxinterp.scrubbing.runner import scrub as run
from jaxinterp.tasks.brackets import brackets


def scrub(options: argparse.Namespace) -> None:
    """`jaxinterp scrub`."""
    use("Agg")
    if options.what == "brackets":
        model, params, _ = load("brackets")
        dataset = brackets(options.n, seed=7, split="held_out")
        usual = Roles()
        roles = Roles(
            tuple(map(_head, options.count)) or usual.count,
            _head(options.horizon) if options.horizon else usual.horizon,
            _head(options.proportion) if options.proportion else usual.proportion,
        )
        through = tuple(options.through)
        hypothesis = bracket_claims(model, params, dataset, options.claim, roles=roles, through=through)
    else:
        hypothesis, params, dataset = _from_file(options.what)
    print(_shortened(hypothesis.describe()), end="\n\n")
    result = run(hypothesis, params, dataset, num_samples=options.samples, key=jax.random.key(options.seed))
    print(result)
    print(f"\n{'class':30} {'samples':>10} {'loss':>9} {'accuracy':>9}")
    for name, each in list(result.by_class.groupby("class"))[:20]:
        print(f"{name!s:30.30} {each['count'].item():10,.0f} {each.loss.item():9.4f} {each.accuracy.item():9.2%}")
    print(f"\n{'feature':30} {'classes':>8} {'smallest':>9} {'alone':>6} {'itself':>7} {'entropy':>8}")
    for name, each in list(result.features.groupby("feature"))[:20]:
        print(
            f"{name!s:30.30} {each.classes.item():8,} {each.smallest.item():9,} {each.singletons.item():6,} "
            f"{each['self'].item():7.2%} {each.entropy.item():8.3f}"
        )
    folder = Path(options.output)
    told = {
        name: getattr(result, name)
        for name in ("recovered", "recovered_error", "loss", "loss_error", "accuracy", "accuracy_error", "model_loss",
                     "random_loss", "clipped_loss", "clipped_error", "non_finite", "n_samples", "n_references")
    }  # fmt: skip
    table, drawing = folder / "scrub.json", folder / "scrub.png"
    write_whole(table, lambda path: path.write_text(json.dumps({"hypothesis": hypothesis.describe()} | told, indent=1)))
    figure = hypothesis_figure(hypothesis, title=f"recovered {result.recovered:.1%}")
    write_whole(drawing, lambda path: figure.savefig(path, dpi=130, format="png"))
    print(f"\nwritten: {table}, {drawing}")


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
        raise ValueError(f"expected brackets or FILE.py:NAME, got {where!r}")
    if not Path(file).is_file():
        raise FileNotFoundError(f"no such file: {file}")
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
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
