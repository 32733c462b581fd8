"""Naming nothing costs nothing, and depth does not cost compilation: read off the compiled program."""

import math
import re

import jax
import jax.numpy as jnp
import pytest

import jaxinterp as ji
from jaxinterp.model.attention import layer_data
from jaxinterp.model.block import block
from jaxinterp.model.layers import embed, token_positions, unembed
from jaxinterp.model.params import block_names
from jaxinterp.model.where import Geometry
from jaxinterp.patching.cost import Cost

ARCHITECTURES = {
    "gpt2": ji.TransformerConfig(4, 32, 4, 50, 16),
    "llama": ji.TransformerConfig(
        4, 32, 4, 50, 16, n_kv_heads=2, positions="rotary", normalization="rms", gated=True, act_fn="silu"
    ),
    "gemma2": ji.TransformerConfig(
        4, 32, 4, 50, 16, positions="rotary", normalization="rms", norm_position="both", window=(3, None, 3, None),
        attn_softcap=5.0, logit_softcap=5.0, gated=True,
    ),
    "mixtral": ji.TransformerConfig(
        4, 32, 4, 50, 16, positions="rotary", normalization="rms", gated=True, n_experts=4, mlp_bias=False,
    ),
    "bert": ji.TransformerConfig(
        4, 32, 4, 50, 16, causal=False, norm_position="post", embed_norm=True, n_token_types=2, final_act_fn="gelu",
    ),
}  # fmt: skip


class NoTap:
    """The forward without any machinery: every site is the identity."""

    def __call__(self, name, x):
        return x

    def edit(self, name, x):
        return x

    def wants(self, *names):
        return False


def untapped(config, params, tokens):
    geometry, tap = Geometry.of(tokens), NoTap()
    x, place = embed(config, params, tokens, token_positions(geometry), tap)
    layers = {name: params[name] for name in block_names(config)}, jax.tree.map(jnp.asarray, layer_data(config))
    x, _ = jax.lax.scan(lambda x, s: (block(config, *s, x, place, geometry, tap)[0], None), x, layers)
    return unembed(config, params, x, tap)


def program(fn, *args):
    return jax.jit(fn).lower(*args).compile()


def instructions(compiled):
    """How many operations of each kind a compiled program holds."""
    counts = {}
    for op in re.findall(r"= \S+ ([a-z][\w-]*)\(", compiled.as_text()):
        counts[op] = counts.get(op, 0) + 1
    return counts


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_naming_no_site_costs_no_operation(name):
    model = ji.Transformer(ARCHITECTURES[name])
    params, tokens = model.init(jax.random.key(0)), jnp.ones((2, 6), int)
    tapped = program(lambda p, t: model.apply(p, t)[0], params, tokens)
    plain = program(lambda p, t: untapped(model.config, p, t), params, tokens)
    assert tapped.cost_analysis()["flops"] == plain.cost_analysis()["flops"]
    assert instructions(tapped) == instructions(plain)


def test_a_named_expensive_site_does_cost():
    """The count above can tell: `result` and `q_input` add operations when they are named."""
    for name, sites in (("gpt2", ("result", "q_input")), ("mixtral", ("expert_out",))):
        model = ji.Transformer(ARCHITECTURES[name])
        params, tokens = model.init(jax.random.key(0)), jnp.ones((2, 6), int)
        flops = {
            names: program(lambda p, t, n=names, m=model: m.apply(p, t, capture=n), params, tokens).cost_analysis()[
                "flops"
            ]
            for names in ((), *((site,) for site in sites))
        }
        assert all(flops[site,] > flops[()] for site in sites)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_operations_are_those_of_the_compiled_block(name):
    """What plans reckon with: one block's products, read off the compiled program."""
    config = ARCHITECTURES[name]
    params = jax.eval_shape(ji.Transformer(config).init, jax.random.key(0))
    batch, n_pos = 8, 16
    geometry, data = Geometry(batch, n_pos), jax.tree.map(lambda d: jnp.asarray(d[0]), layer_data(config))

    def one(weights, x):
        return block(config, weights, data, x, None, geometry, NoTap())[0]

    weights = {name: jax.ShapeDtypeStruct(params[name].shape[1:], "float32") for name in block_names(config)}
    text = jax.jit(one).lower(weights, jax.ShapeDtypeStruct((batch, n_pos, config.d_model), "float32")).as_text()
    products = 0
    for left, contracted, out in re.findall(
        r"dot_general .*?contracting_dims = \[([\d, ]*)\].*?tensor<([\dx]+)xf32>, .*?-> tensor<([\dx]+)xf32>", text
    ):
        shape = [int(n) for n in contracted.split("x")]
        inner = math.prod(shape[int(dim)] for dim in left.split(","))
        products += 2 * inner * math.prod(int(n) for n in out.split("x"))
    cost = Cost(
        model=ji.Transformer(config), batch=batch, n_pos=n_pos, n_read=1, n_columns=0, apart=False, behind=False,
        one_head=False, itemsize=4, weights=0, sites=(),
    )  # fmt: skip
    head = 2 * batch * config.d_model**2 * (config.final_act_fn is not None)
    assert products == cost.operations(config.n_layers - 1, 0) - head


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_program_does_not_grow_with_depth(name):
    import dataclasses

    counts = []
    for n_layers in (6, 24):
        model = ji.Transformer(dataclasses.replace(ARCHITECTURES[name], n_layers=n_layers))
        params = jax.eval_shape(model.init, jax.random.key(0))
        tokens = jax.ShapeDtypeStruct((2, 6), jnp.int32)
        edits = {"z": ji.zero(ji.at(layer=1, head=2))}
        compiled = program(lambda p, t, m=model, e=edits: m.apply(p, t, e, capture=("resid_post",)), params, tokens)
        counts.append(sum(instructions(compiled).values()))
    assert counts[1] <= 1.02 * counts[0]


@pytest.mark.slow
def test_compile_time_does_not_grow_with_depth():
    import dataclasses
    import statistics
    import time

    def seconds(n_layers):
        model = ji.Transformer(dataclasses.replace(ARCHITECTURES["gpt2"], n_layers=n_layers))
        params = jax.eval_shape(model.init, jax.random.key(0))
        start = time.perf_counter()
        program(lambda p, t: model.apply(p, t)[0], params, jax.ShapeDtypeStruct((2, 6), jnp.int32))
        return time.perf_counter() - start

    seconds(6)
    times = {n: statistics.median(seconds(n) for _ in range(5)) for n in (6, 24)}
    assert times[24] <= 1.25 * times[6]
