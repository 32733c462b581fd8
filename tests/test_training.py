"""What initial weights promise, and the loop; recipes are tested with their models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxinterp as ji
from jaxinterp.training import TrainingRecord, adamw, mimetic_init, muon, scaled_init, sinusoidal_init, train

SIZES = {"n_layers": 3, "d_model": 64, "n_heads": 2, "d_vocab": 50, "n_ctx": 32}


def test_first_heads_begin_with_positions_and_others_with_words():
    model = ji.Transformer(ji.TransformerConfig(**SIZES))
    params, drawn = mimetic_init(model, 0, 0.5), scaled_init(model, 0)
    assert {name: weight.shape for name, weight in params.items()} == {name: w.shape for name, w in drawn.items()}
    words = (params["W_E"] != 0).any(axis=0)
    assert (words == ~(params["W_pos"] != 0).any(axis=0)).all()
    for name in ("W_Q", "W_K"):
        read = (params[name] != 0).any(axis=(1, 3))  # layer, d_model
        assert (read[0] == ~words).all()
        assert (read[1:] == words).all()
    assert ((params["W_V"] != 0).any(axis=(0, 1, 3)) == words).all()
    spread = [float(np.sqrt(np.mean(np.square(each["W_O"])))) for each in (params, drawn)]
    assert spread[0] == pytest.approx(spread[1], rel=0.1)


def test_models_that_cannot_begin_so_are_refused():
    grouped = ji.Transformer(ji.TransformerConfig(**SIZES, n_kv_heads=1))
    with pytest.raises(ValueError, match="expected as many keys as queries, got 2 queries to a key"):
        mimetic_init(grouped, 0, 0.5)
    rotary = ji.Transformer(ji.TransformerConfig(**SIZES, positions="rotary"))
    with pytest.raises(ValueError, match="with a position embedding, got positions='rotary'"):
        sinusoidal_init(rotary, 0, 0.5)


def test_muon_moves_matrices_equally_in_all_directions_and_the_rest_as_adamw_does():
    model = ji.Transformer(ji.TransformerConfig(**SIZES, n_kv_heads=1, gated=True))
    params = model.init(jax.random.key(0))
    gradients = jax.tree.map(lambda w: jax.random.normal(jax.random.key(w.size), w.shape), params)
    rate, at = 1e-2, {"steps": 100, "learning_rate": 1e-2, "warmup": 1, "weight_decay": 0.0}
    updates = {}
    for make in (muon, adamw):
        state = make(**at).init(params)
        for _ in range(2):  # the first step's rate is 0
            updates[make], state = make(**at).update(gradients, state, params)
    between = {"W_Q": (2, 1, 3), "W_K": (2, 1, 3), "W_O": (1, 2, 3), "W_gate": (1, 2), "W_out": (1, 2)}
    for name, axes in between.items():
        whole = np.transpose(updates[muon][name], (0, *axes))
        read = int(np.prod([params[name].shape[axis] for axis in (axes[:2] if name == "W_O" else axes[:1])]))
        for layer in whole.reshape(len(whole), read, -1):
            directions = np.linalg.svd(layer, compute_uv=False)
            # of W_Q's gradient they differ a hundredfold; the very smallest are not brought up all the way
            assert directions.max() < 2 * np.quantile(directions, 0.05)
            assert np.sqrt(np.mean(layer**2)) == pytest.approx(0.6 * rate, rel=0.25)
    for name in set(params) - {*between, "W_V", "W_in"}:
        # Nesterov's look ahead, at the second of two equal gradients g: b1 m / (1 - b1^3) + (1 - b1) g / (1 - b1^2)
        ahead = (1 - 0.9**2) / (1 - 0.9**3) * 0.9 + 0.1 / (1 - 0.9**2)
        np.testing.assert_allclose(updates[muon][name], ahead * updates[adamw][name], rtol=1e-3, err_msg=name)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        muon(0, 1e-3)


def lines(seed=0, target=3.0):
    """A loss, its batches, and settings: a line through noisy points."""

    def loss(params, batch, key):
        noise = 0.01 * jax.random.normal(key)
        return jnp.mean((params["w"] * batch - target * batch + noise) ** 2)

    def batches(step):
        return np.random.default_rng((seed, step)).normal(size=8).astype(np.float32)

    return loss, {"w": jnp.zeros(())}, batches


def run(folder, *, steps=30, settings=(("seed", 0),), seed=0, of=0, batches=None, **more):
    loss, params, drawn = lines(of)
    how = {"steps": steps, "settings": dict(settings), "folder": folder, "save_every": 10, "seed": seed}
    return train(loss, params, batches or drawn, adamw(steps, 0.1), **how | more)


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(tmp_path):
    params, record = run(tmp_path / "undisturbed")
    assert len(record.losses) == 2
    assert record.losses[1] < record.losses[0]

    def stopping(step):
        if step == 25:
            raise KeyboardInterrupt
        return lines()[2](step)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", batches=stopping)
    seen = []

    def counting(step):
        seen.append(step)
        return lines()[2](step)

    again, other = run(tmp_path / "stopped", batches=counting)
    assert seen == [0, *range(20, 30)], "it goes on from the last checkpoint; the first batch tells which run it is"
    assert float(again["w"]) == float(params["w"])
    assert other.losses == record.losses


@pytest.mark.parametrize(
    "changed", [{"steps": 40}, {"settings": (("seed", 1),)}, {"seed": 1}, {"of": 1}], ids=lambda each: next(iter(each))
)
def test_checkpoints_of_another_run_are_refused(tmp_path, changed):
    run(tmp_path)
    with pytest.raises(ValueError, match="remove it or go on with that"):
        run(tmp_path, **changed)


def test_settings_may_be_any_json(tmp_path):
    first, _ = run(tmp_path, settings=(("sizes", (1, 2)),))
    again, _ = run(tmp_path, settings=(("sizes", (1, 2)),))
    assert float(first["w"]) == float(again["w"])


def test_a_run_that_cannot_end_well_does_not_begin_or_go_on(tmp_path):
    for wrong in ({"steps": 0}, {"save_every": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be at least 1, got 0"):
            run(tmp_path, **wrong)
    with pytest.raises(FloatingPointError, match="the loss of step 12 is nan"):
        run(tmp_path, batches=lambda step: np.full(8, np.nan if step == 12 else 1, np.float32))
    assert (tmp_path / "training" / "10").is_dir(), "what was complete is still there"


def test_a_record_comes_back_as_it_was_written_and_nothing_else_is_one(tmp_path):
    record = TrainingRecord({"seed": 0}, 50, 0.5, 1.0, (3.0, 2.0), "2 processors, cpu")
    record.write(tmp_path)
    assert TrainingRecord.read(tmp_path) == record
    (tmp_path / "training.json").write_text('{"epochs": 3}')
    with pytest.raises(ValueError, match=r"training\.json is no record of training: expected cpu_hours, hours, losses"):
        TrainingRecord.read(tmp_path)


def test_places_need_dimensions():
    model = ji.Transformer(ji.TransformerConfig(n_layers=1, d_model=4, n_heads=1, d_vocab=5, n_ctx=8))
    for begin in (sinusoidal_init, mimetic_init):
        with pytest.raises(ValueError, match="d_model must be at least 8, a quarter of which is for positions, got 4"):
            begin(model, 0, 1.0)
