"""Logistic regression, for probes and for the predictors that a task must not be solved by."""

from typing import Any

import numpy as np
from scipy import optimize, special


def fit_logistic(
    features: Any, labels: np.ndarray, *, penalty: float = 1.0, bias: bool = True
) -> tuple[np.ndarray, float]:
    """Weights and bias of the logistic regression with least loss plus `penalty / 2` times the squared weights.

    Args:
      features: float[case, feature], dense or a scipy sparse matrix.
      labels: bool[case].
      penalty: in units of summed loss, so that more data count for more.
      bias: whether there is one; it is not penalised.

    Raises:
      ValueError: labels that are all the same, or not one per case.

    Example:
      >>> from jaxinterp.cards.linear import fit_logistic
      >>> weights, bias = fit_logistic(np.array([[-1.0], [1.0], [2.0], [-2.0]]), np.array([False, True, True, False]))
      >>> bool(weights[0] > 0)
      True
    """
    labels = np.asarray(labels, bool)
    if labels.shape != (features.shape[0],):
        raise ValueError(f"labels must be one per case, ({features.shape[0]},), got {labels.shape}")
    if labels.all() or not labels.any():
        raise ValueError(f"labels are all {bool(labels[0])}: nothing tells the two apart")
    signs = np.where(labels, 1.0, -1.0)

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        weights, offset = theta[:-1], theta[-1] if bias else 0.0
        margins = signs * (features @ weights + offset)
        pull = -signs * special.expit(-margins)
        value = np.logaddexp(0, -margins).sum() + penalty / 2 * weights @ weights
        return value, np.append(features.T @ pull + penalty * weights, pull.sum() if bias else 0.0)

    theta = optimize.minimize(loss, np.zeros(features.shape[1] + 1), jac=True, method="L-BFGS-B").x
    return theta[:-1], float(theta[-1])
