"""What tests share: one small model for examples, and the names that docstrings assume."""

import os

# Hundreds of tiny programs: compiling them takes longer than running them, so LLVM is told not to try hard.
# It acts below the HLO, which is what tests of operation counts read.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxinterp as ji


@pytest.fixture(scope="session")
def small():
    """(model, params, tokens): two layers, four heads, three prompts of six tokens."""
    config = ji.TransformerConfig(n_layers=2, d_model=32, n_heads=4, d_vocab=50, n_ctx=16)
    model = ji.Transformer(config)
    params = jax.tree.map(lambda w: w * 5, model.init(jax.random.key(0)))
    tokens = jax.random.randint(jax.random.key(1), (3, 6), 0, 50)
    return model, params, tokens


@pytest.fixture(autouse=True)
def _names_in_docstrings(request):
    if request.node.__class__.__name__ == "DoctestItem":
        namespace = request.getfixturevalue("doctest_namespace")
        model, params, tokens = request.getfixturevalue("small")
        namespace |= {"ji": ji, "jax": jax, "jnp": jnp, "np": np, "model": model, "params": params, "tokens": tokens}
