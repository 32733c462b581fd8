"""The shape of the library: floors, signatures, examples, and what the README promises."""

import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jaxinterp as ji

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "jaxinterp"

#: A file imports only lower floors, or its own folder.
FLOORS = {
    "model": 1, "tasks": 1, "metrics": 2, "patching": 3, "attribution": 4, "scrubbing": 4,
    "io": 6, "plots": 6, "training": 7, "cards": 8, "cli": 9, "__main__": 10,
}  # fmt: skip


def imports(path):
    """The modules of this library that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxinterp"):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                stem = ROOT / whole.replace(".", "/")
                yield whole if stem.is_dir() or stem.with_suffix(".py").exists() else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("jaxinterp"))


def files():
    return [p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py"]


def test_files_import_only_lower_floors():
    for path in files():
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for module in imports(path):
            other = module.split(".")[1]
            assert other == own or FLOORS[other] < FLOORS[own], f"{path.name} ({own}) imports {module}"


def test_no_circles():
    graph = {}
    for path in files():
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        graph[name] = {m for m in imports(path) if m != name}
    done, active = set(), []

    def visit(name):
        assert name not in active, f"a circle: {' -> '.join([*active[active.index(name) :], name])}"
        if name in done or name not in graph:
            return
        active.append(name)
        for other in sorted(graph[name]):
            visit(other)
        done.add(active.pop())

    for name in graph:
        visit(name)


def test_low_floors_touch_no_files_and_nothing_imports_the_models():
    forbidden = {"pathlib", "os", "shutil", "matplotlib", "huggingface_hub", "urllib", "requests", "pickle"}
    for path in files():
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                top = name.split(".")[0]
                assert top not in ("models", "experiments", "pickle"), f"{path} imports {name}"
                # sweeps that outlive their process, and know themselves again
                keeps = path.parent.name == "patching" and path.name in ("endurance.py", "fingerprints.py")
                assert FLOORS[own] > 5 or keeps or top not in forbidden, f"{path} imports {name}"


def public():
    return {name: getattr(ji, name) for name in ji.__all__ if callable(getattr(ji, name))}


@pytest.mark.parametrize("name", sorted(public()))
def test_every_public_name_is_documented_with_an_example(name):
    doc = inspect.getdoc(public()[name]) or ""
    made_by = re.search(r"[Mm]ade by `", doc)  # what users never construct says what does
    assert len(doc.splitlines()) > 1 or made_by, f"{name} has no docstring to speak of"
    assert ">>>" in doc or made_by, f"{name} has no runnable example"


def test_techniques_take_their_arguments_in_one_order():
    for function in (ji.activation_patching, ji.path_patching, ji.ablation, ji.evaluate, ji.causal_tracing):
        parameters = list(inspect.signature(function).parameters.values())
        names = [p.name for p in parameters]
        assert names[:3] == ["model", "params", "base"]
        assert all(
            p.kind is p.KEYWORD_ONLY
            for p in parameters
            if p.name not in ("model", "params", "base", "source", "interventions")
        )
        assert {"mask", "base_interventions", "metric", "per_example"} <= set(names)
        if function is not ji.evaluate:  # one run needs no chunks, no bar, and no source
            assert {"source_interventions", "mesh", "max_bytes", "progress", "resume"} <= set(names)
    for function in (
        ji.attribution_patching,
        ji.attribution_to_logits,
        ji.localize,
        ji.edge_attribution,
        ji.edge_effects,
    ):
        names = list(inspect.signature(function).parameters)
        assert names[:4] == ["model", "params", "base", "source"]
        assert {"mask", "base_interventions", "source_interventions", "mesh", "max_bytes", "progress"} <= set(names)


def test_importing_has_no_side_effects():
    """No device is touched, no plotting library comes along, nothing is printed."""
    code = (
        "import sys, jaxinterp, jax._src.xla_bridge as bridge; "
        "assert not bridge.backends_are_initialized(); assert 'matplotlib.pyplot' not in sys.modules"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_the_readme_examples_run_one_after_the_other(capsys, tmp_path, monkeypatch):
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks:
        assert len(block.splitlines()) <= 25
        exec(compile(block, "README.md", "exec"), names)
        assert capsys.readouterr().out


def test_the_readme_names_what_exists():
    text = (ROOT / "README.md").read_text()
    for name in set(re.findall(r"\bji\.(\w+)", text)):
        assert hasattr(ji, name), f"README speaks of ji.{name}"
    for path in re.findall(r"`((?:jaxinterp|models|experiments|tests)/[\w./-]*)`", text):
        assert (ROOT / path).exists(), f"README speaks of {path}"
    for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
        assert (ROOT / path).exists(), f"README shows {path}"
