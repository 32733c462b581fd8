"""The named points of the forward pass, and the shape of the array that stands at each."""

import dataclasses
import functools
import types
from collections.abc import Mapping

from jaxinterp.model.config import TransformerConfig, suggest
from jaxinterp.model.hook_names import site_of_hook

#: What a coordinate may be called, where that is not the axis' own name.
AXIS_ALIASES = {"head": ("head", "kv_head"), "neuron": ("d_mlp",)}

#: Sites that stand before every block: a resumption does not come past them.
EMBEDDING_SITES = ("embed", "pos_embed", "ln_embed.scale", "ln_embed.normalized")

#: Sites before the heads' outputs that still act on nothing but their own row of the block's output.
QUERY_SITES = ("q_input", "q_norm_in", "q", "rot_q", "scores", "pattern")


@dataclasses.dataclass(frozen=True)
class SiteSpec:
    """One site: its axes (layer first where there is one per block) and the sizes the architecture fixes.

    Attributes:
      axes: axis names, as a cache holds the site.
      sizes: the size of each axis; `None` for those the prompt decides (`batch`, `pos`, `query`, `key`).

    Example:
      >>> print(model.sites["z"])
      [layer=2, batch, pos, head=4, d_head=8]
      >>> model.sites["z"].shape(batch=3, pos=6)
      (2, 3, 6, 4, 8)
    """

    axes: tuple[str, ...]
    sizes: tuple[int | None, ...]

    @property
    def row_axis(self) -> str | None:
        """The axis that runs over the tokens that are computed, `pos` or `query`; None if the site has neither."""
        return next((axis for axis in self.axes if axis in ("pos", "query")), None)

    @property
    def per_layer(self) -> bool:
        """Whether there is one per block."""
        return self.axes[0] == "layer"

    def shape(self, batch: int, pos: int) -> tuple[int, ...]:
        """The full shape for a batch of prompts of `pos` tokens."""
        return tuple(
            size if size is not None else (batch if axis == "batch" else pos)
            for axis, size in zip(self.axes, self.sizes, strict=True)
        )

    def axis(self, name: str) -> int | None:
        """Which dimension a coordinate name addresses; `None` if the site has no such axis.

        `head` addresses `kv_head` where keys and values are grouped, `neuron` addresses `d_mlp`.
        """
        for axis in AXIS_ALIASES.get(name, (name,)):
            if axis in self.axes:
                return self.axes.index(axis)
        return None

    def __str__(self) -> str:
        return "[" + ", ".join(a if s is None else f"{a}={s}" for a, s in zip(self.axes, self.sizes, strict=True)) + "]"


@functools.cache
def model_sites(config: TransformerConfig) -> Mapping[str, SiteSpec]:
    """Every site of an architecture, in the order in which the forward pass meets them."""
    sizes: dict[str, int | None] = {
        "layer": config.n_layers,
        "batch": None,
        "pos": None,
        "query": None,
        "key": None,
        "one": 1,
        "head": config.n_heads,
        "kv_head": config.n_kv_heads,
        "d_head": config.d_head,
        "d_model": config.d_model,
        "d_mlp": config.d_mlp,
        "expert": config.n_experts,
        "vocab": config.d_vocab_out,
    }
    sites: dict[str, SiteSpec] = {}

    def add(name: str, axes: str) -> None:
        names = tuple(axes.split())
        sites[name] = SiteSpec(names, tuple(sizes[a] for a in names))

    def add_norm(name: str, layer: str = "layer ") -> None:
        add(f"{name}.scale", f"{layer}batch pos one")
        add(f"{name}.normalized", f"{layer}batch pos d_model")

    rows = "layer batch pos "
    add("embed", "batch pos d_model")
    if config.positions in ("learned", "qk"):
        add("pos_embed", "batch pos d_model")
    if config.embed_norm:
        add_norm("ln_embed", layer="")
    add("resid_pre", rows + "d_model")
    add("q_input", rows + "head d_model")
    add("k_input", rows + "kv_head d_model")
    add("v_input", rows + "kv_head d_model")
    if config.has_pre_norm:
        add_norm("ln1")
    if config.qk_norm:
        add("q_norm_in", rows + "head d_head")
        add("k_norm_in", rows + "kv_head d_head")
    add("q", rows + "head d_head")
    add("k", rows + "kv_head d_head")
    add("v", rows + "kv_head d_head")
    if config.positions == "rotary":
        add("rot_q", rows + "head d_head")
        add("rot_k", rows + "kv_head d_head")
    add("scores", "layer batch head query key")
    add("pattern", "layer batch head query key")
    add("z", rows + "head d_head")
    add("result", rows + "head d_model")
    if config.has_output_norm:
        add("attn_out_pre_norm", rows + "d_model")
        add_norm("ln1_post")
    add("attn_out", rows + "d_model")
    if config.has_post_norm:
        add_norm("ln1")
    if config.has_mid:
        add("resid_mid", rows + "d_model")
    if not config.attn_only:
        add("mlp_in", rows + "d_model")
        if config.has_pre_norm:
            add_norm("ln2")
        neurons = rows + "d_mlp"
        if config.n_experts is not None:
            add("router", rows + "expert")
            neurons = rows + "expert d_mlp"
        add("mlp_pre", neurons)
        if config.gated:
            add("mlp_pre_linear", neurons)
        if config.act_fn == "solu":
            add("mlp_mid", neurons)
        add("mlp_post", neurons)
        if config.n_experts is not None:
            add("expert_out", rows + "expert d_model")
        if config.has_output_norm:
            add("mlp_out_pre_norm", rows + "d_model")
            add_norm("ln2_post")
        add("mlp_out", rows + "d_model")
        if config.has_post_norm:
            add_norm("ln2")
    add("resid_post", rows + "d_model")
    add("resid_final", "batch pos d_model")
    if config.final_act_fn is not None:
        add("final_pre", "batch pos d_model")
        add("final_post", "batch pos d_model")
    if config.final_norm and config.normalization is not None:
        add_norm("ln_final", layer="")
    add("logits", "batch pos vocab")
    return types.MappingProxyType(sites)


def check_site(sites: dict[str, SiteSpec], name: object) -> SiteSpec:
    """The spec of a site; raises a ValueError with the nearest name for one the model does not have."""
    if isinstance(name, str) and name not in sites and (found := site_of_hook(name)) is not None:
        site, layer = found
        raise ValueError(
            f"unknown site {name!r}; here it is {site!r}"
            + (f", with ji.at(layer={layer})" if layer is not None else "")
        )
    if not isinstance(name, str) or name not in sites:
        raise ValueError(f"unknown site {name!r}; {suggest(str(name), sites)}")
    return sites[name]
