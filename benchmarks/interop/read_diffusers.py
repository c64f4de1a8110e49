"""diffusers, as installed: load_textual_inversion, and the conversion of prompts of its pipelines."""

import kit
import torch
from diffusers import DiffusionPipeline
from diffusers.loaders import TextualInversionLoaderMixin


class Pipeline(DiffusionPipeline, TextualInversionLoaderMixin):
    """A pipeline of text encoders alone."""

    _optional_components = ("text_encoder_2", "tokenizer_2")

    def __init__(self, text_encoder, tokenizer, text_encoder_2=None, tokenizer_2=None):
        super().__init__()
        self.register_modules(
            text_encoder=text_encoder, tokenizer=tokenizer, text_encoder_2=text_encoder_2, tokenizer_2=tokenizer_2
        )


def read(case, models, _):
    tokenizers = {name: kit.tokenizer() for name in models}
    parts = {name.replace("text_encoder", "tokenizer"): one for name, one in tokenizers.items()}
    pipeline = Pipeline(**models, **parts)
    if len(case.files) == 1:
        pipeline.load_textual_inversion(str(case.files[0]))
    else:
        for file, name in zip(case.files, models, strict=True):
            pipeline.load_textual_inversion(str(file), text_encoder=models[name], tokenizer=tokenizers[name])
    found = {}
    for name, model in models.items():
        words = tokenizers[name]
        ids = words(pipeline.maybe_convert_prompt(case.text, words), padding="max_length")["input_ids"]
        found[name] = model.get_input_embeddings()(torch.tensor(ids))
    return found


kit.main(read)
