"""Generation is the repeated forward: over architectures, padding, edits, draws and stop tokens."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import BATCH, POS, Plain, apply, budget, configs, masks, random_params, random_tokens
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import jaxinterp as ji
from jaxinterp.model.continuation import whole_edits, whole_mask
from jaxinterp.model.sampling import next_token
from jaxinterp.model.where import Geometry, selection

NEW = 4
READ = POS + NEW - 1  # the last token is never read


def starts_and_ends(mask):
    mask = np.ones((BATCH, POS), bool) if mask is None else mask
    return mask.argmax(1)[:, None], POS - mask[:, ::-1].argmax(1)[:, None]


def repeated(model, params, tokens, mask, edits, new=NEW, choose=None):
    """(tokens, logits) by the definition: one whole forward for each token, over what stands there so far.

    Columns that are yet to come hold arbitrary tokens, and are masked as padding on the right.
    """
    start, end = starts_and_ends(mask)
    width = POS + new - 1
    sequence = np.concatenate([tokens, (tokens[:, : width - POS] + 3) % model.config.d_vocab], axis=1)
    columns, rows = np.arange(width), np.arange(BATCH)
    chosen, all_logits = [], []
    for i in range(new):
        so_far = (columns >= start) & (columns < end + i)
        logits = apply(model, params, sequence, edits, mask=so_far)[0][rows, end[:, 0] + i - 1]
        token = logits.argmax(-1) if choose is None else choose(i, logits)
        if i < new - 1:
            sequence[rows, end[:, 0] + i] = token
        chosen.append(token)
        all_logits.append(logits)
    return np.stack(chosen, 1), np.stack(all_logits, 1)


def some_edits(model, reached, width, seed=0):
    """Edits of many sites at the columns `reached` bool[width], as data; arrays over the first `width` columns."""

    def draw(name):
        rng = np.random.default_rng(seed)  # the same numbers whatever the width
        full = rng.normal(size=model.sites[name].shape(BATCH, POS + NEW))
        cut = tuple(slice(0, width) if a in ("pos", "query", "key") else slice(None) for a in model.sites[name].axes)
        return full[cut]

    def at(name):
        axes = model.sites[name].axes
        return ji.at(mask=reached[:width].reshape([-1 if a in ("pos", "query") else 1 for a in axes]))

    return {
        "embed": ji.add(draw("embed"), at("embed")),
        "k": (ji.lerp(draw("k"), 0.5, at("k")), ji.scale(1.1, ji.at(layer=0))),
        "scores": ji.add(draw("scores"), at("scores")),
        "pattern": ji.scale(0.9, at("pattern")),
        "z": ji.replace(draw("z"), ji.at(layer=-1, head=0, mask=at("z").mask)),
        "resid_post": ji.replace_along(draw("resid_post"), draw("resid_post")[::-1] + 1, at("resid_post")),
        "resid_final": ji.apply_fn(jnp.tanh, where=at("resid_final")),
        "logits": ji.add(draw("logits"), at("logits")),
    }


@functools.partial(jax.jit, static_argnames=("model", "new"))
def generated(model, params, tokens, edits, mask, new=NEW):
    return ji.generate(model, params, tokens, edits, max_new_tokens=new, mask=mask, return_logits=True)


def check_generation(config, side):
    model = ji.Transformer(config)
    params, tokens, mask = random_params(model), random_tokens(config), masks(side)
    columns = np.arange(POS + NEW)
    told = []
    for reached in (columns < 0, columns < POS - 1, columns >= POS, columns >= 0):
        got = generated(model, params, tokens, some_edits(model, reached, POS + NEW), mask)
        expected, logits = repeated(model, params, tokens, mask, some_edits(model, reached, READ))
        np.testing.assert_allclose(got.logits, logits, rtol=0, atol=1e-9 * np.abs(logits).max())
        np.testing.assert_array_equal(got.tokens, expected)
        log_probs = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), expected[..., None], -1)[..., 0]
        np.testing.assert_allclose(got.log_probs, log_probs, rtol=0, atol=1e-9)
        np.testing.assert_array_equal(got.lengths, [NEW] * BATCH)
        told.append(np.asarray(got.logits))
    assert all(np.abs(other - told[0]).max() > 1e-3 for other in told[1:]), "every set of edits must act"


#: As long as what is read of prompt and new tokens, and not one position longer.
causal = configs(causal=True, unembed=True, d_vocab_out=11, n_ctx=READ)


@budget(3)
@given(causal, st.sampled_from([None, "left", "right"]))
def test_generation_is_the_repeated_forward(config, side):
    with jax.enable_x64(True):
        check_generation(config, side)


@pytest.mark.slow
@budget(60)
@given(causal, st.sampled_from([None, "left", "right"]))
def test_generation_is_the_repeated_forward_over_many_architectures(config, side):
    with jax.enable_x64(True):
        check_generation(config, side)


def test_the_sequence_may_literally_grow(small):
    """Edits without positions mean the same in both, and need no columns that are yet to come."""
    model, params, tokens = small
    steer = jax.random.normal(jax.random.key(3), (1, 1, 1, 32))
    edits = {"resid_post": ji.add(steer, ji.at(layer=0)), "z": ji.zero(ji.at(layer=1, head=2))}
    got = ji.generate(model, params, tokens, edits, max_new_tokens=2)
    first = apply(model, params, tokens, edits)[0][:, -1].argmax(-1)
    grown = np.concatenate([tokens, first[:, None]], axis=1)
    second = apply(model, params, grown, edits)[0][:, -1].argmax(-1)
    np.testing.assert_array_equal(got.tokens, np.stack([first, second], axis=1))


#: Coordinates, what they select of columns `c` where each prompt ends before column `end`, and whether they name new
#: columns outright, which a value that ends with the prompt does not have.
WHERE = {
    "a prompt column": (ji.at(pos=2), lambda c, end: c == 2, False),
    "a new token": (ji.at(pos=POS + 1), lambda c, end: c == POS + 1, True),
    "the prompt's end": (ji.at(pos=-1), lambda c, end: c == end - 1, False),
    "several": (ji.at(pos=[4, -2, POS]), lambda c, end: (c == 4) | (c == end - 2) | (c == POS), True),
    "all new ones": (ji.at(pos=slice(POS, None)), lambda c, end: c >= POS, True),
    "from the prompt's end on": (ji.at(pos=slice(-2, None)), lambda c, end: c >= end - 2, False),
    "the prompt but its end": (ji.at(pos=slice(None, -1)), lambda c, end: c < end - 1, False),
    "each prompt's own": (
        ji.at(pos=ji.per_example([[-1, 6], [-2, 6], [-3, 6]])),
        lambda c, end: (c == end - np.array([[1], [2], [3]])) | (c == 6),
        True,
    ),
    "booleans over the prompt": (ji.at(pos=np.arange(POS) % 2 == 0), lambda c, end: (c % 2 == 0) & (c < POS), False),
    "booleans over everything": (ji.at(pos=np.arange(POS + NEW) % 2 == 0), lambda c, end: c % 2 == 0, True),
    "a mask over the prompt": (ji.at(mask=np.ones((1, 1, POS, 1, 1), bool)), lambda c, end: c < POS, False),
    "nothing named": (ji.at(layer=[0, 1]), lambda c, end: c >= 0, False),
}


@pytest.mark.parametrize("side", [None, "left", "right"])
def test_coordinates_run_over_the_whole_sequence(small, side):
    sites = small[0].sites
    geometry = Geometry(BATCH, POS + NEW, whole_mask(masks(side), NEW))
    columns, end = np.arange(POS + NEW), starts_and_ends(masks(side))[1]
    for kind, (where, rule, names_new) in WHERE.items():
        if side == "right" and kind == "all new ones":
            continue  # refused: shorter prompts' new tokens begin earlier
        for length in (POS, POS + NEW):
            edits = {"z": ji.replace(np.ones((2, BATCH, length, 4, 8)), where)}
            if length == POS and names_new:
                with pytest.raises(ValueError, match="the value ends with the prompt's 6 positions"):
                    whole_edits(sites, edits, geometry, NEW)
                continue
            (one,) = whole_edits(sites, edits, geometry, NEW)["z"]
            assert one.values[0].shape == sites["z"].shape(BATCH, POS + NEW)
            chosen = np.broadcast_to(selection(one.where, sites["z"], geometry), one.values[0].shape)
            expected = np.broadcast_to(rule(columns, end) & (columns < length), (BATCH, POS + NEW))
            np.testing.assert_array_equal(chosen[0, :, :, 0, 0], expected)


def test_a_cache_of_the_prompt_edits_the_prompt(small):
    """What stands there already changes nothing; another prompt's does, as in a whole forward."""
    model, params, tokens = small
    other = (tokens + 7) % 50
    plain = generated(model, params, tokens, {}, None)
    for source in (tokens, other):
        _, cache = model.apply(params, source, capture=("z", "pattern"))
        edits = {site: ji.replace(cache[site], ji.at(layer=1)) for site in cache}
        whole = np.pad(cache["z"], ((0, 0), (0, 0), (0, NEW - 1), (0, 0), (0, 0)))
        pattern = np.pad(cache["pattern"], ((0, 0),) * 3 + ((0, NEW - 1),) * 2)
        near = np.arange(READ) < POS
        square = (near[:, None] & near).reshape(1, 1, 1, READ, READ)
        same = {
            "z": ji.replace(whole, ji.at(layer=1, pos=slice(0, POS))),
            "pattern": ji.replace(pattern, ji.at(layer=1, mask=square)),
        }
        got = generated(model, params, tokens, edits, None)
        expected, logits = repeated(model, params, np.asarray(tokens), None, same)
        np.testing.assert_array_equal(got.tokens, expected)
        np.testing.assert_allclose(got.logits, logits, atol=1e-4 * np.abs(logits).max())
        assert (np.abs(got.logits - plain.logits).max() < 1e-3) == (source is tokens)


def test_any_model_takes_the_plain_way(small):
    model, params, tokens = small
    edits = {
        "resid_pre": ji.add(np.ones((1, 1, POS, 32), np.float32), ji.at(layer=1, pos=-1)),
        "mlp_out": ji.zero(ji.at(layer=0, pos=slice(-2, None))),
    }
    fast = generated(model, params, tokens, edits, masks("right"))
    plain = generated(Plain(model), params, tokens, edits, masks("right"))
    prompts = ji.Prompts(tokens, masks("right"))
    again = ji.generate(model, params, prompts, edits, max_new_tokens=fast.tokens.shape[1])
    np.testing.assert_array_equal(again.tokens, fast.tokens)
    np.testing.assert_array_equal(fast.tokens, plain.tokens)
    np.testing.assert_allclose(fast.logits, plain.logits, atol=1e-4 * float(jnp.abs(plain.logits).max()))


def test_draws_are_those_of_the_repeated_forward(small):
    """Token i is the argmax of logits / temperature + Gumbel noise of `fold_in(key, i)`."""
    model, params, tokens = small
    key = jax.random.key(5)

    def choose(i, logits):
        noise = jax.random.gumbel(jax.random.fold_in(key, i), logits.shape, logits.dtype)
        return np.asarray(jnp.argmax(logits / 1.7 + noise, axis=-1))

    expected, _ = repeated(model, params, np.asarray(tokens), masks("left"), {}, choose=choose)
    draw = functools.partial(
        ji.generate, model, params, tokens, max_new_tokens=NEW, mask=masks("left"), temperature=1.7
    )
    np.testing.assert_array_equal(draw(key=key).tokens, expected)
    np.testing.assert_array_equal(draw(key=key).tokens, expected)
    assert (draw(key=jax.random.key(6)).tokens != expected).any()
    greedy = ji.generate(model, params, tokens, max_new_tokens=NEW, mask=masks("left"))
    cold = ji.generate(model, params, tokens, key=key, max_new_tokens=NEW, mask=masks("left"), temperature=0)
    np.testing.assert_array_equal(cold.tokens, greedy.tokens)


def test_draws_follow_the_softmax_under_vmap_over_keys(small):
    model, params, tokens = small
    keys = jax.random.split(jax.random.key(0), 4000)

    @jax.jit
    def draw(keys):
        return jax.vmap(lambda key: ji.generate(model, params, tokens, key=key, temperature=0.5, max_new_tokens=2))(
            keys
        )

    got = draw(keys)
    logits = np.asarray(model.apply(params, tokens)[0][:, -1], np.float64)
    for prompt in range(BATCH):
        probabilities = np.asarray(jax.nn.softmax(logits[prompt] / 0.5), np.float64)
        check_frequencies(np.asarray(got.tokens[:, prompt, 0]), probabilities)
    log_probs = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), np.asarray(got.tokens[0, :, :1]), -1)
    np.testing.assert_allclose(got.log_probs[0, :, :1], log_probs, atol=1e-4)


def check_frequencies(drawn, probabilities):
    """A chi-square test, rare tokens taken together; the draws are the same in every run."""
    counts = np.bincount(drawn, minlength=len(probabilities))
    assert not counts[probabilities == 0].any()
    often = probabilities * len(drawn) >= 5
    observed = np.append(counts[often], counts[~often].sum())
    expected = np.append(probabilities[often], probabilities[~often].sum()) * len(drawn)
    observed, expected = observed[expected > 0], expected[expected > 0]
    assert len(observed) == 1 or stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-3


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [
        (2, None, [0, 3]),
        (None, 0.69, [0, 3]),
        (None, 0.71, [0, 2, 3]),
        (None, 1e-9, [3]),
        (3, 0.99, [0, 2, 3]),
        (5, 1.0, None),
    ],
)
def test_top_k_and_top_p_cut_the_tail(top_k, top_p, kept):
    probabilities = np.array([0.3, 0.05, 0.2, 0.4, 0.05])
    logits = jnp.broadcast_to(jnp.log(probabilities), (20_000, 5))
    drawn = np.asarray(next_token(logits, jax.random.key(2), 1.0, top_k, top_p))
    left = probabilities * np.isin(np.arange(5), range(5) if kept is None else kept)
    check_frequencies(drawn, left / left.sum())


def test_rows_end_at_a_stop_token_and_the_program_with_the_last(small):
    model, params, tokens = small
    whole = ji.generate(model, params, tokens, max_new_tokens=NEW, return_logits=True)
    free = np.asarray(whole.tokens)
    stops = [int(free[0, 1]), int(free[1, 2])]
    ends = [next((i + 1 for i, t in enumerate(row) if t in stops), NEW) for row in free]
    assert ends[0] <= 2
    assert len(set(ends)) > 1, "rows must end at different lengths"
    got = ji.generate(model, params, tokens, max_new_tokens=NEW, stop_token=stops, pad_token=49, return_logits=True)
    np.testing.assert_array_equal(got.lengths, ends)
    inside = np.arange(NEW) < np.array(ends)[:, None]
    np.testing.assert_array_equal(got.tokens, np.where(inside, free, 49))
    np.testing.assert_allclose(got.log_probs, np.where(inside, whole.log_probs, 0), atol=1e-5)
    np.testing.assert_allclose(got.logits, np.where(inside[..., None], whole.logits, np.nan), atol=1e-4)

    steps = []
    watch = {"embed": ji.apply_fn(lambda x: (jax.debug.callback(lambda: steps.append(1)), x)[1])}
    early = ji.generate(model, params, tokens, watch, max_new_tokens=NEW, stop_token=free[:, 1], pad_token=0)
    jax.effects_barrier()
    assert len(steps) == np.max(early.lengths) <= 2


def test_a_sweep_over_edits_is_one_program(small):
    """`vmap` over coordinates, traced masks; a traced position out of range selects nothing."""
    model, params, tokens = small
    mask = masks("right")
    value = jax.random.normal(jax.random.key(4), (1, 1, 1, 32)) * 3

    @jax.jit
    def sweep(positions, mask):
        def one(pos):
            edits = {"resid_post": ji.add(value, ji.at(layer=0, pos=pos))}
            return ji.generate(model, params, tokens, edits, max_new_tokens=NEW, mask=mask, return_logits=True)

        return jax.vmap(one)(positions)

    positions = np.array([0, 2, -1, POS, POS + 50])
    got = sweep(positions, mask)
    for index, pos in enumerate(positions[:-1]):
        one = generated(model, params, tokens, {"resid_post": ji.add(value, ji.at(layer=0, pos=int(pos)))}, mask)
        np.testing.assert_array_equal(got.tokens[index], one.tokens)
        np.testing.assert_allclose(got.logits[index], one.logits, atol=1e-3)
    np.testing.assert_array_equal(got.tokens[-1], generated(model, params, tokens, {}, mask).tokens)


def test_log_probs_have_the_gradient_of_the_whole_forward(small):
    model, params, tokens = small
    direction = jax.random.normal(jax.random.key(4), (1, 1, 1, 32))
    chosen = generated(model, params, tokens, {"resid_post": ji.add(direction, ji.at(layer=0))}, None, 3).tokens

    def by_generation(direction):
        edits = {"resid_post": ji.add(direction, ji.at(layer=0))}
        return ji.generate(model, params, tokens, edits, max_new_tokens=3).log_probs.sum()

    def by_forward(direction):
        sequence = jnp.concatenate([tokens, chosen[:, :2]], axis=1)
        logits, _ = model.apply(params, sequence, {"resid_post": ji.add(direction, ji.at(layer=0))})
        log_probs = jax.nn.log_softmax(logits[:, 5:])
        return jnp.take_along_axis(log_probs, chosen[..., None], axis=-1).sum()

    expected = jax.grad(by_forward)(direction)
    np.testing.assert_allclose(jax.grad(by_generation)(direction), expected, atol=1e-4 * float(jnp.abs(expected).max()))


def test_other_prompts_and_values_reuse_the_program(small):
    model, params, tokens = small
    tokens = np.asarray(tokens)
    compiled = []

    def count(event, seconds, **told):
        if "backend_compile" in event:
            compiled.append(told)

    def run(tokens, mask, value, pos, seed, temperature):
        edits = {"resid_pre": ji.add(value * np.ones((1, 1, POS, 32), np.float32), ji.at(layer=1, pos=pos))}
        key = jax.random.key(seed)
        compiled.clear()
        return ji.generate(
            model, params, tokens, edits, key=key, max_new_tokens=NEW, mask=mask, temperature=temperature, top_p=0.9,
            stop_token=seed, pad_token=seed + 1,
        )  # fmt: skip

    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        run(tokens, masks("right"), 1.0, -1, 1, 0.5)
        assert len(compiled) == 1
        run((tokens + 1) % 50, masks("left"), 2.0, -2, 2, 1)
        assert not compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(count)


def test_half_precision():
    config = ji.TransformerConfig(
        n_layers=2, d_model=32, n_heads=4, n_kv_heads=2, d_vocab=50, positions="rotary", dtype="bfloat16"
    )
    model = ji.Transformer(config)
    params, tokens = random_params(model), random_tokens(config)
    got = generated(model, params, tokens, {}, masks("left"))
    assert got.logits.dtype == got.log_probs.dtype == jnp.float32
    _, logits = repeated(model, params, tokens, masks("left"), {}, choose=lambda i, _: np.asarray(got.tokens[:, i]))
    np.testing.assert_allclose(got.logits, logits, atol=0.03 * np.abs(logits).max())


def z(value=1.0, pos=1):
    return np.full((2, 3, pos, 4, 8), value)


CALLS = {
    "no new tokens": ({"max_new_tokens": 0}, "max_new_tokens must be an int of at least 1"),
    "new tokens as an array": ({"max_new_tokens": jnp.ones(())}, "max_new_tokens must be an int"),
    "too long": ({"max_new_tokens": 12}, "take 17 positions .* n_ctx = 16"),
    "column": ({"interventions": {"z": ji.zero(ji.at(pos=10))}}, "pos=10 is out of range: .* 6 of the prompt"),
    "before the prompt": ({"interventions": {"z": ji.zero(ji.at(pos=-7))}}, "pos=-7 is out of range: .* and 4 new"),
    "slice": ({"interventions": {"z": ji.zero(ji.at(pos=slice(10, 20)))}}, "selects none of the 10 entries"),
    "value": ({"interventions": {"z": ji.replace(z(pos=7))}}, r"expected \(2, 3, 10, .*pos may be the 6 of the prompt"),
    "mask": ({"interventions": {"z": ji.zero(ji.at(mask=z(pos=7) > 0))}}, "pos may be the 6 of the prompt"),
    "booleans": ({"interventions": {"z": ji.zero(ji.at(pos=np.ones(7, bool)))}}, r"pos= is bool\[7\]"),
    "a short value": (
        {"interventions": {"z": ji.replace(z(pos=6), ji.at(pos=[5, 7]))}},
        "pos= reaches 7, but the value ends with the prompt's 6 positions; .* has 10",
    ),
    "a short value, sliced": (
        {"interventions": {"z": ji.replace(z(pos=6), ji.at(pos=slice(2, 9)))}}, "pos= reaches 8, but the value ends",
    ),
    "a NaN": ({"interventions": {"z": ji.replace(z(np.nan, 6))}}, "holds 1152 NaN"),
    "own position": (
        {"interventions": {"z": ji.zero(ji.at(pos=-5))}, "mask": masks("right")},
        "pos=-5 is out of range for prompt 1: it has 8 tokens, columns 0 to 7, the last 4 of them new",
    ),
    "all new columns, not all new tokens": (
        {"interventions": {"z": ji.zero(ji.at(pos=slice(6, None)))}, "mask": masks("right")},
        r"pos= is a slice from 6 on, but the new tokens of prompt 2, padded on the right, begin at 3: list them",
    ),
    "site": ({"interventions": {"resid_prev": ji.zero()}}, "did you mean 'resid_pre'"),
    "temperature without key": ({"temperature": 0.7}, "temperature= is for draws, which need key="),
    "top_k without key": ({"top_k": 3}, "top_k= is for draws"),
    "top_p without key": ({"top_p": 0.3}, "top_p= is for draws"),
    "temperature": ({"key": jax.random.key, "temperature": -1}, "temperature must be at least 0"),
    "infinite temperature": ({"key": jax.random.key, "temperature": np.inf}, "temperature must be at least 0"),
    "temperatures": ({"key": jax.random.key, "temperature": [1.0, 2.0]}, "temperature must be a number"),
    "top_k": ({"key": jax.random.key, "top_k": 51}, "top_k must be 1 to 50, got 51"),
    "top_k as a float": ({"key": jax.random.key, "top_k": 3.0}, "top_k must be a plain int"),
    "top_p": ({"key": jax.random.key, "top_p": 1.5}, r"top_p must be in \(0, 1\]"),
    "a seed": ({"key": 3}, "key= expects a key from jax.random.key, got 3"),
    "keys": ({"key": lambda seed: jax.random.split(jax.random.key(seed))}, "key= expects one key, got shape"),
    "stop without pad": ({"stop_token": 3}, "stop_token= is given without pad_token="),
    "pad without stop": ({"pad_token": 3}, "pad_token= is given without stop_token="),
    "stop": ({"stop_token": 50, "pad_token": 0}, "stop_token=50 is out of vocabulary: ids run from 0 to 49"),
    "pad": ({"stop_token": 3, "pad_token": [1, 2]}, "pad_token must be a token id, got"),
    "prompt": ({"tokens": np.full((3, 6), 50)}, "token id 50 is out of vocabulary"),
}  # fmt: skip


@pytest.mark.parametrize("case", CALLS)
def test_bad_calls(small, case, monkeypatch):
    import jaxinterp.model.generate as module

    def refuse(*args, **kwargs):
        raise AssertionError("the program was entered")

    monkeypatch.setattr(module, "_generate", refuse)
    model, params, tokens = small
    given, message = CALLS[case]
    given = {"tokens": tokens, "max_new_tokens": NEW} | given
    if callable(given.get("key")):
        given["key"] = given["key"](0)
    with pytest.raises((ValueError, TypeError), match=message):
        ji.generate(model, params, **given)


def test_models_that_cannot_generate():
    for fields, message in (
        ({"causal": False}, "attention is bidirectional"),
        ({"d_vocab_out": 2, "tie_embeddings": False}, "the model's 2 outputs are not its 11 tokens"),
    ):
        model = ji.Transformer(ji.TransformerConfig(n_layers=1, d_model=8, n_heads=2, d_vocab=11, **fields))
        with pytest.raises(ValueError, match=message):
            ji.generate(model, random_params(model), random_tokens(model.config), max_new_tokens=2)
    with pytest.raises(ValueError, match=r"tokens must be int\[batch, pos\], got shape \(3,\)"):
        ji.generate(Plain(model), {}, [1, 2, 3], max_new_tokens=2)
