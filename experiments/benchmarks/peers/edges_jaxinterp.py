"""jaxinterp, asked as a peer is: in a process of its own, whose memory is nobody else's."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from peers.edges import Question, Ways, work

import jaxinterp as ji


def prepare(question: Question) -> Ways:
    job, rule = question.job, question.rule
    model = ji.Transformer(ji.TransformerConfig(**job.sizes))
    params = {name: jnp.asarray(weight) for name, weight in job.weights.items()}
    metric = ji.logit_diff(job.correct, job.wrong)
    how: dict[str, Any] = {} if rule is None else {"method": "eap_ig", "rule": rule, "steps": len(question.fractions)}

    def forward() -> Any:
        return model.apply(params, question.base)[0].block_until_ready()

    def score() -> np.ndarray:
        return ji.edge_attribution(
            model, params, question.base, question.source, metric=metric, progress=False, **how
        ).scores.values

    return forward, score


if __name__ == "__main__":
    work(prepare)
