"""Train the tokenizers: byte-level BPE for the CLIP models, whole words for the captioner."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import BertTokenizer, CLIPTokenizer

from . import captions as language
from . import world
from .art import HANDS, wider_things
from .captions import COLOURS
from .fit import RUNS
from .things import THINGS, UNKNOWN_THINGS

START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""How CLIP splits a text into words (Radford et al. 2021, `simple_tokenizer.py`)."""

GENERATOR_FOLDER = RUNS / "tokenizer"
JUDGE_FOLDER = RUNS / "judge-tokenizer"
CAPTIONER_FOLDER = RUNS / "captioner-tokenizer"


def _texts(count: int) -> Iterator[str]:
    """Captions of `count` pictures."""
    yield from world.captions(world.sample_specs(count, seed=21))


def _clip_tokenizer(folder: Path, texts: Iterator[str], size: int, length: int) -> CLIPTokenizer:
    """Train a BPE of at most `size` tokens and save it as a `CLIPTokenizer` with a limit of `length` tokens."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    split = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False, min_frequency=2
    )
    bpe.train_from_iterator(texts, trainer)
    learned = json.loads(bpe.to_str())["model"]
    # CLIP's order: bytes, bytes that end a word, merges, the two special tokens. Any text encodes.
    letters = sorted(alphabet)
    merges = [tuple(pair) for pair in learned["merges"]]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges), START, END]
    vocab = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length)
    tokenizer.save_pretrained(folder)
    return tokenizer


@click.command()
def main() -> None:
    """Train and save the three tokenizers."""
    names = [*THINGS, *UNKNOWN_THINGS, *HANDS, *COLOURS]
    everything = [*names, *wider_things(), *language.filler_words()]
    generator = _clip_tokenizer(GENERATOR_FOLDER, iter([*_texts(20000), *names * 8, *everything * 4]), 4000, 32)
    judge = _clip_tokenizer(JUDGE_FOLDER, iter([*_texts(20000), *names * 8, *wider_things()]), 2000, 32)
    captioner = captioner_tokenizer()
    print(f"tokens: {len(generator)} generator, {len(judge)} judge, {len(captioner)} captioner")


def captioner_tokenizer() -> BertTokenizer:
    """The captioner's vocabulary: the words of the canonical captions, and letters for all else."""
    plain = world.plain_captions(world.sample_specs(20000, seed=22))
    words = sorted({word for text in plain for word in text.split()} | {"picture", "of"})
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    tokens += [*letters, *(f"##{letter}" for letter in letters), "[DEC]", "[ENC]"]
    vocab = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = BertTokenizer(vocab=vocab, do_lower_case=True, model_max_length=32)
    tokenizer.save_pretrained(CAPTIONER_FOLDER)
    return tokenizer


if __name__ == "__main__":
    main()
