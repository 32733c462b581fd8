"""Sweeps against single edited forwards, directions, normalisation, joint sets, roles, and what is refused."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import POS, altered, apply, budget, configs, masks, random_params, random_tokens
from hypothesis import given
from hypothesis import strategies as st

import jaxinterp as ji

METRIC = ji.logit_diff([3, 5, 7], [4, 6, 8])


@pytest.fixture(scope="module")
def pair(small):
    model, params, tokens = small
    return model, params, tokens, tokens.at[:, 2:].set((tokens[:, 2:] + 1) % 50)


def value(model, params, tokens, edits=None, metric=METRIC):
    logits, cache = model.apply(params, tokens, edits or {}, capture=metric.capture)
    return np.asarray(metric.fn(jnp.take_along_axis(logits[:, -1:], metric.columns[:, None], -1), cache, *metric.data))


@pytest.mark.parametrize(
    ("site", "over"),
    [
        ("z", ("layer", "head", "pos")),
        ("z", ("pos", "layer")),
        ("resid_pre", ("layer", "pos")),
        ("mlp_post", ("neuron",)),
        ("pattern", ("layer", "head")),
        ("pattern", ("query", "key")),
        ("k", ("layer", "kv_head")),
        ("embed", ("pos",)),
        ("resid_final", ()),
    ],
)
def test_each_cell_is_a_forward_with_one_replacement(pair, site, over):
    model, params, base, source = pair
    effects = ji.activation_patching(model, params, base, source, site=site, over=over, metric=METRIC, per_example=True)
    assert effects.dims == (*over, "batch")
    _, cache = model.apply(params, source, capture=(site,))
    reference = value(model, params, base)
    rng = np.random.default_rng(0)
    for _ in range(4):
        cell = {axis: int(rng.integers(effects.sizes[axis])) for axis in over}
        where = ji.at(**{{"kv_head": "head"}.get(axis, axis): n for axis, n in cell.items()})
        expected = value(model, params, base, {site: ji.replace(cache[site], where)}) - reference
        np.testing.assert_allclose(effects.sel(cell), expected, atol=2e-4)


def test_shared_prefixes_and_self_patches_are_exactly_zero(pair):
    model, params, base, source = pair
    effects = ji.activation_patching(model, params, base, source, site="z", metric=METRIC)
    assert (effects.sel(pos=slice(0, 1)) == 0).all()
    assert (effects.sel(pos=slice(2, None)) != 0).any()
    same = ji.activation_patching(model, params, base, base, site="resid_post", over=("layer", "pos"), metric=METRIC)
    assert (same == 0).all()


def test_directions_and_normalisation(pair):
    model, params, base, source = pair
    metrics = {name: value(model, params, tokens).mean() for name, tokens in (("base", base), ("source", source))}
    for first, second, sign in ((base, source, 1), (source, base, -1)):
        effects = ji.activation_patching(
            model, params, first, second, site="resid_pre", over=("layer",), metric=METRIC, normalize=True
        )
        np.testing.assert_allclose(effects.sel(layer=0), 1, atol=1e-4)
        raw = ji.activation_patching(model, params, first, second, site="resid_pre", over=("layer",), metric=METRIC)
        np.testing.assert_allclose(raw, effects * sign * (metrics["source"] - metrics["base"]), atol=1e-4)
        np.testing.assert_allclose(raw.attrs["source_metric"] - raw.attrs["base_metric"], raw.sel(layer=0), atol=1e-4)


def test_normalising_by_nothing_is_nan_and_says_so(pair):
    model, params, base, _ = pair
    with pytest.warns(UserWarning, match="source and base metrics are equal"):
        effects = ji.activation_patching(
            model, params, base, base, site="z", over=("layer",), metric=METRIC, normalize=True
        )
    assert np.isnan(effects).all()


def test_means_carry_their_standard_error(pair):
    model, params, base, source = pair
    run = {"site": "z", "over": ("layer", "head"), "metric": METRIC}
    each = ji.activation_patching(model, params, base, source, per_example=True, **run)
    mean = ji.activation_patching(model, params, base, source, **run)
    np.testing.assert_allclose(mean, each.mean("batch"), atol=1e-6)
    np.testing.assert_allclose(mean.standard_error, each.std("batch", ddof=1) / np.sqrt(3), atol=1e-6)
    assert "standard_error" in mean.to_dataframe()
    assert mean.sel(layer=1, head=2).attrs["n_prompts"] == 3


def test_joint_sets_windows_and_roles(pair):
    model, params, base, source = pair
    sites = ("q", "k", "v")
    _, cache = model.apply(params, source, capture=(*sites, "mlp_out", "z"))
    run = {"metric": METRIC, "per_example": True}
    reference = value(model, params, base)

    together = ji.activation_patching(model, params, base, source, sites=sites, over=("layer", "head"), **run)
    edits = {name: ji.replace(cache[name], ji.at(layer=0, head=2)) for name in sites}
    np.testing.assert_allclose(together.sel(layer=0, head=2), value(model, params, base, edits) - reference, atol=2e-4)

    sets = {
        "two heads": [ji.at(layer=0, head=1), ji.at(layer=1, head=3)],
        "by position": ji.at(layer=0, pos=ji.per_example([2, 3, -1])),
        "two sites": {"mlp_out": ji.at(layer=slice(0, 2)), "z": ji.at(layer=1, head=0)},
    }
    joint = ji.activation_patching(model, params, base, source, site="z", sets=sets, **run)
    assert joint.coords["set"].values.tolist() == list(sets)
    two = {"z": tuple(ji.replace(cache["z"], w) for w in sets["two heads"])}
    np.testing.assert_allclose(joint.sel(set="two heads"), value(model, params, base, two) - reference, atol=2e-4)
    one = {"z": ji.replace(cache["z"], sets["by position"])}
    np.testing.assert_allclose(joint.sel(set="by position"), value(model, params, base, one) - reference, atol=2e-4)
    both = {name: ji.replace(cache[name], where) for name, where in sets["two sites"].items()}
    np.testing.assert_allclose(joint.sel(set="two sites"), value(model, params, base, both) - reference, atol=2e-4)

    roles = {"SUBJECT": [2, 3, 4], "END": [-1, -1, -1]}
    named = ji.activation_patching(
        model, params, base, source, site="resid_pre", over=("layer", "role"), roles=roles, **run
    )
    assert named.coords["role"].values.tolist() == ["SUBJECT", "END"]
    _, cache = model.apply(params, source, capture=("resid_pre",))
    for role, index in roles.items():
        edits = {"resid_pre": ji.replace(cache["resid_pre"], ji.at(layer=1, pos=ji.per_example(index)))}
        expected = value(model, params, base, edits) - reference
        np.testing.assert_allclose(named.sel(layer=1, role=role), expected, atol=2e-4)


def test_edited_base_and_source_runs(pair):
    model, params, base, source = pair
    base_edits, source_edits = {"mlp_out": ji.zero(ji.at(layer=0))}, {"z": ji.scale(0.5)}
    effects = ji.activation_patching(
        model, params, base, source, site="z", over=("layer",), metric=METRIC, per_example=True,
        base_interventions=base_edits, source_interventions=source_edits,
    )  # fmt: skip
    _, cache = model.apply(params, source, source_edits, capture=("z",))
    edits = ji.joined(base_edits, {"z": ji.replace(cache["z"], ji.at(layer=1))})
    expected = value(model, params, base, edits) - value(model, params, base, base_edits)
    np.testing.assert_allclose(effects.sel(layer=1), expected, atol=2e-4)
    assert effects.attrs["base_metric"] == pytest.approx(value(model, params, base, base_edits).mean(), abs=1e-4)


def test_normalising_by_prompt_and_renormalised_patterns(pair):
    model, params, base, source = pair
    run = {"site": "pattern", "over": ("layer", "head", "query", "key"), "metric": METRIC, "per_example": True}
    each = ji.activation_patching(model, params, base, source, normalize="per_prompt", **run)
    raw = ji.activation_patching(model, params, base, source, **run)
    np.testing.assert_allclose(each * (value(model, params, source) - value(model, params, base)), raw, atol=1e-4)
    scaled = ji.activation_patching(model, params, base, source, renormalise=True, **run)
    _, cache = model.apply(params, source, capture=("pattern",))
    where = ji.at(layer=0, head=1, query=5, key=2)
    rows = ji.apply_fn(lambda p: p / p.sum(axis=-1, keepdims=True))
    expected = value(model, params, base, {"pattern": (ji.replace(cache["pattern"], where), rows)})
    found = scaled.sel(layer=0, head=1, query=5, key=2)
    np.testing.assert_allclose(found, expected - value(model, params, base), atol=1e-4)
    assert not np.allclose(found, raw.sel(layer=0, head=1, query=5, key=2), atol=1e-6)


def test_roles_of_padded_prompts(pair):
    model, params, base, source = pair
    mask = np.arange(6) < np.array([[6], [4], [3]])
    run = {"site": "resid_post", "metric": METRIC, "mask": mask, "per_example": True}
    roles = {"END": [-1, -1, -1], "third": [2, 2, 2]}
    named = ji.activation_patching(model, params, base, source, over=("layer", "role"), roles=roles, **run)
    by_pos = ji.activation_patching(model, params, base, source, over=("layer", "pos"), **run)
    for prompt, end in enumerate((5, 3, 2)):
        found = named.sel(role="END").isel(batch=prompt)
        np.testing.assert_allclose(found, by_pos.sel(pos=end).isel(batch=prompt), atol=1e-5)
    for bad, message in (
        ([-1, -1, -4], "pos=-4 is out of range for prompt 2"),
        ([4, 4, 4], "pos=4 .* for prompt 2|pos=4 .* for prompt 1"),
    ):
        with pytest.raises(ValueError, match=message):
            ji.activation_patching(model, params, base, source, over=("role",), roles={"A": bad}, **run)


def test_a_model_with_run_and_resume_of_its_own(pair):
    """The signatures of the protocol are enough for sweeps to start at the patched layer."""
    import dataclasses
    from typing import Any

    model, params, base, source = pair
    resumed = []

    @dataclasses.dataclass(frozen=True)
    class Wrapped:
        inner: Any

        @property
        def sites(self):
            return self.inner.sites

        def apply(self, params, tokens, interventions=None, *, capture=(), mask=None):
            return self.inner.apply(params, tokens, interventions, capture=capture, mask=mask)

        def run(self, params, tokens, *, mask=None):
            return self.inner.run(params, tokens, mask=mask)

        def resume(self, params, run, interventions=None, *, start_layer, start_pos=0, capture=(), positions=None):
            resumed.append(start_layer)
            return self.inner.resume(
                params,
                run,
                interventions,
                start_layer=start_layer,
                start_pos=start_pos,
                capture=capture,
                positions=positions,
            )

    run = {"site": "z", "over": ("layer", "head"), "metric": METRIC}
    effects = ji.activation_patching(Wrapped(model), params, base, source, **run)
    np.testing.assert_allclose(effects, ji.activation_patching(model, params, base, source, **run), atol=1e-4)
    assert resumed


def test_evaluate_is_the_effect_of_any_edits(pair):
    model, params, base, _ = pair
    edits = {"z": ji.zero(ji.at(layer=0)), "mlp_out": ji.scale(0.1)}
    effect = ji.evaluate(model, params, base, edits, metric=METRIC)
    expected = value(model, params, base, edits).mean() - value(model, params, base).mean()
    np.testing.assert_allclose(effect, expected, atol=1e-4)
    np.testing.assert_allclose(effect.attrs["edited_metric"] - effect.attrs["base_metric"], effect, atol=1e-5)
    assert float(ji.evaluate(model, params, base, {}, metric=METRIC)) == 0


@pytest.mark.parametrize("max_bytes", [1, 200_000, None])
def test_chunks_do_not_change_results(pair, max_bytes):
    model, params, base, source = pair
    effects = ji.activation_patching(model, params, base, source, site="z", metric=METRIC, max_bytes=max_bytes)
    whole = ji.activation_patching(model, params, base, source, site="z", metric=METRIC)
    np.testing.assert_allclose(effects, whole, atol=1e-5)


def test_a_minimal_model_of_ones_own():
    """Anything with `apply` and `sites` can be swept: here AND and OR of two inputs (the specification's table)."""
    import dataclasses

    @dataclasses.dataclass(frozen=True)
    class Gate:
        kind: str

        @property
        def sites(self):
            return {"input": ji.SiteSpec(("batch", "pos"), (None, None))}

        def apply(self, params, tokens, interventions=None, *, capture=(), mask=None):
            from jaxinterp.model.interventions import as_tuple, edit
            from jaxinterp.model.where import Geometry

            x = tokens.astype(float)
            if "input" in (interventions or {}):
                edits = as_tuple(interventions["input"])
                x = edit(x, edits, self.sites["input"], Geometry.of(tokens, mask), None)
            out = x.min(axis=1) if self.kind == "AND" else x.max(axis=1)
            return out[:, None, None], {"input": x} if "input" in capture else {}

    on, off = jnp.ones((1, 2), int), jnp.zeros((1, 2), int)
    metric = ji.Metric(_only, positions=[0])
    table = {}
    for kind in ("AND", "OR"):
        for name, base, source in (("denoising", off, on), ("noising", on, off)):
            effects = ji.activation_patching(Gate(kind), None, base, source, site="input", over=("pos",), metric=metric)
            table[kind, name] = effects.values.tolist()
    assert table == {
        ("AND", "denoising"): [0, 0],
        ("AND", "noising"): [-1, -1],
        ("OR", "denoising"): [1, 1],
        ("OR", "noising"): [0, 0],
    }


def _only(logits, cache):
    return logits[:, 0, 0]


@budget(3)
@given(config=configs(), side=st.sampled_from([None, "right", "left"]), site=st.integers(0, 100))
def test_sweeps_over_random_architectures(config, side, site):
    """A whole sweep in float64 equals single forwards, whatever the architecture, padding and site."""
    with jax.enable_x64(True):
        model = ji.Transformer(config)
        params, base, mask = random_params(model), random_tokens(config), masks(side)
        source = altered(config, base, 2)
        name = list(model.sites)[site % len(model.sites)]
        row = "query" if "query" in model.sites[name].axes else "pos"
        over = ("layer", row) if model.sites[name].per_layer else (row,)
        metric = ji.logit_diff(0, 1)
        effects = ji.activation_patching(
            model, params, base, source, site=name, over=over, metric=metric, mask=mask, per_example=True
        )
        _, cache = apply(model, params, source, capture=(name,), mask=mask)
        scale = float(np.abs(apply(model, params, base, mask=mask)[0]).max())
        reference = ji.evaluate(model, params, base, {}, metric=metric, mask=mask).attrs["base_metric"]
        assert np.isfinite(reference)
        for cell in ({row: 2}, {row: POS - 1}, {row: 1}):
            cell |= {"layer": config.n_layers - 1} if "layer" in over else {}
            edits = {name: ji.replace(cache[name], ji.at(**cell))}
            expected = ji.evaluate(model, params, base, edits, metric=metric, mask=mask, per_example=True)
            np.testing.assert_allclose(effects.sel(cell), expected, atol=1e-9 * max(scale, 1))


ERRORS = {
    "unknown site": ({"site": "zz"}, "unknown site 'zz'"),
    "no site": ({"site": None}, "which activation"),
    "site and sites": ({"sites": ("q",)}, "not both"),
    "sites as a string": ({"site": None, "sites": "qkv"}, "sites must be a tuple"),
    "unknown axis": ({"over": ("layer", "heads")}, r"unknown axis 'heads' in over; did you mean 'head'\?"),
    "missing axis": ({"over": ("neuron",)}, "site 'z' has no such axis; it has layer, pos, head"),
    "axis twice": ({"over": ("layer", "layer")}, "names one axis twice"),
    "over a string": ({"over": "layer"}, r"write over=\('layer',\)"),
    "role without roles": ({"over": ("role",)}, "over holds 'role': give roles="),
    "role out of range": ({"over": ("role",), "roles": {"END": [1, 2, 6]}}, "pos=6 is out of range"),
    "role shape": ({"over": ("role",), "roles": {"END": [1, 2]}}, "role 'END' must be int"),
    "empty sets": ({"sets": []}, "sets is empty"),
    "one where as sets": ({"sets": ji.at(layer=0)}, "sets must be a list"),
    "an empty set": ({"sets": [[]]}, "a set selects nothing at site 'z'"),
    "renormalise": ({"renormalise": True}, "renormalise=True is for site 'pattern'"),
    "normalize": ({"normalize": "each"}, "normalize must be False, True or 'per_prompt'"),
    "mesh": ({"mesh": "cpu"}, "mesh must be a jax.sharding.Mesh"),
    "metric capture": ({"metric": ji.Metric(len, capture={"z": ji.at(layer=9)})}, "layer=9 is out of range"),
    "set out of range": ({"sets": [ji.at(layer=9)]}, "layer=9 is out of range"),
    "metric": ({"metric": len}, "expects a ji.Metric"),
    "metric batch": ({"metric": ji.logit_diff([1], [2])}, "must lead with batch = 3"),
    "metric position": ({"metric": ji.logit_diff(1, 2, pos=6)}, "metric reads position 6 of prompt 0"),
    "max_bytes": ({"max_bytes": 0}, "max_bytes must be a positive int"),
    "base edits": ({"base_interventions": {"zz": ji.zero()}}, "unknown site 'zz'"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_bad_arguments(pair, case):
    model, params, base, source = pair
    kwargs, message = ERRORS[case]
    with pytest.raises((ValueError, TypeError), match=message):
        ji.activation_patching(model, params, base, source, **({"site": "z", "metric": METRIC} | kwargs))


def test_unaligned_prompts(pair):
    model, params, base, source = pair
    with pytest.raises(ValueError, match=r"base has shape \(3, 6\), source has \(3, 5\)"):
        ji.activation_patching(model, params, base, source[:, :5], site="z", metric=METRIC)
    right = np.arange(6) < np.array([[6], [4], [3]])
    padded = ji.Prompts(base, right), ji.Prompts(source, np.arange(6) < np.array([[6], [5], [3]]))
    with pytest.raises(ValueError, match="prompt 1: base has 4 tokens, source has 5"):
        ji.activation_patching(model, params, *padded, site="z", metric=METRIC)
    with pytest.raises(ValueError, match="out of vocabulary"):
        ji.activation_patching(model, params, base + 50, source, site="z", metric=METRIC)
    with pytest.raises(ValueError, match="empty prompt"):
        ji.activation_patching(model, params, base[:, :0], source[:, :0], site="z", metric=METRIC)


def test_grouped_heads_are_not_mixed_with_query_heads():
    config = ji.TransformerConfig(2, 16, 4, 50, 8, n_kv_heads=2)
    model = ji.Transformer(config)
    params = model.init(jax.random.key(0))
    base, source = jnp.ones((1, 4), int), jnp.full((1, 4), 2)
    effects = ji.activation_patching(
        model, params, base, source, site="v", over=("layer", "head"), metric=ji.logit_diff(1, 2)
    )
    assert effects.shape == (2, 2)
    with pytest.raises(ValueError, match="the sites q, k differ in it"):
        ji.activation_patching(
            model, params, base, source, sites=("q", "k"), over=("head",), metric=ji.logit_diff(1, 2)
        )


@pytest.mark.parametrize("name", ["llama-grouped", "gemma2-tied", "qwen3-grouped"])
@pytest.mark.parametrize("site", ["k", "v"])
def test_keys_and_values_by_kv_head_in_both_directions(name, site):
    model, params, _ = ji.load(Path(__file__).parents[1] / "goldens" / name)
    rng = np.random.default_rng(0)
    clean = rng.integers(0, model.config.d_vocab, (2, 5))
    corrupted = np.where(np.arange(5) < 2, clean, (clean + 7) % model.config.d_vocab)
    metric = ji.logit_diff(np.array([3, 4]), np.array([5, 6]))
    forward = jax.jit(lambda tokens, edits: model.apply(params, tokens, edits, capture=("k", "v")))

    def value(tokens, edits):
        logits = np.asarray(forward(tokens, edits)[0])[:, -1]
        return logits[[0, 1], [3, 4]] - logits[[0, 1], [5, 6]]

    for base, source in ((corrupted, clean), (clean, corrupted)):
        effects = ji.activation_patching(
            model, params, base, source, site=site, over=("layer", "kv_head", "pos"), metric=metric, per_example=True
        )
        assert effects.shape == (model.config.n_layers, model.config.n_kv_heads, 5, 2)
        cache, reference = forward(source, {})[1][site], value(base, {})
        for layer, head, pos in np.ndindex(*effects.shape[:3]):
            where = ji.at(layer=jnp.int32(layer), head=jnp.int32(head), pos=jnp.int32(pos))
            expected = value(base, {site: ji.replace(cache, where)}) - reference
            np.testing.assert_allclose(effects[layer, head, pos], expected, atol=1e-4)
            assert (effects[layer, head, pos] == 0).all() == (pos < 2)


def test_renormalising_leaves_other_rows_as_they_stand(pair):
    model, params, base, source = pair
    standing = {"pattern": ji.zero(ji.at(layer=1, head=0))}
    run = {"metric": ji.logit_diff([1, 2, 3], [4, 5, 6]), "base_interventions": standing, "renormalise": True}
    grid = ji.activation_patching(model, params, base, source, site="pattern", over=("layer", "head"), **run)
    assert np.isfinite(grid).all()
    sets = [{"pattern": ji.at(layer=0, head=head)} for head in range(model.config.n_heads)]
    joint = ji.activation_patching(model, params, base, source, sets=sets, **run)
    np.testing.assert_allclose(joint, grid.sel(layer=0), atol=1e-5)


def test_prompts_may_be_lists_of_tokens(pair):
    model, params, base, source = pair
    run = {"site": "resid_post", "over": ("layer",), "metric": ji.logit_diff([1, 2, 3], [4, 5, 6])}
    effects = ji.activation_patching(model, params, base.tolist(), ji.Prompts(source.tolist()), **run)
    np.testing.assert_array_equal(effects, ji.activation_patching(model, params, base, source, **run))
    with pytest.raises(ValueError, match=r"prompts have 1 to 2 tokens: `tokens, mask = ji.tasks.pad"):
        ji.activation_patching(model, params, [[1, 2], [3]], [[1, 2], [3]], **run)


def test_what_is_no_model_no_prompts_or_no_key_is_told(pair, tmp_path):
    model, params, base, source = pair
    told = {"site": "z", "metric": METRIC}
    pairs = ji.TokenPairs(ji.Prompts(base), ji.Prompts(source), [0], [1])
    with pytest.raises(TypeError, match=r"expected prompts, got pairs of them \(ji\.TokenPairs\): give their clean"):
        ji.activation_patching(model, params, pairs, pairs, **told)
    with pytest.raises(TypeError, match=r"model must have apply and sites, as a ji\.Transformer does, got dict"):
        ji.activation_patching(params, model, base, source, **told)
    with pytest.raises(TypeError, match=r"over must be a tuple of axis names, got None; write over=\(\)"):
        ji.activation_patching(model, params, base, source, over=None, **told)
    with pytest.raises(TypeError, match="progress must be True, False or None, got 'yes'"):
        ji.activation_patching(model, params, base, source, progress="yes", **told)
    with pytest.raises(ValueError, match=r"roles= is given, but over=.* holds no 'role'"):
        ji.activation_patching(model, params, base, source, over=("layer",), roles={"END": [3, 3, 3]}, **told)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match=r"resume=.*file' is a file: give a folder"):
        ji.activation_patching(model, params, base, source, resume=tmp_path / "file", **told)
    with pytest.raises(TypeError, match=r"key= expects a key from jax\.random\.key, got 0"):
        ji.causal_tracing(model, params, base, subject=1, key=0, metric=METRIC)
    with pytest.raises(TypeError, match=r"key= expects a key from jax\.random\.key, got 0"):
        ji.ablation(model, params, base, kind="noise", sigma=1.0, key=0, **told)
