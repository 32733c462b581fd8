"""Each kind of edit does what its name says, at the coordinates it is given, as a pytree."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxinterp as ji


@pytest.fixture(scope="module")
def cache(small):
    model, params, tokens = small
    return model.apply(params, tokens, capture=("z", "resid_post", "pattern", "mlp_post", "k"))[1]


@pytest.fixture(scope="module")
def other(small):
    model, params, tokens = small
    return model.apply(params, (tokens + 1) % 50, capture=("z", "resid_post"))[1]


def edited(small, site, edit, mask=None):
    model, params, tokens = small
    return model.apply(params, tokens, {site: edit}, capture=(site,), mask=mask)[1][site]


DIRECTION = np.arange(1.0, 33.0)
UNIT = DIRECTION / np.linalg.norm(DIRECTION)

EDITS = {
    "replace": (lambda v, w: ji.replace(v, w), lambda x, v: v),
    "add": (lambda v, w: ji.add(v, w), lambda x, v: x + v),
    "lerp": (lambda v, w: ji.lerp(v, 0.3, w), lambda x, v: 0.7 * x + 0.3 * v),
    "scale": (lambda v, w: ji.scale(-2.0, w), lambda x, v: -2 * x),
    "zero": (lambda v, w: ji.zero(w), lambda x, v: 0 * x),
    "replace_along": (
        lambda v, w: ji.replace_along(DIRECTION, v, w),
        lambda x, v: x + ((v - x) @ UNIT)[..., None] * UNIT,
    ),
    "replace_along_by_layer": (
        lambda v, w: ji.replace_along(np.broadcast_to(DIRECTION, (2, 1, 1, 32)), v, w),
        lambda x, v: x + ((v - x) @ UNIT)[..., None] * UNIT,
    ),
    "project_out": (lambda v, w: ji.project_out(DIRECTION, w), lambda x, v: x - (x @ UNIT)[..., None] * UNIT),
    "project_out_by_layer": (
        lambda v, w: ji.project_out(np.broadcast_to(DIRECTION, (2, 1, 1, 32)), w),
        lambda x, v: x - (x @ UNIT)[..., None] * UNIT,
    ),
    "stop_gradient": (lambda v, w: ji.stop_gradient(w), lambda x, v: x),
    "apply_fn": (lambda v, w: ji.apply_fn(jnp.minimum, 0.5, where=w), lambda x, v: np.minimum(x, 0.5)),
}


@pytest.mark.parametrize("kind", EDITS)
def test_each_kind_edits_what_it_selects_and_nothing_else(small, cache, other, kind):
    make, expected = EDITS[kind]
    x, v = np.asarray(cache["resid_post"][1], np.float64), np.asarray(other["resid_post"][1], np.float64)
    got = edited(small, "resid_post", make(other["resid_post"], ji.at(layer=1, pos=[2, -1], batch=[0, 2])))
    np.testing.assert_array_equal(got[0], cache["resid_post"][0])
    want = x.copy()
    for batch in (0, 2):
        want[batch, [2, 5]] = expected(x, v)[batch, [2, 5]]
    np.testing.assert_allclose(got[1], want, atol=2e-4)


def test_edits_of_one_site_apply_in_order(small, cache):
    got = edited(small, "z", (ji.zero(ji.at(layer=1)), ji.add(jnp.ones((1, 1, 1, 1, 1)), ji.at(layer=1))))
    np.testing.assert_array_equal(got[1], jnp.ones_like(got[1]))


COORDINATES = {
    "int": (ji.at(layer=0, pos=1), np.s_[0, :, 1]),
    "negative": (ji.at(layer=-1, pos=-2), np.s_[1, :, 4]),
    "list": (ji.at(head=[0, 3]), np.s_[:, :, :, [0, 3]]),
    "slice": (ji.at(pos=slice(1, -1, 2)), np.s_[:, :, 1:-1:2]),
    "boolean": (ji.at(head=np.array([True, False, False, True])), np.s_[:, :, :, [0, 3]]),
    "batch": (ji.at(batch=2), np.s_[:, 2]),
}


@pytest.mark.parametrize("kind", COORDINATES)
def test_coordinates_select_as_numpy_does(small, cache, kind):
    where, index = COORDINATES[kind]
    got = np.asarray(edited(small, "z", ji.scale(0.0, where)))
    chosen = np.zeros(got.shape, bool)
    chosen[index] = True
    assert (got[chosen] == 0).all()
    first = 0 if chosen[0].any() else 1  # later layers see earlier edits; the first edited one does not
    np.testing.assert_allclose(got[first][~chosen[first]], np.asarray(cache["z"])[first][~chosen[first]], atol=1e-5)


def test_positions_count_from_each_prompts_own_end(small):
    mask = jnp.arange(6) < jnp.array([[6], [4], [2]])
    got = np.asarray(edited(small, "resid_post", ji.zero(ji.at(layer=1, pos=-1)), mask=mask))[1]
    zero = (got == 0).all(-1)
    assert [row.nonzero()[0].tolist() for row in zero] == [[5], [3], [1]]
    got = np.asarray(edited(small, "resid_post", ji.zero(ji.at(layer=1, pos=slice(-2, None))), mask=mask))[1]
    assert [(row == 0).all(-1)[:end].nonzero()[0].tolist() for row, end in zip(got, (6, 4, 2), strict=True)] == [
        [4, 5],
        [2, 3],
        [0, 1],
    ]


def test_per_example_positions(small):
    where = ji.at(layer=1, pos=ji.per_example([0, 3, -1]))
    got = np.asarray(edited(small, "resid_post", ji.zero(where)))[1]
    assert [(row == 0).all(-1).nonzero()[0].tolist() for row in got] == [[0], [3], [5]]


def test_a_mask_selects_entry_by_entry(small):
    mask = np.zeros((2, 1, 1, 4, 1), bool)
    mask[0, :, :, 1] = mask[1, :, :, 2] = True
    got = np.asarray(edited(small, "z", ji.zero(ji.at(mask=mask))))
    assert (got[0, :, :, 1] == 0).all()
    assert (got[1, :, :, 2] == 0).all()
    assert not (got[1, :, :, 1] == 0).any()


def test_traced_coordinates_out_of_range_select_nothing_and_are_counted(small):
    model, params, tokens = small
    plain, _ = model.apply(params, tokens)

    @jax.jit
    def run(layer):
        edits = {"z": ji.zero(ji.at(layer=layer, head=0))}
        return model.apply(params, tokens, edits)[0], ji.count_selected(model.sites, edits, tokens)["z"][0]

    for layer, count in ((1, 3 * 6 * 8), (2, 0), (-3, 0), (99, 0)):
        logits, counted = run(layer)
        assert int(counted) == count
        assert bool((logits == plain).all()) == (count == 0)


def test_captures_keep_only_what_is_asked_for(small, cache):
    model, params, tokens = small
    wheres = {
        "z": ji.at(layer=[1], head=[3, 0], pos=-1),
        "pattern": ji.at(head=2, query=slice(2, 4)),
        "mlp_post": ji.at(layer=-1, neuron=[5, 7]),
        "resid_post": ji.at(pos=ji.per_example([[0, 1], [2, 3], [4, 5]])),
        "k": ji.at(head=np.array([True, False, True, False])),
    }
    _, kept = model.apply(params, tokens, capture=wheres)
    np.testing.assert_allclose(kept["k"], cache["k"][:, :, :, [0, 2]], atol=1e-5)
    np.testing.assert_allclose(kept["z"], cache["z"][1:2][:, :, 5:6][:, :, :, [3, 0]], atol=1e-5)
    np.testing.assert_allclose(kept["pattern"], cache["pattern"][:, :, 2:3, 2:4], atol=1e-6)
    np.testing.assert_allclose(kept["mlp_post"], cache["mlp_post"][1:, :, :, [5, 7]], atol=1e-5)
    rows = np.stack([cache["resid_post"][:, b, [2 * b, 2 * b + 1]] for b in range(3)], axis=1)
    np.testing.assert_allclose(kept["resid_post"], rows, atol=1e-5)


@pytest.mark.parametrize(
    ("site", "where"),
    [
        ("z", ji.at(layer=1, head=[3, 0], pos=-1)),
        ("pattern", ji.at(head=1, query=2)),
        ("pattern", ji.at(head=[1, 2])),
        ("resid_post", ji.at(pos=ji.per_example([0, 3, 5]))),
        ("mlp_post", ji.at(neuron=slice(3, 9))),
        ("k", ji.at(layer=0)),
    ],
)
def test_place_is_the_inverse_of_a_compact_capture(small, cache, site, where):
    model, params, tokens = small
    _, kept = model.apply(params, tokens, capture={site: where})
    for like in (cache[site], (model.sites[site], tokens.shape)):
        full = ji.place(kept[site], where, like=like)
        assert full.shape == cache[site].shape
        selected = int(ji.count_selected(model.sites, {site: ji.zero(where)}, tokens)[site][0])
        close = np.isclose(full, cache[site], atol=1e-5)
        assert close.sum() >= selected
        assert (np.asarray(full)[~close] == 0).all()
    with pytest.raises(ValueError, match="compact has shape"):
        ji.place(np.zeros((1, 2, 3)), where, like=cache[site])


def test_placing_in_padded_prompts(small):
    model, params, tokens = small
    mask = np.arange(6) < np.array([[6], [4], [2]])
    where = ji.at(layer=0, pos=-1)
    _, kept = model.apply(params, tokens, capture={"z": where}, mask=mask)
    plain, cache = model.apply(params, tokens, capture=("z",), mask=mask)
    value = ji.place(kept["z"], where, like=cache["z"], mask=mask)
    again, _ = model.apply(params, tokens, {"z": ji.replace(value, where)}, mask=mask)
    np.testing.assert_allclose(again, plain, atol=1e-4)
    square = np.zeros((2, 3, 4, 4, 4))  # heads by position, or a pattern: both are four by four by four
    with pytest.raises(ValueError, match="could be heads by position or an attention pattern"):
        ji.place(square, ji.at(head=[2, 1, 0, 3]), like=square)


def test_edits_are_pytrees(small, other):
    model, params, tokens = small
    edits = {"z": (ji.lerp(other["z"], 0.5, ji.at(layer=1, pos=[1, 2])), ji.scale(2.0)), "mlp_out": ji.zero()}
    expected, _ = model.apply(params, tokens, edits)
    np.testing.assert_array_equal(model.apply(params, tokens, jax.tree.map(lambda leaf: leaf, edits))[0], expected)
    leaves, tree = jax.tree.flatten(edits)
    np.testing.assert_array_equal(model.apply(params, tokens, jax.tree.unflatten(tree, leaves))[0], expected)
    donated = jax.jit(lambda e: model.apply(params, tokens, e)[0], donate_argnums=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Some donated buffers")  # no output has a coordinate's shape
        np.testing.assert_allclose(donated(jax.tree.map(jnp.array, edits)), expected, atol=1e-4)
    values, rest = ji.partition(edits)
    assert all(jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in jax.tree.leaves(values))
    np.testing.assert_array_equal(model.apply(params, tokens, ji.combine(values, rest))[0], expected)


def test_the_gradient_of_an_added_zero_is_the_derivative(small):
    with jax.enable_x64(True):
        model = ji.Transformer(ji.TransformerConfig(2, 16, 2, 20, 8, dtype="float64"))
        params = model.init(jax.random.key(3))
        tokens = jnp.array([[1, 2, 3, 4]])

        def metric(probe):
            return model.apply(params, tokens, {"resid_mid": ji.add(probe, ji.at(layer=1))})[0][0, -1, 5]

        probe = jnp.zeros((2, 1, 4, 16))
        gradient = jax.grad(metric)(probe)
        assert not gradient[0].any()
        step = jax.random.normal(jax.random.key(4), probe.shape)
        slope = (metric(1e-5 * step) - metric(-1e-5 * step)) / 2e-5
        np.testing.assert_allclose(jnp.vdot(gradient, step), slope, rtol=1e-6)
        _, tangent = jax.jvp(metric, (probe,), (step,))
        np.testing.assert_allclose(tangent, slope, rtol=1e-6)
        frozen = jax.grad(
            lambda p: model.apply(params, tokens, {"resid_mid": (ji.add(p), ji.stop_gradient())})[0].sum()
        )
        assert not frozen(probe).any()


def test_private_copies_reach_one_reader_alone(small):
    """Editing one head's `q_input` changes that head's queries, and no other site before its pattern."""
    model, params, tokens = small
    names = ("q", "k", "v", "pattern")
    _, before = model.apply(params, tokens, capture=names)
    noise = jax.random.normal(jax.random.key(0), (2, 3, 6, 4, 32))
    _, after = model.apply(params, tokens, {"q_input": ji.add(noise, ji.at(layer=0, head=2))}, capture=names)
    np.testing.assert_allclose(after["k"][0], before["k"][0], atol=1e-5)
    np.testing.assert_allclose(after["v"][0], before["v"][0], atol=1e-5)
    changed = np.abs(after["q"][0] - before["q"][0]).max(axis=(0, 1, 3)) > 1e-3
    assert changed.tolist() == [False, False, True, False]
    frozen = {"ln1.scale": ji.scale(2.0, ji.at(layer=0))}
    _, shared = model.apply(params, tokens, frozen, capture=("q",))
    _, split = model.apply(params, tokens, frozen, capture=("q", "q_input"))
    np.testing.assert_allclose(split["q"], shared["q"], atol=1e-5)


def test_dropout_acts_only_with_a_key():
    config = ji.TransformerConfig(2, 16, 2, 20, 8, attn_dropout=0.5, resid_dropout=0.5)
    model = ji.Transformer(config)
    params, tokens = model.init(jax.random.key(0)), jnp.array([[1, 2, 3]])
    plain, _ = model.apply(params, tokens)
    np.testing.assert_array_equal(plain, model.apply(params, tokens)[0])
    dropped, _ = model.apply(params, tokens, key=jax.random.key(1))
    assert not np.allclose(plain, dropped)
    np.testing.assert_array_equal(dropped, model.apply(params, tokens, key=jax.random.key(1))[0])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_keeps_its_dtype_and_its_logits_wide(small, dtype):
    import dataclasses

    model, params, tokens = small
    half = ji.Transformer(dataclasses.replace(model.config, dtype=dtype))
    cast = {name: w.astype(dtype) for name, w in params.items()}
    logits, cache = half.apply(cast, tokens, capture=("resid_post", "ln1.scale", "scores", "pattern"))
    assert logits.dtype == cache["ln1.scale"].dtype == cache["scores"].dtype == jnp.float32
    assert cache["resid_post"].dtype == cache["pattern"].dtype == jnp.dtype(dtype)
    full, _ = model.apply(params, tokens)
    assert float(jnp.abs(logits - full).max()) < 0.05 * float(jnp.abs(full).max())


@pytest.mark.parametrize("capture", [("z",), {"z": ji.at(layer=1)}], ids=["all layers", "one layer"])
def test_unrolled_blocks_change_neither_logits_nor_captures_nor_gradients(small, capture):
    model, params, tokens = small
    edits = {"z": ji.scale(0.5, ji.at(layer=1, head=0))}

    def both(unroll):
        def loss(params):
            logits, cache = model.apply(params, tokens, edits, capture=capture, unroll=unroll)
            return jnp.square(logits).mean(), (logits, cache)

        return jax.value_and_grad(loss, has_aux=True)(params)

    looped, unrolled = both(1), both(model.config.n_layers)
    for one, other in zip(jax.tree.leaves(looped), jax.tree.leaves(unrolled), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)
    for wrong in (0, True, 1.5):
        with pytest.raises(ValueError, match="unroll must be an int of at least 1"):
            model.apply(params, tokens, unroll=wrong)
