"""Forge: its EmbeddingDatabase, its splitting of prompts, and the module before the text encoder's table.

Stubs: options, and the management of a GPU's memory.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import kit
import torch

sys.path.insert(0, str(Path(sys.argv[2])))
kit.stub("modules")
kit.stub("modules.shared", opts=SimpleNamespace(emphasis="Original"))
package = kit.stub("backend", __path__=[str(Path(sys.argv[2]) / "backend")])
kit.stub("backend.memory_management")

from backend.text_processing.classic_engine import ClassicTextProcessingEngine  # noqa: E402


def read(case, models, words):
    found = {}
    for key, (name, model) in zip(("clip_l", "clip_g"), models.items(), strict=False):
        embeddings = SimpleNamespace(token_embedding=model.get_input_embeddings())
        encoder = SimpleNamespace(transformer=SimpleNamespace(text_model=SimpleNamespace(embeddings=embeddings)))
        engine = ClassicTextProcessingEngine(
            encoder,
            words,
            embedding_dir=str(case.files[0].parent),
            embedding_key=key,
            embedding_expected_shape=sum(rows.shape[1] for rows in case.rows.values()),
        )
        if case.files[0].stem not in engine.embeddings.word_embeddings:
            raise ValueError(f"not taken; skipped: {list(engine.embeddings.skipped_embeddings)}")
        ((chunk,),), _ = engine.process_texts([case.text])
        engine.embeddings.fixes = [chunk.fixes]
        found[name] = embeddings.token_embedding(torch.tensor([chunk.tokens]))[0]
    return found


kit.main(read)
