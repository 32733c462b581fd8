"""The arithmetic that remains of a patch once nothing is computed that it cannot reach.

Operations are those of matrix products (a multiply-add is two), for one prompt. Of experts all are counted.
Attention is counted against all keys.
"""

import jaxinterp as ji
from jaxinterp.patching.cost import mlp_width


def run_operations(config: ji.TransformerConfig, n_pos: int, row: int = 0) -> int:
    """A run's blocks, on the rows from `row` on."""
    rows = n_pos - row
    return 2 * config.n_layers * _block(config, n_pos, rows, rows, rows)


def patch_operations(config: ji.TransformerConfig, n_pos: int, site: str, layer: int, row: int, *, whole: bool) -> int:
    """A patch, continued from a base run to a logit difference at the last row.

    Layers below the patch, rows before it and, in the last block, rows that are not read are left out.

    Args:
      site: "z" or "resid_pre".
      row: the first row that the patch changes.
      whole: it changes every row from there on; otherwise `row` alone, in the block it edits.
    """
    rows, at_end, final = n_pos - row, row == n_pos - 1, layer == config.n_layers - 1
    if site == "z" and final and not (whole or at_end):
        return 0  # the row is not read, and no later block carries it to one that is
    if site == "z":
        edited = _behind_heads(config, rows if whole and not final else 1)
    elif final:
        edited = _block(config, n_pos, 1, int(at_end), 1)
    else:
        edited = _block(config, n_pos, 1, 1, rows)
    whole_blocks = max(0, config.n_layers - layer - 2) * _block(config, n_pos, rows, rows, rows)
    last_block = 0 if final else _block(config, n_pos, rows, 1, 1)
    return 2 * (edited + whole_blocks + last_block + 2 * config.d_model)


def _block(config: ji.TransformerConfig, n_pos: int, keys: int, queries: int, rows: int) -> int:
    """Multiply-adds of a block that makes keys and values of so many rows, queries of so many, and finishes so many."""
    heads = config.n_heads * config.d_head
    return (2 * keys + queries) * config.d_model * heads + rows * 2 * n_pos * heads + _behind_heads(config, rows)


def _behind_heads(config: ji.TransformerConfig, rows: int) -> int:
    """Multiply-adds of W_O and the MLP."""
    return rows * config.d_model * (config.n_heads * config.d_head + mlp_width(config))
