"""Facts for any tokenizer: "The capital of France is" -> Paris, with another subject of as many tokens.

The form is that of Meng et al. 2022 (arXiv 2202.05262): a subject, a relation, and one word that answers.
"""

from tokenizers import Tokenizer

from jaxinterp.tasks.choices import Chooser
from jaxinterp.tasks.natural.alignment import Draft, check_answers_follow, encode
from jaxinterp.tasks.natural.collection import NaturalPairs, collect, of_split, one_token_words
from jaxinterp.tasks.natural.relations import RELATIONS, Fact
from jaxinterp.tasks.splits import Split


def facts(
    n: int,
    tokenizer: Tokenizer,
    *,
    seed: int,
    split: Split | None = None,
    relation: str | None = None,
    bos: str | None = None,
    alike: bool = False,
) -> NaturalPairs:
    """Prompts whose next token is what holds of their subject.

    The corrupted prompt is the same sentence about another subject with as many tokens, of which something else
    holds; that is the wrong answer. Answers are one token, subjects may be several. Positions: `SUBJECT_FIRST` and
    `SUBJECT`, the first and the last token of the subject (one position where it has one), and `END`, the last token.

    Whether a model knows a fact is not asked here: keep those pairs that it answers.

    Args:
      n: how many, drawn with repetition from a few hundred facts.
      tokenizer: any; its own rules decide what a token is.
      seed: decides everything else; a longer list starts with the shorter one of the same seed.
      split: subjects of "held_out" (one in ten, by hash) and of "train" never meet; `None` has all of them.
      relation: "capital", "city" (where a sight is), "language", "continent", "maker", or `None` for all.
      bos: the special token in front: `None` leaves it to the tokenizer's post-processor, a token ("<|endoftext|>")
        puts that one there and no other, "" none.
      alike: only prompts with as many tokens and the same positions, so that a position means one thing in all.

    Raises:
      ValueError: an option that does not exist, `n` below 1, a tokenizer that cannot be used, or one for which no two
        facts with different one-token answers have subjects of as many tokens.

    Example:
      >>> from tokenizers import Tokenizer, models, pre_tokenizers
      >>> words = "<unk> The capital of France Germany South Korea is Paris Berlin Seoul".split()
      >>> tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
      >>> tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
      >>> task = ji.tasks.natural.facts(3, tokenizer, seed=0, relation="capital")
      >>> text = task.texts[0]
      >>> text.clean, text.correct, text.corrupted, text.wrong
      ('The capital of Germany is', (' Berlin',), 'The capital of France is', (' Paris',))
      >>> task.words_left_out["subjects without another of as many tokens"]
      ('capital: South Korea',)
    """
    if relation is not None and relation not in RELATIONS:
        raise ValueError(f"unknown relation {relation!r}; expected one of: {', '.join(RELATIONS)}, None")
    check_answers_follow(tokenizer, bos)
    relations = (relation,) if relation else tuple(RELATIONS)
    answers_left: dict[str, None] = {}
    alone: list[str] = []
    #: For each relation, for each of its sentences, each fact with those that can stand in for it.
    pools: dict[str, dict[str, list[tuple[Fact, list[Fact]]]]] = {}
    for name in relations:
        known, left = one_token_words(
            tokenizer, of_split(RELATIONS[name].facts, split, key=lambda fact: fact[:1]), forms=lambda fact: fact[1:]
        )
        answers_left |= dict.fromkeys(left)
        sentences = {}
        for template in RELATIONS[name].templates:
            lengths = {fact: len(encode(tokenizer, template.format(SUBJECT=fact.subject), bos).ids) for fact in known}
            others = {
                fact: [o for o in known if lengths[o] == lengths[fact] and o.answer != fact.answer] for fact in known
            }
            if pool := [(fact, rest) for fact, rest in others.items() if rest]:
                sentences[template] = pool
        paired = {fact for pool in sentences.values() for fact, _ in pool}
        alone += [f"{name}: {fact.subject}" for fact in known if fact not in paired]
        if sentences:
            pools[name] = sentences
    if not pools:
        raise ValueError(
            f"facts needs two subjects of as many tokens with different one-token answers and this tokenizer leaves "
            f"none: {len(answers_left)} answers are not one token ({', '.join(tuple(answers_left)[:10])}, ...), "
            f"{len(alone)} subjects are without another"
        )

    def draw(choose: Chooser) -> Draft:
        sentences = pools[choose(tuple(pools))]
        template = choose(tuple(sentences))
        fact, others = choose(sentences[template])
        other = choose(others)
        return Draft(
            template,
            clean={"SUBJECT": fact.subject},
            corrupted={"SUBJECT": other.subject},
            correct=(f" {fact.answer}",),
            wrong=(f" {other.answer}",),
            roles={"SUBJECT_FIRST": ("SUBJECT", "first"), "SUBJECT": ("SUBJECT", "last")},
        )

    left_out = {
        "answers that are not one token": tuple(answers_left),
        "subjects without another of as many tokens": tuple(alone),
    }
    return collect("facts", n, seed, draw, tokenizer, bos=bos, alike=alike, words_left_out=left_out)
