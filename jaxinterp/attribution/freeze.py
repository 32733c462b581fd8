"""What derivatives shall not go through: norms' scales, attention patterns; values do not change (Nanda 2023).

A LayerNorm's derivative takes away what lies along its own input, so that whole residual streams are estimated too
small; with its scale frozen it is linear. Both are edits like any other, for `base_interventions`.
"""

from typing import Any

from jaxinterp.model.interventions import Intervention, stop_gradient


def freeze_norms(model: Any) -> dict[str, Intervention]:
    """Edits that keep derivatives out of the scale of every norm that the model has; its centring stays.

    Raises:
      ValueError: a model without norms.

    Example:
      >>> sorted(ji.freeze_norms(model))
      ['ln1.scale', 'ln2.scale', 'ln_final.scale']
      >>> frozen = ji.gradients(model, params, tokens, sites=("resid_pre",), metric=ji.logit_diff(3, 4),
      ...                       base_interventions=ji.freeze_norms(model))
    """
    return _frozen([name for name in model.sites if name.endswith(".scale")], "norm")


def freeze_attention(model: Any) -> dict[str, Intervention]:
    """Edits that keep derivatives out of attention patterns, so that only what heads move counts, not where they look.

    Raises:
      ValueError: a model without attention.

    Example:
      >>> both = ji.joined(ji.freeze_norms(model), ji.freeze_attention(model))
      >>> effects = ji.attribution_patching(model, params, tokens.at[:, 2].set(7), tokens, site="q", over=("layer",),
      ...                                   metric=ji.logit_diff(3, 4), base_interventions=both)
      >>> bool((effects == 0).all())
      True
    """
    return _frozen([name for name in model.sites if name == "pattern"], "attention")


def _frozen(names: list[str], what: str) -> dict[str, Intervention]:
    if not names:
        raise ValueError(f"the model has no {what} to freeze")
    return {name: stop_gradient() for name in names}
