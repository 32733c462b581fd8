import functools
import os
import subprocess
import sys
import threading
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxinterp as ji
from jaxinterp.patching.fingerprints import fingerprint, fingerprint_of_metric

WEIGHT = 1.0
SETTINGS = types.ModuleType("settings_of_the_user")
SETTINGS.by = 1.0


class Scaled:
    """A metric with a state."""

    def __init__(self, k):
        self.k = k

    def __call__(self, logits, cache):
        return self.k * logits[:, 0, 3]

    def method(self, logits, cache):
        return self.k + logits[:, 0, 3]


def weighted(logits, cache):
    return WEIGHT * logits[:, 0, 3]


def set_by_module(logits, cache):
    return SETTINGS.by * logits[:, 0, 3]


def adding(n):
    return lambda x: x + n


def scaled(x, by=2):
    return x * by


def scaled_more(x, by=3):
    return x * by


scaled_more.__qualname__ = scaled.__qualname__


def self_calling(depth):
    def again(x, n=depth):
        return x if n == 0 else again(x, n - 1)

    return again


def test_whatever_gives_another_result_has_another_hash():
    one, other = Scaled(1.0), Scaled(2.0)
    values = [
        *(adding(1), adding(2), scaled, scaled_more, lambda x: x - 1, lambda x: x - 2),
        *(one, other, one.method, other.method, Scaled, self_calling(1), self_calling(2)),
        *(jax.jit(adding(1)), jax.jit(adding(2)), functools.partial(scaled, by=5), functools.partial(scaled, by=6)),
        *(jnp.exp, jnp.sin, np.exp, len, jax.nn.relu, jax.nn.gelu),
        *(1, 1.0, True, "1", None, (1,), [1], {1}, {1: 2}, {2: 1}, np.ones(1), np.ones(1, np.float32), np.ones((1, 1))),
        *(jax.random.key(0), jax.random.key(1), np.array([1, "a"], object), np.array([1, "b"], object)),
        *(ji.zero(), ji.zero(ji.at(head=1)), ji.zero(ji.at(head=2)), ji.apply_fn(adding(1)), ji.apply_fn(adding(2))),
        *(ji.at(pos=slice(0, 2)), ji.at(pos=slice(0, 3)), ji.per_example([1, 2]), ji.per_example([1, 3])),
    ]
    told = [fingerprint(value) for value in values]
    assert len(set(told)) == len(told)
    assert told == [fingerprint(value) for value in values]
    assert fingerprint(adding(1)) == told[0]
    assert fingerprint(Scaled(1.0)) == fingerprint(one)


def test_global_variables_that_a_function_reads_count(monkeypatch):
    plain, by_module = (ji.Metric(fn, positions=-1) for fn in (weighted, set_by_module))
    before = fingerprint_of_metric(plain), fingerprint_of_metric(by_module)
    monkeypatch.setitem(globals(), "WEIGHT", 2.0)
    monkeypatch.setattr(SETTINGS, "by", 2.0)
    assert fingerprint_of_metric(plain) != before[0]
    assert fingerprint_of_metric(by_module) != before[1]


SCRIPT = """
import jax, jax.numpy as jnp, numpy as np, functools
import jaxinterp as ji
from jaxinterp.patching.fingerprints import fingerprint, fingerprint_of_metric

class State:
    def __init__(self):
        self.names = {"a", "b", "c", "d"}

def helper(x):
    return x

def metric(logits, cache, state=State(), fn=helper):
    words = [w for w in ("a", "q") if w in {"a", "b", "c", "d"}]
    def inner(n):
        return n if not n else inner(n - 1)
    return fn(logits[:, 0, 3]) * len(words) + inner(2)

state = State()
def enclosing():
    return lambda logits, cache: logits[:, 0, len(state.names)]

model = ji.Transformer(ji.TransformerConfig(1, 8, 2, 11, 8))
for one in (metric, enclosing(), jax.jit(metric), functools.partial(metric, fn=jnp.exp), model, ji.logit_diff(1, 2).fn):
    print(fingerprint(one))
print(fingerprint_of_metric(ji.log_prob(np.array([1, 2]))))
"""


def test_the_same_source_has_the_same_hash_in_every_process(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    root = str(Path(ji.__file__).parents[1])
    told = []
    for seed in ("1", "2"):
        env = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": root, "JAX_PLATFORMS": "cpu"}
        done = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True, check=True)
        told.append(done.stdout.split())
    assert told[0] == told[1]
    assert len(set(told[0])) == len(told[0]) == 7


@pytest.mark.parametrize(
    "unknown", [threading.Lock(), np.random.default_rng(0), object()], ids=lambda x: type(x).__name__
)
def test_what_only_this_process_knows_is_refused(unknown, small, tmp_path):
    model, params, tokens = small

    def metric(logits, cache):
        return logits[:, 0, 3] * bool(unknown)

    with pytest.raises(ValueError, match="cannot be told by its content"):
        fingerprint(metric)
    ask = functools.partial(
        ji.activation_patching, model, params, tokens, tokens[::-1], site="z", over=("layer",),
        metric=ji.Metric(metric, positions=-1),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"leave it out of what the sweep is given, or run without resume="):
        ask(resume=tmp_path)
    assert ask().shape == (model.config.n_layers,)


def test_another_state_of_a_metric_is_another_sweep(small, tmp_path):
    model, params, tokens = small

    def ask(k):
        metric = ji.Metric(Scaled(k), positions=-1)
        source = tokens[::-1]
        return ji.activation_patching(
            model, params, tokens, source, site="z", over=("layer",), metric=metric, resume=tmp_path
        )

    first = ask(1.0)
    with pytest.raises(ValueError, match="holds a sweep of another metric"):
        ask(100.0)
    assert ask(1.0).identical(first)
