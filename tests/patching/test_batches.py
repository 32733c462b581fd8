"""Datasets that run in batches give what they give at once."""

import jax
import numpy as np
import pytest

import jaxinterp as ji
from jaxinterp.patching import engine
from jaxinterp.patching.batches import make_batches, metric_of, prompts_of

N, POS = 20, 7
TIGHT = 60_000  # bytes: a few prompts at a time
KEY = jax.random.key(0)


def dataset(side):
    """Prompts of mixed lengths that differ from their counterparts from different positions on."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 50, (N, POS))
    lengths = rng.integers(4, POS + 1, N) if side else np.full(N, POS)
    columns = np.arange(POS)
    mask = columns >= POS - lengths[:, None] if side == "left" else columns < lengths[:, None]
    begins = np.argmax(mask, axis=1)
    first = begins + rng.integers(0, 3, N)
    other = np.where((columns >= first[:, None]) & mask, tokens % 49 + 1, tokens)
    roles = {"first": first, "END": begins + lengths - 1}
    mask = mask if side else None
    return ji.Prompts(tokens, mask, roles), ji.Prompts(other, mask, roles)


ANSWERS = np.arange(N), 20 + np.arange(N)


def asks(small, side):
    model, params, _ = small
    base, source = dataset(side)
    metric = ji.logit_diff(*ANSWERS)
    own = np.zeros((1, N, 1, 1), np.float32) + 0.1 * np.arange(N)[:, None, None].astype(np.float32)
    edits = {
        "attn_out": (ji.add(own, ji.at(batch=slice(2, 9))), ji.scale(0.5, ji.at(batch=[3, -1]))),
        "mlp_out": ji.scale(0.8, ji.at(pos=ji.per_example(base.roles["END"]))),
    }
    targets = np.full((N, POS), -1)
    targets[:, -1] = targets[:, -3] = 7
    targets = targets if side == "left" else targets[:, ::-1].copy()

    def patch(**others):
        settings = {"metric": metric, "site": "z"} | others
        return lambda **kept: ji.activation_patching(model, params, base, source, **settings, **kept)

    return {
        "heads by position": patch(),
        "roles": patch(over=("layer", "role"), site="resid_pre", normalize=True),
        "each prompt": patch(over=("layer",), per_example=True),
        "sets": patch(site=None, sets=[{"z": ji.at(layer=0), "mlp_post": ji.at(neuron=[1, 2], pos=[0, 3])}]),
        "sets of roles": patch(site="resid_mid", sets=[ji.at(pos=ji.per_example(base.roles["first"]))]),
        "standing edits": patch(base_interventions=edits, source_interventions={"z": ji.zero(ji.at(layer=0, head=1))}),
        "attention": patch(site="pattern", over=("layer", "query", "key")),
        "all positions read": patch(metric=ji.cross_entropy(targets), over=("layer", "pos"), site="mlp_out"),
        "activations read": patch(
            metric=ji.Metric(_captured, capture={"resid_post": ji.at(layer=1, pos=ji.per_example(base.roles["END"]))}),
            over=("layer",),
        ),
        "mean": lambda **kept: ji.ablation(
            model, params, base, site="z", over=("layer", "head"), kind="mean", reference=source, metric=metric, **kept
        ),
        "noise": lambda **kept: ji.ablation(
            model, params, base, site="z", over=("layer",), kind="noise", sigma=0.3, key=KEY, metric=metric, **kept
        ),
        "resample": lambda **kept: ji.ablation(
            model, params, base, sites=("z", "mlp_out"), over=("layer",), kind="resample", independent=True, key=KEY,
            num_samples=2, metric=metric, **kept,
        ),
        "tracing": lambda **kept: ji.causal_tracing(
            model, params, base, subject=ji.per_example(base.roles["first"]), key=KEY, num_samples=2, over=("layer",),
            **kept,
        ),
        "paths": lambda **kept: ji.path_patching(
            model, params, base, source, senders={"z": ji.at(layer=0)}, receivers={"v_input": ji.at(layer=1)},
            over=("sender_head", "sender_pos", "receiver_head"), metric=metric, mode="ioi", **kept,
        ),
    }  # fmt: skip


def _captured(logits, cache):
    return cache["resid_post"].sum(axis=(0, 2, 3))


NAMES = (
    "heads by position", "roles", "each prompt", "sets", "sets of roles", "standing edits", "attention",
    "all positions read", "activations read", "mean", "noise", "resample", "tracing", "paths",
)  # fmt: skip


#: By default not run; `test_paths` has prompts in batches.
SELDOM = "attention", "roles", "each prompt", "mean", "sets", "standing edits", "tracing", "paths"
LEFT = "each prompt", "sets", "standing edits", "tracing"


@pytest.mark.parametrize(
    ("side", "name"),
    [
        *(pytest.param("right", name, marks=[pytest.mark.slow] if name in SELDOM else []) for name in NAMES),
        ("left", "heads by position"),
        *(pytest.param("left", name, marks=pytest.mark.slow) for name in LEFT),
        pytest.param(None, "heads by position", marks=pytest.mark.slow),
    ],
)
def test_batches_change_nothing(small, name, side, monkeypatch):
    ask = asks(small, side)[name]
    # sort by length and first position as well; by all of them in one case, since each group compiles its own programs
    monkeypatch.setattr("jaxinterp.patching.batches.GROUP_COST", 0.0)
    if (side, name) != ("right", "heads by position"):
        monkeypatch.setattr("jaxinterp.patching.batches.MOST_BUCKETS", 2)
    seen = []
    monkeypatch.setattr("jaxinterp.patching.engine.make_batches", _counting(seen))
    at_once = ask(max_bytes=2**30)
    assert seen[-1] == 1
    batched = ask(max_bytes=TIGHT)
    assert seen[-1] > 3, "it should have taken several batches"
    np.testing.assert_allclose(batched, at_once, atol=2e-5)
    if "standard_error" in at_once.coords:
        np.testing.assert_allclose(batched.standard_error, at_once.standard_error, atol=2e-5)
    assert set(batched.attrs) == set(at_once.attrs)
    assert batched.attrs["base_metric"] == pytest.approx(at_once.attrs["base_metric"], abs=1e-5)
    assert abs(at_once).max() > 1e-4


def _counting(seen):
    def counted(*args, **kwargs):
        batches = make_batches(*args, **kwargs)
        seen.append(len(batches))
        return batches

    return counted


def test_every_prompt_is_its_own_in_exactly_one_batch():
    base, _ = dataset("right")
    first = base.roles["first"]
    batches = make_batches(base, first, 3, cut=True, operations=1e15)
    own = np.concatenate([batch.rows[: batch.n] for batch in batches])
    assert sorted(own.tolist()) == list(range(N))
    shapes = {batch.group: (len(batch.rows), batch.n_pos) for batch in batches}
    assert 3 < len(shapes) <= 9
    assert {batch.group for batch in make_batches(base, first, 3, cut=True)} == {0}, "nothing to gain, nothing to sort"
    for batch in batches:
        assert (len(batch.rows), batch.n_pos) == shapes[batch.group], "a group has one shape, and so one program"
        part = prompts_of(base, batch)
        assert (part.mask.sum(axis=1) == base.mask[batch.rows].sum(axis=1)).all(), "no token is cut off"
        assert (base.roles["first"][batch.rows] >= batch.first).all()


def test_a_metric_follows_its_prompts():
    base, _ = dataset("right")
    metric = ji.logit_diff(*ANSWERS, pos=ji.per_example(base.roles["END"]))
    batch = make_batches(base, base.roles["first"], 3, cut=True, operations=1e15)[1]
    part = metric_of(metric, batch, base)
    np.testing.assert_array_equal(part.columns[:, 0], ANSWERS[0][batch.rows])
    np.testing.assert_array_equal(part.positions.index, base.roles["END"][batch.rows])


def test_few_programs_for_many_batches(small):
    model, params, _ = small
    rng = np.random.default_rng(1)
    tokens = rng.integers(1, 50, (300, POS))
    mask = np.arange(POS) < rng.integers(3, POS + 1, 300)[:, None]
    base, source = ji.Prompts(tokens, mask), ji.Prompts(np.where(np.arange(POS) < 2, tokens, tokens % 49 + 1), mask)
    jax.clear_caches()
    effects = ji.activation_patching(
        model,
        params,
        base,
        source,
        site="z",
        metric=ji.logit_diff(np.arange(300) % 50, np.full(300, 7)),
        max_bytes=TIGHT,
    )
    assert effects.attrs["n_prompts"] == 300
    assert 0 < engine._branched_metric._cache_size() <= 3 * (1 + np.log2(POS))
    assert not engine._resumed_metric._cache_size()


@pytest.mark.slow
def test_bidirectional_models_run_in_batches_too(monkeypatch):
    model = ji.Transformer(ji.TransformerConfig(n_layers=2, d_model=8, n_heads=2, d_vocab=50, n_ctx=8, causal=False))
    params = model.init(KEY)
    base, source = dataset("right")
    monkeypatch.setattr("jaxinterp.patching.batches.GROUP_COST", 0.0)

    def ask(max_bytes):
        return ji.activation_patching(
            model, params, base, source, site="z", over={"layer": None, "pos": [0, 3]}, metric=ji.logit_diff(*ANSWERS),
            max_bytes=max_bytes,
        )  # fmt: skip

    np.testing.assert_allclose(ask(10_000), ask(2**30), atol=2e-6)


def test_an_edit_of_ones_own_may_mix_rows_and_prompts(small):
    model, params, tokens = small
    source = tokens.at[:, 2:].set((tokens[:, 2:] + 1) % 50)
    edits = {"resid_post": ji.apply_fn(_centred_over_prompts_and_positions)}
    metric = ji.logit_diff([1, 2, 3], [4, 5, 6])
    effects = ji.activation_patching(
        model, params, tokens, source, site="z", over=("layer", "pos"), metric=metric, base_interventions=edits,
        max_bytes=1,
    )  # fmt: skip
    _, cache = model.apply(params, source, capture=("z",))
    base = ji.evaluate(model, params, tokens, {}, metric=metric, base_interventions=edits).attrs["base_metric"]
    patch = ji.joined(edits, {"z": ji.replace(cache["z"], ji.at(layer=1, pos=4))})
    logits = np.asarray(model.apply(params, tokens, patch)[0])[np.arange(3), -1]
    patched = (logits[np.arange(3), [1, 2, 3]] - logits[np.arange(3), [4, 5, 6]]).mean()
    np.testing.assert_allclose(effects.sel(layer=1, pos=4), patched - base, atol=1e-5)


def test_an_edit_of_ones_own_may_mix_prompts_of_the_other_runs_as_well(small, monkeypatch):
    model, params, tokens = small
    source = tokens.at[:, 2:].set((tokens[:, 2:] + 1) % 50)
    edits = {"resid_pre": ji.apply_fn(_centred_over_prompts_and_positions)}
    metric = ji.logit_diff([1, 2, 3], [4, 5, 6])
    _, cache = model.apply(params, source, edits, capture=("z",))

    def effect_of(value, **where):
        return ji.evaluate(model, params, tokens, {"z": ji.replace(value, ji.at(**where))}, metric=metric)

    patched = ji.activation_patching(
        model, params, tokens, source, site="z", over=("layer", "pos"), metric=metric, source_interventions=edits,
        max_bytes=1,
    )  # fmt: skip
    np.testing.assert_allclose(patched.sel(layer=1, pos=4), effect_of(cache["z"], layer=1, pos=4), atol=1e-5)
    through = ji.path_patching(
        model, params, tokens, source, senders={"z": ji.at(layer=1)}, receivers={"resid_final": ji.at()},
        metric=metric, source_interventions=edits, max_bytes=1,
    )  # fmt: skip
    change = jax.numpy.einsum("bphf,hfd->bpd", cache["z"][1] - model.apply(params, tokens, capture=("z",))[1]["z"][1],
                              params["W_O"][1])  # fmt: skip
    added = ji.evaluate(model, params, tokens, {"resid_final": ji.add(change)}, metric=metric)
    np.testing.assert_allclose(through, added, atol=1e-5)

    whole = ji.evaluate(model, params, tokens, edits, metric=metric, per_example=True)
    mean = ji.ablation(
        model, params, tokens, site="z", over=("layer",), kind="mean", metric=metric, reference=source,
        source_interventions=edits,
    )  # fmt: skip
    np.testing.assert_allclose(mean.sel(layer=1), effect_of(cache["z"].mean(axis=1)[:, None], layer=1), atol=1e-5)
    monkeypatch.setattr(engine, "RUN_BYTES", 1)
    np.testing.assert_allclose(
        ji.evaluate(model, params, tokens, edits, metric=metric, per_example=True), whole, atol=1e-5
    )
    one_by_one = ji.ablation(
        model, params, tokens, site="z", over=("layer",), kind="mean", metric=metric, reference=source,
        source_interventions=edits,
    )  # fmt: skip
    np.testing.assert_allclose(one_by_one, mean, atol=1e-5)


def _centred_over_prompts_and_positions(x):
    return x - x.mean(axis=(0, 1), keepdims=True)
