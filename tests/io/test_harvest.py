"""Harvests: what lies on disk is what the forward makes, whatever happened in between."""

import dataclasses
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import architectures
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxinterp as ji
from jaxinterp.io.harvesting import harvest as harvesting
from jaxinterp.io.harvesting.shards import ShardWriter

ROOT = Path(__file__).parents[2]

#: Prompts of a dataset.
N = 11


def few(bytes_of_prompt):
    """So little memory, and so small shards, that two prompts make a batch and five do not fit a shard."""
    return {"max_bytes": 45_000, "shard_bytes": 5 * bytes_of_prompt}


@pytest.fixture(scope="module")
def padded(small):
    """(model, params, prompts): eleven prompts of up to six tokens, padded on the right."""
    model, params, _ = small
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 7, N)
    lengths[0] = 6
    return model, params, ji.Prompts(rng.integers(0, 50, (N, 6)), np.arange(6) < lengths[:, None])


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def index_of(folder):
    return json.loads((folder / "harvest.json").read_text())


def cache_of(model, params, prompts, capture, size=None, edits=None):
    """What `apply` captures of each batch of so many prompts, the last one filled up: bit for bit what is harvested."""
    run = jax.jit(lambda p, t, m: model.apply(p, t, edits, capture=capture, mask=m)[1])
    n = len(prompts)
    parts = []
    for first in range(0, n, size or n):
        rows = np.minimum(np.arange(first, first + (size or n)), n - 1)
        parts.append(run(params, prompts.tokens[rows], None if prompts.mask is None else prompts.mask[rows]))
    dims = {site: model.sites[site].axes.index("batch") for site in parts[0]}
    return {
        site: np.concatenate([part[site] for part in parts], axis=dim).take(np.arange(n), axis=dim)
        for site, dim in dims.items()
    }


def test_prompts_that_fit_one_batch_are_what_apply_captures_bit_for_bit(padded, tmp_path):
    model, params, prompts = padded
    sites = ("resid_post", "z", "pattern", "ln1.scale", "resid_final", "logits")
    harvest = ji.harvest(model, params, prompts, sites, tmp_path / "folder")
    assert index_of(tmp_path / "folder")["batch"] == N
    for site, expected in cache_of(model, params, prompts, sites).items():
        assert harvest.arrays[site].axes == model.sites[site].axes
        np.testing.assert_array_equal(np.asarray(harvest.arrays[site]), expected)
        np.testing.assert_array_equal(next(harvest.arrays[site].shards()), expected)
    np.testing.assert_array_equal(np.asarray(harvest.coordinates["token"]), prompts.tokens)
    np.testing.assert_array_equal(np.asarray(harvest.coordinates["mask"]), prompts.mask)
    assert (harvest.complete, len(harvest), dict(harvest.gradients)) == (True, N, {})
    stored = np.load(tmp_path / "folder" / "shard-00000" / "arrays" / "z.npy", mmap_mode="r")
    np.testing.assert_array_equal(stored, np.asarray(harvest.arrays["z"]))


@pytest.mark.parametrize("dtype", [None, "float16", "bfloat16"])
def test_rows_of_tokens_over_many_shards(padded, tmp_path, dtype):
    """Padding, and each prompt's first token, are left out; numbers are narrowed as numpy does it."""
    model, params, prompts = padded
    sites = {"resid_mid": ji.at(layer=1, pos=slice(1, None)), "z": ji.at(head=[2, 0], pos=slice(1, None))}
    edits, sizes = {"mlp_out": ji.zero(ji.at(layer=0, pos=-1))}, few(1280 if dtype is None else 640)
    how = {"flatten": True, "dtype": dtype, "interventions": edits} | sizes
    folder = tmp_path / "folder"
    harvest = ji.harvest(model, params, prompts, sites, folder, **how)
    index = index_of(folder)
    assert (index["batch"], index["shard_prompts"], len(index["shards"])) == (2, 4, 3)
    for shard in folder.glob("shard-*/arrays"):
        assert sum(np.load(path).nbytes for path in shard.iterdir()) <= sizes["shard_bytes"]
    cache = cache_of(model, params, prompts, sites, index["batch"], edits)
    real = prompts.mask[:, 1:]
    expected = {"resid_mid": cache["resid_mid"][0][real], "z": cache["z"][:, real]}
    for site, values in expected.items():
        found = np.asarray(harvest.arrays[site])
        assert found.dtype == np.dtype(getattr(ml_dtypes, dtype) if dtype == "bfloat16" else dtype or "float32")
        np.testing.assert_array_equal(found, values.astype(found.dtype))
    assert harvest.arrays["z"].axes == ("layer", "row", "head", "d_head")
    assert (harvest.arrays["resid_mid"].axes, dict(harvest.arrays["resid_mid"].kept)) == (
        ("row", "d_model"),
        {"layer": 1},
    )
    assert dict(harvest.arrays["z"].kept) == {"head": [2, 0]}
    prompt, pos = np.nonzero(real)
    for name, values in {"prompt": prompt, "pos": pos + 1, "token": prompts.tokens[prompt, pos + 1]}.items():
        np.testing.assert_array_equal(np.asarray(harvest.coordinates[name]), values)
    assert contents(folder) == contents(ji.harvest(model, params, prompts, sites, folder, **how).folder)


def test_coordinates_that_differ_by_prompt(padded, tmp_path):
    model, params, prompts = padded
    each = np.stack([np.zeros(N, int), -prompts.mask.sum(axis=1)], axis=1)
    sites = {
        "resid_pre": ji.at(layer=0, pos=-1),
        "z": ji.at(pos=ji.per_example(each)),
        "pattern": ji.at(layer=[1], head=3, query=-2, key=[-1, 0]),
        "mlp_post": ji.at(pos=[0, 1], neuron=np.arange(128) % 7 == 0),
        "ln2.scale": ji.at(layer=-1, pos=ji.per_example(each[:, 0])),
    }
    harvest = ji.harvest(model, params, prompts, sites, tmp_path / "folder", max_bytes=1, shard_bytes=4000)
    index = index_of(tmp_path / "folder")
    assert index["batch"] == 1
    assert 1 < len(index["shards"]) < N
    apart = {site: [] for site in sites}
    for prompt in range(N):
        own = sites | {"z": ji.at(pos=ji.per_example(each[prompt : prompt + 1]))}
        own["ln2.scale"] = ji.at(layer=-1, pos=ji.per_example(each[prompt : prompt + 1, 0]))
        _, found = model.apply(params, prompts.tokens[[prompt]], capture=own, mask=prompts.mask[[prompt]])
        for site in sites:
            apart[site].append(found[site])
    cache = {site: np.concatenate(parts, axis=1) for site, parts in apart.items()}
    gone = {"resid_pre": (0, 2), "z": (), "pattern": (2, 3), "mlp_post": (), "ln2.scale": (0, 2)}
    for site, dims in gone.items():
        np.testing.assert_array_equal(np.asarray(harvest.arrays[site]), cache[site].squeeze(dims))
    lengths = prompts.mask.sum(axis=1)
    for name, columns in {
        "resid_pre.pos": lengths[:, None] - 1,
        "z.pos": np.zeros((N, 2)),
        "pattern.query": lengths[:, None] - 2,
        "pattern.key": np.stack([lengths - 1, np.zeros(N)], axis=1),
        "ln2.scale.pos": np.zeros((N, 1)),
    }.items():
        np.testing.assert_array_equal(np.asarray(harvest.coordinates[name]), columns)
    assert harvest.arrays["mlp_post"].kept == {"pos": [0, 1], "d_mlp": list(range(0, 128, 7))}
    assert harvest.arrays["pattern"].kept == {"layer": [1], "head": 3}
    keys = ji.harvest(
        model, params, prompts, {"pattern": ji.at(head=3, key=-1)}, tmp_path / "keys", flatten=True, **few(48)
    )
    assert keys.arrays["pattern"].axes == ("layer", "row")
    expected = cache_of(
        model, params, prompts, {"pattern": ji.at(head=3, key=-1)}, index_of(tmp_path / "keys")["batch"]
    )
    np.testing.assert_array_equal(
        np.asarray(keys.arrays["pattern"]), expected["pattern"][:, :, 0, :, 0][:, prompts.mask]
    )
    prompt = np.nonzero(prompts.mask)[0]
    np.testing.assert_array_equal(np.asarray(keys.coordinates["pattern.key"])[:, 0], lengths[prompt] - 1)


def check_gradients(config, folder, mask=None, flatten=False):
    """Each prompt's gradients are those of its own metric, run by itself, at 1e-9."""
    model = ji.Transformer(config)
    params, tokens = architectures.random_params(model), architectures.random_tokens(config)
    chosen = ji.at(layer=-1, pos=slice(1, None))
    sites = (
        {"resid_post": None, "z": chosen, "resid_final": ji.at(pos=slice(1, None))} if not flatten else {"z": chosen}
    )
    out = config.d_vocab_out
    answers = np.arange(3) % out, (np.arange(3) + 1) % out
    metric = ji.logit_diff(*answers)
    edits = {"attn_out": ji.scale(0.5, ji.at(layer=0))}
    how = {"interventions": edits, "mask": mask, "flatten": flatten, "max_bytes": 1}
    harvest = ji.harvest(model, params, tokens, sites, folder, metric=metric, **how)
    assert index_of(folder)["batch"] == 1

    @jax.jit
    def own(probes, row, row_mask, correct, wrong):
        probed = ji.joined(edits, {site: ji.add(value) for site, value in probes.items()})
        logits, _ = model.apply(params, row, probed, mask=row_mask)
        last = logits.shape[1] - 1 if row_mask is None else logits.shape[1] - 1 - jnp.argmax(row_mask[0, ::-1])
        return logits[0, last, correct] - logits[0, last, wrong]

    def numbers(prompt):
        row_mask = None if mask is None else mask[prompt : prompt + 1]
        return tokens[prompt : prompt + 1], row_mask, answers[0][prompt], answers[1][prompt]

    zeros = {site: np.zeros(model.sites[site].shape(1, architectures.POS)) for site in sites}
    naive = [jax.grad(own)(zeros, *numbers(prompt)) for prompt in range(3)]
    whole = {s: np.concatenate([g[s] for g in naive], axis=model.sites[s].axes.index("batch")) for s in sites}
    if flatten:
        there = np.ones((3, architectures.POS), bool) if mask is None else mask
        expected = {"z": whole["z"][-1][:, 1:][there[:, 1:]]}
    else:
        expected = {
            "resid_post": whole["resid_post"],
            "z": whole["z"][-1][:, 1:],
            "resid_final": whole["resid_final"][:, 1:],
        }
    for site, values in expected.items():
        found = np.asarray(harvest.gradients[site])
        np.testing.assert_allclose(found, values, rtol=0, atol=1e-9 * max(1.0, abs(values).max()))
    rng = np.random.default_rng(1)
    step = {site: rng.normal(size=value.shape) for site, value in zeros.items()}  # finite differences, the last prompt
    ahead, behind = (own({s: sign * 1e-5 * step[s] for s in sites}, *numbers(2)) for sign in (1, -1))
    slope = sum(np.sum(naive[2][site] * step[site]) for site in sites)
    np.testing.assert_allclose((ahead - behind) / 2e-5, slope, rtol=1e-5, atol=1e-7)
    assert any(abs(values).max() > 0 for values in expected.values())


@pytest.mark.parametrize(("side", "flatten"), [("left", False), ("right", True)])
def test_gradients_are_those_of_each_prompt_by_itself(tmp_path, side, flatten):
    config = ji.TransformerConfig(
        n_layers=2, d_model=8, n_heads=2, d_vocab=11, n_ctx=8, positions="rotary", rotary_dim=4, dtype="float64"
    )
    with jax.enable_x64(True):
        check_gradients(config, tmp_path / "folder", architectures.masks(side), flatten)


@pytest.mark.slow
def test_gradients_of_many_architectures(tmp_path_factory):
    @architectures.budget(60)
    @given(architectures.configs(act_fn="gelu"), st.sampled_from([None, "left", "right"]), st.booleans())
    def check(config, side, flatten):
        with jax.enable_x64(True):
            check_gradients(config, tmp_path_factory.mktemp("harvest") / "folder", architectures.masks(side), flatten)

    check()


def test_a_metric_that_reads_a_site_that_is_harvested(small, tmp_path):
    model, params, tokens = small
    metric = ji.Metric(
        lambda logits, cache: jnp.sum(cache["z"][0, :, 0] ** 2, axis=(1, 2)), capture={"z": ji.at(layer=1, pos=[2])}
    )
    harvest = ji.harvest(model, params, tokens, {"z": ji.at(layer=1)}, tmp_path / "folder", metric=metric)
    z, found = (np.asarray(kind["z"]) for kind in (harvest.arrays, harvest.gradients))
    np.testing.assert_array_equal(found, 2 * z * (np.arange(6) == 2)[:, None, None])


def test_values_beyond_the_dtype_are_told(small, tmp_path):
    model, params, tokens = small
    loud = {"resid_post": ji.scale(1e6, ji.at(layer=1))}
    with pytest.raises(
        ValueError, match=r"arrays of site 'resid_post', prompts 0 to 2: \d+ values are too large for float16"
    ):
        ji.harvest(model, params, tokens, ("resid_post",), tmp_path / "folder", interventions=loud, dtype="float16")
    assert list(contents(tmp_path / "folder")) == ["harvest.json"]
    assert not ji.open_harvest(tmp_path / "folder").complete
    with pytest.raises(ValueError, match=r"dtype='float64' is wider than site 'z', which is float32"):
        ji.harvest(model, params, tokens, ("z",), tmp_path / "other", dtype="float64")
    assert not (tmp_path / "other").exists()


#: A harvest of many small shards, which can be killed; run with its folder.
SLOW = """
import sys, time, numpy as np
sys.path.insert(0, sys.argv[2])
import test_harvest
from jaxinterp.io.harvesting.shards import ShardWriter
append = ShardWriter.append
def slowly(self, *args):
    append(self, *args)
    print("batch", flush=True)
    time.sleep(0.02)
ShardWriter.append = slowly
test_harvest.many(sys.argv[1])
"""


def many(folder):
    """A harvest of gradients too, in about sixty batches, two to a shard."""
    model = ji.Transformer(ji.TransformerConfig(n_layers=2, d_model=16, n_heads=2, d_vocab=30, n_ctx=8))
    rng = np.random.default_rng(0)
    prompts = ji.Prompts(rng.integers(0, 30, (120, 6)), np.arange(6) < rng.integers(1, 7, (120, 1)))
    return ji.harvest(
        model, model.init(jax.random.key(0)), prompts, ("resid_post", "z"), folder, flatten=True, dtype="float16",
        metric=ji.logit_diff(np.arange(120) % 30, (np.arange(120) + 1) % 30), max_bytes=70_000, shard_bytes=7_000,
        progress=False,
    )  # fmt: skip


def kill_and_go_on(tmp_path, kills, seed):
    whole = contents(many(tmp_path / "whole").folder)
    index = index_of(tmp_path / "whole")
    assert index["batch"] < index["shard_prompts"]
    assert len(index["shards"]) > 20
    rng, kept = random.Random(seed), set()
    folder = tmp_path / "killed"
    for _ in range(kills):
        with subprocess.Popen(
            [sys.executable, "-c", SLOW, str(folder), str(Path(__file__).parent)],
            env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            for _ in range(rng.randrange(1, 20)):
                if not process.stdout.readline():
                    assert process.wait() == 0, process.stderr.read()
                    break
            time.sleep(rng.random() * 0.05)
            process.send_signal(signal.SIGKILL)
        opened = ji.open_harvest(folder)  # what is whole can be read
        assert len(index_of(folder)["shards"]) >= max(kept, default=0)
        kept.add(len(index_of(folder)["shards"]))
        np.testing.assert_array_equal(
            np.asarray(opened.gradients["z"]),
            ji.open_harvest(tmp_path / "whole").gradients["z"].rows(range(len(opened))),
        )
        if opened.complete:
            assert contents(folder) == whole
            subprocess.run(["rm", "-rf", folder], check=True)
            kept = set()
    many(folder)
    assert contents(folder) == whole


def test_a_killed_harvest_goes_on_bit_for_bit(tmp_path):
    kill_and_go_on(tmp_path, 2, seed=0)


@pytest.mark.slow
def test_thirty_kills_at_random_moments(tmp_path):
    kill_and_go_on(tmp_path, 30, seed=1)


@pytest.mark.parametrize("stop", ["open", "append", "close", "counted"])
def test_whatever_stops_it_it_goes_on(padded, tmp_path, monkeypatch, stop):
    """At each step of the writing, the second shard's."""
    model, params, prompts = padded
    ask = dict(sites=("z",), dtype="float16", **few(768))
    whole = contents(ji.harvest(model, params, prompts, folder=tmp_path / "whole", **ask).folder)
    owner, name = (harvesting.Index, "write") if stop == "counted" else (ShardWriter, stop)
    method, left = getattr(owner, name), [4 if stop in ("append", "counted") else 2]

    def stopping(self, *args):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        method(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, stopping)
        with pytest.raises(KeyboardInterrupt):
            ji.harvest(model, params, prompts, folder=tmp_path / "stopped", **ask)
    assert 0 < len(ji.open_harvest(tmp_path / "stopped")) < N
    assert not (tmp_path / "stopped" / ".partial").exists()
    again = ji.harvest(model, params, prompts, folder=tmp_path / "stopped", **ask | {"max_bytes": None})
    assert again.complete
    assert contents(again.folder) == whole


def test_a_full_disk_is_told_and_whole_shards_are_kept(padded, tmp_path, monkeypatch):
    model, params, prompts = padded
    ask = dict(sites=("z",), **few(1536))
    whole = contents(ji.harvest(model, params, prompts, folder=tmp_path / "whole", **ask).folder)
    append, left = ShardWriter.append, [5]

    def on_a_full_disk(self, *args):
        left[0] -= 1
        if left[0]:
            return append(self, *args)
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))  # around this call alone
        try:
            append(self, *args)
            for file, _ in self.files.values():
                file.flush()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(ShardWriter, "append", on_a_full_disk)
            with pytest.raises(
                OSError, match=r"cannot write to .*folder, whose 2 whole shards are kept: File too large"
            ):
                ji.harvest(model, params, prompts, folder=tmp_path / "folder", **ask)
    finally:
        signal.signal(signal.SIGXFSZ, before)
    assert not (tmp_path / "folder" / ".partial").exists()
    assert contents(ji.harvest(model, params, prompts, folder=tmp_path / "folder", **ask).folder) == whole
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write to .*file/folder, whose 0 whole shards are kept"):
        ji.harvest(model, params, prompts, folder=tmp_path / "file" / "folder", **ask)


def test_another_harvest_in_the_folder_is_refused(small, tmp_path, monkeypatch):
    model, params, tokens = small
    metric = ji.logit_diff([3, 5, 7], [4, 6, 8])
    begun = {
        "model": model, "params": params, "dataset": tokens, "sites": {"z": ji.at(layer=1)}, "metric": metric,
        "folder": tmp_path / "folder",
    }  # fmt: skip
    whole = contents(ji.harvest(**begun).folder)
    for others, what in (
        ({"params": jax.tree.map(lambda w: w * 1.01, params)}, "model"),
        ({"dataset": tokens.at[0, 4].set(1)}, "dataset"),
        ({"mask": np.arange(6) < np.array([[6], [5], [6]])}, "dataset"),
        ({"sites": {"z": ji.at(layer=0)}}, "sites"),
        ({"sites": ("z",), "dtype": "float16"}, "sites and dtype"),
        ({"interventions": {"z": ji.zero(ji.at(head=1))}}, "interventions"),
        ({"metric": ji.log_prob([3, 5, 7])}, "metric"),
        ({"metric": None}, "metric"),
        ({"flatten": True}, "flatten"),
    ):
        with pytest.raises(ValueError, match=f"holds a harvest of another {what}: give the arguments"):
            ji.harvest(**begun | others)
    monkeypatch.setattr("jaxinterp.io.harvesting.request.fingerprint_of_code", lambda: "other code")
    monkeypatch.setattr(harvesting, "harvested", None)  # nothing runs
    assert ji.harvest(**begun).complete
    assert contents(tmp_path / "folder") == whole
    content = index_of(tmp_path / "folder")
    (tmp_path / "folder" / "harvest.json").write_text(json.dumps(content | {"shards": []}))
    with pytest.raises(ValueError, match="holds a harvest of another version of the code"):
        ji.harvest(**begun)
    (tmp_path / "folder" / "harvest.json").unlink()
    with pytest.raises(ValueError, match=r"shard-00000 stands in the way: .* has shards, but no harvest.json"):
        ji.harvest(**begun)


@pytest.mark.parametrize(
    ("others", "error", "message"),
    [
        ({"sites": "z"}, TypeError, "sites must be a tuple of site names or .*, got 'z'"),
        ({"sites": 3}, TypeError, "sites must be a tuple of site names"),
        ({"sites": ()}, ValueError, "which activations"),
        ({"sites": ("resid_pst",)}, ValueError, "did you mean 'resid_post'"),
        ({"sites": {"z": ji.at(layer=2)}}, ValueError, "site 'z': layer=2 is out of range"),
        ({"sites": {"z": ji.at(batch=0)}}, ValueError, "site 'z': batch= is not for a harvest; select prompts"),
        ({"sites": {"z": ji.at(mask=np.ones((1, 1, 6, 1, 1), bool))}}, ValueError, "site 'z': mask= selects no rect"),
        (
            {"sites": {"z": ji.at(pos=0), "q": ji.at(pos=1)}, "flatten": True},
            ValueError, "needs the same positions of all sites: 'z' and 'q' differ",
        ),
        ({"sites": {"z": ji.at(pos=ji.per_example([0, 1]))}}, ValueError, "is for 2 prompts, the batch has 3"),
        ({"dataset": iter([[1, 2]])}, TypeError, "dataset must be tokens .*open_memmap"),
        ({"dataset": [[1, 2], [3]]}, ValueError, "prompts have 1 to 2 tokens"),
        ({"dataset": np.zeros((0, 3), int)}, ValueError, "empty prompt"),
        ({"dataset": np.array([1, 2, 3])}, ValueError, "int.batch, pos."),
        ({"dataset": np.full((3, 6), 50)}, ValueError, "token id 50 is out of vocabulary"),
        ({"mask": np.ones((2, 6), bool)}, ValueError, "mask has shape"),
        ({"interventions": {"zz": ji.zero()}}, ValueError, "unknown site 'zz'"),
        ({"metric": ji.logit_diff([1, 2], [3, 4])}, ValueError, "must lead with batch = 3"),
        ({"metric": len}, TypeError, "metric= expects a ji.Metric"),
        ({"dtype": "int8"}, ValueError, "dtype 'int8'"),
        ({"shard_bytes": 0}, ValueError, "shard_bytes must be a positive int, got 0"),
        ({"max_bytes": -1}, ValueError, "max_bytes must be a positive int"),
        ({"mesh": 3}, TypeError, "mesh must be a jax.sharding.Mesh"),
        ({"folder": 3}, TypeError, "folder must be a path, got 3"),
        ({"folder": ""}, TypeError, "folder must be a path, got ''"),
        ({"flatten": 1}, TypeError, "flatten must be True or False"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_told_before_anything_runs(small, tmp_path, monkeypatch, others, error, message):
    model, params, tokens = small
    monkeypatch.setattr(harvesting, "_run", None)
    ask = {"dataset": tokens, "sites": ("z",), "folder": tmp_path / "folder"} | others
    with pytest.raises(error, match=message):
        ji.harvest(model, params, **ask)
    assert not (tmp_path / "folder").exists()


def test_a_far_prompt_that_is_wrong_is_told_with_its_place(small, tmp_path, monkeypatch):
    model, params, tokens = small
    monkeypatch.setattr("jaxinterp.io.harvesting.request.CHECKED_TOKENS", 6)
    with pytest.raises(ValueError, match="of the prompts from 2 on: token id 77 is out of vocabulary"):
        ji.harvest(model, params, np.asarray(tokens.at[2, 1].set(77)), ("z",), tmp_path / "folder")


@pytest.fixture(scope="module")
def written(padded, tmp_path_factory):
    """A harvest of tokens over several shards, in a folder that tests may copy."""
    model, params, prompts = padded
    folder = tmp_path_factory.mktemp("written") / "folder"
    return ji.harvest(model, params, prompts, ("resid_post", "attn_out"), folder, flatten=True, **few(3072))


def test_rows_are_found_wherever_they_lie(written):
    whole = np.asarray(written.arrays["resid_post"])
    assert len(list(written.arrays["resid_post"].shards())) > 2

    @architectures.budget(50)
    @given(st.lists(st.integers(0, len(written) - 1), max_size=30))
    def check(indices):
        np.testing.assert_array_equal(written.arrays["resid_post"].rows(indices), whole[:, indices])

    check()
    for wrong, error, message in (
        ([len(written)], ValueError, f"row {len(written)} is out of range: there are {len(written)}"),
        ([-1], ValueError, "row -1 is out of range"),
        ([0.5], TypeError, "indices must be int"),
        (3, TypeError, "indices must be int"),
    ):
        with pytest.raises(error, match=message):
            written.arrays["resid_post"].rows(wrong)
    with pytest.raises(ValueError, match="assignment destination is read-only"):
        written.arrays["resid_post"].shard(0)[:] = 0


def test_shuffled_batches_hold_every_row_once_and_sites_together(written):
    sites = ("attn_out", "resid_post")
    batches = list(written.batches(sites, 7, seed=3))
    assert [batch["attn_out"].shape[1] for batch in batches[:-1]] == [7] * (len(written) // 7)
    order = np.random.default_rng(3).permutation(len(written))
    for site in sites:
        together = np.concatenate([batch[site] for batch in batches], axis=1)
        np.testing.assert_array_equal(together, np.asarray(written.arrays[site])[:, order])
    again, other = (next(written.batches(sites, 7, seed=seed))["attn_out"] for seed in (3, 4))
    np.testing.assert_array_equal(again, batches[0]["attn_out"])
    assert not np.array_equal(other, again)
    for ask, error, message in (
        (("attn_out", 7), TypeError, "sites must be a tuple of names"),
        ((("attn_ot",), 7), ValueError, "site 'attn_ot' was not harvested; did you mean 'attn_out'"),
        ((("attn_out",), 0), ValueError, "size must be a positive int, got 0"),
    ):
        with pytest.raises(error, match=message):
            written.batches(*ask, seed=0)


def broken(written, tmp_path):
    """A copy of it that can be broken, and its index."""
    folder = tmp_path / "copy"
    subprocess.run(["cp", "-r", written.folder, folder], check=True)
    return folder, index_of(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "has format 'other', expected 'jaxinterp-harvest'"),
        ({"version": 2}, "has version 2, and this jaxinterp reads 1"),
        ({"shards": [3, "4"]}, "malformed"),
        ({"shards": [-1]}, "malformed"),
        ({"shards": [5] * 99}, "malformed"),
        ({"prompts": 0}, "malformed"),
        ({"batch": True}, "malformed"),
        ({"layouts": []}, "malformed"),
        ({"layouts": {"arrays": {}, "gradients": {}}}, "malformed.*coordinates"),
        ({"layouts": None}, "malformed"),
        ({"identity": 3}, "malformed"),
    ],
)
def test_a_broken_index_is_told(written, tmp_path, change, message):
    folder, index = broken(written, tmp_path)
    (folder / "harvest.json").write_text(json.dumps(index | change))
    with pytest.raises(ValueError, match=message):
        ji.open_harvest(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"axes": ["layer"]},
        {"sizes": [2, None, -1]},
        {"sizes": [2, 3, 32]},
        {"dtype": "object"},
        {"dtype": "str"},
        {"kept": 3},
    ],
)
def test_a_broken_layout_is_told(written, tmp_path, change):
    folder, index = broken(written, tmp_path)
    index["layouts"]["arrays"]["resid_post"] |= change
    (folder / "harvest.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"harvest.json is malformed"):
        ji.open_harvest(folder)


def test_broken_shards_are_told(written, tmp_path):
    folder, _index = broken(written, tmp_path)
    path = folder / "shard-00001" / "arrays" / "resid_post.npy"
    whole = path.read_bytes()

    def told(message):
        with pytest.raises(ValueError, match=message):
            ji.open_harvest(folder)

    path.write_bytes(whole[:-1])
    told("shard-00001/arrays/resid_post.npy is missing or not whole")
    np.save(path, np.array([{"code": "run"}], dtype=object), allow_pickle=True)
    told("resid_post.npy is missing or not whole")
    np.save(path, np.zeros((2, 3, 32), np.float32))
    told(r"holds float32\[2, 3, 32\], the index says float32\[2, \d+, 32\]")
    path.unlink()
    told("is missing or not whole")
    path.write_bytes(whole)
    assert ji.open_harvest(folder).complete
    (folder / "harvest.json").write_text("{")
    told("is not JSON")
    with pytest.raises(FileNotFoundError, match=r"is not a harvest: it has no harvest.json"):
        ji.open_harvest(tmp_path)


@dataclasses.dataclass(frozen=True)
class Renamed:
    """A model of another kind, whose sites have names that no file could have."""

    model: ji.Transformer

    @property
    def sites(self):
        return {f"../{name}:/": spec for name, spec in self.model.sites.items()}

    def apply(self, params, tokens, interventions=None, *, capture=(), mask=None):
        capture = capture if isinstance(capture, dict) else dict.fromkeys(capture)
        edits = {name[3:-2]: edit for name, edit in (interventions or {}).items()}
        named = {name[3:-2]: where for name, where in capture.items()}
        logits, cache = self.model.apply(params, tokens, edits, capture=named, mask=mask)
        return logits, {f"../{name}:/": array for name, array in cache.items()}


def test_models_of_other_kinds_and_names_that_are_no_paths(small, tmp_path):
    model, params, tokens = small
    folder = tmp_path / "in" / "folder"
    harvest = ji.harvest(Renamed(model), params, tokens, {"../z:/": ji.at(layer=0)}, folder)
    np.testing.assert_array_equal(
        np.asarray(harvest.arrays["../z:/"]), cache_of(model, params, ji.Prompts(tokens), ("z",))["z"][0]
    )
    assert {path.parts[-4] for path in tmp_path.rglob("*.npy")} == {"folder"}


def test_only_a_few_batches_are_held_at_a_time(small, tmp_path, monkeypatch):
    """However many there are; by the arrays that live, and by what is asked of memory."""
    model, params, _ = small
    tokens = np.random.default_rng(0).integers(0, 50, (400, 6))
    held, append = [], ShardWriter.append

    def measured(self, *args):
        time.sleep(0.005)  # the disk is slower than the model
        held.append(sum(array.nbytes for array in jax.live_arrays()))
        append(self, *args)

    monkeypatch.setattr(ShardWriter, "append", measured)
    before = sum(array.nbytes for array in jax.live_arrays())
    ji.harvest(model, params, tokens, ("resid_post", "z"), tmp_path / "folder", max_bytes=400_000)
    index = index_of(tmp_path / "folder")
    assert len(held) == -(-400 // index["batch"]) > 20
    of_batch = index["batch"] * 6 * 2 * 2 * 32 * 4
    assert max(held) - before <= (2 + harvesting.AHEAD) * of_batch + 100_000
    assert max(held) - before < 400_000


def test_out_of_memory_halves_the_batch_and_says_so(padded, tmp_path, monkeypatch):
    model, params, prompts = padded
    run, sizes = harvesting.harvested, []

    def starved(model, params, prompts, *args, **kwargs):
        sizes.append(len(prompts.tokens))
        if sizes[-1] > 3:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")
        return run(model, params, prompts, *args, **kwargs)

    monkeypatch.setattr(harvesting, "harvested", starved)
    with pytest.warns(UserWarning, match=r"out of memory: batches of \d+ prompts become \d+"):
        harvest = ji.harvest(model, params, prompts, ("z",), tmp_path / "folder")
    assert (sizes[0], sizes[-1]) == (N, 2)
    np.testing.assert_array_equal(np.asarray(harvest.arrays["z"]), cache_of(model, params, prompts, ("z",), 2)["z"])


def test_a_dataset_on_disk_and_a_bar(small, tmp_path, capsys):
    model, params, tokens = small
    np.save(tmp_path / "tokens.npy", np.asarray(tokens))
    mapped = np.load(tmp_path / "tokens.npy", mmap_mode="r")
    harvest = ji.harvest(model, params, mapped, ("z",), tmp_path / "folder", progress=False)
    again = ji.harvest(model, params, tokens, ("z",), tmp_path / "folder")
    np.testing.assert_array_equal(np.asarray(harvest.arrays["z"]), np.asarray(again.arrays["z"]))
    assert capsys.readouterr().err == ""
