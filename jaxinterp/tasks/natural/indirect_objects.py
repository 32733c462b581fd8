"""Indirect objects for any tokenizer: "When Mary and John went to the store, John gave a drink to" -> Mary.

The task, its two orders and the names of its positions are those of Wang et al. 2023 (arXiv 2211.00593).
"""

from tokenizers import Tokenizer

from jaxinterp.tasks.choices import Chooser
from jaxinterp.tasks.english.indirect_objects import ROLES, Corruption, Order
from jaxinterp.tasks.natural import words
from jaxinterp.tasks.natural.alignment import Draft, check_answers_follow
from jaxinterp.tasks.natural.collection import NaturalPairs, collect, of_split, one_token_words, require
from jaxinterp.tasks.splits import Split

#: No template begins with a name: many tokenizers write the first word of a text differently.
TEMPLATES = (
    "When {FIRST} and {SECOND} went to the {PLACE}, {S2} gave a {OBJECT} to",
    "After {FIRST} and {SECOND} arrived at the {PLACE}, {S2} handed a {OBJECT} to",
    "While {FIRST} and {SECOND} were waiting outside the {PLACE}, {S2} passed a {OBJECT} to",
    "As {FIRST} and {SECOND} drove home from the {PLACE}, {S2} offered a {OBJECT} to",
    "Once {FIRST} and {SECOND} had left the {PLACE}, {S2} sent a {OBJECT} to",
    "Yesterday {FIRST} and {SECOND} met at the {PLACE}, and {S2} lent a {OBJECT} to",
    "Last week {FIRST} and {SECOND} cleaned the {PLACE} together, and {S2} gave a {OBJECT} to",
    "Then {FIRST} and {SECOND} had lunch near the {PLACE}. Later {S2} brought a {OBJECT} to",
    "On Sunday {FIRST} and {SECOND} walked past the {PLACE}, where {S2} showed a {OBJECT} to",
    "At the {PLACE}, {FIRST} and {SECOND} had an argument, and afterwards {S2} gave a {OBJECT} to",
    "The {PLACE} was closed when {FIRST} and {SECOND} came by, so {S2} handed a {OBJECT} to",
    "It was late when {FIRST} and {SECOND} got back from the {PLACE}, but {S2} still gave a {OBJECT} to",
)


def indirect_objects(
    n: int,
    tokenizer: Tokenizer,
    *,
    seed: int,
    split: Split | None = None,
    order: Order | None = None,
    corruption: Corruption = "swap",
    bos: str | None = None,
    alike: bool = False,
) -> NaturalPairs:
    """Prompts whose next token is the one of two people who has not been named twice.

    Names, places and objects are one token each; those that are not are left out. Positions: `IO`, `S1`, `S1+1` (the
    token after), `S2`, and `END`, the last token.

    Args:
      n: how many.
      tokenizer: any; its own rules decide what a token is.
      seed: decides everything else; a longer list starts with the shorter one of the same seed.
      split: names of "held_out" (one in ten, by hash) and of "train" never meet; `None` has all of them.
      order: "ABBA" (receiver named first), "BABA" (giver named first), or `None` for both.
      corruption: "swap" puts the receiver's name at S2: one token differs and the two answers change places. "abc"
        puts three fresh names at IO, S1 and S2, so that nothing says who receives; the contrast answer is then the
        clean prompt's giver.
      bos: the special token in front: `None` leaves it to the tokenizer's post-processor, a token ("<|endoftext|>")
        puts that one there and no other, "" none.
      alike: only prompts with as many tokens and the same positions, so that a position means one thing in all.

    Raises:
      ValueError: an option that does not exist, `n` below 1, a tokenizer that cannot be used, or that leaves fewer
        than two names of one token (five for "abc"), no place or no object.

    Example:
      >>> from tokenizers import Tokenizer, models, pre_tokenizers
      >>> words = "<unk> When Mary and John went to the store , gave a drink Tom".split()
      >>> tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
      >>> tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
      >>> task = ji.tasks.natural.indirect_objects(8, tokenizer, seed=0)
      >>> task.texts[0].clean
      'When Mary and Tom went to the store, Tom gave a drink to'
      >>> task.texts[0].correct, task.texts[0].wrong, task.pairs.clean.tokens.shape
      ((' Mary',), (' Tom',), (8, 14))
      >>> task.left_out["names that are not one token"]
      106
      >>> metric = ji.logit_diff(task.pairs.correct, task.pairs.wrong)
    """
    if order not in (None, "ABBA", "BABA"):
        raise ValueError(f"unknown order {order!r}; expected one of: ABBA, BABA, None")
    if corruption not in ("swap", "abc"):
        raise ValueError(f"unknown corruption {corruption!r}; expected one of: swap, abc")
    check_answers_follow(tokenizer, bos)
    pools: dict[str, tuple[str, ...]] = {}
    left_out: dict[str, tuple[str, ...]] = {}
    names_needed = 2 if corruption == "swap" else 5
    for kind, options, at_least in (
        ("names", of_split(words.NAMES, split, key=lambda name: (name,)), names_needed),
        ("places", words.PLACES, 1),
        ("objects", words.OBJECTS, 1),
    ):
        pools[kind], left = one_token_words(tokenizer, options, forms=lambda word: (word,))
        require("indirect_objects", kind, pools[kind], at_least, left)
        left_out[f"{kind} that are not one token"] = left

    def draw(choose: Chooser) -> Draft:
        first, second = ("IO", "S1") if (order or choose(("ABBA", "BABA"))) == "ABBA" else ("S1", "IO")
        template = choose(TEMPLATES).replace("{FIRST}", f"{{{first}}}").replace("{SECOND}", f"{{{second}}}")
        names: list[str] = []
        while len(names) < names_needed:
            if (name := choose(pools["names"])) not in names:
                names.append(name)
        receiver, giver, *fresh = names
        rest = {"PLACE": choose(pools["places"]), "OBJECT": choose(pools["objects"])}
        return Draft(
            template,
            clean={"IO": receiver, "S1": giver, "S2": giver} | rest,
            corrupted=dict(zip(ROLES, fresh or (receiver, giver, receiver), strict=True)) | rest,
            correct=(f" {receiver}",),
            wrong=(f" {giver}",),
            roles={"IO": ("IO", "last"), "S1": ("S1", "last"), "S1+1": ("S1", "after"), "S2": ("S2", "last")},
            single=ROLES,
        )

    return collect("indirect_objects", n, seed, draw, tokenizer, bos=bos, alike=alike, words_left_out=left_out)
