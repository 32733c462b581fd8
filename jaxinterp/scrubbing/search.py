"""Searches: the smallest set of nodes that keeps a behaviour, and the freest swaps that do."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from tqdm.auto import tqdm

from jaxinterp.scrubbing.graph import Graph
from jaxinterp.scrubbing.hypothesis import MAX_PLACES, Feature, Hypothesis
from jaxinterp.scrubbing.runner import EVERYTHING, ITSELF, Ready, check_run, check_tables, make_ready, run_ready
from jaxinterp.scrubbing.samplers import Classes, Draw, Kernel
from jaxinterp.scrubbing.tables import Tables


def direct_paths(graph: Graph, reader: str | None = None) -> Hypothesis:
    """The hypothesis that a node's parents all matter, each with all it tells: what a search may start from.

    Args:
      reader: the node; by default the output. Another must be one of the output's parents, which then matters too.

    Returns:
      Features named like the nodes, each run on the reference itself ("exact").

    Example:
      >>> graph = ji.scrubbing.transformer_graph(model, params, tokens)
      >>> print(ji.scrubbing.direct_paths(graph).describe().partition("  a0.h1")[0].rstrip())
      logits: logits (exact)
        embed: embed (exact)
        a0.h0: a0.h0 (exact)
    """
    reader = graph.output if reader is None else reader
    below = tuple(parent for parent in graph.parents(reader) if parent != graph.input)
    features = {reader: Feature(None, below)} | {node: Feature() for node in below}
    if reader != graph.output:
        features = {graph.output: Feature(None, (reader,))} | features
    return Hypothesis(graph, features, {node: node for node in features}, dict.fromkeys(features, "exact"))


def smallest_set(
    hypothesis: Hypothesis,
    params: Any,
    dataset: Any,
    *,
    keep: float,
    num_samples: int,
    key: jax.Array,
    tables: Tables | None = None,
    max_places: int | None = MAX_PLACES,
    progress: bool | None = None,
    **run: Any,
) -> xr.Dataset:
    """Leaves claims of a hypothesis out, one after another, as long as a stated share of the performance is recovered.

    Greedy: each round leaves out the feature without which most is recovered; its node is then run on the datum of its
    reader's other unimportant parents, whole. One program serves for all.

    Args:
      keep: how much is to be recovered at least, such as 0.9.
      num_samples: for each try; all tries have the same draws where they draw alike.
      Others as in `ji.scrub`.

    Returns:
      Over `feature`, in the order in which they were left out: `recovered` without it and all before, and its `error`.
      `.attrs`: `kept`, the features that are left; `recovered` and `error` of these, on draws of their own.

    Raises:
      ValueError: a hypothesis that recovers less than `keep` as it is; and as `ji.scrub`.

    Example:
      >>> graph = ji.Graph(
      ...     {
      ...         "a": ji.Node(lambda params, x: 3 * x[0], ("input",)),
      ...         "b": ji.Node(lambda params, x: x[1], ("input",)),
      ...         "c": ji.Node(lambda params, x: 0.1 * x[2], ("input",)),
      ...         "sum": ji.Node(lambda params, a, b, c: a + b + c, ("a", "b", "c")),
      ...     },
      ...     output="sum",
      ...     loss=lambda total, x: jnp.square(total - jnp.array([3, 1, 0.1]) @ x),
      ... )
      >>> data = jax.random.normal(jax.random.key(0), (200, 3))
      >>> whole = ji.scrubbing.direct_paths(graph)
      >>> found = ji.scrubbing.smallest_set(whole, None, data, keep=0.8, num_samples=2000, key=jax.random.key(1))
      >>> found.feature.values.tolist(), found.attrs["kept"]
      (['c', 'b'], ['a'])
    """
    check_run(num_samples, key)
    check_tables(hypothesis, "smallest_set")
    ready = make_ready(hypothesis, params, dataset, tables=tables, apart=True, max_places=max_places)
    ready.tables.check_bounds("smallest_set")
    search_key, own_key = jax.random.split(key)

    def score(left_out: list[str], key: jax.Array) -> Any:
        classes, bits_of = _without(ready, left_out)
        return run_ready(ready, num_samples, key, classes=classes, bits_of=bits_of, progress=False, **run)

    whole = score([], search_key)
    if whole.non_finite:
        raise ValueError(f"{whole.non_finite} of {num_samples} losses are not finite: no score can be compared")
    if not whole.recovered >= keep:
        raise ValueError(f"keep={keep} is more than the {whole.recovered:.3f} that the whole hypothesis recovers")
    left_out: list[str] = []
    found: list[Any] = []
    rest = [name for name in hypothesis.interpretation if name != hypothesis.root]
    disable = None if progress is None else not progress
    with tqdm(total=len(rest), desc="features", unit="feature", delay=1, disable=disable) as bar:
        while rest:
            tries = {name: score([*left_out, name], search_key) for name in rest}
            best = max(tries, key=lambda name: tries[name].recovered)
            if not tries[best].recovered >= keep:
                break
            left_out.append(best)
            found.append(tries[best])
            below = _only_below(hypothesis, left_out)
            bar.update(len(rest))
            rest = [name for name in rest if name not in (best, *below)]
            bar.total = bar.n + len(rest)
    end = score(left_out, own_key)
    return xr.Dataset(
        {
            "recovered": ("feature", [result.recovered for result in found]),
            "error": ("feature", [result.recovered_error for result in found]),
        },
        coords={"feature": left_out},
        attrs={"kept": rest, "recovered": end.recovered, "error": end.recovered_error},
    )


def _without(ready: Ready, left_out: list[str]) -> tuple[dict[str, Classes], np.ndarray]:
    """(what draws are made from, whose bits they use) if some features count as unimportant."""
    everything, itself = (ready.tables.classes(feature, "") for feature in (EVERYTHING, ITSELF))
    assert ready.bits_of is not None
    bits_of, classes = ready.bits_of.copy(), dict[str, Classes]()
    shared: dict[int, int] = {}
    inside: set[int] = set()
    for number, one in enumerate(ready.plan):
        if one.given in inside:
            classes[one.table] = itself  # the plain value on the datum above
            inside.add(number)
        elif one.feature in left_out:
            classes[one.table] = everything
            inside.add(number)
        # each place has a draw of its own, which tells what is drawn for it
        if (not one.feature or one.feature in left_out) and ready.hypothesis.unimportant == "together" and number:
            bits_of[number] = shared.setdefault(one.given, number)
    return classes, bits_of


def _only_below(hypothesis: Hypothesis, left_out: list[str]) -> set[str]:
    """Features that no path reaches but through those left out."""
    reached: set[str] = set()

    def visit(name: str) -> None:
        if name not in reached and name not in left_out:
            reached.add(name)
            for parent in hypothesis.interpretation[name].parents:
                visit(parent)

    visit(hypothesis.root)
    return set(hypothesis.interpretation) - reached


def fit_kernels(
    hypothesis: Hypothesis,
    params: Any,
    dataset: Any,
    *,
    freedom: float,
    steps: int,
    num_samples: int,
    key: jax.Array,
    learning_rate: float = 0.1,
    tables: Tables | None = None,
    max_places: int | None = MAX_PLACES,
    progress: bool | None = None,
    **run: Any,
) -> tuple[Hypothesis, xr.Dataset]:
    """Adjusts the parameters of a hypothesis's kernels by gradients: the freest swaps that keep the behaviour.

    Climbs what is recovered plus `freedom` times the entropy of the swaps, as a share of that of free choice, on
    average over kernels. (Swaps of each datum for itself recover everything and say nothing.) Gradients of what is
    recovered are those of the draws' log-probabilities times the losses, less their mean (REINFORCE): nothing need be
    differentiable but the kernels. Adam.

    Args:
      freedom: what a free choice is worth beside all of the performance, such as 0.1.
      num_samples: in each step.
      Others as in `ji.scrub`.

    Returns:
      (the hypothesis with the kernels found, over `step`: `recovered` and, over `feature`, `entropy` in nats).

    Raises:
      ValueError: a hypothesis without kernels that have parameters; and as `ji.scrub`.

    Example:
      >>> graph = ji.Graph(
      ...     {
      ...         "a": ji.Node(lambda params, x: x[0], ("input",)),
      ...         "out": ji.Node(lambda params, a: a, ("a",)),
      ...     },
      ...     output="out",
      ...     loss=lambda a, x: jnp.square(a - x[0]),
      ... )
      >>> kernel = ji.scrubbing.gaussian_kernel([1.0, 1.0])  # of two components, of which the node computes one
      >>> claim = ji.Hypothesis(
      ...     graph,
      ...     interpretation={"out": ji.Feature(None, ("a",)), "a": ji.Feature(lambda x: np.asarray(x))},
      ...     correspondence={"out": "out", "a": "a"},
      ...     samplers={"a": kernel},
      ... )
      >>> data = jax.random.normal(jax.random.key(0), (64, 2))
      >>> fitted, history = ji.scrubbing.fit_kernels(
      ...     claim, None, data, freedom=0.2, steps=40, num_samples=512, key=jax.random.key(1)
      ... )
      >>> first, second = np.exp(fitted.samplers["a"].parameters).tolist()
      >>> first < 1 < second
      True
    """
    check_run(num_samples, key)
    if type(steps) is not int or steps < 1:
        raise ValueError(f"steps must be an int of at least 1, got {steps!r}")
    if num_samples < 2 or not np.isfinite(freedom):
        raise ValueError(f"expected num_samples of at least 2 and a finite freedom, got {num_samples} and {freedom}")
    kernels = {
        name: sampler
        for name, sampler in hypothesis.samplers.items()
        if isinstance(sampler, Kernel) and jax.tree.leaves(sampler.parameters)
    }
    if not kernels:
        raise ValueError("fit_kernels: no sampler of the hypothesis is a Kernel with parameters")
    ready = make_ready(hypothesis, params, dataset, tables=tables, max_places=max_places)
    bounds = ready.tables.bounds
    gap = float(bounds.random_loss.mean() - bounds.model_loss.mean())
    optimizer = optax.adam(learning_rate)
    parameters = {name: jax.tree.map(jnp.asarray, kernel.parameters) for name, kernel in kernels.items()}
    state = optimizer.init(parameters)
    draws = [(one, number) for number, one in enumerate(ready.plan) if one.feature in kernels]

    @jax.jit
    def gradient(parameters: Any, datum: Any, loss: Any) -> Any:
        def objective(parameters: Any) -> Any:
            logs, entropies = 0.0, {}
            for name, kernel in kernels.items():
                partition = ready.partitions[name]
                of_class = partition.log_probabilities(kernel, parameters[name])
                logs += _log_of_draws(of_class, partition.codes, [d for d in draws if d[0].feature == name], datum)
                entropies[name] = _entropy(of_class, partition.sizes)
            # the mean over the others is a baseline that does not depend on a sample itself
            n = len(loss)
            above = (loss - loss.mean()) * n / (n - 1)
            free = sum(entropies.values()) / (len(kernels) * np.log(ready.tables.n))
            return -(logs * jax.lax.stop_gradient(above)).mean() / gap + freedom * free, entropies

        return jax.grad(objective, has_aux=True)(parameters)

    history: list[tuple[float, dict[str, Any]]] = []
    disable = None if progress is None else not progress
    for step in tqdm(range(steps), desc="steps", unit="step", delay=1, disable=disable):
        classes = {
            name: _swaps(ready, name, dataclasses.replace(kernel, parameters=parameters[name]))
            for name, kernel in kernels.items()
        }
        result = run_ready(
            ready, num_samples, jax.random.fold_in(key, step), classes=classes, keep_samples=True, progress=False, **run
        )
        if result.non_finite:
            raise ValueError(f"step {step}: {result.non_finite} of {num_samples} losses are not finite")
        assert result.samples is not None
        slope, entropies = gradient(parameters, result.samples.datum.values, result.samples.loss.values)
        history.append((result.recovered, jax.device_get(entropies)))
        updates, state = optimizer.update(jax.tree.map(jnp.negative, slope), state)
        parameters = optax.apply_updates(parameters, updates)
    fitted = {name: dataclasses.replace(kernel, parameters=parameters[name]) for name, kernel in kernels.items()}
    told = xr.Dataset(
        {
            "recovered": ("step", [recovered for recovered, _ in history]),
            "entropy": (("step", "feature"), np.array([[float(e[name]) for name in kernels] for _, e in history])),
        },
        coords={"feature": list(kernels)},
    )
    return dataclasses.replace(hypothesis, samplers={**hypothesis.samplers, **fitted}), told


def _swaps(ready: Ready, name: str, kernel: Kernel) -> Any:
    partition = ready.partitions[name]
    return jax.device_put(partition.swaps(partition.probabilities(kernel, f"sampler of {name!r}")))


def _log_of_draws(of_class: Any, codes: np.ndarray, draws: list[tuple[Draw, int]], datum: Any) -> Any:
    """The log-probability of a kernel's draws, summed over its places: [sample]."""
    own = jnp.asarray(codes)
    return sum(of_class[own[datum[:, one.given]], own[datum[:, number]]] for one, number in draws)


def _entropy(of_class: Any, sizes: np.ndarray) -> Any:
    """Of the datum that is drawn, in nats, on average over data."""
    share = sizes / sizes.sum()
    each = -(jnp.exp(of_class) * jnp.where(jnp.isneginf(of_class), 0, of_class - np.log(sizes))).sum(axis=1)
    return share @ each
