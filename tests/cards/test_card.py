"""What a card is written to, and how its figures and their intervals are told."""

import numpy as np
import pytest

from jaxinterp.cards.card import Card, Measure, check_folder, loss_figure, proportion, ratio
from jaxinterp.cards.make import make_card
from jaxinterp.cli import main
from jaxinterp.training import TrainingRecord


def test_a_card_replaces_itself_and_nothing_else(tmp_path):
    card = Card("small", "A model.", {"Figures": [proportion("right", [True, False])]}, "")
    card.write(tmp_path / "new")
    assert card.write(tmp_path / "new") == [tmp_path / "new" / "README.md"]
    assert not list((tmp_path / "new").glob(".*")), "nothing partial is left"
    (tmp_path / "README.md").write_text("# smaller\n\nsomebody's own words\n")
    with pytest.raises(ValueError, match=r"README\.md is not a card of 'small': give another folder"):
        card.write(tmp_path)
    assert "own words" in (tmp_path / "README.md").read_text()
    assert main(["card", "brackets", "--n", "4", "--output", str(tmp_path)]) == 2
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file is no folder"):
        check_folder(tmp_path / "file", "small")


def test_a_card_replaces_no_drawing_that_is_not_its_own(tmp_path):
    (tmp_path / "loss.png").write_text("somebody's own")
    record = TrainingRecord({}, 50, 0.1, 0.1, (3.0, 2.0), "")
    card = Card("small", "A model.", {}, "", {"loss.png": (loss_figure(record), "losses")})
    with pytest.raises(ValueError, match=r"loss\.png is of no card"):
        card.write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["loss.png"]
    assert (tmp_path / "loss.png").read_text() == "somebody's own"


def test_cases_that_are_right_or_wrong_together_count_once():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(100), 20)
    together = np.repeat(rng.random(100) < 0.4, 20)
    apart, clustered = proportion("all", together), proportion("all", together, groups=groups)
    assert apart.value == clustered.value
    assert clustered.n == 100
    widths = [each.high - each.low for each in (apart, clustered)]
    # the interval of 100 cases, not of 2,000: wider by the root of 20
    assert widths[1] / widths[0] == pytest.approx(20**0.5, rel=0.15)
    shuffled = rng.permutation(groups)
    many = proportion("all", rng.random(2000) < 0.4, groups=shuffled)
    assert many.high - many.low == pytest.approx(widths[0], rel=0.2), "where groups mean nothing, as many as there are"
    right = proportion("all", np.ones(2000, bool), groups=groups)
    assert (right.low, right.high) == pytest.approx((proportion("all", np.ones(100, bool)).low, 1)), "one case a group"


def test_small_numbers_are_told():
    assert "2.1e-06 nats (-1.0e-07 to 4.3e-06)" in Measure("loss", 2.1e-6, -1e-7, 4.3e-6, 10).row()
    assert "0.012 nats" in Measure("loss", 0.0123, 0.01, 0.02, 10).row()
    assert "| 0.000 nats" in Measure("loss", 0.0, 0.0, 0.0, 10).row()


def test_what_was_written_by_hand_ends_the_card(tmp_path):
    import jaxinterp as ji

    model, params, tokenizer = ji.load("brackets")
    ji.save(tmp_path, model, params, tokenizer)
    (tmp_path / "notes.md").write_text("## What is missing\n\nNothing that we know of.\n")
    assert make_card("brackets", tmp_path, n=4).markdown().split("\n\n![")[0].endswith("Nothing that we know of.")
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        make_card("brackets", n=0)
    with pytest.raises(ValueError, match="no model of attention alone"):
        make_card("induction", "english")


def test_a_ratio_of_sums_has_the_interval_of_a_large_sample():
    rng = np.random.default_rng(0)
    under = rng.uniform(1, 3, (400, 2))
    over = under * [0.5, 2.0] + rng.normal(0, [0.1, 0.4], (400, 2))
    value, low, high = ratio(over, under)
    np.testing.assert_allclose(value, over.sum(0) / under.sum(0))
    spread = (over - value * under).std(0) / under.mean(0) / 20
    np.testing.assert_allclose((high - low) / (2 * 1.96 * spread), 1, rtol=0.1)
    assert (low < value).all()
    assert (value < high).all()
