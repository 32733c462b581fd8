"""Small tokenizers in the styles of GPT-2's, Llama's and Gemma's, trained here on sentences of `ji.tasks.natural`."""

import json
from functools import cache

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from jaxinterp.tasks.natural import words
from jaxinterp.tasks.natural.agreement import TEMPLATES as AGREEMENT
from jaxinterp.tasks.natural.greater_than import TEMPLATES as GREATER_THAN
from jaxinterp.tasks.natural.indirect_objects import TEMPLATES as INDIRECT_OBJECTS
from jaxinterp.tasks.natural.relations import RELATIONS

#: Names that the tokenizers never see, so that they have them in pieces.
RARE = words.NAMES[-40:]
GROUPS_OF_THREE = r"\p{N}{1,3}| ?\p{L}+|[^\s\p{L}\p{N}]+|\s+"


def text():
    """Every word of the tasks, rare names excepted, behind a space; and years, and two digits by themselves."""
    frames = [*INDIRECT_OBJECTS, *GREATER_THAN, *(t for each in AGREEMENT.values() for t in each)]
    frames += [t for relation in RELATIONS.values() for t in relation.templates]
    known = [w for frame in frames for w in frame.replace(",", "").replace(".", "").split() if "{" not in w]
    known += [name for name in words.NAMES if name not in RARE]
    known += [*words.PLACES, *words.OBJECTS, *words.EVENTS, *words.PAST, "talked"]
    known += [form for each in (*words.NOUNS, *words.AUXILIARIES, *words.TRANSITIVES) for form in each]
    for relation in RELATIONS.values():
        known += [word for fact in relation.facts for word in (*fact.subject.split()[:2], fact.answer)]
    lines = [f"The {word}" for word in known] * 30
    lines += [f"year {century}" for century in range(11, 18)] * 300 + [f"'{year:02d}" for year in range(100)] * 200
    return lines + ["year 1776", "year 1700"] * 1000


def trained(pre_tokenizer, special, alphabet):
    """The vocabulary and merges of a BPE whose training saw words apart from one another."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=4000, special_tokens=special, initial_alphabet=alphabet, show_progress=False, min_frequency=20
    )
    tokenizer.train_from_iterator(text(), trainer)
    return tokenizer


def byte_level(add_prefix_space):
    tokenizer = trained(
        pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space),
        ["<|endoftext|>"],
        pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def sentence_pieces(special):
    """A tokenizer with byte fallback whose merges join no words; spaces are "▁". Its rules are set by the caller."""
    metaspace = pre_tokenizers.Metaspace(prepend_scheme="never")
    apart = pre_tokenizers.Sequence([metaspace, pre_tokenizers.Digits(individual_digits=True)])
    letters = [chr(code) for code in range(33, 127)] + ["▁"]
    tokenizer = trained(apart, special + [f"<0x{byte:02X}>" for byte in range(256)], letters)
    tokenizer.model.byte_fallback, tokenizer.model.unk_token, tokenizer.model.fuse_unk = True, "<unk>", True
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def in_front(tokenizer, token):
    return processors.TemplateProcessing(
        single=f"{token} $A", pair=f"{token} $A $B", special_tokens=[(token, tokenizer.token_to_id(token))]
    )


def gpt2():
    return byte_level(add_prefix_space=False)


def gpt2_with_prefix_space():
    return byte_level(add_prefix_space=True)


def llama2():
    """Spaces become "▁" before anything else, one more stands in front, and nothing is split beforehand."""
    tokenizer = sentence_pieces(["<unk>", "<s>", "</s>"])
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = None
    tokenizer.post_processor = in_front(tokenizer, "<s>")
    return tokenizer


def llama2_by_metaspace():
    """The same rules as newer files write them."""
    tokenizer = sentence_pieces(["<unk>", "<s>", "</s>"])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.post_processor = in_front(tokenizer, "<s>")
    return tokenizer


def llama3():
    """Digits in groups of three; a space before a number is a token of its own."""
    tokenizer = trained(
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(GROUPS_OF_THREE), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        ),
        ["<|begin_of_text|>"],
        pre_tokenizers.ByteLevel.alphabet(),
    )
    numbers = [str(number) for number in range(10, 1000)]
    extended = tokenizer.get_vocab()
    extended |= {number: len(extended) + i for i, number in enumerate(n for n in numbers if n not in extended)}
    merges = [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    known = {"".join(pair) for pair in merges}
    merges += [(n[:-1], n[-1]) for n in numbers if n not in known]
    rules = tokenizer.pre_tokenizer
    tokenizer = Tokenizer(models.BPE(extended, merges, ignore_merges=True))
    tokenizer.add_special_tokens(["<|begin_of_text|>"])
    tokenizer.pre_tokenizer = rules
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False), in_front(tokenizer, "<|begin_of_text|>")]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def gemma():
    """Spaces become "▁", none is put in front."""
    tokenizer = sentence_pieces(["<pad>", "<eos>", "<bos>", "<unk>"])
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.post_processor = in_front(tokenizer, "<bos>")
    return tokenizer


STYLES = (gpt2, gpt2_with_prefix_space, llama2, llama2_by_metaspace, llama3, gemma)


@cache
def tokenizer_of(style):
    return style()
