"""A `CLIPTokenizer` of the words of captions, made without a network, and texts as its numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from hfgen.core.errors import HfgenError, one_line
from hfgen.core.files import write_json, write_text

WORD_END = "</w>"
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
MOST_MERGES = 8192
LEAST_LENGTH, MOST_LENGTH, STEP = 16, 77, 8


def build_tokenizer(captions: Iterable[str]) -> Any:
    """A `CLIPTokenizer` of byte pairs merged as they are frequent in captions, 8,192 at most.

    Its alphabet are all bytes, so that any text has tokens; a frequent word is one. It takes as many as the longest caption has, in
    eights, from 16 to 77.
    """
    texts = list(dict.fromkeys(captions))
    merges = _merges(texts)
    tokenizer = _tokenizer(merges, MOST_LENGTH)
    longest = max(lengths(tokenizer, texts))
    length = min(MOST_LENGTH, max(LEAST_LENGTH, -(-longest // STEP) * STEP))
    return _tokenizer(merges, length)


def _merges(texts: Sequence[str]) -> list[tuple[str, str]]:
    from tokenizers import Tokenizer, models, trainers

    # of the words that a CLIPTokenizer finds in them
    parts = _tokenizer([], MOST_LENGTH).backend_tokenizer
    learner = Tokenizer(models.BPE(end_of_word_suffix=WORD_END))
    learner.normalizer, learner.pre_tokenizer = parts.normalizer, parts.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=MOST_MERGES + 2 * len(_bytes()),
        initial_alphabet=_bytes(),
        end_of_word_suffix=WORD_END,
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    return [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]


def _tokenizer(merges: Sequence[tuple[str, str]], length: int) -> Any:
    """By way of the two files that every version of transformers reads."""
    from transformers import CLIPTokenizer

    tokens = [*_bytes(), *(f"{byte}{WORD_END}" for byte in _bytes()), *map("".join, merges), BEGIN, END]
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    with TemporaryDirectory() as folder:
        write_json(Path(folder) / "vocab.json", {token: i for i, token in enumerate(tokens)})
        write_text(Path(folder) / "merges.txt", "\n".join(lines) + "\n")
        return CLIPTokenizer.from_pretrained(folder, model_max_length=length)


def _bytes() -> list[str]:
    """A letter for each byte, in a fixed order."""
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())


def token_ids(tokenizer: Any, texts: Sequence[str]) -> torch.Tensor:
    """Texts as numbers, int64 (N, L): begin, tokens, end, and then the filling up to all that the tokenizer takes; longer ones are cut."""
    distinct = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    found = tokenizer(
        list(distinct),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    return found.input_ids[[distinct[text] for text in texts]]


def lengths(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """How many tokens each has, begin and end included."""
    return [len(ids) for ids in tokenizer(list(texts), verbose=False)["input_ids"]]


def check_lengths(tokenizer: Any, prompts: Sequence[str]) -> None:
    """Raise `HfgenError` for the first prompt of more tokens than the tokenizer takes: pipelines cut it in silence."""
    most = tokenizer.model_max_length
    for prompt, length in zip(prompts, lengths(tokenizer, prompts), strict=True):
        if length > most:
            raise HfgenError(
                f"prompt {one_line(prompt, 60)!r} has {length} tokens, of which this model takes {most}: use fewer words, or words of "
                "its captions, which are short"
            )
