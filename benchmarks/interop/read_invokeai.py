"""InvokeAI: the probing of files by all its kinds of models, the reading, the finding of triggers, and the patching of a model.

Stand-ins: packages for other kinds of models. The finding of triggers is taken out of a file that imports the web server.
"""

import re
import sys
from pathlib import Path

import kit
import torch

OTHERS = ("onnxruntime", "gguf", "picklescan", "semver", "blake3", "cv2", "onnx", "sdnq", "deprecated", "spandrel")

PEER = Path(sys.argv[2])
sys.path.insert(0, str(PEER))
kit.stand_in(*OTHERS)
from invokeai.backend.model_manager.configs.factory import ModelConfigFactory  # noqa: E402
from invokeai.backend.model_patcher import ModelPatcher  # noqa: E402
from invokeai.backend.textual_inversion import TextualInversionModelRaw  # noqa: E402

BASES = {"sd1": "sd-1", "sd2": "sd-2", "sdxl": "sdxl"}
TRIGGERS = kit.part(PEER / "invokeai" / "app" / "util" / "ti_utils.py", "extract_ti_triggers_from_prompt")
triggers_of = kit.run_part(TRIGGERS, {"re": re, "List": list})["extract_ti_triggers_from_prompt"]


def probe(file, base):
    """What the model manager takes a file for, when a user adds it."""
    result = ModelConfigFactory.from_model_on_disk(file, hash_algo="sha256")
    config = result.config
    if config is None or config.type.value != "embedding":
        raise ValueError(f"the model manager takes it for: {config.type.value if config else 'nothing'}")
    if config.base.value != BASES[base]:
        raise ValueError(f"the model manager takes it for a word of {config.base.value}")
    return config


def read(case, models, words):
    (file,) = case.files
    config = probe(file, case.base)
    (trigger,) = triggers_of(case.text)
    if trigger[1:-1] != config.name:
        raise ValueError(f"the trigger {trigger} is not the model's name, {config.name}")
    word = TextualInversionModelRaw.from_checkpoint(file)
    found = {}
    for name, model in models.items():
        with ModelPatcher.apply_ti(words, model, [(config.name, word)]) as (patched, manager):
            inner = patched(case.text, add_special_tokens=False)["input_ids"]
            ids = manager.expand_textual_inversion_token_ids_if_necessary(inner)
            whole = [patched.bos_token_id, *ids, patched.eos_token_id]
            found[name] = model.get_input_embeddings()(torch.tensor(whole)).clone()
    return found


kit.main(read)
