"""Edge scores against private copies of the stream, and what they must add up to."""

import jax
import numpy as np
import pytest
from architectures import altered, apply, budget, configs, masks, random_params, random_tokens
from hypothesis import given
from hypothesis import strategies as st

import jaxinterp as ji
from jaxinterp.attribution.edges import EdgeScores, nodes
from jaxinterp.attribution.integrated import quadrature

METRIC = ji.logit_diff([0, 1, 0], [1, 0, 1])
ADDITIVE = {"act_fn": "gelu", "n_experts": None, "experts_per_token": None, "norm_position": "pre"}


def streams_read(model, params, base, mask, edits):
    """{reader: d metric / d (its own copy of the stream), [batch, pos, d_model]}, from copies that are really made."""
    config = model.config
    sites = ["q_input", "k_input", "v_input", "resid_final"] + ([] if config.attn_only else ["mlp_in"])
    grads = ji.gradients(model, params, base, sites=sites, metric=METRIC, mask=mask, base_interventions=edits)
    found = {"logits": grads["resid_final"]}
    for layer in range(config.n_layers):
        for kind in "qkv":
            copies = np.asarray(grads[f"{kind}_input"][layer])
            found |= {f"a{layer}.h{head}<{kind}>": copies[:, :, head] for head in range(copies.shape[2])}
        if not config.attn_only:
            found[f"m{layer}"] = grads["mlp_in"][layer]
    return found


def outputs(model, params, tokens, mask):
    """{writer: what it adds to the stream, [batch, pos, d_model]}."""
    names = ("resid_pre", "result") if model.config.attn_only else ("resid_pre", "result", "mlp_out")
    _, cache = apply(model, params, tokens, mask=mask, capture=names)
    found = {"input": cache["resid_pre"][0]}
    for layer in range(model.config.n_layers):
        results = cache["result"][layer]
        found |= {f"a{layer}.h{head}": results[:, :, head] for head in range(model.config.n_heads)}
        if not model.config.attn_only:
            found[f"m{layer}"] = cache["mlp_out"][layer]
    return found


def naive(model, params, base, source, mask, points):
    """[pos, writer, reader] by the definition, NaN where nothing can be read; averaged over prompts."""
    ours, theirs = outputs(model, params, base, mask), outputs(model, params, source, mask)
    _, there = apply(model, params, source, mask=mask, capture=("embed",))
    table = 0.0
    for fraction, weight in zip(*points, strict=True):
        read = streams_read(model, params, base, mask, {"embed": ji.lerp(there["embed"], fraction)})
        change = np.stack([theirs[name] - ours[name] for name in ours])
        table = table + weight * np.einsum("wbpd,rbpd->pwr", change, np.stack(list(read.values()))) / len(base)

    def place(name):  # half-layers, in the order of the forward; a parallel MLP reads before the heads have written
        if name in ("input", "logits"):
            return {"input": -1, "logits": 10**6}[name], 0
        layer = int(name.split(".")[0].partition("<")[0][1:])
        mlp = name.startswith("m")
        return 2 * layer + mlp, 2 * layer + (mlp and not model.config.parallel)

    reads = {name: place(name)[0 if name == "logits" else 1] for name in read}
    there = np.array([[place(writer)[0] < reads[reader] for reader in reads] for writer in ours])
    return list(ours), list(reads), np.where(there, table, np.nan)


def check_edges(config, side, method, by_position):
    model = ji.Transformer(config)
    params, base, mask = random_params(model), random_tokens(config), masks(side)
    source = altered(config, base)
    points = {
        "eap": (np.zeros(1), np.ones(1)),
        "eap_ig": quadrature("right", 2),
        "both ends": (np.array([0.0, 1.0]), np.array([0.5, 0.5])),
    }[method]
    how = {"eap": {"method": "eap"}, "eap_ig": {"method": "eap_ig", "steps": 2}}.get(
        method, {"method": "eap_ig", "path": "clean-corrupted"}
    )
    writers, readers, expected = naive(model, params, base, source, mask, points)
    found = ji.edge_attribution(
        model, params, base, source, metric=METRIC, mask=mask, by_position=by_position, **how
    ).scores
    each = ji.edge_attribution(
        model, params, base, source, metric=METRIC, mask=mask, by_position=by_position, per_example=True, **how
    ).scores
    np.testing.assert_allclose(each.mean("batch"), found, rtol=0, atol=1e-12)
    found = found.sel(writer=writers, reader=readers)
    expected = expected if by_position else np.where(np.isnan(expected[0]), np.nan, np.nansum(expected, axis=0))
    scale = max(1.0, float(np.nanmax(np.abs(expected))))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * scale)
    if method != "eap":
        return
    # one writer's edges are the attribution of its output, one reader's that of what it reads
    sites = ("z", "resid_final") if config.attn_only else ("z", "mlp_out", "mlp_in", "resid_final")
    by_node = ji.attribution_patching(model, params, base, source, sites=sites, metric=METRIC, mask=mask)
    total = found.sum("pos") if by_position else found
    for layer in range(config.n_layers):
        for head in range(config.n_heads):
            node = by_node["z"].sel(layer=layer, head=head).sum("pos")
            np.testing.assert_allclose(total.sel(writer=f"a{layer}.h{head}").sum(), node, rtol=0, atol=1e-9 * scale)
        if not config.attn_only:
            written, read = (by_node[site].sel(layer=layer).sum("pos") for site in ("mlp_out", "mlp_in"))
            np.testing.assert_allclose(total.sel(writer=f"m{layer}").sum(), written, rtol=0, atol=1e-9 * scale)
            np.testing.assert_allclose(total.sel(reader=f"m{layer}").sum(), read, rtol=0, atol=1e-9 * scale)
    np.testing.assert_allclose(
        total.sel(reader="logits").sum(), by_node["resid_final"].sum(), rtol=0, atol=1e-9 * scale
    )


def check_edited(config, site, seed):
    """Scores on top of edited runs: the slope of the metric along each edge, by differences."""
    model = ji.Transformer(config)
    params, base = random_params(model), random_tokens(config)
    source = altered(config, base)
    edits = {site: ji.scale(0.3, ji.at(layer=0))}
    theirs_edits = {"mlp_out" if "mlp_out" in model.sites else "z": ji.scale(0.5, ji.at(layer=0))}
    how = {"metric": METRIC, "base_interventions": edits, "source_interventions": theirs_edits}
    found = ji.edge_attribution(model, params, base, source, **how).scores
    writers, readers, there = nodes(config)
    names = ("resid_pre", "result") if config.attn_only else ("resid_pre", "result", "mlp_out")
    ours = apply(model, params, base, edits, capture=names)[1]
    theirs = apply(model, params, source, theirs_edits, capture=names)[1]
    places = np.random.default_rng(seed).permutation(np.argwhere(there))[:6]
    for writer, reader in ((writers[i], readers[j]) for i, j in places):
        kind, layer = writer[0], int(writer.partition(".")[0][1:]) if writer != "input" else 0
        part = {"i": lambda cache: cache["resid_pre"][0], "m": lambda cache, at=layer: cache["mlp_out"][at]}.get(
            kind, lambda cache, at=layer, name=writer: cache["result"][at][:, :, int(name.partition(".h")[2])]
        )
        change, place = part(theirs) - part(ours), reader.partition("<")[0]

        def value(t, change=change, reader=reader, place=place):
            if "<" in reader:
                layer, head = (int(number[1:]) for number in place.split("."))
                added = {f"{reader[-2]}_input": ji.add(t * change[None, :, :, None], ji.at(layer=layer, head=head))}
            elif place == "logits":
                added = {"resid_final": ji.add(t * change)}
            else:
                added = {"mlp_in": ji.add(t * change[None], ji.at(layer=int(place[1:])))}
            return METRIC.fn(*read_of(model, params, base, None, ji.joined(added, edits)), *METRIC.data).mean()

        slope = (value(1e-5) - value(-1e-5)) / 2e-5
        np.testing.assert_allclose(found.sel(writer=writer, reader=reader), slope, rtol=1e-6, atol=1e-6)


def check_effects(config, side, seed, n):
    """Some edges, drawn at random: a change is added to a copy of the stream that one reader alone reads."""
    model = ji.Transformer(config)
    params, base, mask = random_params(model), random_tokens(config), masks(side)
    source = altered(config, base)
    ours, theirs = outputs(model, params, base, mask), outputs(model, params, source, mask)
    writers, readers, there = nodes(config)
    places = np.random.default_rng(seed).permutation(np.argwhere(there))[:n]
    edges = [(writers[i], readers[j]) for i, j in places]
    found = ji.edge_effects(model, params, base, source, metric=METRIC, edges=edges, mask=mask).scores
    assert int(found.notnull().sum()) == len(edges)
    each = ji.edge_effects(model, params, base, source, metric=METRIC, edges=edges, mask=mask, per_example=True).scores
    np.testing.assert_allclose(each.mean("batch"), found, rtol=0, atol=1e-12)
    before = METRIC.fn(*read_of(model, params, base, mask, {}), *METRIC.data)
    for writer, reader in edges:
        change = theirs[writer] - ours[writer]
        node, _, kind = reader.partition("<")
        if kind:
            layer, head = (int(part[1:]) for part in node.split("."))
            edits = {f"{kind[0]}_input": ji.add(change[None, :, :, None], ji.at(layer=layer, head=head))}
        elif node == "logits":
            edits = {"resid_final": ji.add(change)}
        else:
            edits = {"mlp_in": ji.add(change[None], ji.at(layer=int(node[1:])))}
        after = METRIC.fn(*read_of(model, params, base, mask, edits), *METRIC.data)
        np.testing.assert_allclose(found.sel(writer=writer, reader=reader), (after - before).mean(), rtol=0, atol=1e-9)


def read_of(model, params, tokens, mask, edits):
    """(the logits that the metric reads, no cache)."""
    logits, _ = model.apply(params, tokens, edits, mask=mask, positions=METRIC.positions, columns=METRIC.columns)
    return logits, {}


ARGUMENTS = configs(**ADDITIVE), st.sampled_from([None, "left"]), st.sampled_from(["eap", "eap_ig", "both ends"])


@budget(1)
@given(*ARGUMENTS, st.booleans())
def test_scores_are_those_of_private_copies(config, side, method, by_position):
    with jax.enable_x64(True):
        check_edges(config, side, method, by_position)


@pytest.mark.slow
@budget(60)
@given(*ARGUMENTS, st.booleans())
def test_scores_are_those_of_private_copies_in_many(config, side, method, by_position):
    jax.clear_caches()  # a process may map only so many programs
    with jax.enable_x64(True):
        check_edges(config, side, method, by_position)


@budget(1)
@given(configs(**ADDITIVE), st.sampled_from([None, "left"]), st.integers(0, 99))
def test_exact_effects_are_those_of_private_copies(config, side, seed):
    with jax.enable_x64(True):
        check_effects(config, side, seed, n=3)


@pytest.mark.slow
@budget(30)
@given(configs(**ADDITIVE), st.sampled_from([None, "left"]), st.integers(0, 99))
def test_exact_effects_are_those_of_private_copies_in_many(config, side, seed):
    jax.clear_caches()  # a process may map only so many programs
    with jax.enable_x64(True):
        check_effects(config, side, seed, n=10)


@budget(1)
@given(configs(**ADDITIVE), st.sampled_from(["q", "k", "v", "z", "pattern"]), st.integers(0, 99))
def test_scores_on_top_of_edits_are_slopes(config, site, seed):
    with jax.enable_x64(True):
        check_edited(config, site, seed)


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        (5, "edges must be .* got int"),
        ([("a0.h1", "a0.h2<q>")], "there is no edge from 'a0.h1' to 'a0.h2<q>', which reads before that is written"),
        ([("a0.h11", "logits")], "unknown writer 'a0.h11'; did you mean 'a0.h1'"),
        ([("a0.h1", "logit")], "unknown reader 'logit'; did you mean 'logits'"),
        ([], "edges is empty"),
    ],
)
def test_edges_that_do_not_exist_are_told(small, edges, message):
    model, params, tokens = small
    with pytest.raises((ValueError, TypeError), match=message):
        ji.edge_effects(model, params, tokens, tokens, metric=ji.logit_diff(3, 4), edges=edges)


@pytest.fixture(scope="module")
def edges(small):
    model, params, tokens = small
    return ji.edge_attribution(model, params, tokens.at[:, 2].set(7), tokens, metric=ji.logit_diff(3, 4))


def test_what_is_chosen_leads_to_the_logits(edges):
    flat = edges.top(20)
    assert (np.diff(np.abs(flat.values)) <= 0).all()
    greedy = edges.greedy(20)
    reached = {"logits"}
    for edge in greedy:
        assert edge.reader.item().partition("<")[0] in reached
        reached.add(edge.writer.item())
    assert edges.graph(5).number_of_edges() == 5
    apart = EdgeScores(edges.scores.expand_dims(pos=2) / 2)  # as by_position leaves them
    assert (apart.top(20).reader.values == flat.reader.values).all()
    drawn = edges.dot(5)
    assert drawn.startswith("digraph {")
    assert drawn.count("->") == 5


def test_both_ends_are_the_two_runs_themselves(small):
    model, params, tokens = small
    run = {"metric": ji.logit_diff(3, 4)}
    edits = {"base_interventions": {"z": ji.scale(0.5)}, "source_interventions": {"mlp_post": ji.zero(ji.at(layer=0))}}
    swapped = dict(zip(edits, reversed(edits.values()), strict=True))
    other = tokens.at[:, 2].set(7)
    both = ji.edge_attribution(model, params, other, tokens, method="eap_ig", path="clean-corrupted", **run, **edits)
    from_base = ji.edge_attribution(model, params, other, tokens, **run, **edits)
    from_source = ji.edge_attribution(model, params, tokens, other, **run, **swapped)
    expected = (from_base.scores - from_source.scores) / 2
    np.testing.assert_allclose(both.scores, expected, rtol=0, atol=1e-4 * float(abs(expected).max()))


def test_gpt2_small_has_32491_edges():
    assert nodes(ji.TransformerConfig(n_layers=12, d_model=768, n_heads=12, d_vocab=9))[2].sum() == 32491


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "eap-ig"}, "unknown method 'eap-ig'; did you mean 'eap_ig'"),
        ({"method": "eap_ig", "steps": 0}, "steps must be an int of at least 1, got 0"),
        ({"steps": 3}, "mean nothing for method='eap'"),
        ({"method": "eap_ig", "path": "input"}, "unknown path 'input'; did you mean 'inputs'"),
        ({"base_interventions": {"attn_out": ji.scale(0.5)}}, "base_interventions edit 'attn_out'"),
        ({"source_interventions": {"result": ji.scale(0.5)}}, "source_interventions edit 'result'"),
    ],
)
def test_what_cannot_be_meant_is_told(small, arguments, message):
    model, params, tokens = small
    with pytest.raises(ValueError, match=message):
        ji.edge_attribution(model, params, tokens, tokens, metric=ji.logit_diff(3, 4), **arguments)


def test_streams_that_are_normed_together_have_no_edges():
    model = ji.Transformer(ji.TransformerConfig(n_layers=1, d_model=8, n_heads=2, d_vocab=11, norm_position="both"))
    with pytest.raises(ValueError, match="what one of them writes is not defined"):
        ji.edge_attribution(model, model.init(jax.random.key(0)), [[1]], [[2]], metric=ji.logit_diff(3, 4))
