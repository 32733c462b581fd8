from collections import Counter

import pytest

from jaxinterp.tasks.choices import chooser
from jaxinterp.tasks.grammar import compose, expand, fill, grammar, is_symbol, terminals
from jaxinterp.tasks.splits import split_of

RULES = grammar({"TEXT": ("IO NICE", "IO NICE", "S1"), "NICE": ("smiles", "sings COLOR"), "COLOR": ("blue",)})


def test_symbols_are_expanded_and_roles_stay():
    choose = chooser(0)
    texts = Counter(" ".join(expand("TEXT", RULES, choose)) for _ in range(3000))
    assert set(texts) == {"IO smiles", "IO sings blue", "S1"}
    assert all(abs(count - 1000) < 120 for count in texts.values())
    assert terminals(RULES) == {"smiles", "sings", "blue"}


def test_numbered_symbols_stay_the_same_and_differ_from_one_another():
    rules = grammar({"COLOR": ("blue", "red"), "NAME": ("Tom", "Anna", "Max")})
    for seed in range(50):
        a, b, again = compose(["NAME1", "NAME2", "NAME1"], rules, chooser(seed))
        assert a == again != b
    assert compose(["IO", "NAME1"], rules, chooser(0), {"IO": "the king", "NAME1": "Max"}) == ["the", "king", "Max"]


def test_fill_replaces_whole_words():
    assert fill(["IO", "sees", "S1", ",", "IOS"], {"IO": "Mary", "S1": "John"}) == "Mary sees John , IOS"


@pytest.mark.parametrize(
    ("word", "expected"), [("S1", True), ("PLACE", True), ("A", False), ("Mary", False), (",", False)]
)
def test_what_a_symbol_is(word, expected):
    assert is_symbol(word) is expected


def test_choices_depend_on_the_seed_alone():
    def draw(seed):
        choose = chooser(seed)
        return [choose(range(100)) for _ in range(600)]

    assert draw(0) == draw(0) != draw(1)
    assert draw((0, 1)) != draw((1, 0))
    counts = Counter(draw(2))
    assert min(counts) == 0
    assert max(counts) == 99
    assert max(counts.values()) < 20


def test_one_in_ten_combinations_is_held_out():
    splits = Counter(split_of(str(a), str(b)) for a in range(100) for b in range(100))
    assert abs(splits["held_out"] - 1000) < 100
    assert sum(splits.values()) == 10_000
