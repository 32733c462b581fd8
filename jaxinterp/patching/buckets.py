"""A few start positions for many cells: each compiles a program, and starting early recomputes what is known."""

import math

import numpy as np


def bucket_starts(rows: np.ndarray, n_pos: int, most: int | None = None, *, each: float = 0.0) -> np.ndarray:
    """int[cell]: the position each cell's program starts at: at or before its own, one of at most `most`.

    The few that cost least, counting a cell's arithmetic as proportional to the positions recomputed.

    Args:
      rows: int[cell], the first position that each cell changes.
      most: how many; by default 1 + log2(n_pos).
      each: what every one of them costs by itself, in cells times positions.
    """
    values, inverse, counts = np.unique(rows, return_inverse=True, return_counts=True)
    n_buckets = min(len(values), most or 1 + int(math.log2(n_pos)))
    # best[i]: least cost of the cells from values[i] on, in k buckets; each bucket starts at its lowest value
    n = len(values)
    total = np.concatenate([[0], np.cumsum(counts)])
    best = np.full((n_buckets + 1, n + 1), np.inf)
    best[:, n] = 0
    choice = np.zeros((n_buckets + 1, n), int)
    for k in range(1, n_buckets + 1):
        for i in range(n):
            ends = np.arange(i + 1, n + 1)
            costs = (total[ends] - total[i]) * (n_pos - values[i]) + each + best[k - 1, ends]
            choice[k, i] = ends[np.argmin(costs)]
            best[k, i] = costs.min()
    start_of = np.zeros(n, int)
    i, k = 0, n_buckets
    while i < n:
        start_of[i : choice[k, i]] = values[i]
        i, k = choice[k, i], k - 1
    return start_of[inverse.reshape(-1)]
