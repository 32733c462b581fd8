"""Which datum stands in for another: one that agrees on a feature, differs in it, is near or made for it, or any."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxinterp.scrubbing.lookup import take

#: How a datum is drawn for a node of the interpretation, given that of the node which reads it.
SAMPLERS = ("agree", "exact", "unconditional", "disagree")

#: Samplers that are part of a compiled program; all others are tables, which may be exchanged.
COMPILED = ("disagree", "kernel", "generator")

#: Memory of a kernel's table, at most.
KERNEL_BYTES = 2**31


@dataclasses.dataclass(frozen=True, eq=False)
class Kernel:
    """A distribution over swaps: how likely data stand in for one another, by their values of a feature.

    Generalised causal scrubbing: instead of a uniform choice among data that agree, datum y stands in for datum x with
    a probability proportional to exp(`log_weights`) at their two values.

    Attributes:
      log_weights: `log_weights(parameters, values) -> [value, value]`: how likely a datum of each value (column) is to
        stand in for one of each value (row), up to a constant in each row; -inf forbids. In JAX if it shall be fitted.
        `values` are the feature's different values: an array, in ascending order, of numbers (or rows of them); a
        list of anything else, in order of appearance.
      parameters: a pytree of arrays, what `fit_kernels` adjusts.

    Example:
      >>> near = ji.scrubbing.Kernel(lambda _, values: -abs(values[:, None] - values))
      >>> near.log_weights(None, jnp.array([0.0, 2.0])).tolist()
      [[-0.0, -2.0], [-2.0, -0.0]]
    """

    log_weights: Callable[[Any, Any], Any]
    parameters: Any = None

    def __str__(self) -> str:
        return "kernel"


@dataclasses.dataclass(frozen=True, eq=False)
class Generator:
    """Makes data that agree on a feature, where a dataset holds too few of them.

    Attributes:
      make: `make(key, datum) -> datum`, pure JAX: a random datum of the same structure that has the same value of the
        feature. That it has is checked for some data before anything is run.

    Example:
      >>> def other_second(key, datum):
      ...     return datum.at[1].set(jax.random.randint(key, (), 0, 7))
      >>> str(ji.scrubbing.Generator(other_second))
      'generator'
    """

    make: Callable[[jax.Array, Any], Any]

    def __str__(self) -> str:
        return "generator"


def gaussian_kernel(scale: Any) -> Kernel:
    """The kernel exp(-|n(x) - n(y)|^2 / 2 scale^2) of a feature n with numbers as values.

    Args:
      scale: in the feature's units; one number, or one for each component of the feature. Infinite: the component does
        not matter. Near 0: agreement.

    Example:
      >>> kernel = ji.scrubbing.gaussian_kernel(2.0)
      >>> kernel.log_weights(kernel.parameters, jnp.array([0.0, 2.0])).tolist()
      [[-0.0, -0.5], [-0.5, -0.0]]
    """
    scale = np.asarray(scale, np.float32)
    if not (scale > 0).all():
        raise ValueError(f"scale must be above 0, got {scale}")

    def log_weights(log_scale: Any, values: Any) -> Any:
        values = jnp.asarray(values, jnp.float32).reshape(len(values), -1)
        return -0.5 * jnp.square((values[:, None] - values) * jnp.exp(-log_scale)).sum(-1)

    return Kernel(log_weights, jnp.log(scale))


Sampler = str | Kernel | Generator


class Draw(NamedTuple):
    """One datum to be drawn.

    Attributes:
      kind: "reference", the datum that a sample is about; "agree", "unconditional", "disagree", "kernel", "generator".
      given: the number of the draw that it must agree with (or not).
      table: the name of its `Classes` or `Swaps`, or of its generator's feature.
      label: what it is for. feature: the feature that is visited with it; "" for what no feature stands for.
      node: the node of the graph.
    """

    kind: str
    given: int
    table: str
    label: str
    feature: str
    node: str


class Classes(NamedTuple):
    """Which data agree on a feature, so that one is drawn in constant time.

    Attributes:
      order: int32[datum], the data sorted by class. start, count: int32[datum], where a datum's own class begins in
        `order`, and how many it holds.
    """

    order: Any
    start: Any
    count: Any


class Swaps(NamedTuple):
    """A kernel as tables to draw from, in time that grows with the logarithm of the number of classes.

    Attributes:
      cumulative: float32[class, class], in each row the probability of a class up to this one.
      codes: int32[datum]. order: int32[datum], the data sorted by class. start, count: int32[class].
    """

    cumulative: Any
    codes: Any
    order: Any
    start: Any
    count: Any


class Made(NamedTuple):
    """Data that a generator made, one for each sample."""

    data: Any


@dataclasses.dataclass(frozen=True)
class Partition:
    """A feature's values over a dataset.

    Attributes:
      codes: int[datum], the number of a datum's class. sizes: int[class]. names: [class], the values themselves.
    """

    codes: np.ndarray
    sizes: np.ndarray
    names: Sequence[Any]

    @classmethod
    def of(cls, values: Any, n: int, label: str) -> "Partition":
        """The classes of a feature's values: [datum, ...] numbers, or a sequence of hashable values.

        Raises:
          ValueError: another number of values than data, NaN.
          TypeError: values that cannot be told apart.
        """
        array = np.asarray(values) if hasattr(values, "dtype") else _as_array(values)
        if array.dtype == object and array.ndim > 1:
            raise TypeError(f"{label}: rows of values must be numbers; give tuples instead")
        if array.ndim == 0 or len(array) != n:
            raise ValueError(f"{label}: expected a value for each of {n} data, got shape {array.shape}")
        if array.dtype.kind in "fc" and np.isnan(array).any():
            bad = int(np.isnan(array.reshape(n, -1)).any(axis=1).argmax())
            raise ValueError(f"{label}: NaN for datum {bad}; NaN equals nothing, so no datum would agree with it")
        if array.dtype == object and any(map(_is_nan, array.reshape(-1))):
            raise ValueError(f"{label}: NaN for datum {list(map(_is_nan, array.reshape(n, -1)[:, 0])).index(True)}")
        if array.size == 0 and n:
            raise ValueError(f"{label}: expected a value for each of {n} data, got shape {array.shape}")
        if array.ndim > 1:
            names, codes = np.unique(array.reshape(n, -1), axis=0, return_inverse=True)
            codes = codes.reshape(-1)
        else:
            try:
                codes, names = pd.factorize(array, sort=array.dtype != object)
            except TypeError as error:
                raise TypeError(f"{label}: values must be hashable: {error}") from None
            if (codes < 0).any():
                raise ValueError(f"{label}: no value for datum {int((codes < 0).argmax())}")
        return cls(codes.astype(np.int32), np.bincount(codes, minlength=len(names)), list(names))

    def __and__(self, other: "Partition") -> "Partition":
        """The coarsest partition finer than both: data that agree on both features."""
        pairs = self.codes.astype(np.int64) * len(other.sizes) + other.codes
        _, codes, sizes = np.unique(pairs, return_inverse=True, return_counts=True)
        return Partition(codes.astype(np.int32), sizes, range(len(sizes)))

    def classes(self) -> Classes:
        """As tables to draw from."""
        starts = np.concatenate([[0], np.cumsum(self.sizes)[:-1]])
        order = np.argsort(self.codes, kind="stable").astype(np.int32)
        return Classes(order, starts[self.codes].astype(np.int32), self.sizes[self.codes].astype(np.int32))

    @property
    def values(self) -> Any:
        """The classes' names as an array, if they are numbers or rows of them; else as a list."""
        are_numbers = all(
            isinstance(name, np.ndarray | np.number | np.bool_ | bool | int | float) for name in self.names
        )
        return np.asarray(self.names) if are_numbers else list(self.names)

    def log_probabilities(self, kernel: Kernel, parameters: Any) -> jax.Array:
        """The log-probability that a datum of each class (column) stands in for one of each (row), differentiable."""
        weights = jnp.asarray(kernel.log_weights(parameters, self.values))
        return jax.nn.log_softmax(weights + np.log(self.sizes).astype(np.float32), axis=1)

    def probabilities(self, kernel: Kernel, label: str) -> np.ndarray:
        """The same as float64 probabilities, checked.

        Raises:
          ValueError: no [class, class] numbers, too many of them, NaN, a row in which nothing may stand in.
        """
        n = len(self.sizes)
        if 4 * n * n > KERNEL_BYTES:
            raise ValueError(
                f"{label}: a kernel over {n:,} different values takes {4 * n * n / 2**30:.1f} GiB; round the feature"
            )
        weights = np.asarray(kernel.log_weights(kernel.parameters, self.values), np.float64)
        if weights.shape != (n, n):
            raise ValueError(f"{label}: the kernel's log_weights have shape {weights.shape}, expected {(n, n)}")
        if np.isnan(weights).any() or np.isposinf(weights).any():
            raise ValueError(f"{label}: the kernel's log_weights hold NaN or inf")
        if (empty := np.isneginf(weights).all(axis=1)).any():
            raise ValueError(f"{label}: the kernel lets nothing stand in for {self.names[int(empty.argmax())]!r}")
        shares = np.exp(weights - weights.max(axis=1, keepdims=True)) * self.sizes
        return shares / shares.sum(axis=1, keepdims=True)

    def swaps(self, probabilities: np.ndarray) -> Swaps:
        """As tables to draw from."""
        starts = np.concatenate([[0], np.cumsum(self.sizes)[:-1]]).astype(np.int32)
        order = np.argsort(self.codes, kind="stable").astype(np.int32)
        cumulative = probabilities.cumsum(axis=1)
        cumulative /= cumulative[:, -1:]
        return Swaps(cumulative.astype(np.float32), self.codes, order, starts, self.sizes.astype(np.int32))


def _as_array(values: Any) -> np.ndarray:
    """Numbers, or rows of them, as an array; everything else as objects, so that 0 is not "0"."""
    values = list(values)
    rows = values and all(isinstance(value, list | np.ndarray) for value in values)
    numbers = all(isinstance(value, bool | int | float | np.number | np.bool_) for value in values)
    if numbers or (rows and len({np.shape(value) for value in values}) == 1):
        return np.asarray(values)
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _is_nan(value: Any) -> bool:
    """NaN, or a tuple that holds one."""
    return any(map(_is_nan, value)) if isinstance(value, tuple) else isinstance(value, float) and value != value


def draw(
    plan: Sequence[Draw],
    tables: Mapping[str, Any],
    generators: Mapping[str, Generator],
    data: Any,
    references: jax.Array,
    key: jax.Array,
    bits_of: Any = None,
) -> list[Any]:
    """The datum of each draw of a plan, for samples about the data `references`.

    One of n is drawn as the integer part of n times a 32-bit fraction, so that probabilities differ from 1/n by less
    than one part in 2^32 / n; a kernel's class by a 24-bit fraction.

    Args:
      tables: `Classes` or `Swaps` by name. generators: by name.
      data: leaves lead with datum.
      bits_of: int[draw], whose random bits each draw uses; by default its own. Draws with the same bits, table and
        given datum are the same datum.

    Returns:
      int32[sample] for each, or `Made` data.
    """
    n_data, n = len(jax.tree.leaves(data)[0]), len(references)
    at_random = [number for number, one in enumerate(plan) if one.kind not in ("reference", "generator")]
    if bits_of is None:
        bits = dict(zip(at_random, jax.random.bits(key, (len(at_random), n), jnp.uint32), strict=True))
    else:
        random = jax.random.bits(key, (len(plan), n), jnp.uint32)
        bits = {number: random[bits_of[number]] for number in at_random}
    found: list[Any] = []
    for number, one in enumerate(plan):
        if one.kind == "reference":
            found.append(references)
        elif one.kind == "unconditional":
            found.append(_below(bits[number], jnp.uint32(n_data)))
        elif one.kind == "generator":
            given = found[one.given]
            before = given.data if isinstance(given, Made) else jax.tree.map(lambda x, at=given: take(x, at), data)
            keys = jax.random.split(jax.random.fold_in(key, number + 1), n)
            found.append(Made(jax.vmap(generators[one.table].make)(keys, before)))
        elif one.kind == "kernel":
            swaps: Swaps = tables[one.table]
            classes = jax.random.bits(jax.random.fold_in(key, number + 1), (n,), jnp.uint32)
            to = _first_above(swaps.cumulative, take(swaps.codes, found[one.given]), classes)
            rank = _below(bits[number], take(swaps.count, to).astype(jnp.uint32))
            found.append(take(swaps.order, take(swaps.start, to) + rank))
        else:
            table, given = tables[one.table], found[one.given]
            start, count = take(table.start, given), take(table.count, given)
            if one.kind == "agree":
                found.append(take(table.order, start + _below(bits[number], count.astype(jnp.uint32))))
            else:
                rank = _below(bits[number], (n_data - count).astype(jnp.uint32))
                found.append(take(table.order, rank + jnp.where(rank >= start, count, 0)))
    return found


def _first_above(cumulative: jax.Array, rows: jax.Array, bits: jax.Array) -> jax.Array:
    """For each sample the first column of its row of `cumulative` that lies above a random fraction, by bisection."""
    n = cumulative.shape[1]
    fraction = (bits >> 8).astype(jnp.float32) * 2.0**-24
    flat = cumulative.reshape(-1)

    def halved(_: Any, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = (low + high) // 2
        above = take(flat, rows * n + middle) > fraction
        return jnp.where(above, low, middle + 1), jnp.where(above, middle, high)

    ends = jnp.zeros_like(rows), jnp.full_like(rows, n - 1)
    return jax.lax.fori_loop(0, math.ceil(math.log2(n)) if n > 1 else 0, halved, ends)[1]


def _below(bits: jax.Array, n: jax.Array) -> jax.Array:
    """floor(bits / 2^32 * n), int32: the upper half of a 64-bit product, made of 16-bit halves."""
    low, high = bits & 0xFFFF, bits >> 16
    n_low, n_high = n & 0xFFFF, n >> 16
    middle = high * n_low + (low * n_low >> 16)
    carried = low * n_high + (middle & 0xFFFF)
    return (high * n_high + (middle >> 16) + (carried >> 16)).astype(jnp.int32)
