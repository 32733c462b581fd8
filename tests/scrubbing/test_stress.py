"""Tests of tests: planted models that fool the plain score, and searches whose answer is known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxinterp as ji
from jaxinterp.model.layers import unembed
from jaxinterp.model.tap import Tap
from jaxinterp.model.where import Geometry
from jaxinterp.scrubbing import ablations, adversary, direct_paths, fit_kernels, gaussian_kernel, smallest_set
from jaxinterp.scrubbing.adversary import _families, _first_state, _moves
from jaxinterp.scrubbing.runner import make_ready, run_ready

KEY = jax.random.key(0)


def planted(*nodes):
    """(graph, data): a logit that is the sum of functions of a sign and of noise; the loss is that of the sign."""

    def plain(fn):
        return ji.Node(lambda params, x: fn(x[0], x[1]), ("input",))

    rng = np.random.default_rng(0)
    data = np.stack([rng.choice([-1.0, 1.0], 400), rng.normal(size=400)], axis=1).astype(np.float32)
    names = [name for name, _ in nodes]
    graph = ji.Graph(
        {name: plain(fn) for name, fn in nodes} | {"logit": ji.Node(lambda params, *terms: sum(terms), tuple(names))},
        output="logit",
        loss=lambda logit, x: jax.nn.softplus(-logit * x[0]),
        correct=lambda logit, x: logit * x[0] > 0,
    )
    return graph, data


def claim_of(graph, *names):
    """That some nodes tell the sign, and the others nothing."""
    sign = ji.Feature(lambda x: x[:, 0])
    features = {"answer": ji.Feature(sign.values, names)} | dict.fromkeys(names, sign)
    return ji.Hypothesis(graph, features, {"answer": "logit"} | {name: name for name in names})


def test_an_ignored_inhibitor_fools_the_score_and_not_the_adversary():
    graph, data = planted(
        ("heuristic", lambda sign, noise: 2 * sign),
        ("inhibitor", lambda sign, noise: -1.2 * sign),  # harmful wherever the heuristic is right
        ("rest", lambda sign, noise: 0.4 * sign + 0.3 * noise),
    )
    claim = claim_of(graph, "heuristic")
    attack = adversary(claim, None, data, num_samples=4000, key=KEY)
    assert attack.plain.recovered > 1
    assert attack.worst.recovered < 0.8
    assert attack.moves[0].startswith("inhibitor (left out) agrees also on")
    assert attack.lost > 4 * attack.lost_error
    # what takes the inhibitor into account is more honest from the start
    honest = ji.scrub(claim_of(graph, "heuristic", "inhibitor"), None, data, num_samples=4000, key=KEY)
    assert abs(honest.recovered - attack.worst.recovered) < 0.05


def test_noise_that_is_decorrelated_fools_the_score_and_not_the_adversary():
    graph, data = planted(
        ("a", lambda sign, noise: sign + 2.5 * noise),
        ("b", lambda sign, noise: sign + 2.5 * noise),  # their noises add up if they are of one datum
        ("rest", lambda sign, noise: 0.8 * sign),
    )
    attack = adversary(claim_of(graph, "a", "b"), None, data, num_samples=20_000, key=KEY)
    assert attack.plain.recovered > 1
    assert attack.worst.recovered < 0.85
    assert attack.lost > 4 * attack.lost_error
    assert attack.moves[0] == "a (a) and b (b) have one datum"
    assert attack.tried.move.values[0] == attack.moves[0]


def test_what_is_true_and_whole_has_nothing_to_fear():
    graph, data = planted(("a", lambda sign, noise: 2 * sign), ("b", lambda sign, noise: 0 * sign))
    attack = adversary(claim_of(graph, "a"), None, data, num_samples=2000, key=KEY)
    assert attack.moves == ()
    assert (attack.plain.recovered, attack.lost) == (1, 0)


def test_an_adversary_keeps_to_what_the_hypothesis_allows():
    graph, data = planted(("a", lambda sign, noise: sign + noise), ("b", lambda sign, noise: sign - noise))
    claim = claim_of(graph, "a", "b")
    with pytest.raises(ValueError, match=r"moves to try \(limit 3\)"):
        adversary(claim, None, data, num_samples=100, key=KEY, refine_by={"n": lambda x: x[:, 1] > 0}, max_tries=3)
    attack = adversary(
        claim, None, data, num_samples=100, key=KEY, refine_by={"n": lambda x: x[:, 1] > 0}, correlate=False
    )
    assert set(attack.tried.move.values) == {
        f"{node} ({node}) agrees also on: {name}" for node in "ab" for name in ("the very datum", "n")
    }
    # on the very datum, both, nothing is scrubbed
    assert ji.scrub(dataclasses.replace(claim, samplers=dict.fromkeys("ab", "exact")), None, data,
                    num_samples=400, key=KEY).recovered == 1  # fmt: skip


def test_the_smallest_set_is_found():
    graph, data = planted(
        ("large", lambda sign, noise: 3 * sign),
        ("none", lambda sign, noise: 0.0 * noise),
        ("small", lambda sign, noise: 0.1 * sign),
        ("middle", lambda sign, noise: 1.0 * sign),
    )
    found = smallest_set(direct_paths(graph), None, data, keep=0.99, num_samples=4000, key=KEY)
    assert found.feature.values.tolist() == ["none", "small"]
    assert set(found.attrs["kept"]) == {"large", "middle"}
    plain = ji.Hypothesis(
        graph, {"logit": ji.Feature(None, ("large", "middle")), "large": None, "middle": None},
        {name: name for name in ("logit", "large", "middle")}, dict.fromkeys(("large", "middle"), "exact"),
    )  # fmt: skip
    result = ji.scrub(plain, None, data, num_samples=4000, key=KEY)
    assert abs(found.attrs["recovered"] - result.recovered) < 4 * (result.recovered_error + found.attrs["error"])
    with pytest.raises(ValueError, match=r"keep=1\.5 is more than the 1\.000"):
        smallest_set(direct_paths(graph), None, data, keep=1.5, num_samples=100, key=KEY)


def test_a_claim_left_out_takes_what_is_below_with_it():
    nodes = {
        "low": ji.Node(lambda params, x: x[0], ("input",)),
        "side": ji.Node(lambda params, x: x[1], ("input",)),
        "high": ji.Node(lambda params, low, side: low + side, ("low", "side")),
        "other": ji.Node(lambda params, x: 5 * x[1], ("input",)),
        "out": ji.Node(lambda params, high, other: high + other, ("high", "other")),
    }
    graph = ji.Graph(nodes, "out", loss=lambda out, x: jnp.square(out - x[0] - 6 * x[1]))
    features = {
        "out": ji.Feature(None, ("high", "other")),
        "high": ji.Feature(None, ("low",)),
        "low": None,
        "other": None,
    }
    claim = ji.Hypothesis(graph, features, {name: name for name in features}, dict.fromkeys(features, "exact"))
    data = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)
    found = smallest_set(claim, None, data, keep=0.8, num_samples=20_000, key=KEY)
    assert found.feature.values.tolist() == ["low", "high"] or found.feature.values.tolist() == ["high"]
    # high on the datum of nothing else: x0 + x1 of another, of a variance of 2 beside that of the output, 37
    np.testing.assert_allclose(found.attrs["recovered"], 1 - 2 / 37, atol=0.01)


def test_kernels_are_fitted_to_what_a_node_computes():
    graph = ji.Graph(
        {"a": ji.Node(lambda params, x: jnp.sin(x[0]), ("input",)), "out": ji.Node(lambda params, a: a, ("a",))},
        output="out",
        loss=lambda a, x: jnp.square(a - jnp.sin(x[0])),
    )
    features = {"out": ji.Feature(None, ("a",)), "a": ji.Feature(lambda x: np.asarray(x))}
    claim = ji.Hypothesis(graph, features, {"out": "out", "a": "a"}, {"a": gaussian_kernel([0.5, 0.5])})
    data = np.random.default_rng(0).uniform(-1, 1, (100, 2)).astype(np.float32)
    run = {"freedom": 0.3, "steps": 60, "num_samples": 2048, "key": KEY}
    fitted, history = fit_kernels(claim, None, data, **run)
    scales = np.exp(fitted.samplers["a"].parameters)
    assert scales[1] > 3 * scales[0]
    objective = history.recovered + 0.3 * history.entropy.mean("feature") / np.log(100)
    assert objective[-10:].mean() > objective[:3].mean() + 0.05
    with pytest.raises(ValueError, match="no sampler of the hypothesis is a Kernel"):
        fit_kernels(dataclasses.replace(claim, samplers={}), None, data, **run)


def test_ablations_are_those_of_their_definition():
    graph, data = planted(
        ("a", lambda sign, noise: 2 * sign + noise), ("b", lambda sign, noise: sign + 1), ("c", lambda s, n: n)
    )
    claim = claim_of(graph, "a")
    table = ablations(claim, None, data, num_samples=40_000, key=KEY)
    sign, noise = data.T
    a, others = 2 * sign + noise, (sign + 1) + noise

    def loss(logit):
        return np.log1p(np.exp(-logit * sign)).mean()

    np.testing.assert_allclose(table.loss.sel(test="zero"), loss(a), rtol=1e-4)
    np.testing.assert_allclose(table.loss.sel(test="mean"), loss(a + others.mean()), rtol=1e-4)
    pairs = np.mean([loss(a + other) for other in others])
    np.testing.assert_allclose(table.loss.sel(test="resampled"), pairs, rtol=0.01)
    plain = ji.scrub(claim, None, data, num_samples=40_000, key=KEY)
    difference = abs(table.recovered.sel(test="scrubbed") - plain.recovered)
    assert difference < 4 * (plain.recovered_error + table.error.sel(test="scrubbed"))


@pytest.mark.slow
def test_a_transformer_without_what_is_not_claimed():
    """Zero ablation through the graph is that of the forward with the nodes' sites set to zero."""
    config = ji.TransformerConfig(n_layers=1, d_model=16, n_heads=2, d_vocab=11, n_ctx=6)
    model = ji.Transformer(config)
    params = model.init(jax.random.key(0))
    data = {"tokens": np.random.default_rng(0).integers(0, 11, (40, 6)), "label": np.arange(40) % 11}
    graph = ji.scrubbing.transformer_graph(model, params, data)
    kept = ("embed", "a0.h0")
    features = {"out": ji.Feature(None, kept)} | dict.fromkeys(kept)
    claim = ji.Hypothesis(graph, features, {"out": "logits"} | {name: name for name in kept})
    table = ablations(claim, params, data, num_samples=50, key=KEY)
    _, cache = model.apply(params, data["tokens"], capture=("embed", "pos_embed", "result"))
    stream = cache["embed"] + cache["pos_embed"] + cache["result"][0, :, :, 0] + params["b_O"].sum(0)
    logits = unembed(config, params, stream, Tap({}, Geometry(1, 6), {}, {}))[:, -1]
    losses = -jax.nn.log_softmax(logits)[np.arange(40), data["label"]]
    np.testing.assert_allclose(table.loss.sel(test="zero"), losses.mean(), rtol=1e-4)


def states(claim, data, **how):
    ready = make_ready(claim, None, data, apart=True)
    start = _first_state(ready)
    return ready, start, lambda state: _moves(ready, state, _families(ready, how.get("refine_by")), correlate=True)


def drawn(ready, state, n=2000):
    """The data drawn for each node of the plan."""
    bits_of = np.arange(len(ready.plan))
    classes = {}
    for group in state:
        bits_of[list(group.draws)] = group.draws[0]
        classes |= {ready.plan[number].table: jax.device_put(group.partition.classes()) for number in group.draws}
    samples = run_ready(ready, n, KEY, classes=classes, bits_of=bits_of, keep_samples=True).samples.datum
    return {one.node: samples.values[:, number] for number, one in enumerate(ready.plan)}


def test_what_is_refined_apart_is_drawn_apart():
    """Whichever of two nodes that run together is refined, the other is drawn independently of it."""
    graph, data = planted(*((name, lambda sign, noise: sign + noise) for name in ("a", "u1", "u2")))
    ready, start, moves = states(claim_of(graph, "a"), data)
    for name, other in (("u1", "u2"), ("u2", "u1")):
        found = drawn(ready, moves(start)[f"{name} (left out) agrees also on: answer"])
        assert abs(np.corrcoef(found[name], found[other])[0, 1]) < 0.1
        assert (data[found[name], 0] == data[found["logit"], 0]).all()
        found = drawn(ready, moves(start)["u1 (left out) and a (a) have one datum".replace("u1", name)])
        assert (found[name] == found["a"]).all()
        assert abs(np.corrcoef(found[name], found[other])[0, 1]) < 0.1
    plain = drawn(ready, start)
    assert (plain["u1"] == plain["u2"]).all()


def test_moves_only_make_more_specific():
    """Each move leaves what was tied tied, and every partition finer or as it was."""
    graph, data = planted(*((name, lambda sign, noise: sign + noise) for name in ("a", "b", "u1", "u2")))
    _, start, moves = states(claim_of(graph, "a", "b"), data, refine_by={"n": lambda x: x[:, 1] > 0})

    def partitions(state):
        return {number: group.partition for group in state for number in group.draws}

    for first, state in moves(start).items():
        tied = [group.draws for group in state if group.tied]
        for second, after in moves(state).items():
            assert sorted(partitions(after)) == sorted(partitions(start)), (first, second)
            for number, partition in partitions(after).items():
                before = partitions(state)[number]
                assert len((before & partition).sizes) == len(partition.sizes), (first, second)
            assert all(any(set(draws) <= set(group.draws) for group in after) for draws in tied), (first, second)


def test_a_generator_above_leaves_what_is_below_as_it_is():
    nodes = {
        "a": ji.Node(lambda params, x: x, ("input",)), "b": ji.Node(lambda params, a, x: a[0] * x[1], ("a", "input")),
        "out": ji.Node(lambda params, b: b, ("b",)),
    }  # fmt: skip
    graph = ji.Graph(nodes, "out", loss=lambda out, x: jnp.square(out - x.prod()))
    features = {"out": ji.Feature(None, ("b",)), "b": ji.Feature(lambda x: x[:, 0], ("a",)), "a": None}
    samplers = {"b": ji.scrubbing.Generator(lambda key, x: x.at[1].set(100.0)), "a": "exact"}
    claim = ji.Hypothesis(graph, features, {name: name for name in features}, samplers)
    data = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    assert ji.scrubbing.what_hurts(claim, None, data, num_samples=100, key=KEY).part.values.tolist() == ["b"]
    attack = adversary(claim, None, data, num_samples=100, key=KEY)
    assert np.isfinite(attack.worst.recovered)


def test_what_is_together_stays_together_below_data_that_are_made():
    """m = a + 5b - 5c of data in which b = c: b and c are of one datum, for the adversary as for the hypothesis."""
    nodes = {name: ji.Node(lambda _, x, i=i: x[i], ("input",)) for i, name in enumerate("abc")}
    nodes["m"] = ji.Node(lambda _, a, b, c: a + 5 * b - 5 * c, tuple("abc"))
    nodes["out"] = ji.Node(lambda _, m: m, ("m",))
    graph = ji.Graph(nodes, "out", loss=lambda out, x: jnp.abs(out - x[0]))
    data = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    data[:, 2] = data[:, 1]
    made = ji.scrubbing.Generator(lambda key, x: x.at[1:].set(jax.random.normal(key)))
    features = {"out": ji.Feature(None, ("m",)), "m": ji.Feature(lambda x: x[:, 0], ("a",)), "a": None}
    claim = ji.Hypothesis(graph, features, {name: name for name in features}, {"m": made, "a": "exact"})
    attack = adversary(claim, None, data, num_samples=1000, key=KEY, most_moves=1)
    assert attack.plain.loss < 1e-5


def test_what_cannot_be_searched_is_told():
    graph, data = planted(("a", lambda sign, noise: sign), ("b", lambda sign, noise: jnp.where(noise > 1, jnp.nan, 0)))
    claim, run = claim_of(graph, "a"), {"num_samples": 400, "key": KEY}
    with pytest.raises(ValueError, match="most_moves must be an int of at least 1, got 0"):
        adversary(claim, None, data, **run, most_moves=0)
    for search in (adversary, lambda *given, **how: smallest_set(*given, keep=0.1, **how)):
        with pytest.raises(ValueError, match=r"are not finite: no score can be compared"):
            search(claim, None, data, **run)
    kernel = dataclasses.replace(claim, samplers={"a": gaussian_kernel(1.0)})
    with pytest.raises(ValueError, match="steps must be an int of at least 1, got 0"):
        fit_kernels(kernel, None, data, **run, freedom=0.1, steps=0)
