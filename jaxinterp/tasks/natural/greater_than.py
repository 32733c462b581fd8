"""Greater-than for any tokenizer: "The war lasted from the year 1732 to the year 17" -> 33 or any later year.

The task and its corruption are those of Hanna et al. 2023 (arXiv 2305.00586). What can be asked depends on how a
tokenizer writes numbers, because the prompt must end between two tokens of the later year:

- GPT-2 and its kin have most years as century and year, "17" "32": the next token is a *year* of the century.
- Llama 2, Gemma, Mistral and Qwen write each digit, "1" "7" "3" "2": the next token is the *tens* digit. A later digit
  is right and an earlier one wrong; the same digit may be either, so it is in neither set.
- Llama 3 and GPT-4 write three digits at a time, "173" "2", and never stop at "17". The prompt has to give three
  digits of the later year, and the next token is its *units* digit.
"""

from typing import Literal

from tokenizers import Tokenizer

from jaxinterp.tasks.choices import Chooser
from jaxinterp.tasks.natural import words
from jaxinterp.tasks.natural.alignment import Draft, check_answers_follow, encode, next_tokens
from jaxinterp.tasks.natural.collection import NaturalPairs, collect, of_split
from jaxinterp.tasks.splits import Split

Compare = Literal["years", "tens", "units"]

TEMPLATES = (
    "The {NOUN} lasted from the year {XX1}{YY}{REST} to the year {XX2}",
    "The {NOUN} went on from the year {XX1}{YY}{REST} until the year {XX2}",
    "The {NOUN} began in the year {XX1}{YY}{REST} and ended in the year {XX2}",
)

#: For each comparison: what the prompt gives of the later year, and what may follow it.
GIVEN = {
    "years": ([str(century) for century in range(11, 18)], [f"{year:02d}" for year in range(100)]),
    "tens": ([str(century) for century in range(11, 18)], [str(digit) for digit in range(10)]),
    "units": ([str(decade) for decade in range(110, 180)], [str(digit) for digit in range(10)]),
}


def greater_than(
    n: int,
    tokenizer: Tokenizer,
    *,
    seed: int,
    split: Split | None = None,
    compare: Compare | None = None,
    bos: str | None = None,
    alike: bool = False,
) -> NaturalPairs:
    """Prompts whose next token makes a year that is later than one that was named.

    Answers are sets: `pairs.correct` and `pairs.wrong` are `int32[batch, n]`, padded with -1, as `ji.logit_diff` takes
    them (`over_sets="logsumexp"` compares total probabilities). Only tokens that the tokenizer itself would write
    behind the prompt are in them. The corrupted prompt names the earliest year that can be named, after which hardly
    any answer is wrong (00 and 01 of two digits). Positions: `NOUN`, `XX1` (the last token of what the prompt also
    gives of the later year), `YY` (what is compared, of the earlier year), and `END`, the last token.

    ========= =============================================== ============ ============ =====================
    compare   clean prompt                                    correct      wrong        corrupted names
    ========= =============================================== ============ ============ =====================
    "years"   from the year 1732 to the year 17               33 ... 99    00 ... 32    1701
    "tens"    from the year 1732 to the year 17               4 ... 9      0 ... 2      1701
    "units"   from the year 1732 to the year 173              3 ... 9      0 ... 2      1730
    ========= =============================================== ============ ============ =====================

    Args:
      n: how many.
      tokenizer: any; its own rules decide what a token is.
      seed: decides everything else; a longer list starts with the shorter one of the same seed.
      split: events of "held_out" (one in ten, by hash) and of "train" never meet; `None` has all of them.
      compare: what the next token is; `None` takes the first of "years", "tens", "units" that the tokenizer allows.
      bos: the special token in front: `None` leaves it to the tokenizer's post-processor, a token ("<|endoftext|>")
        puts that one there and no other, "" none.
      alike: only prompts with as many tokens and the same positions, so that a position means one thing in all.

    Raises:
      ValueError: an option that does not exist, `n` below 1, a tokenizer that cannot be used, or one that does not
        write years so that they can be compared; says how it writes them.

    Example:
      >>> from tokenizers import Tokenizer, models, pre_tokenizers
      >>> words = "<unk> The war lasted from the year to 0 1 2 3 4 5 6 7 8 9".split()
      >>> tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
      >>> digits = pre_tokenizers.Digits(individual_digits=True)
      >>> tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), digits])
      >>> task = ji.tasks.natural.greater_than(2, tokenizer, seed=0)
      >>> text = task.texts[0]
      >>> text.clean
      'The war lasted from the year 1724 to the year 17'
      >>> text.correct, text.wrong
      (('3', '4', '5', '6', '7', '8', '9'), ('0', '1'))
      >>> text.corrupted
      'The war lasted from the year 1701 to the year 17'
      >>> metric = ji.logit_diff(task.pairs.correct, task.pairs.wrong)
    """
    if compare is not None and compare not in GIVEN:
        raise ValueError(f"unknown compare {compare!r}; expected one of: {', '.join(GIVEN)}, None")
    check_answers_follow(tokenizer, bos)
    events = of_split(words.EVENTS, split, key=lambda noun: (noun,))
    possible = {kind: _endings(tokenizer, kind) for kind in ([compare] if compare else GIVEN)}
    kind = next((kind for kind, endings in possible.items() if endings), None)
    if kind is None:
        digits = {None: "2 or 3", "units": "3"}.get(compare, "2")
        written = " ".join(map(repr, encode(tokenizer, "to the year 1732", "").strings))
        raise ValueError(
            f"greater_than with compare={compare!r} needs years that are {digits} digits and one more token; this "
            f"tokenizer writes 'to the year 1732' as {written}"
            + (": compare=None takes what it allows" if compare else "")
        )
    endings = possible[kind]

    def draw(choose: Chooser) -> Draft:
        given = choose(tuple(endings))
        later = endings[given]
        first = "01" if kind == "years" else "0"
        # Of each year that is named, some year must be later, and none that is named is the corrupted prompt's.
        named = choose([year for year in later if first < year < later[-1]])
        # A year of the tens digit that was named may be earlier or later.
        rest, first_rest = (choose("0123456789"), "1") if kind == "tens" else ("", "")
        wrong = [year for year in later if year < named or (year == named and kind != "tens")]
        noun = choose(events)
        return Draft(
            choose(TEMPLATES),
            clean={"NOUN": noun, "XX1": given, "YY": named, "REST": rest, "XX2": given},
            corrupted={"NOUN": noun, "XX1": given, "YY": first, "REST": first_rest, "XX2": given},
            correct=tuple(year for year in later if year > named),
            wrong=tuple(wrong),
            roles={"NOUN": ("NOUN", "last"), "XX1": ("XX1", "last"), "YY": ("YY", "last")},
            single=("YY",),
        )

    left_out = {
        "years that are not split where the prompt ends": tuple(
            given + ending
            for given in GIVEN[kind][0]
            for ending in GIVEN[kind][1]
            if ending not in endings.get(given, ())
        )
    }
    return collect(
        "greater_than", n, seed, draw, tokenizer, bos=bos, alike=alike, words_left_out=left_out, answer_sets=True
    )


def _endings(tokenizer: Tokenizer, kind: str) -> dict[str, list[str]]:
    """What one token can add to each beginning of a year, in order; only where there is something to compare."""
    givens, candidates = GIVEN[kind]
    first = "01" if kind == "years" else "0"
    found = {}
    for given in givens:
        tokens = next_tokens(tokenizer, f"to the year {given}", candidates)
        endings = [ending for ending, token in zip(candidates, tokens, strict=True) if token is not None]
        if first in endings and len([ending for ending in endings if ending > first]) > 1:
            found[given] = endings
    return found
