"""An adversary that makes a hypothesis more specific, wherever that costs most.

A score can be too good because a hypothesis says too little: it ignores a part that works against the behaviour, or
draws apart what belongs together, so that its noise averages out (causal scrubbing, section 7). All swaps that a more
specific hypothesis makes are swaps that the given one allows, so that its defender must accept them.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from jaxinterp.scrubbing.hypothesis import MAX_PLACES, Feature, Hypothesis
from jaxinterp.scrubbing.result import WIDTH, ScrubResult, recovered_difference
from jaxinterp.scrubbing.runner import EVERYTHING, ITSELF, Ready, check_run, make_ready, run_ready
from jaxinterp.scrubbing.samplers import Draw, Partition
from jaxinterp.scrubbing.tables import Tables


@dataclasses.dataclass(frozen=True)
class Attack:
    """What an adversary made of a hypothesis.

    Attributes:
      plain: the hypothesis's own score. worst: that of the more specific one. Both on draws that the search has not
        seen, the same where the two draw alike.
      moves: what was made more specific, in words, one after another; none if nothing lowers the score.
      lost, lost_error: what is recovered less, with its standard error.
      tried: over `move`, all of the first round: `recovered`, and `change` from the hypothesis's own with its `error`.

    Made by `ji.scrubbing.adversary`.
    """

    plain: ScrubResult
    worst: ScrubResult
    moves: tuple[str, ...]
    lost: float
    lost_error: float
    tried: xr.Dataset

    def __str__(self) -> str:
        lines = [
            f"recovered      {self.plain.recovered:8.1%}",
            f"at worst       {self.worst.recovered:8.1%}  ({self.lost:.1%} ± {self.lost_error:.1%} less)",
        ]
        return "\n".join([*lines, *(f"  {move}" for move in self.moves)])


class _Group(NamedTuple):
    """Draws of one datum: the same reader's, from one partition; `tied` if a move put them together."""

    draws: tuple[int, ...]
    partition: Partition
    tied: bool


#: How everything is drawn: each draw is in one group.
_State = tuple[_Group, ...]


def adversary(
    hypothesis: Hypothesis,
    params: Any,
    dataset: Any,
    *,
    num_samples: int,
    key: jax.Array,
    refine_by: Mapping[str, Any] | None = None,
    correlate: bool = True,
    most_moves: int = 3,
    max_tries: int = 2000,
    tables: Tables | None = None,
    max_places: int | None = MAX_PLACES,
    progress: bool | None = None,
    **run: Any,
) -> Attack:
    """The more specific hypothesis under which least is recovered (causal scrubbing, sections 7 and 8).

    The family it searches, greedily: *refinements*, where a feature, or a node left out, must agree on a further
    feature with the datum of its reader (or be that datum); *correlated draws*, where two nodes that one node reads,
    claimed or not, have one datum, which agrees with all that either must agree on. The best move of each round is
    taken if it lowers the score on draws of its own, by two standard errors; so a score is not low by selection.

    Args:
      refine_by: `{name: feature}` to refine by, functions of the dataset or values; by default all features of the
        hypothesis. "the very datum" is always among them.
      correlate: whether draws may be correlated.
      most_moves: how many moves at most.
      max_tries: how many moves may be tried in a round.
      Others as in `ji.scrub`; `num_samples` for each try.

    Raises:
      ValueError: more moves than `max_tries`; and as `ji.scrub`.

    Example:
      >>> graph = ji.Graph(  # two noisy copies of one signal, whose noises cancel
      ...     {
      ...         "a": ji.Node(lambda params, x: x[0] + x[1], ("input",)),
      ...         "b": ji.Node(lambda params, x: x[0] - x[1], ("input",)),
      ...         "sum": ji.Node(lambda params, a, b: a + b, ("a", "b")),
      ...     },
      ...     output="sum",
      ...     loss=lambda total, x: jnp.abs(total - 2 * x[0]),
      ... )
      >>> sign = ji.Feature(lambda x: x[:, 0] > 0)
      >>> claim = ji.Hypothesis(
      ...     graph,
      ...     interpretation={"out": ji.Feature(None, ("a", "b")), "a": sign, "b": sign},
      ...     correspondence={"out": "sum", "a": "a", "b": "b"},
      ... )
      >>> data = jax.random.normal(jax.random.key(0), (300, 2))
      >>> attack = ji.scrubbing.adversary(claim, None, data, num_samples=5000, key=jax.random.key(1), most_moves=1)
      >>> attack.worst.recovered <= attack.plain.recovered
      True
    """
    check_run(num_samples, key)
    if type(most_moves) is not int or most_moves < 1:
        raise ValueError(f"most_moves must be an int of at least 1, got {most_moves!r}")
    ready = make_ready(hypothesis, params, dataset, tables=tables, apart=True, max_places=max_places)
    ready.tables.check_bounds("adversary")
    families = _families(ready, refine_by)
    start = state = _first_state(ready)
    moves, tried = list[str](), None
    keys = jax.random.split(key, 2 * most_moves + 1)

    def score(state: _State, key: jax.Array) -> ScrubResult:
        assert ready.bits_of is not None
        bits_of, classes = ready.bits_of.copy(), dict[str, Any]()
        for group in state:
            bits_of[list(group.draws)] = group.draws[0]
            own = jax.device_put(group.partition.classes())
            classes |= {ready.plan[number].table: own for number in group.draws}
        result = run_ready(ready, num_samples, key, classes=classes, bits_of=bits_of, progress=False, **run)
        if result.non_finite:
            raise ValueError(f"{result.non_finite} of {num_samples} losses are not finite: no score can be compared")
        return result

    for turn in range(most_moves):
        choices = _moves(ready, state, families, correlate=correlate)
        if len(choices) > max_tries:
            raise ValueError(
                f"{len(choices):,} moves to try (limit {max_tries:,}): name fewer features to refine_by, give "
                "correlate=False, or raise max_tries"
            )
        search_key, own_key = keys[2 * turn], keys[2 * turn + 1]
        before, found = score(state, search_key), []
        disable = None if progress is None else not progress
        for after in tqdm(choices.values(), desc=f"moves, round {turn + 1}", unit="move", delay=1, disable=disable):
            found.append(score(after, search_key))
        if tried is None:
            tried = _as_dataset(before, list(choices), found)
        if not choices:
            break
        best = list(choices)[int(np.argmin([result.recovered for result in found]))]
        change, error = recovered_difference(score(choices[best], own_key), score(state, own_key))
        if not change < -WIDTH * error:
            break
        state = choices[best]
        moves.append(best)
    assert tried is not None
    plain, worst = score(start, keys[-1]), score(state, keys[-1])
    change, error = recovered_difference(worst, plain)
    return Attack(plain, worst, tuple(moves), -change, error, tried)


def _families(ready: Ready, refine_by: Mapping[str, Any] | None) -> dict[str, Partition]:
    """What may be refined by, each partition once."""
    given = ready.hypothesis.interpretation if refine_by is None else refine_by
    features = {"the very datum": ITSELF} | {
        name: feature if isinstance(feature, Feature) else Feature(feature) for name, feature in given.items()
    }
    found: dict[bytes, tuple[str, Partition]] = {}
    for name, feature in features.items():
        partition = ready.tables.partition(feature, name)
        if len(partition.sizes) > 1:
            found.setdefault(_canonical(partition), (name, partition))
    return dict(found.values())


def _canonical(partition: Partition) -> bytes:
    """Equal for partitions into the same classes, whatever their order."""
    _, first, codes = np.unique(partition.codes, return_index=True, return_inverse=True)
    return first[codes].tobytes()


def _first_state(ready: Ready) -> _State:
    """The hypothesis's own: what runs together is one group."""
    assert ready.bits_of is not None
    groups: dict[int, _Group] = {}
    for number, one in enumerate(ready.plan):
        if one.kind != "agree":
            continue
        sampler = ready.hypothesis.samplers[one.feature] if one.feature else "unconditional"
        feature = {"exact": ITSELF, "unconditional": EVERYTHING}.get(str(sampler))
        feature = feature or ready.hypothesis.interpretation[one.feature]
        leader = int(ready.bits_of[number])
        before = groups[leader].draws if leader in groups else ()
        groups[leader] = _Group((*before, number), ready.tables.partition(feature, one.label), tied=False)
    return tuple(groups.values())


def _taken_out(state: _State, number: int) -> tuple[_Group, _State]:
    """(a draw's group, the others): what no move has tied leaves the draws that it was together with."""
    group = next(group for group in state if number in group.draws)
    others = tuple(other for other in state if other is not group)
    if group.tied or len(group.draws) == 1:
        return group, others
    left = group._replace(draws=tuple(draw for draw in group.draws if draw != number))
    return group._replace(draws=(number,)), (*others, left)


def _moves(ready: Ready, state: _State, families: Mapping[str, Partition], *, correlate: bool) -> dict[str, _State]:
    """All that can be made more specific, in words, and what each leads to."""
    found: dict[str, _State] = {}
    spoken: dict[tuple[str, str], list[int]] = {}
    for number in (number for group in state for number in group.draws):
        one = ready.plan[number]  # the places of a feature are refined together
        spoken.setdefault(("feature", one.feature) if one.feature else ("node", one.label), []).append(number)
    for numbers in spoken.values():
        for name, partition in families.items():
            after, finer = state, False
            for number in numbers:
                group, others = _taken_out(after, number)
                refined = group._replace(partition=group.partition & partition)
                finer |= len(refined.partition.sizes) > len(group.partition.sizes)
                after = (*others, refined)
            if finer:
                found[f"{_told(ready.plan[numbers[0]])} agrees also on: {name}"] = after
    numbers = sorted(number for group in state for number in group.draws) if correlate else []
    for i, j in itertools.combinations(numbers, 2):
        one, other = ready.plan[i], ready.plan[j]
        if one.given != other.given or any(i in group.draws and j in group.draws for group in state):
            continue
        first, others = _taken_out(state, i)
        second, others = _taken_out(others, j)
        both = first.partition & second.partition
        if len(both.sizes) < ready.tables.n:  # else both are the very datum: a refinement of each
            tied = _Group(tuple(sorted((*first.draws, *second.draws))), both, tied=True)
            found[f"{_told(one)} and {_told(other)} have one datum{_where(one)}"] = (*others, tied)
    return found


def _where(one: Draw) -> str:
    """At which place, if it is not below the output."""
    path = one.label.rpartition("/")[0] if one.feature else one.label.removesuffix(f": {one.node}")
    return f" at {path}" if "/" in path else ""


def _told(one: Draw) -> str:
    """What a draw is for, in words."""
    return f"{one.node} ({one.feature or 'left out'})"


def _as_dataset(before: ScrubResult, moves: list[str], found: list[ScrubResult]) -> xr.Dataset:
    changes = [recovered_difference(result, before) for result in found]
    return xr.Dataset(
        {
            "recovered": ("move", [result.recovered for result in found]),
            "change": ("move", [change for change, _ in changes]),
            "error": ("move", [error for _, error in changes]),
        },
        coords={"move": moves},
    ).sortby("change")
