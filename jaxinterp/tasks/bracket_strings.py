"""The kinds of bracket string, and how each is drawn."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

MAX_BRACKETS = 40

#: Brackets, bool[n, 40], True at "(" and False at ")" and beyond the end; and their number, int32[n].
Strings = tuple[np.ndarray, np.ndarray]

_PLACES = np.arange(MAX_BRACKETS)


def inside(lengths: np.ndarray) -> np.ndarray:
    """The places of a string's brackets: bool[n, 40]."""
    return lengths[:, None] > _PLACES


def _one_of(rng: np.random.Generator, where: np.ndarray) -> np.ndarray:
    """One of the places that each row of bool[n, 40] marks, each equally likely: int[n]."""
    return np.where(where, rng.random(where.shape, np.float32), -1).argmax(axis=1)


def _walks(rng: np.random.Generator, lengths: np.ndarray) -> np.ndarray:
    """Balanced brackets of given lengths: bool[n, 40].

    Of the ways to finish from depth d with r brackets to come, those that go on with "(" are to the others as
    (r - d)(d + 2) to d (r + d + 2). Half of the strings draw each bracket in this ratio, which makes all strings
    of a length equally likely; for the others "(" is more, or less, likely all along.
    """
    n = len(lengths)
    tilt = np.where(rng.random(n) < 0.5, 1.0, np.exp(rng.uniform(-3.0, 3.0, n)))
    chance = rng.random((MAX_BRACKETS, n), np.float32)
    is_open = np.zeros((MAX_BRACKETS, n), bool)
    depth = np.zeros(n, np.int32)
    for place in _PLACES:
        left = np.maximum(lengths - np.int32(place), 0)
        opening = tilt * ((left - depth) * (depth + 2))
        is_open[place] = chance[place] * (opening + depth * (left + depth + 2)) < opening
        depth += np.where(left > 0, np.where(is_open[place], 1, -1), 0).astype(np.int32)
    # A tilt shows at one end of a string: half of them are read from the other.
    mirrored = rng.random(n)[:, None] < 0.5
    backwards = np.maximum(lengths[:, None] - 1 - _PLACES, 0)
    turned = ~np.take_along_axis(is_open.T, backwards, axis=1) & inside(lengths)
    return np.where(mirrored, turned, is_open.T)


# Each kind is made of balanced strings, brackets bool[n, 40] and lengths int32[n].


def _balanced(rng: np.random.Generator, is_open: np.ndarray, lengths: np.ndarray) -> Strings:
    return is_open, lengths


def _flipped(rng: np.random.Generator, is_open: np.ndarray, lengths: np.ndarray) -> Strings:
    return is_open ^ (_one_of(rng, inside(lengths))[:, None] == _PLACES), lengths


def _dropped(rng: np.random.Generator, is_open: np.ndarray, lengths: np.ndarray) -> Strings:
    missing = _one_of(rng, inside(lengths))[:, None]
    shifted = np.roll(is_open, -1, axis=1)
    return np.where(missing <= _PLACES, shifted, is_open) & inside(lengths - 1), lengths - 1


def _swapped(rng: np.random.Generator, is_open: np.ndarray, lengths: np.ndarray) -> Strings:
    depth = np.cumsum(np.where(is_open, 1, -1), axis=1)
    # Exchanging a "(" before and a ")" after a place lowers the depth there by 2.
    place = _one_of(rng, (depth <= 1) & inside(lengths - 1))[:, None]
    return _exchanged(rng, is_open, place >= _PLACES, (place < _PLACES) & inside(lengths)), lengths


def _dip(rng: np.random.Generator, is_open: np.ndarray, lengths: np.ndarray) -> Strings:
    before = 2 * rng.integers(0, lengths // 2, dtype=np.int32)
    first, second = np.split(_walks(rng, np.concatenate([before, lengths - 2 - before])), 2)
    after = _PLACES - before[:, None] - 2
    second = np.where(after == -1, True, np.take_along_axis(second, np.maximum(after, 0), axis=1))
    return np.where(after < -1, first, second), lengths


def _starts_closed(rng: np.random.Generator, is_open: np.ndarray, lengths: np.ndarray) -> Strings:
    return _exchanged(rng, is_open, inside(np.ones(len(lengths))), inside(lengths)), lengths


def _ends_open(rng: np.random.Generator, is_open: np.ndarray, lengths: np.ndarray) -> Strings:
    return _exchanged(rng, is_open, inside(lengths), inside(lengths) & ~inside(lengths - 1)), lengths


def _exchanged(rng: np.random.Generator, is_open: np.ndarray, opens: np.ndarray, closes: np.ndarray) -> np.ndarray:
    """One "(" at a place among `opens` and one ")" among `closes`, bool[n, 40] both, exchanged."""
    places = (_one_of(rng, is_open & opens), _one_of(rng, ~is_open & closes))
    return is_open ^ (places[0][:, None] == _PLACES) ^ (places[1][:, None] == _PLACES)


def _shuffled(rng: np.random.Generator, is_open: np.ndarray, lengths: np.ndarray) -> Strings:
    order = np.where(inside(lengths), rng.random(is_open.shape), 2).argsort(axis=1)
    return np.take_along_axis(is_open, order, axis=1), lengths


def _random(rng: np.random.Generator, is_open: np.ndarray, lengths: np.ndarray) -> Strings:
    lengths = lengths - rng.integers(0, 2, len(lengths), dtype=np.int32)
    return (rng.random(is_open.shape, np.float32) < 0.5) & inside(lengths), lengths


class Kind(NamedTuple):
    """A kind of string: what it is, and how it is made of balanced ones, `make(rng, is_open, lengths)`."""

    meaning: str
    make: Callable[[np.random.Generator, np.ndarray, np.ndarray], Strings]


#: All but "dropped" and "random" have an even length; only "shuffled" and "random" can be of either label.
KINDS = {
    "balanced": Kind("from `()()()` to one nest of 20", _balanced),
    "flipped": Kind("balanced but for one bracket that faces the other way", _flipped),
    "dropped": Kind("balanced but for one bracket that is missing, so that the length is odd", _dropped),
    "swapped": Kind(
        "balanced but for a `(` and a later `)` that have changed places, so that the depth falls below 0", _swapped
    ),
    "dip": Kind(
        "balanced, then `)(`, then balanced; either may be empty. The depth is below 0 at one place alone", _dip
    ),
    "starts_closed": Kind("balanced but for the first `(`, which has changed places with some `)`", _starts_closed),
    "ends_open": Kind("balanced but for the last `)`, which has changed places with some `(`", _ends_open),
    "shuffled": Kind("as many `(` as `)`, in any order", _shuffled),
    "random": Kind("each bracket a fair coin, of even or odd length", _random),
}

#: Kinds that are one or two brackets away from balanced, and never are.
NEAR_MISSES = ("flipped", "dropped", "swapped", "dip", "starts_closed", "ends_open")

#: What `ji.tasks.brackets` draws from, each as often as it stands here.
MIXTURE = (
    *("balanced",) * 9,
    *("flipped",) * 2,
    "dropped",
    *("swapped",) * 2,
    *("dip",) * 2,
    "starts_closed",
    "ends_open",
    "shuffled",
    "random",
)


def draw_strings(rng: np.random.Generator, kind: np.ndarray) -> Strings:
    """One string of each kind in `kind`, int[n], by its place in `KINDS`. The generator is advanced.

    Half the length is the larger of two uniform draws from 1 to 20.

    Example:
      >>> is_open, lengths = draw_strings(np.random.default_rng(0), np.array([0, 0, 4]))
      >>> is_open.shape, (lengths % 2).tolist(), (2 * is_open.sum(1) == lengths).all().item()
      ((3, 40), [0, 0, 0], True)
    """
    half = rng.integers(1, MAX_BRACKETS // 2 + 1, (2, len(kind)), dtype=np.int32).max(axis=0)
    is_open, lengths = _walks(rng, 2 * half), 2 * half
    for number, each in enumerate(KINDS.values()):
        rows = np.flatnonzero(kind == number)
        if len(rows):
            is_open[rows], lengths[rows] = each.make(rng, is_open[rows], lengths[rows])
    return is_open, lengths
