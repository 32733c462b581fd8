"""The description of a transformer: one frozen, hashable dataclass, every architectural choice a field."""

import dataclasses
import difflib
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np

CHOICES: dict[str, tuple[Any, ...]] = {
    "act_fn": ("gelu", "gelu_new", "relu", "silu", "solu"),
    "final_act_fn": ("gelu", "gelu_new", "relu", "silu", None),
    "normalization": ("layer", "rms", None),
    "norm_position": ("pre", "output", "both", "post"),
    "positions": ("learned", "rotary", "qk", None),
    "qk_norm": ("head", "all", None),
    "dtype": ("float16", "bfloat16", "float32", "float64"),
}


def suggest(name: str, known: Iterable[Any]) -> str:
    """The end of an error message: the nearest known name when there is one, else the whole list."""
    known = [str(k) for k in known]
    near = difflib.get_close_matches(str(name), known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"expected one of: {', '.join(known)}"


def _check_size(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _revived(scaling: Any) -> Any:
    """A rotary scaling as a saved `config.json` holds it, a dict or a tuple of them, made one again."""
    if isinstance(scaling, tuple):
        return tuple(_revived(one) for one in scaling)
    return RotaryScaling(**scaling) if isinstance(scaling, dict) else scaling


@dataclasses.dataclass(frozen=True)
class RotaryScaling:
    """How rotary frequencies are slowed down, so that prompts longer than pretraining's turn no further.

    Attributes:
      factor: frequencies are divided by it.
      low_freq_factor, high_freq_factor, original_n_ctx: all three or none. With them (Llama 3) a frequency that
        turns at most `low_freq_factor` times within `original_n_ctx` positions is divided, one that turns at
        least `high_freq_factor` times is kept, and between the two the result moves linearly.

    Raises:
      ValueError: a number that is not positive, some of the three without the others, or
        `low_freq_factor` not below `high_freq_factor`.

    Example:
      >>> ji.RotaryScaling(8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_n_ctx=8192).factor
      8.0
    """

    factor: float
    _: dataclasses.KW_ONLY
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    original_n_ctx: int | None = None

    def __post_init__(self) -> None:
        band = {name: getattr(self, name) for name in ("low_freq_factor", "high_freq_factor", "original_n_ctx")}
        given = {name: value for name, value in band.items() if value is not None}
        for name, value in {"factor": self.factor, **given}.items():
            if not _is_number(value) or not 0 < value < float("inf"):
                raise ValueError(f"{name} must be a positive number, got {value!r}")
        if given and len(given) < len(band):
            raise ValueError(f"{', '.join(band)} go together, got only {', '.join(given)}")
        if given and band["low_freq_factor"] >= band["high_freq_factor"]:
            raise ValueError(
                f"low_freq_factor ({self.low_freq_factor}) must be below high_freq_factor ({self.high_freq_factor})"
            )


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """What a transformer is, under the field's names. Only the sizes are required; defaults are GPT-2's.

    Attributes:
      n_layers: number of blocks.
      d_model: width of the residual stream.
      n_heads: query heads per block.
      d_vocab: number of input tokens.
      n_token_types: rows of `W_type`, for models that tell segments of a prompt apart (BERT); `None` for others. Every
        token is of type 0; another type is an edit of `pos_embed`, which adds `W_type[1] - W_type[0]`.
      n_ctx: longest prompt (the rows of `W_pos`; not a limit for rotary or no positions).
      n_kv_heads: key/value heads; `None` means `n_heads`. Must divide `n_heads`.
      d_head: width of a head; `None` means `d_model // n_heads`.
      d_mlp: neurons per block (per expert, where there are experts); `None` means `4 * d_model`.
      n_experts: MLPs per block, of which a router (`W_router`) chooses for each token; `None` for a single one.
      experts_per_token: how many it chooses, those with the largest logits, weighed by a softmax over them; `None`
        means 2 (1 if there is only one).
      d_vocab_out: columns of the unembedding, for classifiers and other heads; `None` means `d_vocab` (`d_model`
        with `unembed=False`).
      act_fn: `"gelu"` (exact), `"gelu_new"` (tanh), `"relu"`, `"silu"`, or `"solu"` (with its LayerNorm).
      gated: `act(x W_gate) * (x W_in)` instead of `act(x W_in)`.
      attn_only: blocks without an MLP.
      parallel: attention and MLP both read `resid_pre`.
      causal: `False` gives bidirectional attention.
      normalization: `"layer"`, `"rms"` or `None`.
      norm_position: `"pre"` (GPT-2), `"output"` (on what a sublayer adds: OLMo 2), `"both"` (Gemma 2),
        or `"post"` (on the stream after each addition: the original transformer, BERT).
      norm_bias: LayerNorm has a bias. RMSNorm never does.
      norm_plus_one: norms multiply by `1 + w` (Gemma).
      embed_norm: there is a norm on the embedding, positions included, before block 0 (`ln_embed`: BERT).
      final_norm: there is a norm before the unembedding.
      final_act_fn: before that norm there is a dense layer with this activation, `act(x W_final + b_final)` (the
        head of a masked language model: BERT); `None` for no such layer.
      unembed: `False` for an encoder without a head: its logits are the final stream itself, one column for each
        dimension.
      eps: added to the variance (layer) or mean square (rms).
      positions: `"learned"` (added to the embedding), `"rotary"`, `"qk"` (learned, added to the normalised
        input of queries and keys alone), or `None`.
      rotary_dim: how many of a head's dimensions are rotated; `None` means all.
      rotary_base: one base, or one per layer.
      rotary_scaling: a `RotaryScaling` of the frequencies (Llama 3, Gemma 3), one per layer, or `None`.
      rotary_interleaved: rotate neighbouring pairs (GPT-J) instead of half against half (NeoX, Llama).
      window: how many tokens back (itself included) a query sees; one number, one per layer, `None` for all.
      attn_scale: scores are multiplied by it; `None` means `1 / sqrt(d_head)`.
      attn_softcap: `c * tanh(scores / c)` on the scores before masking.
      logit_softcap: the same on the logits.
      qk_norm: RMSNorm on queries and keys: `"head"` (each head's vector: Qwen 3), `"all"` (all heads
        together: OLMo 2) or `None`.
      qkv_bias: whether `b_Q`, `b_K`, `b_V` exist; likewise `out_bias` (`b_O`), `mlp_bias` (`b_in`, `b_out`)
        and `unembed_bias` (`b_U`).
      embed_scale: token embeddings are multiplied by it (Gemma); `None` means 1.
      tie_embeddings: the unembedding is `W_E` transposed.
      attn_dropout: rate on attention patterns; `resid_dropout`: rate on what enters the stream. Both act
        only when `apply` is given a `key`.
      dtype: of the parameters that `init` makes and `load` reads. Activations take the parameters' dtype;
        below 32 bits, norms, softmax and logits are computed in float32.

    Raises:
      ValueError: a size that is not positive, a choice that does not exist, or fields that contradict.

    Example:
      >>> config = ji.TransformerConfig(n_layers=2, d_model=32, n_heads=4, d_vocab=50)
      >>> config.d_head, config.d_mlp, config.n_kv_heads
      (8, 128, 4)
    """

    n_layers: int
    d_model: int
    n_heads: int
    d_vocab: int
    n_ctx: int = 1024
    _: dataclasses.KW_ONLY
    n_kv_heads: int = None  # type: ignore[assignment]  # filled in from the sizes above
    d_head: int = None  # type: ignore[assignment]
    d_mlp: int = None  # type: ignore[assignment]
    d_vocab_out: int = None  # type: ignore[assignment]
    n_experts: int | None = None
    experts_per_token: int = None  # type: ignore[assignment]
    n_token_types: int | None = None
    act_fn: str = "gelu_new"
    gated: bool = False
    attn_only: bool = False
    parallel: bool = False
    causal: bool = True
    normalization: str | None = "layer"
    norm_position: str = "pre"
    norm_bias: bool = True
    norm_plus_one: bool = False
    embed_norm: bool = False
    final_norm: bool = True
    final_act_fn: str | None = None
    unembed: bool = True
    eps: float = 1e-5
    positions: str | None = "learned"
    rotary_dim: int = None  # type: ignore[assignment]
    rotary_base: float | tuple[float, ...] = 10_000.0
    rotary_scaling: RotaryScaling | tuple[RotaryScaling | None, ...] | None = None
    rotary_interleaved: bool = False
    window: int | tuple[int | None, ...] | None = None
    attn_scale: float | None = None
    attn_softcap: float | None = None
    logit_softcap: float | None = None
    qk_norm: str | None = None
    qkv_bias: bool = True
    out_bias: bool = True
    mlp_bias: bool = True
    unembed_bias: bool = False
    embed_scale: float | None = None
    tie_embeddings: bool = True
    attn_dropout: float = 0.0
    resid_dropout: float = 0.0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("n_layers", "d_model", "n_heads", "d_vocab"):
            _check_size(name, getattr(self, name))
        d_vocab_out = self.d_vocab if self.unembed else self.d_model
        fill = {"n_kv_heads": self.n_heads, "d_mlp": 4 * self.d_model, "d_vocab_out": d_vocab_out}
        if self.d_head is None and self.n_heads and self.d_model % self.n_heads:
            raise ValueError(
                f"d_model ({self.d_model}) is not a multiple of n_heads ({self.n_heads}): give d_head explicitly"
            )
        fill["d_head"] = self.d_model // max(self.n_heads, 1)
        for name, value in fill.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if self.n_experts is not None and self.experts_per_token is None:
            object.__setattr__(self, "experts_per_token", min(2, self.n_experts))
        if self.rotary_dim is None:
            object.__setattr__(self, "rotary_dim", self.d_head)
        for field in dataclasses.fields(self):
            if isinstance(getattr(self, field.name), np.integer):
                object.__setattr__(self, field.name, int(getattr(self, field.name)))
        for name in ("rotary_base", "rotary_scaling", "window"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "rotary_scaling", _revived(self.rotary_scaling))
        object.__setattr__(self, "dtype", jnp.dtype(self.dtype).name)
        self._check()

    def _check(self) -> None:
        sizes = ["n_layers", "d_model", "n_heads", "n_kv_heads", "d_head", "d_mlp", "d_vocab", "d_vocab_out", "n_ctx"]
        optional = ("n_experts", "experts_per_token", "n_token_types")
        sizes += [name for name in optional if getattr(self, name) is not None]
        for field in dataclasses.fields(self):
            if isinstance(field.default, bool) and not isinstance(getattr(self, field.name), bool):
                raise ValueError(f"{field.name} must be True or False, got {getattr(self, field.name)!r}")
        for name in sizes:
            _check_size(name, getattr(self, name))
        if self.positions == "rotary":
            _check_size("rotary_dim", self.rotary_dim)
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"unknown {name} {value!r}; {suggest(value, choices)}")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_kv_heads ({self.n_kv_heads}) must divide n_heads ({self.n_heads})")
        if not self.unembed:
            given = {name: getattr(self, name) for name in ("tie_embeddings", "unembed_bias", "logit_softcap")}
            if any(given.values()) or self.d_vocab_out != self.d_model:
                raise ValueError(
                    "unembed=False leaves the final stream as it is: set tie_embeddings=False, and no unembed_bias, "
                    f"logit_softcap or d_vocab_out other than d_model; got d_vocab_out = {self.d_vocab_out}, {given}"
                )
        if self.n_experts is None and self.experts_per_token is not None:
            raise ValueError(f"experts_per_token = {self.experts_per_token} needs n_experts")
        if self.n_experts is not None and (self.attn_only or self.experts_per_token > self.n_experts):
            raise ValueError(
                f"n_experts = {self.n_experts} needs attn_only=False and at most as many experts_per_token, "
                f"got {self.experts_per_token}"
            )
        if self.n_token_types is not None and self.positions != "learned":
            raise ValueError(f"n_token_types needs positions='learned', got {self.positions!r}")
        if self.embed_norm and self.normalization is None:
            raise ValueError("embed_norm=True needs a normalization, got None")
        if self.tie_embeddings and self.d_vocab_out != self.d_vocab:
            raise ValueError(
                f"d_vocab_out ({self.d_vocab_out}) differs from d_vocab ({self.d_vocab}): set tie_embeddings=False"
            )
        if self.parallel and (self.attn_only or self.norm_position == "post"):
            raise ValueError("parallel=True needs an MLP beside the attention and norm_position other than 'post'")
        if self.positions == "rotary" and not (0 < self.rotary_dim <= self.d_head and self.rotary_dim % 2 == 0):
            raise ValueError(f"rotary_dim must be even and at most d_head ({self.d_head}), got {self.rotary_dim}")
        for name in ("rotary_base", "rotary_scaling", "window"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != self.n_layers:
                raise ValueError(f"{name} has {len(value)} entries for n_layers = {self.n_layers}")
        scalings = self.rotary_scaling if isinstance(self.rotary_scaling, tuple) else (self.rotary_scaling,)
        for scaling in scalings:
            if scaling is not None and not isinstance(scaling, RotaryScaling):
                raise ValueError(f"rotary_scaling must be a RotaryScaling, one per layer, or None, got {scaling!r}")
        for window in self.window if isinstance(self.window, tuple) else (self.window,):
            if window is not None and (isinstance(window, bool) or not isinstance(window, int) or window < 1):
                raise ValueError(f"window must be at least 1, or None, got {window!r}")
        bases = self.rotary_base if isinstance(self.rotary_base, tuple) else (self.rotary_base,)
        positive = {"eps": (self.eps,), "rotary_base": bases}
        for name in ("attn_scale", "attn_softcap", "logit_softcap", "embed_scale"):
            if getattr(self, name) is not None:
                positive[name] = (getattr(self, name),)
        for name, values in positive.items():
            for number in values:
                if not _is_number(number) or not 0 < number < float("inf"):
                    raise ValueError(f"{name} must be a positive number, got {number!r}")
        for name in ("attn_dropout", "resid_dropout"):
            if not _is_number(getattr(self, name)) or not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)!r}")

    @property
    def windows(self) -> tuple[int | None, ...]:
        """The attention window of each layer."""
        return self.window if isinstance(self.window, tuple) else (self.window,) * self.n_layers

    @property
    def rotary_bases(self) -> tuple[float, ...]:
        """The rotary base of each layer."""
        return self.rotary_base if isinstance(self.rotary_base, tuple) else (self.rotary_base,) * self.n_layers

    @property
    def rotary_scalings(self) -> tuple[RotaryScaling | None, ...]:
        """The rotary scaling of each layer."""
        scaling = self.rotary_scaling
        return scaling if isinstance(scaling, tuple) else (scaling,) * self.n_layers

    @property
    def scale(self) -> float:
        """What attention scores are multiplied by."""
        return self.d_head**-0.5 if self.attn_scale is None else self.attn_scale

    @property
    def has_pre_norm(self) -> bool:
        """Sublayers read a normalised stream."""
        return self.normalization is not None and self.norm_position in ("pre", "both")

    @property
    def has_output_norm(self) -> bool:
        """What sublayers add to the stream is normalised first."""
        return self.normalization is not None and self.norm_position in ("output", "both")

    @property
    def has_post_norm(self) -> bool:
        """The stream is normalised after each addition."""
        return self.normalization is not None and self.norm_position == "post"

    @property
    def has_mid(self) -> bool:
        """There is a residual stream between attention and MLP (`resid_mid`)."""
        return not (self.attn_only or self.parallel)

    @property
    def groups(self) -> int:
        """Query heads that share one key/value head."""
        return self.n_heads // self.n_kv_heads
