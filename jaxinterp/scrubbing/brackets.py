"""Redwood's claims about how a transformer tells whether a string of brackets is balanced, as hypotheses.

Some heads of the first sequence position compute whether there are as many "(" as ")" (the count), another whether no
suffix has more "(" (the horizon). Source: causal scrubbing on a paren balance checker, claims 1 to 3.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxinterp.model.params import Params
from jaxinterp.model.transformer import Transformer
from jaxinterp.scrubbing.graph import Graph
from jaxinterp.scrubbing.hypothesis import Feature, Hypothesis
from jaxinterp.scrubbing.rewrites import hide, split_estimate, split_positions
from jaxinterp.scrubbing.transformer import transformer_graph
from jaxinterp.tasks.brackets import (
    CLOSE,
    OPEN,
    balanced,
    count,
    horizon,
    horizon_classes,
    open_proportion,
    start_open,
)

CLAIMS = ("1", "1+2", "1+3", "1+2+3")


@dataclasses.dataclass(frozen=True)
class Roles:
    """Which head is claimed to do what, as (layer, head); the paper's model by default.

    Attributes:
      count: the heads whose output at position 0 tells the count. horizon: that which tells the horizon.
      proportion: a head of layer 0 that tells the share of "(" from each position on.
    """

    count: tuple[tuple[int, int], ...] = ((1, 0), (2, 0))
    horizon: tuple[int, int] = (2, 1)
    proportion: tuple[int, int] = (0, 0)


def bracket_claims(
    model: Transformer,
    params: Params,
    data: Any,
    claim: str = "1",
    *,
    roles: Roles | None = None,
    start: bool = True,
    phi: bool = False,
    adjusted: bool = False,
    through: tuple[str, ...] = (),
) -> Hypothesis:
    """A claim about a classifier of brackets, to be scrubbed on data such as `ji.tasks.brackets` makes.

    Args:
      model: reads two logits at position 0, unbalanced and balanced; `<start>` stands there.
      data: on some of which rewrites are checked; with `tokens`, `mask` and `label`.
      claim: "1": the output reads the count from some heads and the horizon from another, directly. "+2": the count
        heads read it at position 1, from the share of "(" that a head of layer 0 writes there. "+3": the horizon head
        reads at each position whether the horizon is met there.
      roles: of the heads.
      start: whether the count heads are claimed to tell also whether the first bracket is "(" (claim 1b).
      phi: for "+2": whether what that head writes is claimed to be linear in the share of "(" (claim 2b).
      adjusted: for "+3": whether the share of "(" from each position on is the one that the head of layer 0 sees, which
        attends to brackets before the position too (claim 3b; `adjusted_proportion`).
      through: MLPs by which the output is claimed to read the heads as well as directly, such as ("m2",).

    Example:
      >>> from jaxinterp.scrubbing.brackets import bracket_claims
      >>> classifier, weights, _ = ji.load("brackets")
      >>> data = ji.tasks.brackets(200, seed=0)
      >>> print(bracket_claims(classifier, weights, data).describe().partition("  at random")[0].rstrip())
      logits: balanced (exact)
        a1.h0: count of a1.h0 (agree)
        a2.h0: count of a2.h0 (agree)
        a2.h1: horizon (agree)
    """
    if claim not in CLAIMS:
        raise ValueError(f"claim must be one of {', '.join(CLAIMS)}, got {claim!r}")
    roles = roles or Roles()
    two, three = "2" in claim, "3" in claim
    graph = transformer_graph(model, params, data[:32], read=0, inputs="stream" if two or three else None)
    counts, horizon_head = [_name(head) for head in roles.count], _name(roles.horizon)
    graph = hide(graph, through, reader=graph.output)
    streams = {f"{head}.in" for head in (counts if two else [])} | ({f"{horizon_head}.in"} if three else set())
    graph = hide(graph, [node for node in graph.visible if node.endswith(".in") and node not in streams])
    features = [count, start_open] if start else [count]
    adder = _of_tokens(lambda tokens: np.stack([feature(tokens) for feature in features], axis=1))
    interpretation: dict[str, Feature] = {}
    correspondence: dict[str, str] = {"balanced": graph.output, "horizon": horizon_head}

    if two:
        graph, writes, share = _split_share(graph, model, params, roles, phi=phi)
        interpretation |= {
            "share of ( from position 1": Feature(_of_tokens(share)),
            "first bracket": Feature(_of_tokens(start_open)),
        }
        correspondence |= {"share of ( from position 1": writes, "first bracket": "embed@1"}
    for head in counts:
        name, below = f"count of {head}", tuple[str, ...]()
        if two:
            row = f"{head}.in@1"
            graph = split_positions(graph, f"{head}.in", {"1": [1]})
            own = (writes, "embed@1", "embed@rest", f"{_name(roles.proportion)}@rest", "mask")
            graph = hide(graph, [node for node in graph.upstream(row) if node not in own], reader=row)
            interpretation[f"{name} at position 1"] = Feature(adder, ("share of ( from position 1", "first bracket"))
            correspondence[f"{name} at position 1"] = row
            below = (f"{name} at position 1",)
        interpretation[name], correspondence[name] = Feature(adder, below), head
    if three:
        graph = split_positions(graph, f"{horizon_head}.in")
        n_pos = np.shape(data.tokens)[1]
        share_of = adjusted_proportion(model, params, data, roles.proportion) if adjusted else open_proportion

        def classes(tokens: np.ndarray) -> np.ndarray:
            return horizon_classes(tokens, share_of(tokens))

        for i in range(n_pos):
            interpretation[f"horizon at {i}"] = Feature(lambda data, i=i: classes(np.asarray(data.tokens))[:, i])
            correspondence[f"horizon at {i}"] = f"{horizon_head}.in@{i}"
        interpretation["length"] = Feature(_of_tokens(lambda tokens: (tokens >= OPEN).sum(1)))
        correspondence["length"] = "mask"
        everywhere = _of_tokens(lambda tokens: np.all(classes(tokens) >= 0, axis=1))
        interpretation["horizon"] = Feature(everywhere, (*(f"horizon at {i}" for i in range(n_pos)), "length"))
    else:
        interpretation["horizon"] = Feature(_of_tokens(horizon))
    parents = (*(f"count of {head}" for head in counts), "horizon")
    interpretation["balanced"] = Feature(_of_tokens(balanced), parents)
    return Hypothesis(graph, interpretation, correspondence)


def _split_share(
    graph: Graph, model: Transformer, params: Params, roles: Roles, *, phi: bool
) -> tuple[Graph, str, Callable[[np.ndarray], np.ndarray]]:
    """(the graph with position 1 of the embedding and of the share's head apart, that node, its feature)."""
    head = _name(roles.proportion)
    graph = split_positions(split_positions(graph, "embed", {"1": [1]}), head, {"1": [1]})

    def share(tokens: np.ndarray) -> np.ndarray:
        # a string that begins with ")" is unbalanced whatever its count
        return np.where(start_open(tokens), open_proportion(tokens)[:, 1].round(9), -1)

    writes = f"{head}@1"
    if phi:
        direction = jnp.asarray(_share_direction(model, params, roles.proportion))

        def estimate(params: Any, datum: Any) -> Any:
            is_open, is_bracket = datum.tokens == OPEN, datum.tokens >= OPEN
            return direction[None] * (2 * is_open.sum() / is_bracket.sum() - 1)

        graph = split_estimate(graph, writes, estimate, (graph.input,), "phi")
        writes = f"{writes}.phi"
    return graph, writes, share


def _share_direction(model: Transformer, params: Params, head: tuple[int, int]) -> np.ndarray:
    """Half of what a head writes for "(" less what it writes for ")", on average over positions: [d_model]."""
    layer, number = head
    config = model.config
    places = np.arange(1, config.n_ctx - 1)
    tokens = np.stack([np.full(config.n_ctx, token) for token in (OPEN, CLOSE)])
    _, cache = model.apply(params, tokens, capture=("v",))
    written = cache["v"][layer, :, places, number // config.groups].mean(0) @ params["W_O"][layer, number]
    return np.asarray((written[0] - written[1]) / 2)


def adjusted_proportion(
    model: Transformer, params: Params, data: Any, head: tuple[int, int]
) -> Callable[[np.ndarray], np.ndarray]:
    """The share of "(" that a head sees from each position (causal scrubbing on a paren balance checker, claim 3b).

    The head's attention from a position is averaged over strings of one length, once over brackets to the left and once
    over the others; with these as weights, normalised, the share is that of "(" among all brackets.

    Args:
      data: strings whose attention is averaged, with `tokens` and `mask`.
      head: (layer, head).

    Returns:
      A function of int[batch, pos] tokens that gives float64[batch, pos]; NaN for strings without brackets or of a
      length that `data` lacks.
    """
    n_pos = np.shape(data.tokens)[1]
    seen, brackets = np.zeros((n_pos + 1, n_pos, 2)), np.zeros((n_pos + 1, n_pos, 2))

    def sides(what: np.ndarray) -> np.ndarray:
        """[..., key] summed to the left of each position, and from it on: [..., position, 2]."""
        up_to = np.cumsum(what, axis=-1, dtype=np.float64)
        left = up_to - what
        return np.stack([left, up_to[..., -1:] - left], axis=-1)

    for at in range(0, len(data.tokens), 500):
        tokens, mask = (np.asarray(each[at : at + 500]) for each in (data.tokens, data.mask))
        _, cache = model.apply(params, tokens, mask=mask, capture=("pattern",))
        is_bracket = tokens >= OPEN
        attention = np.asarray(cache["pattern"][head[0]][:, head[1]]) * is_bracket[:, None]
        length = is_bracket.sum(1)
        np.add.at(seen, length, np.einsum("bqqs->bqs", sides(attention)))
        np.add.at(brackets, length, sides(is_bracket))
    weight = np.divide(seen, brackets, out=np.zeros_like(seen), where=brackets > 0)

    def proportion(tokens: np.ndarray) -> np.ndarray:
        own = weight[(tokens >= OPEN).sum(1)]
        opened, every = ((own * sides(which)).sum(-1) for which in (tokens == OPEN, tokens >= OPEN))
        return np.divide(opened, every, out=np.full(opened.shape, np.nan), where=every > 0)

    return proportion


def _of_tokens(feature: Callable[[np.ndarray], Any]) -> Callable[[Any], np.ndarray]:
    return lambda data: np.asarray(feature(np.asarray(data.tokens)))


def _name(head: tuple[int, int]) -> str:
    return f"a{head[0]}.h{head[1]}"
