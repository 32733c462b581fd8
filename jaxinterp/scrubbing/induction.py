"""Redwood's claims about induction heads in a two-layer attention-only transformer, as hypotheses.

A head of layer 1 looks for earlier places that follow a token like the current one, and copies what stands there.
Source: causal scrubbing, section 5.2, and the post on induction it refers to.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np

from jaxinterp.model.config import suggest
from jaxinterp.model.params import Params
from jaxinterp.model.transformer import Transformer
from jaxinterp.scrubbing.hypothesis import Feature, Hypothesis
from jaxinterp.scrubbing.rewrites import hide, split_identity, split_sources
from jaxinterp.scrubbing.search import direct_paths
from jaxinterp.scrubbing.transformer import transformer_graph

#: What the naive claim is refined by, any of them together.
REFINEMENTS = ("three tokens", "current position", "repeats")


@dataclasses.dataclass(frozen=True)
class InductionRoles:
    """Which heads are claimed to do what, by number.

    Attributes:
      induction: heads of layer 1 that the claim is about. repeats: heads of layer 0 that attend to earlier occurrences
        of the current token.
    """

    induction: tuple[int, ...]
    repeats: tuple[int, ...] = ()


def roles_by_score(
    scores: Mapping[str, np.ndarray], *, least: float = 0.1, among: Collection[int] | None = None
) -> InductionRoles:
    """Which heads do what, by the attention they pay in repeated random tokens.

    Induction heads are those of layer 1 with an induction score of `least` or more; if none of those that may be has
    one, the two of all with the highest. Heads that attend to repeats are the three of layer 0 with the highest
    duplicate-token scores, without those that have less than `least`; if all have less, the three.

    Args:
      scores: float[draw, layer, head] by name, as `jaxinterp.cards.induction.head_scores` gives them.
      least: a score is at least this.
      among: heads of layer 1 that may be induction heads; `None` for all.

    Example:
      >>> from jaxinterp.scrubbing.induction import roles_by_score
      >>> scores = {"induction": np.array([[[0, 0], [0.7, 0]]]), "duplicate token": np.array([[[0, 0.4], [0, 0]]])}
      >>> roles_by_score(scores)
      InductionRoles(induction=(0,), repeats=(1,))
    """
    induction, repeats = scores["induction"].mean(0)[1], scores["duplicate token"].mean(0)[0]

    def best(values: np.ndarray, n: int) -> tuple[int, ...]:
        return tuple(sorted(np.argsort(-values, kind="stable")[:n].tolist()))

    allowed = range(len(induction)) if among is None else among
    chosen = tuple(head for head in range(len(induction)) if induction[head] >= least and head in allowed)
    attend = best(repeats, 3)
    return InductionRoles(chosen or best(induction, 2), tuple(h for h in attend if repeats[h] >= least) or attend)


def without_heads(model: Transformer, params: Params, data: Any, heads: tuple[int, ...]) -> Hypothesis:
    """The model with the outputs of some heads of layer 1 resampled: 0 % for a claim about them.

    Args:
      model, data: as for `induction_claim`. heads: of layer 1, by number.

    Raises:
      ValueError: another number of layers, or a head that does not exist.

    Example:
      >>> from jaxinterp.scrubbing.induction import without_heads
      >>> config = ji.TransformerConfig(n_layers=2, d_model=16, n_heads=2, d_vocab=50, n_ctx=6, attn_only=True)
      >>> two_layers = ji.Transformer(config)
      >>> data = {"tokens": tokens, "label": tokens[:, 0]}
      >>> without_heads(two_layers, two_layers.init(jax.random.key(0)), data, (1,)).samplers["a1.h1"]
      'unconditional'
    """
    _check(model, heads)
    claim = direct_paths(transformer_graph(model, params, _some(data, 4), read=-1))
    return dataclasses.replace(claim, samplers={**claim.samplers, **{f"a1.h{head}": "unconditional" for head in heads}})


def induction_claim(
    model: Transformer,
    params: Params,
    data: Any,
    roles: InductionRoles,
    refinements: tuple[str, ...] = (),
    *,
    offset: int = 1,
    width: int = 3,
    own_token: bool = False,
    whole: Collection[str] = (),
) -> Hypothesis:
    """What induction heads read, to be scrubbed on prompts of one length whose next token is known.

    Everything but the induction heads is run on the reference. Naively, their values and queries read the token itself,
    by way of the embedding, and their keys what layer 0 copies from the token before; all else that each of the three
    reads is another prompt's. Refinements:

    - "three tokens": queries read also what layer 0 copies from one and two tokens before, keys from two and three
      before, so that three consecutive tokens are compared.
    - "current position": queries and values read also what layer 0 writes by attending to the current position.
    - "repeats": what `roles.repeats` write is taken to be what they would write if they attended to the current
      position alone, and is read by queries and values; the rest of it is not read.

    Args:
      model: of two attention-only layers.
      data: `InductionPrompts`, or what else has `tokens` and `label`; rewrites are checked on the first four.
      offset: how many tokens before each position the naive keys read; 1 but for controls, whatever else moves along.
      width: how many consecutive tokens "three tokens" compares.
      own_token: whether keys read also the token that they stand on, as values do.
      whole: which of "q", "k", "v" are left as they are, to see what a claim loses by the others.

    Raises:
      ValueError: another number of layers, a refinement, a head or an input that does not exist.

    Example:
      >>> from jaxinterp.scrubbing.induction import InductionRoles, induction_claim
      >>> config = ji.TransformerConfig(n_layers=2, d_model=16, n_heads=2, d_vocab=50, n_ctx=6, attn_only=True)
      >>> two_layers = ji.Transformer(config)
      >>> data = {"tokens": tokens, "label": tokens[:, 0]}
      >>> claim = induction_claim(two_layers, two_layers.init(jax.random.key(0)), data, InductionRoles((1,)))
      >>> claim.interpretation["a1.h1.k_in"].parents
      ('a0.h0.1 before', 'a0.h1.1 before')
    """
    for name in refinements:
        if name not in REFINEMENTS:
            raise ValueError(f"refinements: unknown {name!r}; {suggest(str(name), REFINEMENTS)}")
    _check(model, (*roles.induction, *roles.repeats))
    if not roles.induction:
        raise ValueError("roles: no induction head")
    if wrong := set(whole) - set("qkv"):
        raise ValueError(f"whole: expected 'q', 'k', 'v', got {sorted(wrong)[0]!r}")
    if width < 1 or offset < 1:
        raise ValueError(f"width and offset must be at least 1, got {width} and {offset}")
    graph = transformer_graph(model, params, _some(data, 4), read=-1, inputs="qkv")
    readers = {kind: [f"a1.h{head}.{kind}_in" for head in roles.induction] for kind in "qkv"}
    shown = {name for names in readers.values() for name in names}
    graph = hide(graph, [node for node in graph.visible if node.endswith("_in") and node not in shown])
    graph = hide(graph, ["logits.in"])

    wide = "three tokens" in refinements
    compared = range(width if wide else 1)
    before = {"q": tuple(compared)[1:], "k": tuple(offset + i for i in compared), "v": ()}
    here = ("q", "v", *("k" if own_token else ())) if "current position" in refinements else ()
    offsets = sorted({each for kind in "qkv" for each in before[kind]} | ({0} if here else set()))
    reads: dict[str, list[str]] = {"q": ["embed"], "k": ["embed"] if own_token else [], "v": ["embed"]}
    for head in range(model.config.n_heads):
        name = f"a0.h{head}"
        if "repeats" in refinements and head in roles.repeats:
            graph = split_identity(graph, name)
            for kind in "qkv" if own_token else "qv":
                reads[kind].append(f"{name}.identity")
            continue
        graph = split_sources(graph, name, {f"{each} before" if each else "here": each for each in offsets})
        for kind in "qkv":
            reads[kind] += [f"{name}.{each} before" for each in before[kind]]
            reads[kind] += [f"{name}.here"] if kind in here else []

    chosen = [f"a1.h{head}" for head in roles.induction]
    others = [node for node in graph.parents("logits") if node not in chosen]
    interpretation = {"logits": Feature(None, (*others, *chosen))}
    for name in chosen:
        interpretation[name] = Feature(None, tuple(f"{name}.{kind}_in" for kind in "qkv"))
        for kind in "qkv":
            interpretation[f"{name}.{kind}_in"] = Feature(None, () if kind in whole else tuple(reads[kind]))
    leaves = dict.fromkeys((*others, *(node for kind in "qkv" if kind not in whole for node in reads[kind])))
    interpretation |= {node: Feature() for node in leaves}
    return Hypothesis(
        graph, interpretation, {name: name for name in interpretation}, dict.fromkeys(interpretation, "exact")
    )


def _check(model: Transformer, heads: tuple[int, ...]) -> None:
    config = model.config
    if config.n_layers != 2 or not config.attn_only:
        raise ValueError(f"expected two attention-only layers, got {config.n_layers}, attn_only={config.attn_only}")
    if wrong := [head for head in heads if not 0 <= head < config.n_heads]:
        raise ValueError(f"head {wrong[0]} of {config.n_heads}")


def _some(data: Any, n: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[:n], data)
