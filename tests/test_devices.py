"""The same numbers over eight devices: one subprocess, for the host platform is split before JAX starts."""

import os
import subprocess
import sys
from pathlib import Path

GOLDENS = Path(__file__).parent / "goldens"

SCRIPT = """
import sys, tempfile, jax, jax.numpy as jnp, numpy as np, jaxinterp as ji
from pathlib import Path
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P

assert len(jax.devices()) == 8
mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("cells", "more"))
config = ji.TransformerConfig(n_layers=3, d_model=16, n_heads=4, d_vocab=20, n_ctx=8, n_kv_heads=2, positions="rotary")
model = ji.Transformer(config)
params = jax.tree.map(lambda w: 5 * w, model.init(jax.random.key(0)))
base = jax.random.randint(jax.random.key(1), (8, 6), 0, 20)
source = base.at[:, 2:].set((base[:, 2:] + 1) % 20)

# a sweep spread over devices
run = dict(site="z", metric=ji.logit_diff(1, 2))
for max_bytes in (None, 1):
    committed = jax.device_put((params, base, source), jax.devices()[1])
    spread = ji.activation_patching(model, *committed, mesh=mesh, max_bytes=max_bytes, **run)
    np.testing.assert_allclose(spread, ji.activation_patching(model, params, base, source, **run), atol=1e-4)

# other techniques, and sweeps on top of edits
asks = (
    lambda **how: ji.ablation(
        model, params, base, site="mlp_out", over=("layer", "pos"), metric=ji.logit_diff(1, 2), **how),
    lambda **how: ji.activation_patching(
        model, params, base, source, base_interventions={"attn_out": ji.scale(0.5, ji.at(layer=0))}, **run, **how),
    lambda **how: ji.path_patching(model, params, base, source, senders={"z": ji.at()}, receivers={"k_input": ji.at()},
        over=("sender_layer", "sender_head", "receiver_layer"), metric=ji.logit_diff(1, 2), **how),
    lambda **how: ji.attribution_patching(model, params, base, source, **run, **how),
    lambda **how: ji.attribution_patching(model, params, base[:5], source[:5], method="atp_star", **run, **how),
    lambda **how: ji.attribution_to_logits(model, params, base[:5], source[:5], site="mlp_out", over=("pos",), **how),
    lambda **how: ji.edge_attribution(model, params, base[:5], source[:5], metric=ji.logit_diff(1, 2), **how).scores,
)
for ask in asks:
    np.testing.assert_allclose(ask(mesh=mesh), ask(), atol=1e-4)

# prompts of a harvest spread over devices, a number that they do not divide
import tempfile
rows = np.arange(19 * 6).reshape(19, 6) % 20
harvests = [
    ji.harvest(model, params, rows, {"z": ji.at(layer=1)}, tempfile.mkdtemp(), flatten=True, max_bytes=200_000,
        metric=ji.logit_diff(np.arange(19), 1 + np.arange(19)),
        interventions={"mlp_out": ji.zero(ji.at(pos=ji.per_example(np.arange(19) % 6)))}, **how)
    for how in ({}, {"mesh": mesh})
]
for spread in harvests[1:]:
    assert all(len(h) == 19 * 6 for h in harvests)
    for kind in ("arrays", "gradients", "coordinates"):
        for name, array in getattr(harvests[0], kind).items():
            np.testing.assert_allclose(np.asarray(getattr(spread, kind)[name]), np.asarray(array), atol=1e-4)
assert ji.harvest(model, jax.device_put(params, jax.devices()[1]), rows, ("q",), tempfile.mkdtemp()).complete

# parameters that lie on a mesh of explicit axes, without a word about it to the sweep
explicit = jax.device_put(params, NamedSharding(jax.make_mesh((8,), ("d",)), P()))
np.testing.assert_allclose(
    ji.activation_patching(model, explicit, base, source, **run),
    ji.activation_patching(model, params, base, source, **run), atol=1e-4)

# prompts and interventions spread over devices in a user's own jit
logits, cache = model.apply(params, base, capture=("z",))
edits = {"z": ji.replace(cache["z"][:, ::-1], ji.at(layer=1, head=[0, 3], pos=-1))}
expected, _ = model.apply(params, base, edits)
place = lambda array, *spec: jax.device_put(array, NamedSharding(mesh, P(*spec)))
spread_edits = {"z": ji.replace(place(cache["z"][:, ::-1], None, "cells"), ji.at(layer=1, head=[0, 3], pos=-1))}
spread, _ = jax.jit(model.apply)(place(params), place(base, "cells"), spread_edits)
assert len(spread.sharding.device_set) == 8
np.testing.assert_allclose(spread, expected, atol=1e-4)
# weights that are read onto their devices part by part, by a rule, and written by each device for itself
goldens = Path(sys.argv[1])
same = lambda one, other: all(np.asarray(one[n]).tobytes() == np.asarray(other[n]).tobytes() for n in other)
rules = {"llama-grouped": "more", "gpt2-tied": {"head": "more", "d_model": "cells", "d_mlp": "more"}}
for name, rule in rules.items():
    model, whole, _ = ji.load(goldens / name)
    toks = jax.random.randint(jax.random.key(2), (4, 7), 0, model.config.d_vocab)
    expected = model.apply(whole, toks)[0]
    _, divided, _ = ji.load(goldens / name, mesh=mesh, sharding=rule)
    shares = {n: w.size // w.addressable_shards[0].data.size for n, w in divided.items()}
    assert shares["W_Q"] == shares["W_in"] == {"llama-grouped": 2, "gpt2-tied": 8}[name]
    assert same(divided, whole)
    np.testing.assert_allclose(model.apply(divided, toks)[0], expected, atol=1e-4)
    with tempfile.TemporaryDirectory() as folder:
        ji.save(folder, model, divided)
        assert (Path(folder) / "model.orbax").is_dir()
        for how in ({}, {"sharding": None}, {"sharding": {"d_model": "cells"}}, {"sharding": rule}):
            again, read, _ = ji.load(folder, mesh=mesh if how else None, **how)
            assert again == model
            assert same(read, whole)
        assert all(read[n].sharding == divided[n].sharding for n in whole)
        half = ji.load(folder, dtype="bfloat16", mesh=mesh, sharding=rule)[1]
        assert same(half, {n: np.asarray(w).astype("bfloat16") for n, w in whole.items()})
        ji.save(folder, model, divided, format="safetensors")
        assert sorted(f.name for f in Path(folder).iterdir()) == ["config.json", "model.safetensors"]
        assert same(ji.load(folder, mesh=mesh)[1], whole)
np.testing.assert_allclose(
    ji.ablation(model, divided, toks, site="z", over=("layer",), metric=ji.logit_diff(1, 2)),
    ji.ablation(model, whole, toks, site="z", over=("layer",), metric=ji.logit_diff(1, 2)), atol=1e-4)

# a mesh of explicit axes: divided weights lie on automatic ones, and the forward runs
typed = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Explicit,) * 2)
divided = ji.load(goldens / name, mesh=typed, sharding="a")[1]
np.testing.assert_allclose(model.apply(divided, toks)[0], expected, atol=1e-4)

def refused(sharding, message):
    try:
        ji.load(goldens / "llama-grouped", mesh=mesh, sharding=sharding)
    except ValueError as error:
        assert message in str(error), error
    else:
        raise AssertionError(sharding)

config = ji.load(goldens / "llama-grouped")[0].config
assert config.n_kv_heads % 4
refused({"kv_head": "cells"}, f"sharding['kv_head'] = 'cells' would divide the {config.n_kv_heads} of W_K among 4")
refused({"d_model": "more", "d_mlp": "more"}, "W_gate ('layer', 'd_model', 'd_mlp') twice along mesh axis 'more'")
refused({"d_vocab_out": None}, "divides no weight of this model over a mesh of {'cells': 4, 'more': 2}")
print("same on", len(jax.devices()), "devices")
"""


def test_eight_devices_give_the_same_numbers():
    env = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(GOLDENS)], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert "same on 8 devices" in done.stdout
