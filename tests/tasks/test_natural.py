"""Natural prompts on small tokenizers that follow the rules of GPT-2's, Llama 2's, Llama 3's and Gemma's."""

import dataclasses

import jax
import numpy as np
import pytest
from tokenizer_styles import (
    RARE,
    STYLES,
    gemma,
    gpt2,
    gpt2_with_prefix_space,
    llama2,
    llama3,
    tokenizer_of,
)
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

import jaxinterp as ji
from jaxinterp.tasks import natural
from jaxinterp.tasks.natural import words
from jaxinterp.tasks.natural.agreement import TEMPLATES as AGREEMENT
from jaxinterp.tasks.natural.alignment import Draft, align, encode, next_tokens, tokens_of
from jaxinterp.tasks.natural.collection import collect
from jaxinterp.tasks.natural.relations import RELATIONS

TASKS = (natural.indirect_objects, natural.greater_than, natural.agreement, natural.facts)
every_style = pytest.mark.parametrize("style", STYLES, ids=lambda style: style.__name__)
every_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.__name__)


def answer_rows(ids):
    """Each prompt's answer ids, as sets or not."""
    return [[i for i in np.atleast_1d(row).tolist() if i != -1] for row in ids]


def words_at(tokenizer, prompts, role):
    """What the token at a role says, without its space."""
    rows = np.asarray(prompts.tokens)[np.arange(len(prompts)), prompts.roles[role]]
    return [tokenizer.decode([int(token)]).strip() for token in rows]


@every_style
@every_task
def test_tokens_align_and_answers_follow(style, task):
    tokenizer = tokenizer_of(style)
    made = task(40, tokenizer, seed=0)
    pairs = made.pairs
    assert len(made) == len(pairs) == 40
    clean, corrupted = pairs.clean, pairs.corrupted
    assert clean.tokens.shape == corrupted.tokens.shape
    assert (clean.mask is None) == (corrupted.mask is None)
    if clean.mask is not None:
        np.testing.assert_array_equal(clean.mask, corrupted.mask)
    answers = zip(answer_rows(pairs.correct), answer_rows(pairs.wrong), strict=True)
    for i, (text, (correct, wrong)) in enumerate(zip(made.texts, answers, strict=True)):
        length = len(clean.strings[i])
        for side, prompt in ((clean, text.clean), (corrupted, text.corrupted)):
            ids = tokenizer.encode(prompt).ids
            assert side.tokens[i, :length].tolist() == ids
            assert side.roles["END"][i] == length - 1
            for answer, token in zip((*text.correct, *text.wrong), (*correct, *wrong), strict=True):
                assert tokenizer.encode(prompt + answer).ids == [*ids, token]
        assert text.clean != text.corrupted
        assert not set(correct) & set(wrong)


@every_style
@every_task
def test_pairs_depend_on_the_arguments_alone(style, task):
    tokenizer = tokenizer_of(style)
    longer, shorter = task(30, tokenizer, seed=3), task(12, tokenizer, seed=3)
    assert longer.texts[:12] == shorter.texts
    assert task(12, tokenizer, seed=4).texts != shorter.texts
    width = shorter.pairs.clean.tokens.shape[1]
    np.testing.assert_array_equal(longer.pairs.clean.tokens[:12, :width], shorter.pairs.clean.tokens)
    for role, columns in shorter.pairs.clean.roles.items():
        np.testing.assert_array_equal(longer.pairs.clean.roles[role][:12], columns)


@every_style
@every_task
def test_alike_prompts_have_one_structure(style, task):
    made = task(10, tokenizer_of(style), seed=1, alike=True)
    assert made.pairs.clean.mask is None
    for columns in made.pairs.clean.roles.values():
        assert len(set(columns.tolist())) == 1
    assert made.texts[:5] == task(5, tokenizer_of(style), seed=1, alike=True).texts


@every_style
def test_names_of_several_tokens_are_left_out_and_counted(style):
    tokenizer = tokenizer_of(style)
    made = natural.indirect_objects(60, tokenizer, seed=0)
    left_out = made.words_left_out["names that are not one token"]
    several = [
        name for name in words.NAMES if len(tokenizer.encode(f"to {name}").ids) != len(tokenizer.encode("to").ids) + 1
    ]
    assert list(left_out) == several
    assert 10 < len(left_out) < len(words.NAMES) - 10
    assert made.left_out["names that are not one token"] == len(left_out)
    assert not {answer.strip() for text in made.texts for answer in (*text.correct, *text.wrong)} & set(left_out)


@every_style
@pytest.mark.parametrize("corruption", ["swap", "abc"])
def test_roles_name_their_names(style, corruption):
    tokenizer = tokenizer_of(style)
    made = natural.indirect_objects(60, tokenizer, seed=5, corruption=corruption)
    clean, corrupted = made.pairs.clean, made.pairs.corrupted
    receiver, giver = ([text.correct[0].strip() for text in made.texts], [text.wrong[0].strip() for text in made.texts])
    assert words_at(tokenizer, clean, "IO") == receiver
    assert words_at(tokenizer, clean, "S1") == words_at(tokenizer, clean, "S2") == giver
    np.testing.assert_array_equal(clean.roles["S1+1"], clean.roles["S1"] + 1)
    others = [words_at(tokenizer, corrupted, role) for role in ("IO", "S1", "S2")]
    if corruption == "swap":
        assert others == [receiver, giver, receiver]
    else:
        assert all(len({*names}) == 5 for names in zip(receiver, giver, *others, strict=True))
    differ = np.argwhere(np.asarray(clean.tokens) != np.asarray(corrupted.tokens))
    roles = ("S2",) if corruption == "swap" else ("IO", "S1", "S2")
    expected = sorted([i, int(clean.roles[role][i])] for i in range(60) for role in roles)
    assert differ.tolist() == expected


def test_orders():
    for order in ("ABBA", "BABA"):
        roles = natural.indirect_objects(20, tokenizer_of(gpt2), seed=0, order=order).pairs.clean.roles
        assert ((roles["IO"] < roles["S1"]) == (order == "ABBA")).all()


@every_style
def test_the_tokenizer_decides_how_years_are_compared(style):
    tokenizer = tokenizer_of(style)
    kind = {gpt2: "years", gpt2_with_prefix_space: "years", llama3: "units"}.get(style, "tens")
    made = natural.greater_than(40, tokenizer, seed=0)
    asked = natural.greater_than(40, tokenizer, seed=0, compare=kind)
    assert made.texts == asked.texts
    for other in {"years": (), "tens": ("years",), "units": ("years", "tens")}[kind]:
        message = f"compare='{other}' needs years that are 2 digits and one more token; this tokenizer writes 'to the"
        with pytest.raises(ValueError, match=message):
            natural.greater_than(1, tokenizer, seed=0, compare=other)
    for text, named in zip(made.texts, words_at(tokenizer, made.pairs.clean, "YY"), strict=True):
        start = next(word for word in text.clean.split() if word.isdigit())
        end = text.clean.split()[-1]
        assert start[:2] == end[:2]
        assert start[len(end) :].startswith(named)
        digits = 4 - len(end) if kind != "tens" else 1
        compared = start[len(end) : len(end) + digits]
        assert named == compared
        assert all(len(answer) == digits for answer in (*text.correct, *text.wrong))
        assert min(text.correct) > compared
        assert max(text.wrong) < compared if kind == "tens" else max(text.wrong) == max({*text.wrong, compared})
        other_start = next(word for word in text.corrupted.split() if word.isdigit())
        assert other_start == (f"{end}0" if kind == "units" else f"{end}01")
        assert text.clean.replace(start, other_start) == text.corrupted
    assert words_at(tokenizer, made.pairs.clean, "END") == [
        tokenizer.decode([tokenizer.encode(text.clean).ids[-1]]).strip() for text in made.texts
    ]


def test_a_year_that_is_one_token_is_no_answer():
    made = natural.greater_than(60, tokenizer_of(gpt2), seed=2)
    assert {"1776", "1700"} <= set(made.words_left_out["years that are not split where the prompt ends"])
    of_1700s = [text for text in made.texts if text.clean.endswith(" 17")]
    assert of_1700s
    assert not any({"76", "00"} & {*text.correct, *text.wrong} for text in of_1700s)


def word_level(known, unknown="<unk>"):
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys((unknown, *known.split())))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def test_words_that_are_not_known_make_no_pair_whatever_stands_for_them():
    verbs = " ".join(form for pair in (*words.AUXILIARIES, *words.TRANSITIVES) for form in pair)
    tokenizer = word_level(f"The the near behind author authors teacher teachers {verbs}", unknown="odd")
    made = natural.agreement(20, tokenizer, seed=0, structure="across_pp")
    clean, corrupted = (np.asarray(run.tokens) for run in (made.pairs.clean, made.pairs.corrupted))
    assert (clean != corrupted).any(axis=1).all()
    assert not np.isin(clean, tokenizer.token_to_id("odd")).any()


def test_years_need_a_tokenizer_that_splits_them():
    tokenizer = word_level("The war lasted from the year 1732 to")
    with pytest.raises(ValueError, match=r"greater_than with compare=None needs years .* writes 'to the year 1732' as"):
        natural.greater_than(1, tokenizer, seed=0)


@every_style
@pytest.mark.parametrize("structure", AGREEMENT)
def test_verbs_agree_with_their_subject(style, structure):
    tokenizer = tokenizer_of(style)
    made = natural.agreement(40, tokenizer, seed=0, structure=structure)
    number = {form: i for noun in words.NOUNS for i, form in enumerate(noun)}
    verb = {form: i for pair in (*words.AUXILIARIES, *words.TRANSITIVES) for i, form in enumerate(pair)}
    clean, corrupted = made.pairs.clean, made.pairs.corrupted
    subjects = words_at(tokenizer, clean, "SUBJECT")
    assert [number[word] for word in subjects] == [verb[text.correct[0].strip()] for text in made.texts]
    assert [number[word] for word in words_at(tokenizer, corrupted, "SUBJECT")] == [1 - number[w] for w in subjects]
    assert ("ATTRACTOR" in clean.roles) == (structure != "simple")
    if structure != "simple":
        attractors = words_at(tokenizer, clean, "ATTRACTOR")
        assert [number[word] for word in attractors] == [1 - number[word] for word in subjects]
        assert words_at(tokenizer, corrupted, "ATTRACTOR") == attractors
    differ = np.argwhere(np.asarray(clean.tokens) != np.asarray(corrupted.tokens))
    assert differ.tolist() == [[i, column] for i, column in enumerate(clean.roles["SUBJECT"].tolist())]


@every_style
@pytest.mark.parametrize("relation", RELATIONS)
def test_facts_have_another_subject_of_as_many_tokens(style, relation):
    tokenizer = tokenizer_of(style)
    made = natural.facts(25, tokenizer, seed=0, relation=relation)
    answers = {fact.subject: fact.answer for fact in RELATIONS[relation].facts}
    roles = made.pairs.clean.roles
    assert (roles["SUBJECT_FIRST"] <= roles["SUBJECT"]).all()
    for i, text in enumerate(made.texts):
        frames = [template.split("{SUBJECT}") for template in RELATIONS[relation].templates]
        before, behind = next((a, b) for a, b in frames if text.clean[: len(a)] == a and text.clean.endswith(b))
        for prompt, answer, side in (
            (text.clean, text.correct, made.pairs.clean),
            (text.corrupted, text.wrong, made.pairs.corrupted),
        ):
            subject = prompt.removeprefix(before).removesuffix(behind)
            assert answer == (f" {answers[subject]}",)
            tokens = np.asarray(side.tokens)[i, roles["SUBJECT_FIRST"][i] : roles["SUBJECT"][i] + 1]
            assert tokenizer.decode(tokens.tolist()).strip() == subject


def test_subjects_of_several_tokens_occur():
    roles = natural.facts(60, tokenizer_of(gpt2), seed=0, relation="city").pairs.clean.roles
    assert (roles["SUBJECT"] > roles["SUBJECT_FIRST"]).any()


def test_facts_are_told_once_and_hold_no_answer():
    for name, relation in RELATIONS.items():
        subjects = [fact.subject for fact in relation.facts]
        assert len(set(subjects)) == len(subjects), name
        assert all(fact.answer not in fact.subject.split() and " " not in fact.answer for fact in relation.facts)
        assert all(template.count("{SUBJECT}") == 1 and not template.endswith("}") for template in relation.templates)


def test_word_lists_hold_no_word_twice():
    for kind in ("NAMES", "PLACES", "OBJECTS", "EVENTS", "PAST"):
        members = getattr(words, kind)
        assert len(set(members)) == len(members), kind
    forms = [form for noun in words.NOUNS for form in noun]
    assert len(set(forms)) == len(forms)
    assert not any(word[0] in "aeiou" for word in words.OBJECTS)


@every_task
def test_splits_share_no_word(task):
    def drawn(split):
        made = task(150, tokenizer_of(gpt2), seed=0, split=split)
        texts = " ".join(f"{text.clean} {text.corrupted}" for text in made.texts)
        if task is natural.facts:
            return {fact.subject for r in RELATIONS.values() for fact in r.facts if f"{fact.subject} " in texts}
        pool = {
            natural.indirect_objects: words.NAMES,
            natural.greater_than: words.EVENTS,
            natural.agreement: [form for noun in words.NOUNS for form in noun],
        }[task]
        return set(texts.replace(",", "").replace(".", "").split()) & set(pool)

    train, held_out = drawn("train"), drawn("held_out")
    assert train
    assert held_out
    assert not train & held_out
    with pytest.raises(ValueError, match="unknown split 'test'; expected one of: train, held_out"):
        task(1, tokenizer_of(gpt2), seed=0, split="test")


def test_special_tokens_are_the_tokenizers_unless_told():
    for style, first in ((gpt2, "When"), (llama2, "<s>"), (llama3, "<|begin_of_text|>"), (gemma, "<bos>")):
        tokenizer = tokenizer_of(style)
        asked = {"order": "ABBA", "seed": 1}
        made = natural.indirect_objects(12, tokenizer, **asked)
        if style is not gpt2:
            assert {strings[0] for strings in made.pairs.clean.strings} == {first}
        bare = natural.indirect_objects(12, tokenizer, bos="", **asked)
        assert bare.texts == made.texts
        shift = 0 if style is gpt2 else 1
        for strings, all_strings in zip(bare.pairs.clean.strings, made.pairs.clean.strings, strict=True):
            assert strings == all_strings[shift:]
        np.testing.assert_array_equal(bare.pairs.clean.roles["S2"] + shift, made.pairs.clean.roles["S2"])
        np.testing.assert_array_equal(bare.pairs.correct, made.pairs.correct)
    told = natural.indirect_objects(4, tokenizer_of(gpt2), seed=1, bos="<|endoftext|>")
    assert {strings[0] for strings in told.pairs.clean.strings} == {"<|endoftext|>"}
    assert (told.pairs.clean.tokens[:, 0] == tokenizer_of(gpt2).token_to_id("<|endoftext|>")).all()
    assert told.pairs.clean.roles["END"].tolist() == [len(strings) - 1 for strings in told.pairs.clean.strings]


@every_task
def test_tokenizers_that_cannot_be_used_are_refused(task):
    usable = tokenizer_of(llama2).to_str()

    def refused(tokenizer, message, **options):
        with pytest.raises((TypeError, ValueError), match=message):
            task(1, tokenizer, seed=0, **options)

    refused("gpt2", "tokenizer must be a tokenizers.Tokenizer, got str$")
    refused(type("Fast", (), {"backend_tokenizer": None})(), "got Fast: pass its backend_tokenizer")
    padding, truncating, ending = (Tokenizer.from_str(usable) for _ in range(3))
    padding.enable_padding()
    refused(padding, "pads or truncates")
    truncating.enable_truncation(64)
    refused(truncating, "pads or truncates")
    ending.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    refused(ending, "puts '</s>' behind the text")
    assert len(task(1, ending, seed=0, bos="<s>")) == 1
    refused(tokenizer_of(llama2), "bos='<bos>' is not a token of this tokenizer", bos="<bos>")
    refused(tokenizer_of(llama2), "bos=True is not a token of this tokenizer", bos=True)
    drops = Tokenizer.from_str(usable)
    drops.model.dropout = 0.1
    refused(drops, "dropout")


@every_task
def test_too_little_to_draw_from_is_told(task):
    characters = Tokenizer(models.BPE({chr(code): code - 32 for code in range(32, 127)}, []))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?\S+"), "isolated")
    if task is natural.greater_than:
        assert {len(answer) for answer in task(1, characters, seed=0).texts[0].correct} == {1}
        return
    message = {
        natural.indirect_objects: r"needs at least 2 names of one token each and this tokenizer leaves 0; 109 words",
        natural.agreement: r"needs at least 2 nouns of one token each and this tokenizer leaves 0; 96 words .* author",
        natural.facts: r"facts needs two subjects .* leaves none: \d+ answers are not one token \(Paris, Berlin",
    }[task]
    with pytest.raises(ValueError, match=message):
        task(1, characters, seed=0)


def test_words_that_only_some_prompts_lack_are_counted():
    tokenizer = word_level("When Mary and John went to the store , gave a drink")
    made = natural.indirect_objects(5, tokenizer, seed=0)
    assert {text.clean[:5] for text in made.texts} == {"When "}
    assert made.left_out["prompts with a word that the tokenizer does not know"] > 10
    tokenizer = word_level("When Mary and John went to the store , a drink")
    with pytest.raises(ValueError, match=r"found 0 of 5 pairs .* none in 2000 drafts: left out were 2000 prompts with"):
        natural.indirect_objects(5, tokenizer, seed=0)


@every_task
def test_unknown_options_are_refused(task):
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        task(0, tokenizer_of(gpt2), seed=0)
    for option, where in (
        ("order", natural.indirect_objects),
        ("corruption", natural.indirect_objects),
        ("structure", natural.agreement),
        ("relation", natural.facts),
        ("compare", natural.greater_than),
    ):
        if task is where:
            with pytest.raises(ValueError, match=f"unknown {option} 'other'; expected one of: "):
                task(1, tokenizer_of(gpt2), seed=0, **{option: "other"})


def draft(template, clean, corrupted, answers=(" Mary", " John")):
    return Draft(template, {"X": clean}, {"X": corrupted}, answers[:1], answers[1:], {"X": ("X", "last")})


def test_drafts_that_do_not_align_are_dropped():
    tokenizer = tokenizer_of(gpt2)
    assert not isinstance(align(draft("When {X} went to", "Mary", "John"), tokenizer, None), str)
    assert align(draft("When {X} went to", "Mary", RARE[-1]), tokenizer, None) == "pairs of different lengths"
    glued = align(draft("When aut{X} went to", "hor", "hors"), tokenizer, None)
    assert glued == "pairs whose words are not whole tokens at the same places"
    lengths = {name: len(tokenizer.encode(f" {name}").ids) for name in RARE}
    alike = [name for name in RARE if lengths[name] == lengths[RARE[0]] > 1]
    several = dataclasses.replace(draft("When {X} went to", *alike[:2]), single=("X",))
    assert align(several, tokenizer, None) == "pairs with a word of several tokens where one is needed"
    answers = align(draft("When {X} went to", "Mary", "John", (" Mary", f" {RARE[-1]}")), tokenizer, None)
    assert answers == "pairs with an answer that is not one token behind both prompts"
    # of two reasons the one that is told first is of the role that is named first, not of whichever a set has first
    both = Draft(
        "When {A} met the aut{B} to", {"A": alike[0], "B": "hor"}, {"A": alike[1], "B": "hors"}, (" Mary",), (" John",),
        {"A": ("A", "last"), "B": ("B", "last")}, ("A",),
    )  # fmt: skip
    assert align(both, tokenizer, None) == "pairs with a word of several tokens where one is needed"
    turned = dataclasses.replace(both, roles=dict(reversed(both.roles.items())))
    assert align(turned, tokenizer, None) == glued
    twice = align(draft("When {X} went to", "Mary", "John", (" Mary", " Mary")), tokenizer, None)
    assert twice == answers


def test_pairs_that_are_alike_are_so_where_few_align():
    def draw(choose):
        number = choose(range(1000))
        template = "When {X} went to" if number % 2 else "When {X} went to the store with us to"
        return draft(template, "Mary" if number < 8 else "Mary and John", "John", (" Mary", " John"))

    of_another = 0
    for seed in range(4):
        made = collect("few", 6, seed, draw, tokenizer_of(gpt2), bos=None, alike=True, words_left_out={})
        assert len({len(strings) for strings in made.pairs.clean.strings}) == 1
        of_another += made.pairs_left_out["pairs of another structure"]
        assert made.pairs_left_out["pairs of different lengths"] > 100
    assert of_another > 0


def test_a_token_that_holds_more_than_a_word_is_not_the_word():
    tokenizer = tokenizer_of(gpt2)
    prompt = encode(tokenizer, "The authors", None)
    assert tokens_of(prompt, "The authors", 4, 11) == (1, 1)
    assert tokens_of(prompt, "The authors", 4, 10) is None


@every_style
def test_next_tokens_are_those_behind_the_prompt(style):
    tokenizer = tokenizer_of(style)
    space, bare, several = next_tokens(tokenizer, "They gave it to", [" Mary", "Mary", f" {RARE[-1]}"])
    assert tokenizer.decode([space]).strip() == "Mary"
    assert tokenizer.encode("They gave it to Mary").ids[-1] == space
    assert bare != space
    assert several is None


def test_pairs_and_their_answer_sets_go_into_a_sweep():
    tokenizer = tokenizer_of(gpt2)
    made = natural.greater_than(6, tokenizer, seed=0)
    assert made.pairs.clean.mask is not None
    config = ji.TransformerConfig(n_layers=1, d_model=16, n_heads=2, d_vocab=tokenizer.get_vocab_size(), n_ctx=64)
    model = ji.Transformer(config)
    params = model.init(jax.random.key(0))
    effects = ji.activation_patching(
        model, params, made.pairs.corrupted, made.pairs.clean, site="resid_pre", over=("layer", "role"),
        metric=ji.logit_diff(made.pairs.correct, made.pairs.wrong),
    )  # fmt: skip
    assert effects.coords["role"].values.tolist() == ["NOUN", "XX1", "YY", "END"]
    values = effects.sel(layer=0)
    assert float(values.sel(role="YY")) != 0
    assert float(abs(values.sel(role=["NOUN", "XX1", "END"])).max()) == 0
    np.testing.assert_allclose(
        float(values.sel(role="YY")), effects.attrs["source_metric"] - effects.attrs["base_metric"], atol=1e-6
    )
