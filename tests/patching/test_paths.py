"""Path patching against a reference written from its definition, one run at a time, and against its identities."""

import itertools

import jax
import numpy as np
import pytest
from architectures import BATCH, POS, altered, apply, budget, configs, masks, random_params, random_tokens
from hypothesis import assume, given
from hypothesis import strategies as st

import jaxinterp as ji
from jaxinterp.patching.batches import make_batches

SUBLAYERS = ("z", "result", "attn_out", "mlp_post", "expert_out", "mlp_out")
SENDERS = ("embed", "pos_embed", "z", "result", "attn_out", "mlp_post", "mlp_out")
RECEIVERS = ("q_input", "k_input", "v_input", "mlp_in", "resid_final")
ROWS = {None: [5, 5, 5], "right": [5, 3, 2], "left": [5, 5, 5]}  # each prompt's last token


def senders_of(model):
    """What can send in an architecture: of the embedding, what is added to the stream."""
    config = model.config
    embedding = ["embed", "pos_embed"] if config.positions == "learned" else ["embed"]
    embedding = ["ln_embed.normalized"] if config.embed_norm else embedding
    weighed = ("mlp_post",) if config.n_experts is not None else ()
    return [*embedding, *(s for s in SUBLAYERS if s in model.sites and s not in weighed)]


class Naive:
    """The definition: `effect` of what `senders` do through `receivers`, both {site: bool[the site's shape]}."""

    def __init__(self, model, params, base, source, mask=None, standing=None, source_edits=None):
        self.model, self.params, self.base, self.mask, self.standing = model, params, base, mask, standing
        config = model.config
        self.heads = ("z",)
        self.mlps = () if config.attn_only else ("mlp_post",) if config.n_experts is None else ("expert_out",)
        self.embedding = [s for s in senders_of(model) if s not in SUBLAYERS]
        self.added = self.embedding + [s for s in ("attn_out", "mlp_out") if s in model.sites]
        self.read = tuple(s for s in RECEIVERS if s in model.sites)
        capture = (*senders_of(model), *self.read)
        self.logits, self.before = apply(model, params, base, standing, mask=mask, capture=capture)
        self.after = apply(model, params, source, source_edits, mask=mask, capture=capture)[1]

    def forward(self, *edits, capture=()):
        edits = ji.joined(self.standing, *edits)
        return apply(self.model, self.params, self.base, edits, mask=self.mask, capture=capture)

    def frozen(self, sites, senders, capture):
        """The base run with `sites` held where they were, but senders as in the source run."""
        hold = {site: ji.replace(self.before[site]) for site in sites}
        send = {site: ji.replace(self.after[site], ji.at(mask=chosen)) for site, chosen in senders.items()}
        return self.forward(hold, send, capture=capture)[1]

    def direct(self, senders, receivers):
        """Each receiver reads the base run's stream plus the changes of the senders before it."""
        sublayers = self.frozen(self.heads + self.mlps, senders, tuple(self.added))
        change = {site: sublayers[site] - self.before[site] for site in self.added}
        if "ln_embed.normalized" in change:
            change["ln_embed.normalized"] *= self.params["ln_embed.w"] + self.model.config.norm_plus_one
        stream = sum(change[site] for site in self.embedding)
        inputs = {site: [] for site in self.read}
        for layer in range(self.model.config.n_layers):
            for site in ("q_input", "k_input", "v_input"):
                inputs[site].append(stream[:, :, None])
            middle = stream + change["attn_out"][layer]
            if self.mlps:
                inputs["mlp_in"].append(stream if self.model.config.parallel else middle)
                middle = middle + change["mlp_out"][layer]
            stream = middle
        values = {site: stream if site == "resid_final" else np.stack(inputs[site]) for site in receivers}
        return {site: ji.add(values[site], ji.at(mask=chosen)) for site, chosen in receivers.items()}

    def ioi(self, senders, receivers, freeze_mlps=False):
        """Receivers read what arrives when all other heads stand still and MLPs do not."""
        arrived = self.frozen(self.heads + self.mlps * freeze_mlps, senders, self.read)
        return {site: ji.replace(arrived[site], ji.at(mask=chosen)) for site, chosen in receivers.items()}


def metric_and_score(kind, side):
    """A metric, and the same from (logits, cache) by hand: float[batch]."""
    last = np.array(ROWS[side])
    rows = (last[:, None], last[:, None], np.array([[2], [4], [5]] if side == "left" else [[2], [1], [0]]))
    several = np.array([[0, 4], [2, 5], [3, 5]] if side == "left" else [[1, 4], [1, 2], [0, 2]])
    metric = [
        ji.logit_diff([0, 1, 0], [1, 0, 1]),
        ji.log_prob([0, 1, 1]),
        ji.logit_diff(0, 1, pos=ji.per_example(rows[2][:, 0])),
        ji.cross_entropy(np.ones((BATCH, 2), int), pos=ji.per_example(several)),
        ji.Metric(_final_stream, capture=("resid_final",)),
    ][kind]

    def score(logits, cache):
        if kind == 4:
            return np.asarray(cache["resid_final"])[:, 0, 0]
        logits = np.asarray(logits)[np.arange(BATCH)[:, None], several if kind == 3 else rows[kind]]
        if kind in (0, 2):
            sign = np.array([1, -1, 1])[:, None] if kind == 0 else 1
            return (sign * (logits[..., 0] - logits[..., 1])).mean(1)
        log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return -log_probs[..., 1].mean(1) if kind == 3 else log_probs[np.arange(BATCH), 0, [0, 1, 1]]

    return metric, score


def _final_stream(logits, cache):
    return cache["resid_final"][:, 0, 0]


def random_selection(rng, spec, side):
    """(what `ji.at` is given, the same as bool[the site's shape])."""
    shape = spec.shape(BATCH, POS)
    index = np.indices(shape)
    given, chosen = {}, np.ones(shape, bool)
    for axis in ("layer", "head", "neuron", "expert"):
        dim = spec.axis(axis)
        if dim is not None and rng.random() < 0.5:
            given[axis] = rng.choice(shape[dim], rng.integers(1, shape[dim] + 1), replace=False)
            chosen &= np.isin(index[dim], given[axis])
    last = np.array(ROWS[side])
    columns, pos = [
        *[(None, None)] * 5,
        (last[:, None], -1),
        (np.array([[2, 3]] * BATCH), [2, 3]),
        (last[:, None] - [[2], [0], [1]], ji.per_example(last - [2, 0, 1])),
    ][rng.integers(8)]
    if pos is not None:
        given["pos"] = pos
        batch = spec.axes.index("batch")
        chosen &= (index[batch + 1][..., None] == columns[index[batch]]).any(-1)
    return given, chosen


def random_ends(rng, model, names, side):
    """({site: ji.at(...) or a union of two}, {site: bool[the site's shape]}) of one to three of the sites `names`."""
    names = [name for name in names if name in model.sites]
    wheres, chosen = {}, {}
    for name in rng.choice(names, min(len(names), rng.integers(1, 4)), replace=False).tolist():
        parts = [random_selection(rng, model.sites[name], side) for _ in range(rng.choice([1, 1, 2]))]
        wheres[name] = tuple(ji.at(**given) for given, _ in parts) if len(parts) > 1 else ji.at(**parts[0][0])
        chosen[name] = np.any([mask for _, mask in parts], axis=0)
    return wheres, chosen


def axes_of(model, chosen, end):
    """{axis that can be swept: the coordinates it must have} of senders or receivers."""
    specs = [model.sites[name] for name in chosen]
    axes = {f"{end}_site": list(chosen)}
    for axis in ("layer", "head", "pos", "neuron", "expert"):
        dims = [spec.axis(axis) for spec in specs]
        if None in dims or len({mask.shape[d] for mask, d in zip(chosen.values(), dims, strict=True)}) > 1:
            continue  # grouped-query attention has fewer key heads than query heads
        held = [m.any(tuple(set(range(m.ndim)) - {d})) for m, d in zip(chosen.values(), dims, strict=True)]
        if all(spec.axis("kv_head") is not None for spec in specs) and axis == "head":
            axis = "kv_head"  # either name will do
        axes[f"{end}_{axis}"] = np.flatnonzero(np.any(held, axis=0)).tolist()
    return axes


def at_cell(model, chosen, cell, end):
    """The part of senders or receivers that one cell of the sweep is about."""
    part = {}
    for name, mask in chosen.items():
        for axis, coordinate in cell.items():
            if axis == f"{end}_site":
                mask = mask & (coordinate == name)
            elif axis.startswith(end):
                mask = mask & (np.indices(mask.shape)[model.sites[name].axis(axis[len(end) + 1 :])] == coordinate)
        part[name] = mask
    return part


def path_exists(config, senders, receivers):
    """Whether any selected sender adds to the stream before any selected receiver reads it."""
    read_at = {"mlp_in": 1 if config.has_mid else 0, "resid_final": 0}
    outside = dict.fromkeys(("embed", "pos_embed", "ln_embed.normalized"), -1)
    sent_at = outside | ({"mlp_post": 1, "expert_out": 1, "mlp_out": 1} if config.has_mid else {})
    layers = {name: np.flatnonzero(m.any(tuple(range(1, m.ndim)))) for name, m in (senders | receivers).items()}
    layers |= {**{name: [0] for name in outside}, "resid_final": [config.n_layers]}
    first = min(2 * layers[name][0] + sent_at.get(name, 0) for name in senders)
    last = max(2 * layers[name][-1] + read_at.get(name, 0) for name in receivers)
    return first < last


def check_paths(config, side, seed, metric, standing, max_bytes, mode, first):
    model, rng = ji.Transformer(config), np.random.default_rng(seed)
    params, base, mask = random_params(model), random_tokens(config), masks(side)
    source = altered(config, base, first)
    sender_wheres, senders = random_ends(rng, model, senders_of(model), side)
    receiver_wheres, receivers = random_ends(rng, model, RECEIVERS, side)
    possible = axes_of(model, senders, "sender") | axes_of(model, receivers, "receiver")
    over = [axis for axis in possible if rng.random() < (0.2 if axis.endswith("pos") else 0.6)]
    while np.prod([len(possible[axis]) for axis in over]) > 400:
        over.pop(rng.integers(len(over)))
    rng.shuffle(over)
    edits = {
        "base_interventions": [
            None,
            {"z": ji.scale(0.9, ji.at(layer=0))},
            {"pattern": ji.scale(0.8, ji.at(head=0)), "embed": ji.scale(1.1)},
        ][standing % 3],
        "source_interventions": [None, {"resid_pre": ji.scale(1.2, ji.at(layer=0))}][standing // 3],
    }
    metric, score = metric_and_score(metric, side)

    def sweep():
        return ji.path_patching(
            model, params, base, source, senders=sender_wheres, receivers=receiver_wheres, over=over, metric=metric,
            mode=mode.split()[0], freeze_mlps="frozen" in mode, mask=mask, max_bytes=max_bytes, per_example=True,
            **edits,
        )  # fmt: skip

    if not path_exists(config, senders, receivers):
        with pytest.raises(ValueError, match="no sender lies before any receiver"):
            sweep()
        return
    effects = sweep()
    assert effects.dims == (*over, "batch")
    assert {axis: effects[axis].values.tolist() for axis in over} == {axis: possible[axis] for axis in over}

    naive = Naive(model, params, base, source, mask, *edits.values())
    cells = list(itertools.product(*(range(effects.sizes[axis]) for axis in over)))
    reference = score(naive.logits, naive.before)
    scale = max(1.0, float(abs(naive.logits).max()))
    order = rng.permutation(len(cells))
    order = order[np.argsort((effects.values == 0).all(-1).ravel()[order], kind="stable")]
    for number in {*order[:25], *order[-5:]}:  # most of them where something happens
        cell = {axis: possible[axis][n] for axis, n in zip(over, cells[number], strict=True)}
        ends = at_cell(model, senders, cell, "sender"), at_cell(model, receivers, cell, "receiver")
        patch = naive.direct(*ends) if mode == "direct" else naive.ioi(*ends, freeze_mlps="frozen" in mode)
        expected = score(*naive.forward(patch, capture=("resid_final",))) - reference
        np.testing.assert_allclose(
            effects.values[cells[number]], expected, rtol=0, atol=1e-9 * scale,
            err_msg=f"{mode} paths, {cell} of {sender_wheres} to {receiver_wheres} in {config}",
        )  # fmt: skip


def questions():
    return {
        "config": configs(),
        "side": st.sampled_from([None, "right", "left"]),
        "seed": st.integers(0, 10**6),
        "metric": st.sampled_from([0, 0, 1, 2, 3, 4]),
        "standing": st.integers(0, 5),
        "max_bytes": st.sampled_from([None, 1]),
        "mode": st.sampled_from(["direct", "ioi", "ioi frozen"]),
        "first": st.sampled_from([0, 0, 0, 2, 4]),
    }


@budget(3)
@given(**questions())
def test_paths_equal_their_definition(**drawn):
    assume(not drawn["config"].has_post_norm and drawn["config"].n_layers > 1)
    with jax.enable_x64(True):
        check_paths(**drawn)


@pytest.mark.parametrize(("mode", "seed"), [("direct", 3), pytest.param("ioi", 5, marks=pytest.mark.slow)])
def test_paths_from_experts_and_a_normed_embedding_equal_their_definition(mode, seed):
    config = ji.TransformerConfig(
        n_layers=2, d_model=8, n_heads=2, d_mlp=5, d_vocab=11, n_ctx=8, dtype="float64",
        embed_norm=True, norm_position="both", n_experts=3,
    )  # fmt: skip
    with jax.enable_x64(True):
        check_paths(config, "right", seed, metric=0, standing=2, max_bytes=None, mode=mode, first=0)


@pytest.mark.slow
@budget(60)
@given(**questions())
def test_paths_equal_their_definition_over_many_architectures(**drawn):
    assume(not drawn["config"].has_post_norm)
    with jax.enable_x64(True):
        check_paths(**drawn)
    jax.clear_caches()


METRIC = ji.logit_diff([0, 1, 2], [3, 4, 5])
HEAD_INPUTS = ("q_input", "k_input", "v_input")
EXACT = {"rtol": 0, "atol": 1e-9}  # logits here are of the order of 1 to 10


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def tiny(**fields):
    """(model, params, base, source) of a small architecture; source differs from token 1 on."""
    sizes = {"n_layers": 2, "d_model": 8, "n_heads": 4, "n_kv_heads": 2, "d_mlp": 6, "d_vocab": 11, "n_ctx": 8}
    config = ji.TransformerConfig(**(sizes | {"dtype": "float64"} | fields))
    base = np.asarray(random_tokens(config))
    source = np.where(np.arange(POS) < 1, base, (base + 1) % config.d_vocab)
    return ji.Transformer(config), random_params(ji.Transformer(config)), base, source


def patch(run, senders, receivers, over=(), metric=METRIC, per_example=True, **settings):
    """Path patching between whole sites where only their names are given."""
    whole = [ends if isinstance(ends, dict) else dict.fromkeys(ends, ji.at()) for ends in (senders, receivers)]
    return ji.path_patching(
        *run, senders=whole[0], receivers=whole[1], over=over, metric=metric, per_example=per_example, **settings
    )


def last_logit_diff(logits):
    return np.asarray(logits)[np.arange(BATCH), -1, [0, 1, 2]] - np.asarray(logits)[np.arange(BATCH), -1, [3, 4, 5]]


@pytest.mark.slow
def test_direct_paths_into_logits_without_a_final_norm_are_the_closed_form(float64):
    model, params, base, source = run = tiny(final_norm=False)
    louder = {"pos_embed": ji.scale(1.3)}  # the two runs' positions would be the same
    logits, before = model.apply(params, base, capture=SENDERS)
    _, after = model.apply(params, source, louder, capture=SENDERS)
    change = {site: np.asarray(after[site] - before[site])[..., -1, :] for site in ("embed", "pos_embed")}
    change |= {site: np.asarray(after[site] - before[site])[:, :, -1] for site in SENDERS[2:]}
    W_O, W_out, W_U = np.asarray(params["W_O"]), np.asarray(params["W_out"]), np.asarray(params["W_E"]).T
    change["z"] = np.einsum("lbhf,lhfd->lhbd", change["z"], W_O)
    change["result"] = change["result"].swapaxes(1, 2)
    change["mlp_post"] = np.einsum("lbn,lnd->lbd", change["mlp_post"], W_out)
    answers = W_U[:, [0, 1, 2]] - W_U[:, [3, 4, 5]]
    expected = {site: np.einsum("...bd,db->...b", out, answers) for site, out in change.items()}
    exact = {"rtol": 0, "atol": 1e-12 * float(abs(logits).max())}
    for sites, over in (
        (("embed", "pos_embed"), ()),
        (("attn_out", "mlp_post", "mlp_out"), ("sender_layer",)),
        (("z", "result"), ("sender_layer", "sender_head")),
    ):
        effects = patch(run, sites, ["resid_final"], ("sender_site", *over), source_interventions=louder)
        for site in sites:
            assert abs(expected[site]).max() > 0.01
            np.testing.assert_allclose(effects.sel(sender_site=site), expected[site], err_msg=site, **exact)
    together = patch(run, ["embed", "z", "mlp_out"], ["resid_final"], source_interventions=louder)
    total = expected["embed"] + expected["z"].sum((0, 1)) + expected["mlp_out"].sum(0)
    np.testing.assert_allclose(together, total, **exact)


LINEAR = {"final_norm": False, "normalization": None}
PARALLEL = {"parallel": True, "norm_position": "both", "normalization": "rms", "gated": True, "positions": "rotary"}
ARCHITECTURES = {"as GPT-2": {}, "parallel, normed on both sides": PARALLEL}
OTHER = pytest.param("parallel, normed on both sides", marks=pytest.mark.slow)


@pytest.mark.slow
def test_with_frozen_mlps_the_modes_agree(float64):
    run = tiny(**PARALLEL)
    ends = ["z", "mlp_post"], ["v_input", "mlp_in"]
    over = ("sender_site", "sender_layer", "receiver_site", "receiver_layer")
    direct = patch(run, *ends, over)
    frozen = patch(run, *ends, over, mode="ioi", freeze_mlps=True)
    np.testing.assert_allclose(frozen, direct, **EXACT)
    assert (abs(direct).max(("sender_layer", "receiver_layer", "batch")) > 1e-4).all()


def test_without_mlps_the_modes_agree(float64):
    run = tiny(attn_only=True, **LINEAR)
    over = ("sender_layer", "sender_head", "receiver_layer", "receiver_head")
    direct, ioi = (patch(run, ["z"], ["v_input"], over, mode=mode) for mode in ("direct", "ioi"))
    np.testing.assert_allclose(ioi, direct, **EXACT)
    assert abs(direct).max() > 1e-4


def test_what_linear_receivers_get_adds_up(float64):
    """Values without a norm, in a last block without an MLP; the final stream is in the closed form above."""
    run, values, over = tiny(attn_only=True, **LINEAR), {"v_input": ji.at(layer=1)}, ("sender_head", "sender_pos")
    apart, together = patch(run, ["z"], values, over), patch(run, ["z"], values)
    np.testing.assert_allclose(apart.sum(over), together, **EXACT)
    assert (abs(apart).max(("sender_pos", "batch")) > 1e-3).all()


@pytest.mark.parametrize("mode", ["direct", "ioi"])
@pytest.mark.parametrize("architecture", ["as GPT-2", OTHER])
def test_all_senders_together_bring_the_source_run(float64, architecture, mode):
    """Into the final stream: its metric. Into a layer's heads or MLP: what their outputs in the source run do."""
    model, params, base, source = run = tiny(**ARCHITECTURES[architecture])
    learned = ["pos_embed"] * (model.config.positions == "learned")
    senders = ["embed", "z", "mlp_out", *learned]
    edits = {site: ji.scale(1.3) for site in learned}  # the two runs' positions would be the same
    logits, cache = model.apply(params, source, edits, capture=("z", "mlp_post"))
    reference, target = last_logit_diff(model.apply(params, base)[0]), last_logit_diff(logits)
    settings = {"mode": mode, "source_interventions": edits}

    effects = patch(run, senders, ["resid_final"], **settings)
    np.testing.assert_allclose(effects, target - reference, **EXACT)
    for site, read in (("z", HEAD_INPUTS), ("mlp_post", ["mlp_in"])):
        effects = patch(run, senders, read, ("receiver_layer",), **settings)
        for layer in range(model.config.n_layers):
            edit = {site: ji.replace(cache[site], ji.at(layer=layer))}
            expected = last_logit_diff(model.apply(params, base, edit)[0]) - reference
            assert abs(expected).max() > 1e-3
            np.testing.assert_allclose(effects.sel(receiver_layer=layer), expected, **EXACT)


def test_normalized_effects_and_the_metrics_of_both_runs(float64):
    model, params, base, source = run = tiny()
    metrics = [last_logit_diff(model.apply(params, tokens)[0]).mean() for tokens in (base, source)]
    raw, normalized = (
        patch(run, ["z"], ["resid_final"], ("sender_layer",), per_example=False, normalize=normalize)
        for normalize in (False, True)
    )
    assert [raw.attrs["base_metric"], raw.attrs["source_metric"]] == pytest.approx(metrics, abs=1e-9)
    np.testing.assert_allclose(normalized * (metrics[1] - metrics[0]), raw, **EXACT)
    assert abs(raw).max() > 0.01


@pytest.mark.parametrize("mode", ["direct", "ioi"])
def test_paths_that_do_not_exist_are_exactly_zero(float64, mode):
    over = ("sender_site", "sender_layer", "sender_pos", "receiver_layer", "receiver_pos")
    effects = patch(tiny(), ["z", "mlp_out"], ["mlp_in"], over, mode=mode)
    for site, sent, start, read, end in itertools.product(("z", "mlp_out"), (0, 1), range(POS), (0, 1), range(POS)):
        exists = start == end and (sent < read or (sent == read and site == "z"))
        matters = start >= 1 and (read == 0 or end == POS - 1)  # token 0 is the same; the metric reads the last
        effect = effects.sel(sender_site=site, sender_layer=sent, sender_pos=start, receiver_layer=read)
        effect = effect.sel(receiver_pos=end).values
        assert (effect != 0).all() if exists and matters else (effect == 0).all(), (site, sent, start, read, end)


@pytest.mark.parametrize("mode", ["direct", "ioi"])
def test_a_run_patched_from_itself_does_not_change(float64, mode):
    model, params, base, _ = tiny(**PARALLEL)
    senders = [site for site in SENDERS if site in model.sites]
    effects = patch((model, params, base, base), senders, RECEIVERS, ("sender_site", "receiver_site"), mode=mode)
    assert effects.shape == (6, 5, BATCH)
    assert (effects == 0).all()


def test_prompts_in_batches_have_the_effects_they_have_at_once(float64, monkeypatch):
    rng, n = np.random.default_rng(0), 20
    model, params, _, _ = tiny()
    tokens, lengths = rng.integers(0, 11, (n, POS)), rng.integers(3, POS + 1, n)
    mask = np.arange(POS) < lengths[:, None]
    first = rng.integers(0, 3, n)
    other = np.where(np.arange(POS) < first[:, None], tokens, (tokens + 1) % 11)
    senders = {"z": ji.at(pos=ji.per_example(lengths - 1)), "mlp_post": ji.at(pos=-1)}
    settings = {
        "mask": mask, "metric": ji.logit_diff(np.arange(n) % 5, 5 + np.arange(n) % 5),
        "base_interventions": {"z": ji.scale(0.5, ji.at(batch=slice(3, 9)))},
    }  # fmt: skip
    batches = []

    def counted(*args, **kwargs):
        batches.append(make_batches(*args, **kwargs))
        return batches[-1]

    monkeypatch.setattr("jaxinterp.patching.engine.make_batches", counted)
    run, receivers = (model, params, tokens, other), ["mlp_in", "v_input"]
    over = ("sender_site", "sender_layer", "receiver_layer")
    each = patch(run, senders, receivers, over, **settings)
    effects = patch(run, senders, receivers, over, per_example=False, max_bytes=20_000, **settings)
    assert len(batches[0]) == 1
    assert len(batches[1]) >= 3
    np.testing.assert_allclose(effects, each.mean("batch"), **EXACT)
    np.testing.assert_allclose(effects.standard_error, each.std("batch", ddof=1) / np.sqrt(n), **EXACT)
    assert (abs(each).max(("sender_layer", "receiver_layer", "batch")) > 1e-3).all()


def whole(model, **chosen):
    """{site: bool[the site's shape]} of sites at some layer, or everywhere (None)."""
    out = {}
    for site, layer in chosen.items():
        out[site] = np.zeros(model.sites[site].shape(BATCH, POS), bool)
        out[site][slice(None) if layer is None else layer] = True
    return out


@pytest.mark.parametrize("mode", ["direct", "ioi"])
def test_receivers_in_a_row(float64, mode):
    """A receiver behind another hears of it in direct mode; in the paper's it reads what was recorded for it."""
    run = model, *_ = tiny()
    effects = patch(run, ["embed"], ["q_input", "mlp_in"], mode=mode)
    naive = Naive(*run)
    edits = getattr(naive, mode)(whole(model, embed=None), whole(model, q_input=None, mlp_in=None))
    expected = last_logit_diff(naive.forward(edits)[0]) - last_logit_diff(naive.logits)
    np.testing.assert_allclose(effects, expected, **EXACT)


@pytest.mark.parametrize("mode", ["direct", "ioi"])
def test_a_head_named_by_z_and_by_result_sends_once(float64, mode):
    run = tiny()
    head, heads = {"z": ji.at(layer=0, head=1)}, {"result": ji.at(layer=0, head=[1, 2])}
    once = patch(run, heads, ["resid_final"], mode=mode)
    np.testing.assert_allclose(patch(run, head | heads, ["resid_final"], mode=mode), once, **EXACT)
    assert abs(patch(run, head, ["resid_final"], mode=mode) - once).max() > 1e-3


def test_query_and_key_heads_receive_together_where_they_are_grouped(float64):
    run = model, *_ = tiny()
    assert model.config.n_kv_heads < model.config.n_heads
    effects = patch(run, {"z": ji.at(layer=0)}, {site: ji.at(layer=1) for site in HEAD_INPUTS})
    naive = Naive(*run)
    edits = naive.direct(whole(model, z=0), whole(model, q_input=1, k_input=1, v_input=1))
    expected = last_logit_diff(naive.forward(edits)[0]) - last_logit_diff(naive.logits)
    np.testing.assert_allclose(effects, expected, **EXACT)


@pytest.mark.parametrize("mode", ["direct", "ioi"])
def test_base_runs_that_stand_under_edits(float64, mode):
    run = model, *_ = tiny(
        positions="rotary", qk_norm="head", gated=True, act_fn="solu", norm_position="both", n_kv_heads=4
    )
    between = "result", "attn_out", "mlp_out", "ln1_post", "ln2_post", "resid", "mlp_in", "q_in", "k_in", "v_in"
    standing = {site: ji.scale(0.9) for site in model.sites if not site.startswith(between)}
    assert len(standing) == 22
    senders, receivers = {"z": ji.at(layer=0)}, {"q_input": ji.at(layer=1)}
    effects = patch(run, senders, receivers, mode=mode, base_interventions=standing)
    naive = Naive(*run, standing=standing)
    edits = getattr(naive, mode)(whole(model, z=0), whole(model, q_input=1))
    expected = last_logit_diff(naive.forward(edits)[0]) - last_logit_diff(naive.logits)
    np.testing.assert_allclose(effects, expected, **EXACT)
    assert abs(expected).max() > 1e-4


@pytest.mark.parametrize("wrong", [
    ({"senders": {"zz": ji.at()}}, ValueError, "unknown site 'zz'; did you mean 'z'"),
    ({"receivers": {"mlp_inn": ji.at()}}, ValueError, "unknown site 'mlp_inn'; did you mean 'mlp_in'"),
    ({"senders": {"q": ji.at()}}, ValueError, "'q' cannot be a sender: embed, .* can"),
    ({"receivers": {"z": ji.at()}}, ValueError, "'z' cannot be a receiver: q_input, .* can"),
    ({"senders": {}}, TypeError, "senders must be {site: ji.at"),
    ({"senders": ["z"]}, TypeError, "senders must be {site: ji.at.*got \\['z'\\]"),
    ({"receivers": "q_input"}, TypeError, "receivers must be {site: ji.at.*got 'q_input'"),
    ({"senders": {"z": 3}}, TypeError, "senders\\['z'\\] must be ji.at"),
    ({"senders": {"z": ji.at(layer=2)}}, ValueError, "site 'z': layer=2 is out of range"),
    ({"senders": {"z": ji.at(neuron=2)}}, ValueError, "site 'z' has no axis 'neuron'"),
    ({"senders": {"z": ji.at(mask=np.zeros((1, 1, 1, 1, 1), bool))}}, ValueError, "senders select nothing .* 'z'"),
    ({"senders": {"z": ji.at(layer=1)}, "receivers": {"k_input": ji.at(layer=[0, 1])}}, ValueError,
     "no sender lies before any receiver"),
    ({"mode": "acdc"}, ValueError, "unknown mode 'acdc'; expected one of: direct, ioi"),
    ({"freeze_mlps": True}, ValueError, "freeze_mlps=True is for mode='ioi'"),
    ({"normalize": "yes"}, ValueError, "normalize must be .* got 'yes'"),
    ({"metric": 3}, TypeError, "metric= expects a ji.Metric"),
    ({"over": "sender_head"}, TypeError, "over must be a tuple .* 'sender_head'"),
    ({"over": ("sender_head", "sender_head")}, ValueError, "over=.* names one axis twice"),
    ({"over": ("receiver_head", "receiver_kv_head")}, ValueError, "over=.*receiver_kv_head"),
    ({"over": ("head",)}, ValueError, "unknown axis 'head' in over"),
    ({"over": ("sender_query",)}, ValueError, "over holds 'sender_query': site 'z' has no such axis"),
    ({"over": ("receiver_neuron",)}, ValueError, "over holds 'receiver_neuron': site 'k_input' has no such axis"),
    ({"base_interventions": {"resid_pre": ji.scale(0.9)}}, ValueError, "base_interventions edit 'resid_pre'"),
    ({"base_interventions": {"mlp_out": ji.scale(0.9)}}, ValueError, "base_interventions edit 'mlp_out'"),
], ids=lambda wrong: wrong[2][:40])  # fmt: skip
def test_questions_that_cannot_be_meant(wrong):
    settings, error, message = wrong
    right = {"senders": {"z": ji.at(layer=0)}, "receivers": {"k_input": ji.at(layer=1)}, "metric": METRIC}
    with pytest.raises(error, match=message):
        ji.path_patching(*tiny(dtype="float32"), **(right | settings))


def test_prompts_that_do_not_align():
    model, params, base, source = tiny(dtype="float32")
    mask = np.arange(6) < np.array([[6], [6], [5]])
    with pytest.raises(ValueError, match=r"base has shape .* source has .* align token by token"):
        patch((model, params, base, source[:, 1:]), ["z"], ["resid_final"])
    with pytest.raises(ValueError, match="prompt 2: base has 6 tokens, source has 5"):
        patch((model, params, base, ji.Prompts(source, mask)), ["z"], ["resid_final"])


def test_models_whose_stream_does_not_add_up():
    run = tiny(norm_position="post", dtype="float32")
    assert run[0].config.has_post_norm
    with pytest.raises(ValueError, match="this model norms between blocks"):
        patch(run, ["z"], ["resid_final"])
    with pytest.raises(TypeError, match=r"needs a ji.Transformer, got str"):
        patch(("a model", *run[1:]), ["z"], ["resid_final"])
    run = tiny(positions="qk", dtype="float32")
    with pytest.raises(ValueError, match="'pos_embed' does not enter this model's stream"):
        patch(run, ["pos_embed"], ["resid_final"])
    with pytest.raises(ValueError, match="over holds 'receiver_head': its sites differ"):
        patch(run, ["z"], ["q_input", "k_input"], ("receiver_head",))
    run = tiny(embed_norm=True, n_experts=2, dtype="float32")
    with pytest.raises(ValueError, match=r"'embed' does not add up .* send 'ln_embed.normalized'"):
        patch(run, ["embed"], ["resid_final"])
    with pytest.raises(ValueError, match=r"'mlp_post' does not add up .* send 'expert_out'"):
        patch(run, ["mlp_post"], ["resid_final"])
