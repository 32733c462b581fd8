"""Sweeps that are killed, stopped, starved of disk or of memory, and go on with the same result bit for bit."""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxinterp as ji
from jaxinterp.patching import endurance, engine

ROOT = Path(__file__).parents[2]

#: A sweep of many small chunks that tells when it has begun; run with a folder to keep, and one for the result.
SWEEP = """
import sys, time, numpy as np, jax, jaxinterp as ji
from jaxinterp.patching import endurance, engine
endurance.SAVING_PAUSE, endurance.SAVING_SHARE = 0.05, 1.0
config = ji.TransformerConfig(n_layers=3, d_model=16, n_heads=2, d_vocab=30, n_ctx=8)
model = ji.Transformer(config)
params = model.init(jax.random.key(0))
base = jax.random.randint(jax.random.key(1), (3, 6), 0, 30)
source = (base + 1) % 30
add = engine.Tally.add
def slowly(self, *args):
    add(self, *args)
    print("chunk", flush=True)
    time.sleep(0.02)
engine.Tally.add = slowly
effects = ji.activation_patching(model, params, base, source, site="mlp_post", over=("layer", "neuron", "pos"),
    metric=ji.logit_diff([1, 2, 3], [4, 5, 6]), max_bytes=60_000, resume=sys.argv[1], progress=False)
np.save(sys.argv[2], np.stack([effects.values, effects.coords["standard_error"].values]))
"""


def start(folder, out):
    return subprocess.Popen(
        [sys.executable, "-c", SWEEP, str(folder), str(out)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(folder, out):
    with start(folder, out) as process:
        printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return np.load(out), printed.count("chunk")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """(the result, how many chunks there are) of a sweep that nobody stops."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return finish(folder / "whole", folder / "whole.npy")


def kill_and_resume(tmp_path, undisturbed, kills, number):
    whole, chunks = undisturbed
    rng, done = random.Random(number), 0
    for _ in range(kills):
        with start(tmp_path / "killed", tmp_path / "killed.npy") as process:
            for _ in range(rng.randrange(1, chunks)):  # a number of chunks, and some part of one, or of a save
                if not process.stdout.readline():
                    break
            time.sleep(rng.random() * 0.15)
            process.send_signal(signal.SIGKILL)
        done += 1
        if (tmp_path / "killed.npy").exists():  # it was through: begin a new one
            assert (np.load(tmp_path / "killed.npy") == whole).all()
            (tmp_path / "killed.npy").unlink()
            subprocess.run(["rm", "-rf", tmp_path / "killed"], check=True)
    resumed, more = finish(tmp_path / "killed", tmp_path / "killed.npy")
    assert np.array_equal(resumed, whole)
    return done, more, chunks


def test_a_killed_sweep_goes_on_with_the_same_result(tmp_path, undisturbed):
    done, _, chunks = kill_and_resume(tmp_path, undisturbed, kills=2, number=0)
    assert done == 2
    assert chunks > 20


@pytest.mark.slow
def test_twenty_kills_at_random_moments(tmp_path, undisturbed):
    assert kill_and_resume(tmp_path, undisturbed, kills=20, number=1)[0] == 20


@pytest.mark.slow
def test_sigterm_finishes_the_chunk_in_flight_and_saves(tmp_path, undisturbed):
    with start(tmp_path / "folder", tmp_path / "out.npy") as process:
        for _ in range(15):
            assert process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        before = 15 + process.stdout.read().count("chunk")
    assert process.returncode == -signal.SIGTERM
    whole, chunks = undisturbed
    resumed, more = finish(tmp_path / "folder", tmp_path / "out.npy")
    assert np.array_equal(resumed, whole)
    assert before + more == chunks, "a chunk that was finished ran again"


def always_save(monkeypatch):
    monkeypatch.setattr(endurance, "SAVING_PAUSE", 0.0)
    monkeypatch.setattr(endurance, "SAVING_SHARE", 1e9)


@pytest.fixture
def ask(small, tmp_path):
    model, params, tokens = small
    source = tokens.at[:, 2:].set((tokens[:, 2:] + 1) % 50)

    def ask(resume=tmp_path / "folder", params=params, base=tokens, metric=None, **others):
        return ji.activation_patching(
            model, params, base, source, metric=metric or ji.logit_diff([3, 5, 7], [4, 6, 8]),
            **({"site": "z", "max_bytes": 60_000, "resume": resume} | others),
        )  # fmt: skip

    return ask


def test_another_sweep_in_the_folder_is_refused(ask, small, monkeypatch):
    _, params, tokens = small
    ask()
    np.testing.assert_array_equal(ask(max_bytes=None), ask(resume=None))  # how it is cut up is no part of the question
    for others, what in (
        ({"params": jax.tree.map(lambda x: x * 1.01, params)}, "model"),
        ({"base": tokens.at[0, 4].set(1)}, "prompts"),
        ({"metric": ji.logit_diff([3, 5, 7], [4, 6, 9])}, "metric"),
        ({"metric": ji.log_prob([3, 5, 7])}, "metric"),
        ({"site": "q"}, "sweep"),
        ({"over": ("layer", "head")}, "sweep"),
        ({"per_example": True}, "sweep"),
    ):
        with pytest.raises(ValueError, match=f"holds a sweep of another {what}"):
            ask(**others)
    monkeypatch.setattr(engine, "fingerprint_of_code", lambda: "other code")
    with pytest.raises(ValueError, match="version of the code"):
        ask()
    with pytest.raises(TypeError, match="resume must be a folder, got int"):
        ask(resume=3)
    with pytest.raises(ValueError, match="resume must be a folder, got the empty string"):
        ask(resume="")


@pytest.mark.slow
def test_every_technique_goes_on_where_it_stopped(small, tmp_path, monkeypatch):
    model, params, tokens = small
    source = tokens.at[:, 2:].set((tokens[:, 2:] + 1) % 50)
    metric, key = ji.logit_diff([3, 5, 7], [4, 6, 8]), jax.random.key(0)
    many = ji.Prompts((np.tile(tokens, (4, 1)) + np.arange(12)[:, None] % 3) % 50)
    answers = ji.logit_diff(np.arange(12), 20 + np.arange(12))
    asks = {
        "streamed": lambda **kept: ji.activation_patching(
            model, params, many, ji.Prompts(many.tokens[::-1]), site="z", metric=answers, max_bytes=200_000, **kept
        ),
        "every prompt's": lambda **kept: ji.activation_patching(
            model, params, many, ji.Prompts(many.tokens[::-1]), site="resid_pre", over=("layer", "pos"),
            metric=answers, max_bytes=200_000, per_example=True, **kept,
        ),
        "ablation": lambda **kept: ji.ablation(
            model, params, tokens, site="z", over=("layer", "head"), kind="resample", key=key, num_samples=3,
            metric=metric, max_bytes=40_000, **kept,
        ),
        "tracing": lambda **kept: ji.causal_tracing(
            model, params, tokens, subject=1, key=key, num_samples=2, max_bytes=40_000, **kept
        ),
        "paths": lambda **kept: ji.path_patching(
            model, params, tokens, source, senders={"z": ji.at(layer=0)}, receivers={"q_input": ji.at(layer=1)},
            over=("sender_head", "receiver_head"), metric=metric, max_bytes=40_000, **kept,
        ),
    }  # fmt: skip
    always_save(monkeypatch)
    for name, ask in asks.items():
        whole, folder = ask(), tmp_path / name
        add, left = engine.Tally.add, [3]

        def stop(self, *args, add=add, left=left):
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
            add(self, *args)

        monkeypatch.setattr(engine.Tally, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            ask(resume=folder)
        monkeypatch.setattr(engine.Tally, "add", add)
        resumed = ask(resume=folder)
        assert resumed.identical(whole), name
        assert ask(resume=folder).identical(whole), f"{name}, once more"


def test_a_full_disk_leaves_the_last_state_and_one_clear_error(ask, tmp_path, monkeypatch):
    whole = ask(resume=None)
    always_save(monkeypatch)
    write, left = endurance.Store.write, [4]

    def on_a_full_disk(self, *args):
        left[0] -= 1
        if left[0]:
            return write(self, *args)
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))  # around this call alone
        try:
            return write(self, *args)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
            signal.signal(signal.SIGXFSZ, before)

    monkeypatch.setattr(endurance.Store, "write", on_a_full_disk)
    with pytest.raises(OSError, match=r"cannot write to resume='.*folder', what it held is kept: "):
        ask()
    monkeypatch.setattr(endurance.Store, "write", write)
    assert ask().identical(whole)


def test_a_folder_that_cannot_be_made_is_told(ask, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot open resume="):
        ask(resume=tmp_path / "file" / "folder")


def test_out_of_memory_halves_the_chunk_and_says_so(ask, monkeypatch):
    whole = ask(resume=None, max_bytes=None)
    run, sizes = engine._branched_metric, []

    def starved(model, params, of, values, cells, *args, **kwargs):
        sizes.append(jax.tree.leaves(cells)[0].shape[0])
        if sizes[-1] > 3:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")
        return run(model, params, of, values, cells, *args, **kwargs)

    monkeypatch.setattr(engine, "_branched_metric", starved)
    with pytest.warns(UserWarning, match=r"out of memory: chunks of \d+ cells become \d+"):
        halved = ask(resume=None, max_bytes=None)
    np.testing.assert_allclose(halved, whole, atol=1e-5)
    assert max(sizes) > 3 >= sizes[-1]

    monkeypatch.setattr(
        engine, "_branched_metric", lambda *args, **kwargs: (_ for _ in ()).throw(jax.errors.JaxRuntimeError("other"))
    )
    with pytest.raises(jax.errors.JaxRuntimeError, match="other"):
        ask(resume=None)
