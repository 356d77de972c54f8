"""A tokenizer of captions' words, without a network."""

import pytest
import torch
from transformers import CLIPTokenizer

from hfgen.core.errors import HfgenError
from hfgen.models.text_presets import build_text_encoder
from hfgen.models.tokenizer import build_tokenizer, check_lengths, lengths, token_ids

CAPTIONS = [f"a handwritten {word}" for word in ("zero", "one", "two", "three")]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(CAPTIONS * 3)


def test_words_of_captions_are_one_token_each(tokenizer):
    assert lengths(tokenizer, CAPTIONS) == [5] * 4  # begin, three words, end
    assert tokenizer.tokenize("A handwritten  THREE") == ["a</w>", "handwritten</w>", "three</w>"]
    assert tokenizer.model_max_length == 16


def test_any_text_has_tokens_and_is_itself_again(tokenizer):
    for text in ("seven", "a naïve 好 zero", "x-ray 42!"):
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert ids[-1] == tokenizer.eos_token_id == len(tokenizer) - 1
        assert tokenizer.unk_token_id not in ids[1:-1]
        assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == text.replace(" ", "")


def test_the_order_and_number_of_captions_change_nothing(tokenizer):
    assert build_tokenizer(CAPTIONS).get_vocab() == tokenizer.get_vocab()
    assert len({tuple(row) for row in token_ids(tokenizer, CAPTIONS).tolist()}) == 4


def test_it_is_saved_and_loaded_by_transformers(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    found = CLIPTokenizer.from_pretrained(tmp_path)
    assert torch.equal(token_ids(found, CAPTIONS), token_ids(tokenizer, CAPTIONS))
    assert found.model_max_length == 16


def test_tokens_are_filled_up_with_the_end(tokenizer):
    (row,) = token_ids(tokenizer, [""])
    assert row.tolist() == [tokenizer.bos_token_id] + [tokenizer.eos_token_id] * 15


def test_long_captions_get_more_room_up_to_that_of_clip():
    assert build_tokenizer(["a b c d e f g h i j k l m n o p q"]).model_max_length == 24
    assert build_tokenizer([" ".join("abcdefghij" * 9)]).model_max_length == 77


def test_a_prompt_that_is_too_long_is_refused(tokenizer, capsys):
    check_lengths(tokenizer, ["a handwritten seven"])
    with pytest.raises(HfgenError, match=r"^prompt 'a seven.*' has \d+ tokens, of which this model takes 16: "):
        check_lengths(tokenizer, ["a zero", "a seven hippopotamus"])
    assert capsys.readouterr().err == ""


def test_the_text_encoder_reads_words_up_to_the_end_alone(tokenizer):
    torch.manual_seed(0)
    encoder = build_text_encoder(tokenizer, 8).eval()
    one, other = token_ids(tokenizer, CAPTIONS[:2])
    with torch.no_grad():
        found = encoder(torch.stack([one, other]))[0]
    assert found.shape == (2, 16, 8)
    # a word is told to those after it alone
    assert torch.equal(found[0, :3], found[1, :3])
    assert not torch.allclose(found[0, 3], found[1, 3])
