"""Two character models trained for the demo on one text: the same sizes, one with LayerNorms and one with RMSNorms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deployments.demo.building import quiet, write_card
from deployments.demo.recipes import Recipe, facts

STEPS = 300  # of Adam; the loss falls by more than half
BATCH, CONTEXT = 16, 64  # sequences in a step, characters in a sequence
LEARNING_RATE = 3e-3
HELD_OUT = 0.1  # of the text, its end
UNKNOWN = "�"

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
CHARACTER_MODELS = (
    # Cohere's LayerNorms have no bias: only its config and its behaviour tell them from RMSNorms
    Recipe("chars-layernorm", "CohereForCausalLM", SIZES | {"logit_scale": 1.0}, facts=facts("2026-06-22", 31_415, 59)),
    Recipe("chars-rmsnorm", "LlamaForCausalLM", SIZES, facts=facts("2026-06-22", 27_182, 81)),
)
TRAINED = (
    "A two-layer character model, trained for the demo: {steps} steps of Adam on {count:,} characters of Python's own "
    "language reference. Loss on the held-out end of the text, in nats a character: {before:.2f} before, "
    "{after:.2f} after."
)


def build_trained(recipe: Recipe, folder: Path) -> None:
    """Train a character model from a fixed seed and write it to a folder, with its tokenizer and its losses."""
    import torch
    import transformers

    text = training_text()
    alphabet = sorted({*text})
    tokens = torch.tensor([alphabet.index(character) + 1 for character in text])
    model_class = getattr(transformers, recipe.model_class)
    with torch.random.fork_rng(devices=[]), quiet(), one_thread():
        torch.manual_seed(0)
        model = model_class(model_class.config_class(**recipe.config, vocab_size=len(alphabet) + 1))
        before, after = fit(model, tokens)
        model.save_pretrained(folder)
        character_tokenizer(alphabet).save_pretrained(folder)
    about = TRAINED.format(steps=STEPS, count=len(text), before=before, after=after)
    write_card(folder, recipe.name, about, ["trained", f"loss-before:{before:.2f}", f"loss-after:{after:.2f}"])


def training_text() -> str:
    """Return the help texts that ship with Python, their ASCII characters."""
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics)).encode("ascii", "ignore").decode()


def fit(model: Any, tokens: Any) -> tuple[float, float]:
    """Train a language model on a text; return its loss on the held-out end before and after.

    Args:
        model: takes `input_ids` and `labels`, and returns a loss; changed in place.
        tokens: integers, shape (length of the text,).
    """
    import torch

    edge = int(len(tokens) * (1 - HELD_OUT))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    before = held_out_loss(model, tokens[edge:])
    model.train()
    for _ in range(STEPS):
        starts = torch.randint(edge - CONTEXT, (BATCH, 1))
        batch = tokens[starts + torch.arange(CONTEXT)]
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return before, held_out_loss(model, tokens[edge:])


def held_out_loss(model: Any, tokens: Any) -> float:
    """Return the mean loss over the first batches' worth of a text, in nats a character."""
    import torch

    model.eval()
    batch = tokens[: 4 * BATCH * CONTEXT].reshape(-1, CONTEXT)
    with torch.no_grad():
        return float(model(input_ids=batch, labels=batch).loss)


def character_tokenizer(alphabet: list[str]) -> Any:
    """Return a tokenizer for transformers that makes one token of each character; token 0 stands for any other."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {character: number for number, character in enumerate([UNKNOWN, *alphabet])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=UNKNOWN, pad_token=UNKNOWN)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch compute in one thread: in steps this small threads wait for each other longer than they compute."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
