"""Token ids: text that ships with the project through a model's own tokenizer, or random ids."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.core.errors import shown
from tasks.model.faults import NoProbe, in_words

TEXT = "persuasion.txt"  # 464 kB, about 110,000 tokens
CHARS_PER_TOKEN = 8  # more than any tokenizer leaves on English, 4 to 5
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "spm.model",
    "source.spm",
)
TOKENIZER_COMPANIONS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
_SPECIAL = re.compile(r"token_(id|index)$")


def text_ids(folder: Path | None, called: str, count: int, vocabulary: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return text as token ids, and the special tokens that the tokenizer puts before and after a sequence.

    Args:
        folder: holds the tokenizer's files; None where there are none.
        called: the model's name, for messages.
        count: so many ids are wanted; fewer come where the text ends before.
        vocabulary: ids that the model's embedding has.

    Returns:
        Ids of shape (n,), those before, those after.

    Raises:
        NoProbe: there is no tokenizer, it needs code of its own or a library that is not there, or it gives ids that
            the model has not.
    """
    tokenizer = _tokenizer(folder, called)
    text = _text()[: count * CHARS_PER_TOKEN]
    try:
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        bare, dressed = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    except Exception as error:  # whatever a broken vocabulary makes a tokenizer raise
        raise NoProbe("no_tokenizer", f"{shown(called)}: its tokenizer fails on text: {in_words(error)}") from error
    _check(ids, vocabulary, called)
    before, after = _around(dressed, bare)
    return torch.tensor(ids[:count]), torch.tensor(before, dtype=torch.long), torch.tensor(after, dtype=torch.long)


def has_tokenizer(folder: Path | None) -> bool:
    """Return whether a folder holds a tokenizer's vocabulary."""
    return folder is not None and any((folder / name).is_file() for name in TOKENIZER_FILES)


def random_ids(config: Any, vocabulary: int, count: int, generator: torch.Generator) -> Tensor:
    """Return ids drawn evenly from a vocabulary, shape (count,), without those that a config gives a meaning."""
    special = {value for name, value in vars(config).items() if _SPECIAL.search(name) and isinstance(value, int)}
    plain = torch.tensor([i for i in range(vocabulary) if i not in special] or [0])
    return plain[torch.randint(len(plain), (count,), generator=generator)]


def _tokenizer(folder: Path | None, called: str) -> Any:
    from transformers import AutoTokenizer

    if folder is None or not has_tokenizer(folder):
        told = f"{shown(called)}: no tokenizer ({', '.join(TOKENIZER_FILES[:4])}, …)"
        raise NoProbe("no_tokenizer", f"{told}; use --inputs random, or put its files beside config.json")
    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # missing libraries, code of the repo's own, broken files: it says which
        told = f"its tokenizer cannot be loaded: {in_words(error)}"
        raise NoProbe("no_tokenizer", f"{shown(called)}: {told}; use --inputs random") from error


def _text() -> str:
    whole = resources.files("tasks.model").joinpath(TEXT).read_text(encoding="utf-8")
    return whole.partition("\n")[2]  # the first line says what it is


def _check(ids: list[int], vocabulary: int, called: str) -> None:
    if len(set(ids)) < 2:
        raise NoProbe("no_tokenizer", f"{shown(called)}: its tokenizer knows no word of English text")
    if max(ids) >= vocabulary:
        told = f"its tokenizer gives id {max(ids):,}, its embedding has {vocabulary:,}"
        raise NoProbe("bad_file", f"{shown(called)}: {told}")


def _around(dressed: list[int], bare: list[int]) -> tuple[list[int], list[int]]:
    """Return what stands before and after one sequence in another that holds it."""
    for start in range(len(dressed) - len(bare) + 1):
        if dressed[start : start + len(bare)] == bare:
            return dressed[:start], dressed[start + len(bare) :]
    return [], []
