"""The card of `brackets` on a model that answers the same to everything: every share is known."""

import numpy as np
import pytest

import jaxinterp as ji
from jaxinterp.cards.brackets import card
from jaxinterp.tasks.bracket_strings import KINDS
from jaxinterp.tasks.brackets import brackets


@pytest.mark.parametrize("answer", [0, 1])
def test_a_model_of_one_answer_is_right_about_the_strings_that_have_it(answer):
    model, params, tokenizer = ji.load("brackets")
    logits = 50.0 * (np.arange(2) == answer)
    constant = params | {"W_U": np.zeros_like(params["W_U"]), "b_U": logits.astype(params["b_U"].dtype)}
    measures = card(model, constant, tokenizer, None, n=40, seed=3).measures

    kinds = measures["Held-out strings by kind"]
    assert len(kinds) == len(KINDS) + 1
    for number, (kind, measure) in enumerate(zip(KINDS, kinds, strict=False)):
        drawn = brackets(40, seed=(3, number), split="held_out", kinds=(kind,))
        assert measure.name.startswith(kind)
        assert measure.value == pytest.approx(np.mean(drawn.label == answer))
        assert measure.n == len(set(drawn.strings)), "strings that were drawn twice are one"
        assert measure.low <= measure.value <= measure.high
    assert kinds[-1].value == 1 - answer, "no near miss is balanced"

    for measure in measures["Held-out strings by length"]:
        label = 0 if measure.name.endswith("not balanced") else 1
        assert measure.value == (label == answer)
    mixed = brackets(160, seed=(3, len(KINDS)), split="held_out")
    right = np.mean(mixed.label == answer)
    accuracy, loss, sure = measures["Loss and calibration"]
    assert accuracy.value == pytest.approx(right)
    assert loss.value == pytest.approx(50 * (1 - right), rel=1e-5)
    assert sure.value == pytest.approx(1 - right, abs=1e-6)
