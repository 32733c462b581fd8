"""What a scrub found: losses with standard errors, and how much of the performance is left."""

import dataclasses

import numpy as np
import xarray as xr

from jaxinterp.scrubbing.samplers import Partition

#: Standard errors on either side of a 95 % interval.
WIDTH = 1.959964


@dataclasses.dataclass(frozen=True)
class ScrubResult:
    """How a behaviour fares when everything that a hypothesis does not speak of is resampled.

    Standard errors are clustered by reference datum: data are taken as a sample of all there could be.

    Attributes:
      loss, clipped_loss: the mean over samples, in the loss's units; `clipped_loss` counts none as more than `clip`.
      accuracy: NaN where the graph says nothing of right and wrong.
      loss_error, clipped_error, accuracy_error: standard errors of these.
      model_loss, model_accuracy: of the graph as it is, on the same references.
      random_loss: of outputs for data that have nothing to do with the reference.
      recovered: 1 - (loss - model_loss) / (random_loss - model_loss); NaN if these two are equal up to rounding, or not
        finite.
      recovered_error, recovered_interval: its standard error, and a 95 % interval.
      non_finite: how many samples have a loss that is no finite number. They are not left out: the means show them.
      n_samples, n_references: samples, and how many different data they are about.
      by_class: loss and accuracy for each value of the root's feature.
      by_datum: for each datum that samples are about: `count` of them, mean `loss` and `accuracy`, and `model_loss`. If
        the explanation is right, these are what the model does, without running it on that datum.
      features: what weakens the test: for each feature `classes`, `smallest`, `singletons`, `self`, `entropy`, `drift`.
      samples: `loss`, `correct`, and the data drawn for each, by `draw`; None unless they were kept.

    Made by `ji.scrub`.
    """

    loss: float
    loss_error: float
    clipped_loss: float
    clipped_error: float
    clip: float
    accuracy: float
    accuracy_error: float
    model_loss: float
    model_accuracy: float
    random_loss: float
    recovered: float
    recovered_error: float
    non_finite: int
    n_samples: int
    n_references: int
    by_class: xr.Dataset
    by_datum: xr.Dataset
    features: xr.Dataset
    samples: xr.Dataset | None

    @property
    def recovered_interval(self) -> tuple[float, float]:
        """95 %, normal."""
        return self.recovered - WIDTH * self.recovered_error, self.recovered + WIDTH * self.recovered_error

    def __str__(self) -> str:
        low, high = self.recovered_interval
        lines = [
            f"recovered      {self.recovered:8.1%}  ({low:.1%} to {high:.1%})",
            f"loss           {self.loss:8.4f} ± {self.loss_error:.4f}  (model {self.model_loss:.4f}, "
            f"random {self.random_loss:.4f})",
            f"clipped at {self.clip:<4g}{self.clipped_loss:8.4f} ± {self.clipped_error:.4f}",
        ]
        if not np.isnan(self.accuracy):
            lines.append(
                f"accuracy       {self.accuracy:8.2%} ± {self.accuracy_error:.2%}  (model {self.model_accuracy:.2%})"
            )
        lines.append(f"samples        {self.n_samples:,} about {self.n_references:,} data")
        if np.isnan(self.recovered) and not self.non_finite:
            lines.append("               no loss lies between the model's and that of other data's outputs")
        if self.non_finite:
            lines.append(f"NOT FINITE     {self.non_finite:,} losses")
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Sums:
    """What is kept of samples, for each reference datum: [datum] each."""

    count: np.ndarray
    loss: np.ndarray
    clipped: np.ndarray
    correct: np.ndarray
    non_finite: np.ndarray


@dataclasses.dataclass(frozen=True)
class Bounds:
    """The graph as it is, and with outputs of other data, for each reference datum: [datum] each."""

    model_loss: np.ndarray
    model_correct: np.ndarray
    random_loss: np.ndarray


def summarise(
    sums: Sums, bounds: Bounds, clip: float, root: Partition, features: xr.Dataset, samples: xr.Dataset | None
) -> ScrubResult:
    """The result, from sums by reference datum."""
    n = sums.count
    total = n.sum()

    def mean(values: np.ndarray) -> tuple[float, float]:
        """(mean, its clustered standard error) of what was summed by datum."""
        centre = values.sum() / total
        return float(centre), _error(values - n * centre, n)

    def over(each: np.ndarray) -> float:
        """The mean of what each datum has, with samples as weights."""
        return float((n * each).sum() / total)

    model, random = over(bounds.model_loss), over(bounds.random_loss)
    loss, loss_error = mean(sums.loss)
    gap = _gap(random, model)
    share = (loss - model) / gap
    influence = sums.loss - n * bounds.model_loss - share * n * (bounds.random_loss - bounds.model_loss)
    of_class = np.bincount(root.codes, n)
    seen = of_class > 0
    by_class: dict[str, tuple[str, np.ndarray]] = {"count": ("class", of_class[seen])}
    for name, each in (("loss", sums.loss), ("accuracy", sums.correct)):
        by_class[name] = ("class", np.bincount(root.codes, each)[seen] / of_class[seen])
    about = np.flatnonzero(n)
    by_datum = {
        "count": ("datum", n[about]), "loss": ("datum", sums.loss[about] / n[about]),
        "accuracy": ("datum", sums.correct[about] / n[about]), "model_loss": ("datum", bounds.model_loss[about]),
    }  # fmt: skip
    names = [str(name) for name, own in zip(root.names, seen, strict=True) if own]
    return ScrubResult(
        loss, loss_error, *mean(sums.clipped), clip, *mean(sums.correct), model, over(bounds.model_correct), random,
        1 - share, _error(influence, n) / abs(gap), int(sums.non_finite.sum()), int(total),
        int((n > 0).sum()),
        xr.Dataset(by_class, coords={"class": names}),
        xr.Dataset(by_datum, coords={"datum": about}),
        features, samples,
    )  # fmt: skip


def recovered_above(result: ScrubResult, floor: ScrubResult) -> tuple[float, float]:
    """(what is recovered if 0 % is another scrub, its standard error): `1 - (loss - model) / (floor's loss - model)`.

    For claims about a part of a model: in the floor that part is resampled, so that 100 % is all that it adds.

    Args:
      result, floor: scrubs about the same references.

    Raises:
      ValueError: they are about others.

    Example:
      >>> from jaxinterp.scrubbing.result import recovered_above
      >>> from jaxinterp.scrubbing.induction import InductionRoles, induction_claim, without_heads
      >>> config = ji.TransformerConfig(n_layers=2, d_model=16, n_heads=2, d_vocab=50, n_ctx=6, attn_only=True)
      >>> two_layers = ji.Transformer(config)
      >>> weights, data = two_layers.init(jax.random.key(0)), {"tokens": tokens, "label": tokens[:, 0]}
      >>> claim = induction_claim(two_layers, weights, data, InductionRoles((1,)))
      >>> floor = without_heads(two_layers, weights, data, (1,))
      >>> scrubbed, floored = (
      ...     ji.scrub(each, weights, data, num_samples=64, key=jax.random.key(0)) for each in (claim, floor)
      ... )
      >>> recovered_above(floored, floored)[0]
      0.0
      >>> share, error = recovered_above(scrubbed, floored)
    """
    n = result.by_datum["count"].values
    if not (result.by_datum.datum.equals(floor.by_datum.datum) and np.array_equal(n, floor.by_datum["count"].values)):
        raise ValueError("result and floor must be about the same references, as often: use the same num_samples")
    loss, zero, model = result.by_datum.loss.values, floor.by_datum.loss.values, result.by_datum.model_loss.values
    gap = _gap(float((n * zero).sum() / n.sum()), float((n * model).sum() / n.sum()))
    share = float((n * (zero - loss)).sum() / n.sum()) / gap
    return share, _error(n * ((zero - loss) - share * (zero - model)), n) / abs(gap)


def recovered_difference(one: ScrubResult, other: ScrubResult) -> tuple[float, float]:
    """(how much more one recovers than the other, its standard error) of two scrubs about the same references."""
    gap, n = one.random_loss - one.model_loss, one.by_datum["count"].values
    each = n * (other.by_datum.loss.values - one.by_datum.loss.values) / gap
    share = each.sum() / n.sum()
    return float(share), _error(each - n * share, n)


def _gap(random: float, model: float) -> float:
    """What there is to recover; NaN if that is nothing but rounding, or not finite."""
    gap = random - model
    return gap if np.isfinite(gap) and abs(gap) > 1e-6 * (abs(random) + abs(model)) else np.nan


def _error(residuals: np.ndarray, n: np.ndarray) -> float:
    """The standard error of a mean over samples, from each cluster's sum of residuals."""
    clusters = int((n > 0).sum())
    if clusters < 2:
        return float("nan")
    return float(np.sqrt(clusters / (clusters - 1) * np.square(residuals).sum()) / n.sum())
