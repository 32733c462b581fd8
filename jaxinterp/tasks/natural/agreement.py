"""Subject-verb agreement for any tokenizer: "The author near the guards" -> is.

The four structures are among those of Marvin & Linzen 2018 (arXiv 1808.09031): a verb agrees with its subject,
whatever noun of the other number stands nearer to it or further out.
"""

from typing import Literal

from tokenizers import Tokenizer

from jaxinterp.tasks.choices import Chooser
from jaxinterp.tasks.natural import words
from jaxinterp.tasks.natural.alignment import Draft, check_answers_follow
from jaxinterp.tasks.natural.collection import NaturalPairs, collect, of_split, one_token_words, require
from jaxinterp.tasks.splits import Split

Structure = Literal["simple", "across_pp", "within_rc", "across_rc"]

#: What stands between subject and verb: nothing, a prepositional phrase, nothing but inside a relative clause about
#: another noun, or a relative clause (in the past tense, which says nothing about number).
TEMPLATES = {
    "simple": (
        "The {SUBJECT}",
        "I think that the {SUBJECT}",
        "Everyone knows that the {SUBJECT}",
        "They told us that the {SUBJECT}",
    ),
    "across_pp": (
        "The {SUBJECT} near the {ATTRACTOR}",
        "The {SUBJECT} behind the {ATTRACTOR}",
        "The {SUBJECT} next to the {ATTRACTOR}",
        "The {SUBJECT} in front of the {ATTRACTOR}",
        "I think that the {SUBJECT} with the {ATTRACTOR}",
    ),
    "within_rc": (
        "The {ATTRACTOR} that the {SUBJECT}",
        "The {ATTRACTOR} whom the {SUBJECT}",
        "I met the {ATTRACTOR} that the {SUBJECT}",
    ),
    "across_rc": (
        "The {SUBJECT} that the {ATTRACTOR} {PAST}",
        "The {SUBJECT} that {PAST} the {ATTRACTOR}",
        "The {SUBJECT} whom the {ATTRACTOR} {PAST}",
        "I think that the {SUBJECT} that {PAST} the {ATTRACTOR}",
    ),
}


def agreement(
    n: int,
    tokenizer: Tokenizer,
    *,
    seed: int,
    split: Split | None = None,
    structure: Structure | None = None,
    bos: str | None = None,
    alike: bool = False,
) -> NaturalPairs:
    """Prompts whose next token is a verb that agrees with its subject.

    The corrupted prompt has the subject in the other number and is otherwise the same. In the clean prompt the other
    noun, where there is one, is of the opposite number. Nouns in both numbers and verbs in both forms are one token
    each; those that are not are left out. Positions: `SUBJECT`, `ATTRACTOR` (the other noun, where every prompt has
    one), and `END`, the last token.

    Args:
      n: how many.
      tokenizer: any; its own rules decide what a token is.
      seed: decides everything else; a longer list starts with the shorter one of the same seed.
      split: nouns of "held_out" (one in ten, by hash) and of "train" never meet; `None` has all of them.
      structure: "simple", "across_pp" ("The author near the guards" -> is), "within_rc" ("The guards that the author"
        -> likes), "across_rc" ("The author that the guards saw" -> is), or `None` for all four.
      bos: the special token in front: `None` leaves it to the tokenizer's post-processor, a token ("<|endoftext|>")
        puts that one there and no other, "" none.
      alike: only prompts with as many tokens and the same positions, so that a position means one thing in all.

    Raises:
      ValueError: an option that does not exist, `n` below 1, a tokenizer that cannot be used, or that leaves fewer
        than two nouns, or no verbs, of one token.

    Example:
      >>> from tokenizers import Tokenizer, models, pre_tokenizers
      >>> words = "<unk> The author authors guard guards near the is are likes like".split()
      >>> tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
      >>> tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
      >>> task = ji.tasks.natural.agreement(3, tokenizer, seed=0, structure="across_pp")
      >>> task.texts[0].clean, task.texts[0].correct, task.texts[0].wrong
      ('The guard near the authors', (' is',), (' are',))
      >>> task.pairs.clean.roles["ATTRACTOR"]
      array([4, 4, 4])
    """
    if structure is not None and structure not in TEMPLATES:
        raise ValueError(f"unknown structure {structure!r}; expected one of: {', '.join(TEMPLATES)}, None")
    check_answers_follow(tokenizer, bos)
    options = of_split(words.NOUNS, split, key=lambda noun: noun)
    nouns, nouns_left = one_token_words(tokenizer, options, forms=lambda noun: noun)
    require("agreement", "nouns", nouns, 2, nouns_left)
    kinds: tuple[str, ...] = (structure,) if structure else tuple(TEMPLATES)
    verbs: dict[str, tuple[tuple[str, str], ...]] = {}
    verbs_left: tuple[str, ...] = ()
    for kind, structures, pairs in (
        ("auxiliaries", {"simple", "across_pp", "across_rc"}, words.AUXILIARIES),
        ("transitive verbs", {"within_rc"}, words.TRANSITIVES),
    ):
        if structures & set(kinds):
            kept, left = one_token_words(tokenizer, pairs, forms=lambda verb: verb)
            require("agreement", kind, kept, 1, left)
            verbs |= dict.fromkeys(structures, kept)
            verbs_left += left

    def draw(choose: Chooser) -> Draft:
        kind = choose(kinds)
        template = choose(TEMPLATES[kind])
        subject, number, verb = choose(nouns), choose((0, 1)), choose(verbs[kind])
        attractor = choose([noun for noun in nouns if noun is not subject])[1 - number]
        rest = {"ATTRACTOR": attractor, "PAST": choose(words.PAST)}
        roles = [role for role in ("SUBJECT", "ATTRACTOR") if f"{{{role}}}" in template]
        return Draft(
            template,
            clean={"SUBJECT": subject[number]} | rest,
            corrupted={"SUBJECT": subject[1 - number]} | rest,
            correct=(f" {verb[number]}",),
            wrong=(f" {verb[1 - number]}",),
            roles={role: (role, "last") for role in roles},
            single=("SUBJECT", "ATTRACTOR"),
        )

    left_out = {"nouns that are not one token": nouns_left, "verbs that are not one token": verbs_left}
    return collect("agreement", n, seed, draw, tokenizer, bos=bos, alike=alike, words_left_out=left_out)
