"""Which datum stands in for another: at random among those that agree on a feature, differ in it, or among all."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxinterp.scrubbing.lookup import take

#: How a datum is drawn for a node of the interpretation, given that of the node which reads it.
SAMPLERS = ("agree", "exact", "unconditional", "disagree")


class Draw(NamedTuple):
    """One datum to be drawn.

    Attributes:
      kind: one of `SAMPLERS`, or "reference", the datum that a sample is about.
      given: the number of the draw that it must agree with (or not).
      feature: on what.
      label: what it is for.
    """

    kind: str
    given: int
    feature: str
    label: str


class Classes(NamedTuple):
    """Which data agree on a feature, so that one is drawn in constant time.

    Attributes:
      order: int32[datum], the data sorted by class. start, count: int32[datum], where a datum's own class begins in
        `order`, and how many it holds.
    """

    order: Any
    start: Any
    count: Any


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
        if array.ndim == 0 or len(array) != n:
            raise ValueError(f"{label}: expected a value for each of {n} data, got shape {array.shape}")
        if array.dtype.kind in "fc" and np.isnan(array).any():
            bad = int(np.isnan(array.reshape(n, -1)).any(axis=1).argmax())
            raise ValueError(f"{label}: NaN for datum {bad}; NaN equals nothing, so no datum would agree with it")
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

    def classes(self) -> Classes:
        """As tables to draw from."""
        starts = np.concatenate([[0], np.cumsum(self.sizes)[:-1]])
        order = np.argsort(self.codes, kind="stable").astype(np.int32)
        return Classes(order, starts[self.codes].astype(np.int32), self.sizes[self.codes].astype(np.int32))


def _as_array(values: Any) -> np.ndarray:
    values = list(values)
    if values and not isinstance(values[0], (bool, int, float, str, np.generic)):
        array = np.empty(len(values), object)
        array[:] = values
        return array
    return np.asarray(values)


def draw(
    plan: Sequence[Draw], classes: dict[str, Classes], n_data: int, references: jax.Array, key: jax.Array
) -> list[jax.Array]:
    """The datum of each draw of a plan, int32[sample], for samples about the data `references`.

    One of n is drawn as the integer part of n times a 32-bit fraction, so that probabilities differ from 1/n by less
    than one part in 2^32 / n.
    """
    random = [number for number, one in enumerate(plan) if one.kind not in ("reference", "exact")]
    bits = dict(zip(random, jax.random.bits(key, (len(random), len(references)), jnp.uint32), strict=True))
    found: list[jax.Array] = []
    for number, one in enumerate(plan):
        if one.kind == "reference":
            found.append(references)
        elif one.kind == "exact":
            found.append(found[one.given])
        elif one.kind == "unconditional":
            found.append(_below(bits[number], jnp.uint32(n_data)))
        else:
            table, given = classes[one.feature], found[one.given]
            start, count = take(table.start, given), take(table.count, given)
            if one.kind == "agree":
                found.append(take(table.order, start + _below(bits[number], count.astype(jnp.uint32))))
            else:
                rank = _below(bits[number], (n_data - count).astype(jnp.uint32))
                found.append(take(table.order, rank + jnp.where(rank >= start, count, 0)))
    return found


def _below(bits: jax.Array, n: jax.Array) -> jax.Array:
    """floor(bits / 2^32 * n), int32: the upper half of a 64-bit product, made of 16-bit halves."""
    low, high = bits & 0xFFFF, bits >> 16
    n_low, n_high = n & 0xFFFF, n >> 16
    middle = high * n_low + (low * n_low >> 16)
    carried = low * n_high + (middle & 0xFFFF)
    return (high * n_high + (middle >> 16) + (carried >> 16)).astype(jnp.int32)
