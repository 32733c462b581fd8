import numpy as np
import pytest
from tokenizer_styles import STYLES, gemma, gpt2, llama2, llama2_by_metaspace, llama3, tokenizer_of
from tokenizers import Tokenizer

import jaxinterp as ji

TEXTS = ("When Mary and John went to the store", " Mary", "naïve café, 1732!", "Ω")
every_style = pytest.mark.parametrize("style", STYLES, ids=lambda style: style.__name__)


def text_of(tokenizer, text):
    """What a tokenizer itself makes of a text and back."""
    return tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids, skip_special_tokens=False)


@every_style
@pytest.mark.parametrize("side", ["right", "left"])
def test_padded_rows_hold_each_text_as_it_is_alone(style, side):
    tokenizer = tokenizer_of(style)
    several = ji.to_tokens(tokenizer, TEXTS, padding_side=side, pad_id=7)
    for row, mask, strings, text in zip(several.tokens, several.mask, several.strings, TEXTS, strict=True):
        encoding = tokenizer.encode(text)
        assert row[mask].tolist() == encoding.ids
        assert strings == tuple(encoding.tokens)
        assert (row[~mask] == 7).all()
        assert mask[-1 if side == "left" else 0]
    alone = ji.to_tokens(tokenizer, TEXTS[0])
    assert alone.mask is None
    assert alone.tokens.tolist() == [tokenizer.encode(TEXTS[0]).ids]


@every_style
def test_texts_come_back(style):
    tokenizer = tokenizer_of(style)
    prompts = ji.to_tokens(tokenizer, TEXTS, bos="")
    assert ji.to_string(tokenizer, prompts.tokens, mask=prompts.mask) == tuple(text_of(tokenizer, t) for t in TEXTS)
    assert ji.to_string(tokenizer, prompts.tokens[1][prompts.mask[1]]) == text_of(tokenizer, TEXTS[1])


@every_style
def test_strings_of_tokens_make_the_text(style):
    tokenizer = tokenizer_of(style)
    strings = ji.to_str_tokens(tokenizer, TEXTS[0], bos="")
    assert "".join(strings).removeprefix(" ") == TEXTS[0]
    assert " and" in strings
    ids = ji.to_tokens(tokenizer, TEXTS[0], bos="").tokens[0]
    assert ji.to_str_tokens(tokenizer, ids) == strings


def test_each_style_of_file_has_its_own_special_tokens_in_front():
    fronts = {style: ji.to_str_tokens(tokenizer_of(style), "to the store")[0] for style in STYLES}
    assert fronts[gpt2].startswith("t")
    assert fronts[llama2] == fronts[llama2_by_metaspace] == "<s>"
    assert fronts[llama3] == "<|begin_of_text|>"
    assert fronts[gemma] == "<bos>"
    assert ji.to_str_tokens(tokenizer_of(gpt2), "to the store", bos="<|endoftext|>")[:2] == (
        "<|endoftext|>",
        fronts[gpt2],
    )
    assert ji.to_str_tokens(tokenizer_of(gemma), "to the store", bos="")[0].startswith("t")


def test_parts_of_a_character_are_told():
    strings = ji.to_str_tokens(tokenizer_of(gpt2), "Ω")
    assert set(strings) == {"\N{REPLACEMENT CHARACTER}"}
    assert len(strings) == 2


@every_style
def test_single_tokens(style):
    tokenizer = tokenizer_of(style)
    for text in (" the", "the"):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        if len(ids) == 1:
            assert ji.to_single_token(tokenizer, text) == ids[0]
        else:
            with pytest.raises(ValueError, match=f"'{text}' is not one token: it splits into .*; '.*the' is one"):
                ji.to_single_token(tokenizer, text)
    with pytest.raises(ValueError, match=r"'Ω the' is not one token: it splits into \[.*\]$"):
        ji.to_single_token(tokenizer, "Ω the")


def test_errors_say_what_is_wrong():
    _, _, english = ji.load("english")
    tokenizer = tokenizer_of(gpt2)
    with pytest.raises(ValueError, match="text 1: the tokenizer does not know 'qwerty', in 'Mary and qwerty'"):
        ji.to_tokens(english, ["Mary", "Mary and qwerty"])
    with pytest.raises(ValueError, match="'qwerty' is not one token: it splits into"):
        ji.to_single_token(english, "qwerty")
    with pytest.raises(ValueError, match="text 0 has no tokens: ''"):
        ji.to_tokens(tokenizer, "")
    with pytest.raises(ValueError, match="no prompts at all"):
        ji.to_tokens(tokenizer, [])
    with pytest.raises(ValueError, match="padding side must be 'right' or 'left', got 'both'"):
        ji.to_tokens(tokenizer, TEXTS, padding_side="both")
    with pytest.raises(ValueError, match="bos='<s>' is not a token of this tokenizer"):
        ji.to_tokens(tokenizer, TEXTS, bos="<s>")
    with pytest.raises(TypeError, match="texts must be a string or a sequence of strings, got int"):
        ji.to_tokens(tokenizer, 3)
    with pytest.raises(TypeError, match=r"tokenizer must be a tokenizers\.Tokenizer, got str"):
        ji.to_tokens("gpt2", TEXTS)
    with pytest.raises(TypeError, match="text must be a string, got int"):
        ji.to_single_token(tokenizer, 3)
    with pytest.raises(ValueError, match="99999 is no token of this tokenizer"):
        ji.to_str_tokens(tokenizer, [1, 99999])
    with pytest.raises(ValueError, match="expected one row of token ids"):
        ji.to_str_tokens(tokenizer, [[1, 2]])
    with pytest.raises(ValueError, match="bos goes with a text"):
        ji.to_str_tokens(tokenizer, [1, 2], bos="")
    with pytest.raises(ValueError, match="tokens must be integers, got float"):
        ji.to_string(tokenizer, np.ones(3))
    with pytest.raises(ValueError, match=r"mask has shape \(2,\), expected that of tokens, \(3,\)"):
        ji.to_string(tokenizer, [1, 2, 3], mask=[True, True])
    padding = Tokenizer.from_str(tokenizer.to_str())
    padding.enable_padding()
    with pytest.raises(ValueError, match="pads or truncates"):
        ji.to_tokens(padding, TEXTS)
