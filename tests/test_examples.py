"""The examples in docstrings, run against one small compiled model under the names they assume."""

import doctest
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxinterp as ji


def examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    for info in pkgutil.walk_packages(ji.__path__, "jaxinterp."):
        module = importlib.import_module(info.name)
        yield from (test for test in finder.find(module, info.name) if test.examples)


@pytest.mark.parametrize("example", examples(), ids=lambda test: test.name)
def test_example(example, small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, params, tokens = small
    names = {"ji": ji, "jax": jax, "jnp": jnp, "np": np, "model": model, "params": params, "tokens": tokens}
    example.globs = {**example.globs, **names}
    report = []
    failed = doctest.DocTestRunner(verbose=False).run(example, out=report.append).failed
    assert not failed, "".join(report)
