"""What a file of tensors is that is no word, told from the names of its tensors, so that it can be refused by its name."""

from __future__ import annotations

from collections.abc import Iterable

OUTPUT_KEYS = ("emp_params_out", "clip_l_out", "clip_g_out", "t5_out", "gemma_out", "llama_out")
"""OneTrainer's rows that stand after the text encoder."""

LARGER_ENCODERS = {
    "t5": "a T5",
    "t5xxl": "a T5",
    "t5_xxl": "a T5",
    "llama": "a Llama",
    "gemma": "a Gemma",
    "gemma2_2b": "a Gemma",
    "qwen": "a Qwen",
    "qwen25_7b": "a Qwen",
    "qwen3_4b": "a Qwen",
}
"""Key of rows for a text encoder that no supported model has → which it is. diffusers and OneTrainer write "t5"."""

_LORA_MARKS = (
    ".lora_down",
    ".lora_up",
    ".lora_a.",
    ".lora_b.",
    ".lora.down",
    ".lora.up",
    "_lora.down",
    "_lora.up",
    ".lora_linear",
)
_OTHER_ADAPTERS = (".hada_w", ".lokr_w", ".oft_", ".boft_", ".dora_scale", ".diff_b", ".on_input")
_MODEL_MARKS = ("down_blocks.", "input_blocks.", "text_model.", "double_blocks.", "encoder.", "decoder.")


def is_lora(keys: Iterable[str]) -> bool:
    """Whether names are those of a LoRA, in whatever dialect."""
    return any(mark in f".{key.lower()}" for key in keys for mark in _LORA_MARKS)


def why_no_word(keys: Iterable[str]) -> str:
    """Say what a file is that cannot be a word here, and what to do; "" if nothing of the kind is known.

    Args:
        keys: names of its tensors.
    """
    names = list(keys)
    output = next((key for key in names if key in OUTPUT_KEYS), None)
    if output is not None:
        return (
            f"an output embedding of OneTrainer ({output}): its rows stand after the text encoder, where this and most "
            "other programs have no place for them; train it without 'output embedding'"
        )
    larger = next((key for key in names if key.lower() in LARGER_ENCODERS), None)
    if larger is not None:
        return (
            f"a word for a model with {LARGER_ENCODERS[larger.lower()]} text encoder ({larger}), such as Flux or "
            "Stable Diffusion 3; expected one for Stable Diffusion 1, 2 or XL"
        )
    if is_lora(names):
        return f"a LoRA of {len(names)} tensors, not a word: it goes to --lora; look into it with: sentinv inspect"
    if any(mark in f".{key.lower()}" for key in names for mark in _OTHER_ADAPTERS):
        return f"an adapter of {len(names)} tensors (LoHa, LoKr, OFT or the like), not a word"
    if len(names) > 2 and any(mark in key for key in names for mark in _MODEL_MARKS):
        return f"a model's weights ({len(names)} tensors), not a word: it goes to --model"
    return ""
