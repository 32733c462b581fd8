"""From files to devices: any view of a tensor, any part of it, any dtype, and nothing held twice."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from jaxinterp.io import weights
from jaxinterp.io.files import open_tensors
from jaxinterp.io.weights import Part, StoredWeight, blocks, byte_bar, load_weights


def stored(folder, array):
    save_file({"before": np.zeros(3, np.float16), "w": np.ascontiguousarray(array)}, folder / "model.safetensors")
    return open_tensors(folder)["w"]


@given(st.lists(st.integers(1, 7), min_size=1, max_size=4), st.integers(1, 50))
def test_blocks_cover_everything_once(shape, limit):
    seen = np.zeros(shape, int)
    for block in blocks(tuple(shape), limit):
        assert seen[block].size <= limit
        seen[block] += 1
    assert (seen == 1).all()


@settings(max_examples=40)
@given(data=st.data())
def test_any_part_of_any_transposition(tmp_path_factory, data):
    """Blocks of a few bytes, so that all the seams are met."""
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    shape = tuple(data.draw(st.lists(st.integers(1, 6), min_size=2, max_size=4)))
    order = data.draw(st.permutations(range(len(shape))))
    kept, wanted = (data.draw(st.sampled_from(["float16", "bfloat16", "float32", "float64"])) for _ in range(2))
    whole = rng.normal(size=shape).astype(jnp.dtype(kept))
    ours = whole.transpose(order)
    stacked = data.draw(st.integers(0, 2 if len(shape) > 2 else 1))
    index = []
    for size in ours.shape:
        start = data.draw(st.integers(0, size - 1))
        index.append(slice(start, data.draw(st.integers(start + 1, size))))
    tensor = stored(tmp_path_factory.mktemp("weights"), whole)
    parts = {
        place: Part(tensor, lambda v, place=place: v.transpose(order)[place])
        for place in np.ndindex(ours.shape[:stacked])
    }
    weight = StoredWeight(ours.shape, jnp.dtype(wanted), parts)
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(3) as pool, byte_bar("", 1, False) as bar:
        patch.setattr(weights, "MAPPED", data.draw(st.sampled_from([64, 256, 4096])))
        patch.setattr(weights, "BLOCK", data.draw(st.sampled_from([16, 64, 4096])))
        patch.setattr(weights, "GAP_FROM", data.draw(st.sampled_from([1, 512])))
        found = weight.read(tuple(index), pool, bar)
    assert found.tobytes() == ours[tuple(index)].astype(jnp.dtype(wanted)).tobytes()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of the test's own casts of NaN
def test_only_nan_and_infinity_are_refused(dtype):
    """Every bit pattern of two-byte numbers; of longer ones those of the extremes."""
    bits = np.dtype(f"u{jnp.dtype(dtype).itemsize}")
    if bits.itemsize == 2:
        values = np.arange(2**16, dtype=bits).view(jnp.dtype(dtype))
    else:
        info = np.finfo(dtype)
        values = np.array(
            [0, -0.0, info.max, info.min, info.tiny, info.smallest_subnormal, np.nan, np.inf, -np.inf], dtype
        )
    finite = np.isfinite(values.astype(np.float64 if bits.itemsize == 8 else np.float32))
    weights.check_finite(values[finite], "w")
    for bad in values[~finite][:: 2**5 if bits.itemsize == 2 else 1]:
        with pytest.raises(ValueError, match="w holds 1 values that are NaN or infinite"):
            weights.check_finite(np.array([1, bad, 2], jnp.dtype(dtype)), "w")


@pytest.mark.parametrize("places", [(0,), (0, 5000), (4999, 5000, 9999)])
def test_bad_values_are_counted_over_all_blocks(tmp_path, monkeypatch, places):
    monkeypatch.setattr(weights, "MAPPED", 4096)
    monkeypatch.setattr(weights, "BLOCK", 512)
    values = np.ones((100, 100), np.float32)

    def load(dtype):
        part = Part(stored(tmp_path, values), np.transpose)
        return load_weights({"W": StoredWeight((100, 100), jnp.dtype(dtype), {(): part})}, None, False)["W"]

    values.flat[list(places)] = 1e30
    assert (values.astype(jnp.bfloat16) == load("bfloat16").T).all()
    with pytest.raises(ValueError, match=f"'w' in .* holds {len(places)} values too large for float16"):
        load("float16")
    values.flat[list(places)] = np.nan
    with pytest.raises(ValueError, match=f"'w' in .* holds {len(places)} values that are NaN or infinite"):
        load("float16")


def test_memory_is_taken_over_and_outlives_its_source(tmp_path):
    values = np.random.default_rng(0).normal(size=(64, 48)).astype(np.float32)
    tensor = stored(tmp_path, values)
    weight = {"W": StoredWeight((64, 48), jnp.dtype("float32"), {(): Part(tensor, np.asarray)})}
    loaded = load_weights(weight, None, False)["W"]
    tensor.path.unlink()
    assert (loaded == values).all()
    again = jax.jit(lambda w: w + 1, donate_argnums=0)(loaded)
    assert (again == values + 1).all()
    memory = weights._new_memory((64, 48), jnp.dtype("float32"))
    assert jax.device_put(memory, jax.devices("cpu")[0]).unsafe_buffer_pointer() == memory.ctypes.data


def test_the_bar_counts_every_byte_once(tmp_path):
    values = np.ones((7, 5, 3), np.float32)
    tensor = stored(tmp_path, values)
    weight = StoredWeight((7, 5, 3), jnp.dtype("bfloat16"), {(i,): Part(tensor, lambda v, i=i: v[i]) for i in range(7)})
    with ThreadPoolExecutor(1) as pool, byte_bar("", weight.nbytes, True) as bar:
        for rows, columns in itertools.product((slice(0, 4), slice(4, 7)), (slice(0, 2), slice(2, 5))):
            weight.read((rows, columns, slice(None)), pool, bar)
        assert bar.n == weight.nbytes == 7 * 5 * 3 * 2
