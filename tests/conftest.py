"""What tests share: one small model."""

import os

# Hundreds of tiny programs: compiling them takes longer than running them, so LLVM is told not to try hard.
# It acts below the HLO, which is what tests of operation counts read.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"

import jax
import pytest

import jaxinterp as ji

#: The files that take longest.
LONG = (
    "test_devices",
    "test_structure",
    "test_batches",
    "test_paths",
    "test_endurance",
    "test_engine",
    "test_identities",
)


def pytest_collection_modifyitems(items):
    """The longest files first, so that no process is left alone with one at the end."""
    items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Compiled programs are mapped into memory, and Linux allows a process 65,530 maps: each file begins with none."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def small():
    """(model, params, tokens): two layers, four heads, three prompts of six tokens."""
    config = ji.TransformerConfig(n_layers=2, d_model=32, n_heads=4, d_vocab=50, n_ctx=16)
    model = ji.Transformer(config)
    with jax.enable_x64(False):  # the first test to ask for it may stand in double precision
        params = jax.tree.map(lambda w: w * 5, model.init(jax.random.key(0)))
        tokens = jax.random.randint(jax.random.key(1), (3, 6), 0, 50)
    return model, params, tokens
