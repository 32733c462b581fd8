"""The engine equals the plain path: over architectures, sites, axes, padding, standing edits and budgets."""

import dataclasses

import jax
import numpy as np
import pytest
from architectures import BATCH, POS, Plain, altered, apply, budget, configs, masks, random_params, random_tokens
from hypothesis import given
from hypothesis import strategies as st

import jaxinterp as ji
from jaxinterp.metrics import score
from jaxinterp.model.where import Geometry
from jaxinterp.patching import engine
from jaxinterp.patching.buckets import bucket_starts
from jaxinterp.patching.plan import Program, chunk_size


def check_sweep(config, side, site, axes, metric, standing, max_bytes, roles, first):
    model = ji.Transformer(config)
    params, base, mask = random_params(model), random_tokens(config), masks(side)
    source = altered(config, base, first)
    names = list(model.sites)
    site = names[site % len(names)]
    spec = model.sites[site]
    over = [
        a
        for a in ("layer", "head", "pos", "query", "d_mlp", "expert")
        if spec.axis(a) is not None and axes & 1 << len(a)
    ]
    if roles and "pos" in over:
        over[over.index("pos")] = "role"
    metrics = [
        ji.logit_diff([0, 1, 0], [1, 0, 1]),
        ji.log_prob([0, 1, 1]),
        ji.logit_diff(0, 1, pos=ji.per_example([2, 1, 0] if side != "left" else [2, 4, 5])),
        ji.cross_entropy(
            np.ones((BATCH, 2), int),
            pos=ji.per_example([[1, 4], [1, 2], [0, 2]] if side != "left" else [[0, 4], [2, 5], [3, 5]]),
        ),
        ji.Metric(_all_rows),
    ]
    named = {"early": [1, 2, 3] if side == "left" else [1, 2, 2], "END": [-1, -1, -1]}
    run = {
        "site": site, "over": over, "metric": metrics[metric], "mask": mask,
        "max_bytes": max_bytes, "per_example": True,
        "roles": named if "role" in over else None,
        "base_interventions": {"attn_out": ji.scale(0.7, ji.at(layer=0))} if standing & 1 else None,
        "source_interventions": {"resid_pre": ji.scale(1.2, ji.at(layer=0))} if standing & 2 else None,
    }  # fmt: skip
    fast = ji.activation_patching(model, params, base, source, **run)
    slow = ji.activation_patching(Plain(model), params, base, source, **run)
    scale = float(np.abs(apply(model, params, base, mask=mask)[0]).max())
    np.testing.assert_allclose(fast, slow, rtol=0, atol=1e-9 * max(scale, 1))

    # and some cells from the definition alone, which shares nothing with how either decides what to run
    standing_edits, edits = run["base_interventions"] or {}, run["source_interventions"] or {}
    geometry = Geometry.of(base, mask)

    def value(edits):
        logits, cache = apply(model, params, base, edits, mask=mask)
        return np.asarray(score(run["metric"], logits, cache, geometry))

    patch = apply(model, params, source, edits, mask=mask, capture=(site,))[1][site]
    reference = value(standing_edits)
    rng = np.random.default_rng(0)
    for _ in range(2):
        cell = {axis: int(rng.integers(fast.sizes[axis])) for axis in over}
        where = {{"d_mlp": "neuron"}.get(axis, axis): n for axis, n in cell.items() if axis != "role"}
        if "role" in cell:
            where["pos"] = ji.per_example(np.array(list(named.values())[cell["role"]]))
        edited = value(ji.joined(standing_edits, {site: ji.replace(patch, ji.at(**where))}))
        np.testing.assert_allclose(fast.isel(cell), edited - reference, rtol=0, atol=1e-9 * max(scale, 1))
    return fast


def _all_rows(logits, cache):
    return logits[..., 0].mean(axis=1)


def sweeps():
    return {
        "config": configs(),
        "side": st.sampled_from([None, "right", "left"]),
        "site": st.integers(0, 1000),
        "axes": st.integers(0, 127),
        "metric": st.sampled_from([0, 0, 1, 2, 3, 4]),
        "standing": st.integers(0, 3),
        "max_bytes": st.sampled_from([None, 1, 20_000]),
        "roles": st.booleans(),
        "first": st.sampled_from([0, 2, 4]),
    }


@budget(3)
@given(**sweeps())
def test_the_engine_equals_the_plain_path(**drawn):
    with jax.enable_x64(True):
        check_sweep(**drawn)


SMALL = {"n_layers": 2, "d_model": 8, "n_heads": 2, "d_vocab": 11, "n_ctx": 8, "d_mlp": 5, "dtype": "float64"}
MIXTURE = ji.TransformerConfig(
    **SMALL, positions="rotary", normalization="rms", gated=True, n_experts=3, experts_per_token=2
)
ENCODER = ji.TransformerConfig(
    **SMALL, causal=False, norm_position="post", embed_norm=True, n_token_types=2, final_act_fn="gelu", eps=0.1
)


@pytest.mark.parametrize(
    ("config", "site", "metric"),
    [
        (MIXTURE, "router", 0),
        (MIXTURE, "expert_out", 0),
        (ENCODER, "z", 0),
        (ENCODER, "final_post", 1),
    ],
)
def test_mixtures_and_encoders(config, site, metric):
    number = list(ji.Transformer(config).sites).index(site)
    with jax.enable_x64(True):
        effects = check_sweep(config, "right", number, 127, metric, 0, None, False, 2)
    assert set(effects.dims) >= ({"expert"} if config is MIXTURE else {"pos"})
    assert (abs(effects) > 1e-6).any()


@pytest.mark.slow
@budget(150)
@given(**sweeps())
def test_the_engine_equals_the_plain_path_over_many_architectures(**drawn):
    with jax.enable_x64(True):
        check_sweep(**drawn)
    jax.clear_caches()


@pytest.fixture(scope="module")
def pair(small):
    model, params, tokens = small
    return model, params, tokens, tokens.at[:, 2:].set((tokens[:, 2:] + 1) % 50)


@pytest.mark.parametrize("kind", ["sets", "windows", "several sites", "ablation"])
def test_joint_patches_equal_the_plain_path(pair, kind):
    model, params, base, source = pair
    metric = ji.logit_diff([3, 5, 7], [4, 6, 8])

    def sweep(model):
        if kind == "sets":
            sets = [
                {"z": [ji.at(layer=1, head=0), ji.at(layer=0, head=1, pos=-1)], "mlp_out": ji.at(layer=1)},
                {"resid_final": ji.at(pos=ji.per_example([5, 5, 5]))},
                {"mlp_post": ji.at(neuron=[1, 2, 3])},
            ]
            return ji.activation_patching(model, params, base, source, sets=sets, metric=metric)
        if kind == "windows":
            key = jax.random.key(0)
            return ji.causal_tracing(model, params, base, subject=3, key=key, window=2, site="mlp_out", num_samples=2)
        if kind == "several sites":
            sites = ("q", "k", "v")
            return ji.activation_patching(
                model, params, base, source, sites=sites, over=("layer", "pos"), metric=metric
            )
        return ji.ablation(model, params, base, site="pattern", over=("layer", "head", "query"), metric=metric)

    np.testing.assert_allclose(sweep(model), sweep(Plain(model)), atol=2e-4)


def test_few_programs_and_none_the_second_time(pair):
    model, params, base, source = pair
    metric = ji.logit_diff([3, 5, 7], [4, 6, 8])
    compiled = []

    def count(event, seconds, **told):
        if "backend_compile" in event:
            compiled.append(told)

    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        base, source = np.asarray(base), np.asarray(source)
        ji.activation_patching(model, params, base, source, site="z", metric=metric)
        assert 2 < len(compiled) <= 3 + np.log2(POS), "all that is compiled, helpers included"
        compiled.clear()
        ji.activation_patching(model, params, source, base, site="z", metric=ji.logit_diff([1, 2, 3], [9, 8, 7]))
        assert not compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(count)


@pytest.mark.parametrize(("site", "over"), [("z", ("layer", "head", "pos")), ("resid_pre", ("layer", "pos"))])
def test_all_layers_go_up_together_and_each_as_if_it_were_alone(pair, site, over):
    model, params, base, source = pair
    run = {"site": site, "metric": ji.logit_diff([3, 5, 7], [4, 6, 8])}
    (programs,) = ji.plan_patching(model, params, base, source, over=over, **run).programs
    assert any(program.layers == (0, 1) and program.size * program.tiles >= program.cells for program in programs)
    together = ji.activation_patching(model, params, base, source, over=over, **run)
    for layer in range(model.config.n_layers):
        entries = {axis: [layer] if axis == "layer" else None for axis in over}
        alone = ji.activation_patching(model, params, base, source, over=entries, **run)
        np.testing.assert_allclose(together.sel(layer=[layer]), alone, atol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("tiles", [1, 2, 4])
def test_tiles_of_any_size_give_the_same_effects(pair, size, tiles, monkeypatch):
    """A last tile takes cells along that have not begun, and what it makes of them must not be seen."""
    model, params, base, source = pair
    run = {"site": "z", "over": ("layer", "head", "pos"), "metric": ji.logit_diff([3, 5, 7], [4, 6, 8])}
    expected = ji.activation_patching(Plain(model), params, base, source, **run)
    plan = engine.plan_group

    def other(*args, **kwargs):
        group = min(2, size)
        return tuple(dataclasses.replace(p, size=size, tiles=tiles, group=group) for p in plan(*args, **kwargs))

    monkeypatch.setattr(engine, "plan_group", other)
    np.testing.assert_allclose(ji.activation_patching(model, params, base, source, **run), expected, atol=1e-5)


def test_cells_of_one_chunk_start_in_one_span_unless_they_run_apart():
    """A plan made for several batches may not know which layers one of them has at a start."""
    program = Program(
        start_pos=0, size=4, tiles=1, group=1, cells=3, layers=(0, 1), spans=(0, 1), apart=False, operations=1.0,
        bytes=1,
    )  # fmt: skip
    layers = np.array([0, 0, 0, 1, 1, 1])
    assert engine._next_chunk(np.arange(6), layers, 4, program).tolist() == [0, 1, 2]
    apart = dataclasses.replace(program, apart=True, spans=())
    assert engine._next_chunk(np.arange(6), layers, 4, apart).tolist() == [0, 1, 2, 3]


def test_cells_behind_the_metric_are_zero_and_not_run(pair):
    model, params, base, source = pair
    metric = ji.logit_diff([3, 5, 7], [4, 6, 8], pos=3)
    effects = ji.activation_patching(
        model, params, base, source, site="resid_post", over=("layer", "pos"), metric=metric
    )
    assert (effects.sel(pos=[0, 1, 4, 5]) == 0).all()
    assert (effects.sel(pos=[2, 3]) != 0).any()


def test_buckets_start_at_or_before_their_cells_and_are_few():
    rng = np.random.default_rng(0)
    for n_pos in (1, 2, 15, 64, 300):
        rows = rng.integers(0, n_pos, 200)
        starts = bucket_starts(rows, n_pos)
        assert (starts <= rows).all()
        assert len(set(starts.tolist())) <= 1 + np.log2(n_pos)
    assert bucket_starts(np.array([3, 5, 5, 3]), 8).tolist() == [3, 5, 5, 3]


def test_chunks_fit_their_budget_and_waste_little():
    assert chunk_size([12] * 12, 1000, 1) == 12
    assert chunk_size([36] * 12, 20, 1) == 18
    assert chunk_size([7], 3, 1) <= 3
    assert chunk_size([100], 64, 8) % 8 == 0
    assert chunk_size([5], 1, 8) == 8
