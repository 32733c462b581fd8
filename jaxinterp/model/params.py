"""The weights of a transformer: one table of names and axes, and their initial values.

Parameters are a flat dict `{name: array}`. A block's weights are stacked on a leading `layer` axis, so
`params["W_Q"][layer, head]` is one head's query matrix, and the same dict is what a safetensors file holds.
"""

import jax
import jax.numpy as jnp

from jaxinterp.model.config import TransformerConfig

Params = dict[str, jax.Array]


def weight_axes(config: TransformerConfig) -> dict[str, tuple[str, ...]]:
    """The weights an architecture has: `{name: axes}`. Those that lead with `layer` belong to the blocks."""
    axes: dict[str, tuple[str, ...]] = {"W_E": ("d_vocab", "d_model")}
    if config.positions in ("learned", "qk"):
        axes["W_pos"] = ("n_ctx", "d_model")
    if config.n_token_types is not None:
        axes["W_type"] = ("token_type", "d_model")

    def add_norm(name: str, *shape: str, bias: bool) -> None:
        axes[f"{name}.w"] = shape
        if bias:
            axes[f"{name}.b"] = shape

    norm_bias = config.norm_bias and config.normalization == "layer"
    if config.embed_norm:
        add_norm("ln_embed", "d_model", bias=norm_bias)
    reads = config.has_pre_norm or config.has_post_norm
    if reads:
        add_norm("ln1", "layer", "d_model", bias=norm_bias)
    axes["W_Q"] = ("layer", "head", "d_model", "d_head")
    axes["W_K"] = axes["W_V"] = ("layer", "kv_head", "d_model", "d_head")
    axes["W_O"] = ("layer", "head", "d_head", "d_model")
    if config.qkv_bias:
        axes["b_Q"] = ("layer", "head", "d_head")
        axes["b_K"] = axes["b_V"] = ("layer", "kv_head", "d_head")
    if config.out_bias:
        axes["b_O"] = ("layer", "d_model")
    if config.qk_norm == "head":
        axes["q_norm.w"] = axes["k_norm.w"] = ("layer", "d_head")
    elif config.qk_norm == "all":
        axes["q_norm.w"] = ("layer", "head", "d_head")
        axes["k_norm.w"] = ("layer", "kv_head", "d_head")
    if config.has_output_norm:
        add_norm("ln1_post", "layer", "d_model", bias=norm_bias)
    if not config.attn_only:
        if reads:
            add_norm("ln2", "layer", "d_model", bias=norm_bias)
        of_mlp: tuple[str, ...] = ("layer",)
        if config.n_experts is not None:
            axes["W_router"] = ("layer", "d_model", "expert")
            of_mlp = ("layer", "expert")
        if config.gated:
            axes["W_gate"] = (*of_mlp, "d_model", "d_mlp")
        axes["W_in"] = (*of_mlp, "d_model", "d_mlp")
        axes["W_out"] = (*of_mlp, "d_mlp", "d_model")
        if config.mlp_bias:
            if config.gated:
                axes["b_gate"] = (*of_mlp, "d_mlp")
            axes["b_in"] = (*of_mlp, "d_mlp")
            axes["b_out"] = (*of_mlp, "d_model")
        if config.act_fn == "solu":
            add_norm("ln_mlp", *of_mlp, "d_mlp", bias=True)
        if config.has_output_norm:
            add_norm("ln2_post", "layer", "d_model", bias=norm_bias)
    if config.final_act_fn is not None:
        axes["W_final"] = ("d_model", "d_final")
        axes["b_final"] = ("d_final",)
    if config.final_norm and config.normalization is not None:
        add_norm("ln_final", "d_model", bias=norm_bias)
    if config.unembed and not config.tie_embeddings:
        axes["W_U"] = ("d_model", "d_vocab_out")
    if config.unembed_bias:
        axes["b_U"] = ("d_vocab_out",)
    return axes


def weight_shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    """`{name: shape}` of every weight."""
    sizes = {
        "layer": config.n_layers,
        "head": config.n_heads,
        "kv_head": config.n_kv_heads,
        "expert": config.n_experts,
        "token_type": config.n_token_types,
        "d_final": config.d_model,
        **{name: getattr(config, name) for name in ("d_vocab", "d_model", "n_ctx", "d_head", "d_mlp", "d_vocab_out")},
    }
    return {name: tuple(sizes[a] for a in axes) for name, axes in weight_axes(config).items()}


def block_names(config: TransformerConfig) -> tuple[str, ...]:
    """The weights that are stacked by layer."""
    return tuple(name for name, axes in weight_axes(config).items() if axes[0] == "layer")


def init_params(config: TransformerConfig, key: jax.Array) -> Params:
    """Initial weights as GPT-2's: normal with standard deviation 0.02, biases 0, norms the identity.

    Matrices that write into the stream are divided by `sqrt(2 n_layers)`. The key is consumed.
    """
    shapes = weight_shapes(config)
    writes = {"W_O": 0.02 / (2 * config.n_layers) ** 0.5, "W_out": 0.02 / (2 * config.n_layers) ** 0.5}
    params = {}
    for name, weight_key in zip(shapes, jax.random.split(key, len(shapes)), strict=True):
        shape = shapes[name]
        if name.endswith(".w"):
            params[name] = jnp.full(shape, 0.0 if config.norm_plus_one else 1.0, config.dtype)
        elif name.startswith("b_") or name.endswith(".b"):
            params[name] = jnp.zeros(shape, config.dtype)
        else:
            draw = jax.random.normal(weight_key, shape, jnp.float32)
            params[name] = (draw * writes.get(name, 0.02)).astype(config.dtype)
    return params


def check_params(config: TransformerConfig, params: Params) -> None:
    """Raises a ValueError that names the first weight that is missing, unknown or of the wrong shape."""
    shapes = weight_shapes(config)
    if not isinstance(params, dict):
        raise TypeError(f"params must be a dict of weights, got {type(params).__name__}")
    if missing := [name for name in shapes if name not in params]:
        raise ValueError(f"params lack {', '.join(map(repr, missing))}")
    if extra := [name for name in params if name not in shapes]:
        raise ValueError(f"params hold {', '.join(map(repr, extra))}, which this architecture does not have")
    for name, shape in shapes.items():
        if jnp.shape(params[name]) != shape:
            raise ValueError(
                f"{name} has shape {jnp.shape(params[name])}, expected {shape} {weight_axes(config)[name]}"
            )
