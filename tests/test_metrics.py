"""Metrics against their formulas, answer sets, declared columns, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxinterp as ji
from jaxinterp.metrics import check_metric, score
from jaxinterp.model.where import Geometry

LOGITS = jax.random.normal(jax.random.key(0), (3, 5, 11))
LOG_PROBS = np.asarray(jax.nn.log_softmax(LOGITS))
LAST = np.asarray(LOGITS)[:, -1]
MASK = jnp.asarray(np.arange(5) < np.array([[5], [3], [2]]))


def value(metric, mask=None):
    geometry = Geometry(3, 5, mask)
    check_metric(metric, geometry, 11)
    return np.asarray(score(metric, LOGITS, {}, geometry))


def test_logit_diff():
    one = value(ji.logit_diff([1, 2, 3], [4, 5, 6]))
    np.testing.assert_allclose(one, LAST[[0, 1, 2], [1, 2, 3]] - LAST[[0, 1, 2], [4, 5, 6]], rtol=1e-6)
    np.testing.assert_allclose(value(ji.logit_diff(1, 4)), LAST[:, 1] - LAST[:, 4], rtol=1e-6)
    np.testing.assert_allclose(value(ji.logit_diff(1, [4, 5, 6])), LAST[:, 1] - LAST[[0, 1, 2], [4, 5, 6]], rtol=1e-6)
    sets = value(ji.logit_diff([[1, 7], [2], [3, 8, 9]], [[4], [5, 0], [6]]))
    want = [
        LAST[0, [1, 7]].mean() - LAST[0, 4],
        LAST[1, 2] - LAST[1, [5, 0]].mean(),
        LAST[2, [3, 8, 9]].mean() - LAST[2, 6],
    ]
    np.testing.assert_allclose(sets, want, rtol=1e-5)
    probs = value(ji.log_prob([1, 2, 3])) - value(ji.log_prob([4, 5, 6]))
    np.testing.assert_allclose(one, probs, rtol=1e-5, err_msg="a difference of logits is one of log-probabilities")


def test_positions_are_each_prompts_own():
    ends = value(ji.logit_diff(1, 4), MASK)
    np.testing.assert_allclose(ends, [LOGITS[b, e, 1] - LOGITS[b, e, 4] for b, e in enumerate((4, 2, 1))], rtol=1e-6)
    picked = value(ji.logit_diff(1, 4, pos=ji.per_example([0, 2, 1])), MASK)
    np.testing.assert_allclose(picked, [LOGITS[b, e, 1] - LOGITS[b, e, 4] for b, e in enumerate((0, 2, 1))], rtol=1e-6)


def test_probabilities_and_rank():
    last = LOG_PROBS[:, -1]
    np.testing.assert_allclose(value(ji.log_prob([1, 2, 3])), last[[0, 1, 2], [1, 2, 3]], rtol=1e-5)
    np.testing.assert_allclose(value(ji.prob([1, 2, 3])), np.exp(last[[0, 1, 2], [1, 2, 3]]), rtol=1e-5)
    total = np.exp(last[0, [1, 7]]).sum()
    np.testing.assert_allclose(value(ji.prob([[1, 7], [2], [3]]))[0], total, rtol=1e-5)
    np.testing.assert_allclose(value(ji.log_prob([[1, 7], [2], [3]]))[0], np.log(total), rtol=1e-5)
    want = [(LAST[b] > LAST[b, t]).sum() for b, t in enumerate((1, 2, 3))]
    np.testing.assert_array_equal(value(ji.rank([1, 2, 3])), want)


def test_one_answer_for_all_prompts_and_sums_over_sets():
    for make in (ji.log_prob, ji.prob, ji.rank):
        np.testing.assert_allclose(value(make(3)), value(make([3, 3, 3])), rtol=1e-6)
    odds = value(ji.logit_diff([[1, 7], [2], [3]], [[4], [5, 0], [6]], over_sets="logsumexp"))
    want = np.log(np.exp(LAST[0, [1, 7]]).sum()) - LAST[0, 4]
    np.testing.assert_allclose(odds[0], want, rtol=1e-5)


def test_cross_entropy_and_kl():
    targets = np.array([[1, 2, 3, 4, -1], [5, -1, -1, -1, -1], [0, 0, 0, 0, 0]])
    want = [-LOG_PROBS[0, range(4), [1, 2, 3, 4]].mean(), -LOG_PROBS[1, 0, 5], -LOG_PROBS[2, :, 0].mean()]
    np.testing.assert_allclose(value(ji.cross_entropy(targets)), want, rtol=1e-5)
    answer = ji.cross_entropy([[1, 2], [3, -1], [4, 5]], pos=ji.per_example([[0, 1], [2, 2], [3, 4]]))
    want = [-LOG_PROBS[0, [0, 1], [1, 2]].mean(), -LOG_PROBS[1, 2, 3], -LOG_PROBS[2, [3, 4], [4, 5]].mean()]
    np.testing.assert_allclose(value(answer), want, rtol=1e-5)
    np.testing.assert_allclose(value(ji.kl_divergence(LOGITS[:, -1])), 0, atol=1e-6)
    other = jnp.roll(LOGITS, 1, axis=-1)
    p, q = np.asarray(jax.nn.log_softmax(other))[:, -1], LOG_PROBS[:, -1]
    np.testing.assert_allclose(value(ji.kl_divergence(other[:, -1:])), (np.exp(p) * (p - q)).sum(-1), rtol=1e-4)


def test_a_metric_is_a_pytree_and_new_answers_do_not_recompile():
    traces = []

    @jax.jit
    def run(metric):
        traces.append(1)
        return score(metric, LOGITS, {}, Geometry(3, 5))

    for answers in ([1, 2, 3], [4, 5, 6]):
        run(ji.logit_diff(answers, [7, 8, 9]))
    assert len(traces) == 1


CASES = {
    "position": (lambda: ji.logit_diff(1, 2, pos=5), "metric reads position 5 of prompt 0"),
    "beyond a prompt's end": (lambda: ji.logit_diff(1, 2, pos=3), "position 3 of prompt 1: it has 3 tokens"),
    "before its start": (lambda: ji.logit_diff(1, 2, pos=-4), "position -4 of prompt 1: it has 3 tokens"),
    "per example": (lambda: ji.logit_diff(1, 2, pos=ji.per_example([4, 2, 2])), "position 2 of prompt 2"),
    "batch": (lambda: ji.logit_diff([1, 2], [3, 4]), r"shape \(2, 2\) must lead with batch = 3"),
    "column": (
        lambda: ji.logit_diff(1, 11),
        "reads column 11; the logits have 11 columns|token id 11, out of vocabulary",
    ),
    "lengths": (lambda: ji.logit_diff([1, 2, 3], [1, 2]), "answers for 3 prompts, wrong for 2"),
    "text": (lambda: ji.logit_diff(["Mary"], ["John"]), "must be token ids"),
    "empty set": (lambda: ji.logit_diff([[1], [], [2]], [1, 2, 3]), "empty answer set at prompt 1"),
    "negative token": (lambda: ji.logit_diff([-2, 1, 2], 3), "token ids are not negative"),
    "only padding": (lambda: ji.log_prob(np.array([-1, 1, 2])), "token ids are not negative"),
    "beyond the vocabulary": (lambda: ji.log_prob([1, 2, 99]), "token id 99, out of vocabulary: the logits have 11"),
    "rank beyond it": (lambda: ji.rank([1, 2, 99]), "token id 99, out of vocabulary"),
    "targets beyond it": (lambda: ji.cross_entropy(np.full((3, 5), 11)), "token id 11, out of vocabulary"),
    "a token twice": (lambda: ji.prob([[1, 1], [2], [3]]), "names a token twice"),
    "floats in sets": (lambda: ji.logit_diff([[1.7], [2], [3]], 4), "must be token ids"),
    "text in sets": (lambda: ji.logit_diff([["1"], ["2"], ["3"]], 4), "must be token ids"),
    "targets and positions": (
        lambda: ji.cross_entropy([[1, 2]] * 3, pos=-1),
        "targets hold 2 tokens per prompt, 1 positions",
    ),
    "reference and positions": (
        lambda: ji.kl_divergence(np.zeros((3, 2, 11))),
        r"are \[2, 11\] per prompt, \[1, 11\] are read",
    ),
    "NaN reference": (lambda: ji.kl_divergence(np.full((3, 11), np.nan)), "NaN or infinite"),
    "over_sets": (lambda: ji.logit_diff(1, 2, over_sets="max"), "unknown over_sets 'max'"),
    "no function": (lambda: ji.Metric(3), "expects a function first"),
    "capture": (lambda: ji.Metric(len, capture="z"), "got the string 'z'"),
    "no metric": (lambda: len, "expects a ji.Metric"),
    "targets": (lambda: ji.cross_entropy([1, 2, 3]), "targets must be"),
    "no target": (lambda: ji.cross_entropy([[1], [-1], [2]]), "without any target"),
    "reference": (lambda: ji.kl_divergence(np.zeros(3)), "reference_logits must be"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_metrics(case):
    make, message = CASES[case]
    with pytest.raises((ValueError, TypeError), match=message):
        check_metric(make(), Geometry(3, 5, MASK), 11)


def test_a_metric_returns_one_number_per_prompt():
    with pytest.raises(ValueError, match=r"one number per prompt, \(3,\), got \(3, 5, 11\)"):
        value(ji.Metric(lambda logits, cache: logits))
