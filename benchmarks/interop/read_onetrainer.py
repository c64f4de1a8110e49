"""OneTrainer: its loader, its setting up of embeddings, and the module before the text encoder's table."""

import sys
from types import SimpleNamespace

import kit
import torch

sys.path.insert(0, sys.argv[2])
kit.stand_in(*kit.BESIDE_ONETRAINER)
from modules.model.BaseModel import BaseModel  # noqa: E402
from modules.modelLoader.stableDiffusion.StableDiffusionEmbeddingLoader import StableDiffusionEmbeddingLoader  # noqa: E402
from modules.modelLoader.stableDiffusionXL.StableDiffusionXLEmbeddingLoader import (  # noqa: E402
    StableDiffusionXLEmbeddingLoader,
)
from modules.modelSetup.BaseStableDiffusionSetup import BaseStableDiffusionSetup  # noqa: E402
from modules.modelSetup.BaseStableDiffusionXLSetup import BaseStableDiffusionXLSetup  # noqa: E402
from modules.module.AdditionalEmbeddingWrapper import AdditionalEmbeddingWrapper  # noqa: E402
from modules.util.ModelNames import EmbeddingName, ModelNames  # noqa: E402


def read(case, models, _):
    xl = case.base == "sdxl"
    name = EmbeddingName("0", str(case.files[0]))
    model = SimpleNamespace(embedding_state_dicts={}, embedding=None, additional_embeddings=[])
    loader = StableDiffusionXLEmbeddingLoader() if xl else StableDiffusionEmbeddingLoader()
    loader.load(model, "", ModelNames(embedding=name))
    suffixes = {"text_encoder": "_1", "text_encoder_2": "_2"} if xl else {"text_encoder": ""}
    for encoder, suffix in suffixes.items():
        setattr(model, f"text_encoder{suffix}", models[encoder])
        setattr(model, f"tokenizer{suffix}", kit.tokenizer())
        setattr(
            model,
            f"all_text_encoder{suffix}_embeddings",
            lambda suffix=suffix: [getattr(model.embedding, f"text_encoder{suffix}_embedding")],
        )
    one = SimpleNamespace(uuid="0", placeholder=case.token, is_output_embedding=False)
    config = SimpleNamespace(embedding=one, all_embedding_configs=lambda: [one])
    setup = BaseStableDiffusionXLSetup if xl else BaseStableDiffusionSetup
    owner = SimpleNamespace(train_device="cpu", temp_device="cpu")
    owner._add_embeddings_to_tokenizer = lambda words, many: setup._add_embeddings_to_tokenizer(owner, words, many)
    setup._setup_embeddings(owner, model, config)
    found = {}
    for encoder, suffix in suffixes.items():
        words, embeddings = (
            getattr(model, f"tokenizer{suffix}"),
            getattr(model, f"all_text_encoder{suffix}_embeddings")(),
        )
        wrapper = AdditionalEmbeddingWrapper(words, models[encoder].get_input_embeddings(), embeddings)
        wrapper.hook_to_module()
        text = BaseModel._add_embeddings_to_prompt(embeddings, case.text)
        found[encoder] = models[encoder].get_input_embeddings()(torch.tensor(words(text)["input_ids"]))
        wrapper.remove_hook_from_module()
    return found


kit.main(read)
