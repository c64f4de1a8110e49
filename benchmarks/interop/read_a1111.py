"""AUTOMATIC1111's web UI: its EmbeddingDatabase, its splitting of prompts, and the module before the text encoder's table.

Stubs: options, devices, and a model that is two tables; `sd_hijack` imports the whole of the old samplers, so its one class
that reads words is taken out of it.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import kit
import torch

PEER = Path(sys.argv[2])
sys.path.insert(0, str(PEER))
CPU = torch.device("cpu")
OPTIONS = SimpleNamespace(emphasis="Original", comma_padding_backtrack=20, textual_inversion_print_at_load=True)

import modules  # noqa: E402 - of the web UI

shared = kit.stub("modules.shared", opts=OPTIONS, cmd_opts=SimpleNamespace(), sd_model=None)
devices = kit.stub("modules.devices", device=CPU, torch_npu_set_device=lambda: None, cond_cast_unet=lambda value: value)
kit.stub("modules.hashes", sha256=lambda path, title: "0" * 64)
kit.stub("modules.errors", report=lambda message, exc_info=False: fail(message))
for name in ("sd_models", "images", "sd_samplers", "sd_hijack_checkpoint"):
    kit.stub(f"modules.{name}")
kit.stub("modules.sd_hijack", StableDiffusionModelHijack=object, model_hijack=None)
kit.stub("modules.textual_inversion.dataset")
kit.stub("modules.textual_inversion.learn_schedule", LearnRateScheduler=None)
kit.stub("modules.textual_inversion.logging", save_settings_to_file=None)
kit.stub("tqdm")

from modules.sd_hijack_clip import FrozenCLIPEmbedderWithCustomWords  # noqa: E402
from modules.textual_inversion.textual_inversion import EmbeddingDatabase  # noqa: E402

NAMES = {"torch": torch, "devices": devices}
EmbeddingsWithFixes = kit.run_part(kit.part(PEER / "modules" / "sd_hijack.py", "EmbeddingsWithFixes"), NAMES)[
    "EmbeddingsWithFixes"
]


def fail(message):
    raise sys.exc_info()[1] or RuntimeError(message)


def read(case, models, words):
    hijack = SimpleNamespace(embedding_db=EmbeddingDatabase(), fixes=None)
    encoders = {}
    for key, (name, model) in zip(("clip_l", "clip_g"), models.items(), strict=False):
        table = EmbeddingsWithFixes(model.get_input_embeddings(), hijack, textual_inversion_key=key)
        layers = SimpleNamespace(text_model=SimpleNamespace(embeddings=SimpleNamespace(token_embedding=table)))
        encoders[name] = FrozenCLIPEmbedderWithCustomWords(SimpleNamespace(tokenizer=words, transformer=layers), hijack)

    class Model:
        """Both text encoders side by side, as the web UI has them for SDXL."""

        tokenize = staticmethod(encoders["text_encoder"].tokenize)

        @staticmethod
        def encode_embedding_init_text(text, count):
            return torch.cat([one.encode_embedding_init_text(text, count) for one in encoders.values()], dim=1)

    shared.sd_model = SimpleNamespace(cond_stage_model=Model)
    hijack.embedding_db.add_embedding_dir(str(case.files[0].parent))
    hijack.embedding_db.load_textual_inversion_embeddings()
    if case.files[0].stem not in hijack.embedding_db.word_embeddings:
        raise ValueError(f"skipped, as of another base: {list(hijack.embedding_db.skipped_embeddings)}")
    found = {}
    for name, encoder in encoders.items():
        ((chunk,),), _ = encoder.process_texts([case.text])
        hijack.fixes = [chunk.fixes]
        found[name] = encoder.wrapped.transformer.text_model.embeddings.token_embedding(torch.tensor([chunk.tokens]))[0]
    return found


assert modules.__path__
kit.main(read)
