"""kohya's sd-scripts: the block of gen_img.py that reads words and replaces tokens; a trainer's `--weights`.

gen_img.py is one long function, so the block is taken out of it. Given "weights" as a third argument, the loaders of
train_textual_inversion.py and sdxl_train_textual_inversion.py run in its place.
"""

import ast
import logging
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import kit
import torch

PEER = Path(sys.argv[2])
WEIGHTS = sys.argv[3:] == ["weights"]


def block():
    """The statement `if args.textual_inversion_embeddings:` of main."""
    main = kit.part(PEER / "gen_img.py", "main")
    return next(
        node
        for node in ast.walk(main)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "args.textual_inversion_embeddings"
    )


def replacements():
    """An object with the pipeline's own two methods for the replacing of tokens."""
    names = {"torch": torch}
    for method in ("add_token_replacement", "get_token_replacer"):
        kit.run_part(kit.part(PEER / "gen_img.py", method), names)
    own = {method: names[method] for method in ("add_token_replacement", "get_token_replacer")}
    return type("Pipeline", (), own)()


def read(case, models, _):
    tokenizers = [kit.tokenizer() for _ in models]
    if WEIGHTS:
        return by_trainer(case, models, tokenizers)
    pipe = replacements()
    pipe.tokenizers, pipe.token_replacements_list = tokenizers, [{} for _ in tokenizers]
    names = {
        "torch": torch,
        "os": os,
        "logger": logging.getLogger(),
        "args": SimpleNamespace(textual_inversion_embeddings=[str(case.files[0])]),
        "model_util": SimpleNamespace(is_safetensors=lambda path: path.lower().endswith(".safetensors")),
        "is_sdxl": case.base == "sdxl",
        "tokenizers": tokenizers,
        "text_encoders": list(models.values()),
        "pipe": pipe,
    }
    kit.run_part(block(), names)
    found = {}
    for words, (name, model) in zip(tokenizers, models.items(), strict=True):
        ids = pipe.get_token_replacer(words)(words(case.text, padding="max_length")["input_ids"])
        found[name] = model.get_input_embeddings()(torch.tensor(ids))
    return found


def by_trainer(case, models, tokenizers):
    """Go on from a word: rows from the trainer's loader, laid out as its own code does, one row for each vector."""
    script = "sdxl_train_textual_inversion.py" if case.base == "sdxl" else "train_textual_inversion.py"
    names = kit.run_part(kit.part(PEER / script, "load_weights"), {"torch": torch, "os": os})
    loaded = names["load_weights"](None, str(case.files[0]))
    found = {}
    for words, rows, (name, model) in zip(tokenizers, loaded, models.items(), strict=True):
        if len(rows) != case.count:
            raise AssertionError(f"num_vectors_per_token is mismatch for weights: {len(rows)}")
        table = model.get_input_embeddings()
        before, after = (words(text)["input_ids"] for text in (kit.BEFORE, kit.AFTER))
        found[name] = torch.cat([table(torch.tensor(before[:-1])), rows, table(torch.tensor(after[1:]))])
    return found


kit.main(read)
