"""Reflexives: "Mary , who had seen John at the park , hurt" -> herself: the one who acts, not the one named last."""

from collections.abc import Mapping

from jaxinterp.tasks.choices import Chooser
from jaxinterp.tasks.english import vocabulary as v
from jaxinterp.tasks.english.phrases import PHRASES, companions
from jaxinterp.tasks.grammar import compose, fill, grammar
from jaxinterp.tasks.pairs import PromptPair, draw_pairs
from jaxinterp.tasks.splits import Split, split_of

#: ACTOR hurts himself or herself; OTHER is of the other gender, named before or after.
TEMPLATES: Mapping[Split, tuple[str, ...]] = {
    "train": (
        "LEAD ACTOR , who had seen OTHER AT , HURT",
        "LEAD ACTOR saw OTHER AT and HURT",
        "LEAD when OTHER came to the PLACE , ACTOR , who was AT , HURT",
        "LEAD OTHER was MOOD because ACTOR , the PERSON AT , HURT",
        "LEAD OTHER and the PERSON said that ACTOR AT often HURT",
        "LEAD ACTOR , who KNEW OTHER AT , often HURT",
        "LEAD ACTOR , like OTHER AT , HURT",
        "LEAD IF OTHER DID , ACTOR HURT",
        "LEAD IF ACTOR KNEW OTHER AT , ACTOR HURT",
        "LEAD OTHER DID AT . then ACTOR HURT",
        "LEAD ACTOR KNEW OTHER AT . but ACTOR HURT",
        "LEAD ACTOR , because OTHER DID AT , HURT",
        "LEAD OTHER KNEW ACTOR , who AT HURT",
        "LEAD OTHER knows that ACTOR , the friend of the PERSON AT , HURT",
        "LEAD the PERSON told OTHER AT that ACTOR HURT",
        "LEAD OTHER , said the PERSON , KNEW ACTOR AT , and ACTOR HURT",
        "LEAD ACTOR DID and ( OTHER KNEW it ) TIME HURT",
        "LEAD ACTOR and not OTHER AT HURT",
        "LEAD ACTOR , about whom OTHER talked AT , HURT",
        "LEAD ACTOR , to whom OTHER had told it AT , often HURT",
        "LEAD the PERSON whom OTHER KNEW AT said that ACTOR HURT",
        "LEAD OTHER , whom the PERSON KNEW AT , said that ACTOR HURT",
        "LEAD OTHER , whom ACTOR KNEW AT , knows that ACTOR HURT",
        "LEAD with OTHER AT , ACTOR HURT",
        "LEAD ACTOR went home with OTHER and TIME HURT",
        "LEAD ACTOR DID with OTHER AT , and then HURT",
        "LEAD the RELATIVE of OTHER said AT that ACTOR HURT",
        "LEAD IF OTHER was AT , ACTOR HURT",
        "LEAD ACTOR , whom OTHER had met AT , ADVERB HURT",
        "LEAD while OTHER was AT , ACTOR AT ADVERB HURT",
        "LEAD the RELATIVE of OTHER heard TIME that ACTOR , who worked AT , HURT",
        "LEAD ACTOR DID , and then , TIME , with OTHER AT , HURT",
    ),
    "held_out": (
        "LEAD ACTOR , whom the RELATIVE of OTHER KNEW AT , ADVERB HURT",
        "LEAD while the PERSON AT talked to OTHER , ACTOR , who had worked AT , HURT",
        "LEAD OTHER heard AT from the PERSON that ACTOR AT HURT",
        "LEAD ACTOR , IF OTHER DID AT , ADVERB HURT",
    ),
}

RULES = PHRASES | grammar(
    {
        # From two words to twenty.
        "AT": (
            "in LAND",
            "at the PLACE",
            "at the QUALITY PLACE",
            "near the PLACE of CITY",
            "at the PLACE on the last WEEKDAY",
            "at the PLACE or AT",
            "in LAND or , so they say , AT",
            "at the PLACE near the VQUALITY PLACE of CITY",
        ),
        "KNEW": ("saw", "knew", "met", "heard", "followed", "asked", "waited for"),
        "IF": ("when", "because", "after", "before", "as soon as"),
        "HURT": ("hurt", "praised", "blamed", "admired", "defended", "saw"),
    }
)


def draw_reflexive(choose: Chooser, split: Split = "train") -> PromptPair:
    """One pair of `reflexives`, drawn from a seeded chooser.

    Example:
      >>> from jaxinterp.tasks.choices import chooser
      >>> draw_reflexive(chooser(0)).correct in ("himself", "herself")
      True
    """
    while True:
        woman, man = choose(v.WOMEN), choose(v.MEN)
        if split_of("reflexive", woman, man) == split and companions(woman, [man]):
            break
    roles = {"ACTOR": woman, "OTHER": man}
    correct, wrong = "herself", "himself"
    if choose((True, False)):
        roles = {"ACTOR": man, "OTHER": woman}
        correct, wrong = wrong, correct
    words = compose(choose(TEMPLATES[split]).split(), RULES, choose)
    return PromptPair(
        clean=fill(words, roles),
        corrupted=fill(words, {"ACTOR": roles["OTHER"], "OTHER": roles["ACTOR"]}),
        correct=correct,
        wrong=wrong,
        positions={"ACTOR": words.index("ACTOR"), "OTHER": words.index("OTHER"), "END": len(words) - 1},
    )


def reflexives(n: int, *, seed: int, split: Split = "train") -> list[PromptPair]:
    """Prompts with a woman and a man in them whose next word is "herself" or "himself".

    In the corrupted prompt the two change places. Positions: `ACTOR`, `OTHER`, `END`.

    Args:
      n: how many.
      seed: decides everything else; a longer list starts with the shorter one of the same seed.
      split: the two names, and the forms of the sentences, are in one split only.

    Raises:
      TypeError, ValueError: an `n`, a seed or a split that is none.

    Example:
      >>> pair = reflexives(1, seed=0)[0]
      >>> (pair.clean.split()[pair.positions["ACTOR"]] in v.WOMEN) == (pair.correct == "herself")
      True
    """
    return draw_pairs(n, seed, split, lambda choose: draw_reflexive(choose, split))
