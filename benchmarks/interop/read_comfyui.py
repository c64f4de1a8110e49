"""ComfyUI: its tokenizers, which read the files, and its text encoder's own merging of vectors into the prompt's."""

import sys

import kit

sys.path.insert(0, sys.argv[2])
import comfy.cli_args

comfy.cli_args.args.cpu = True
from comfy.sd1_clip import SD1Tokenizer, SDClipModel  # noqa: E402
from comfy.sdxl_clip import SDXLTokenizer  # noqa: E402
from comfy.text_encoders.sd2_clip import SD2Tokenizer  # noqa: E402

TOKENIZERS = {"sd1": SD1Tokenizer, "sd2": SD2Tokenizer, "sdxl": SDXLTokenizer}


def read(case, models, _):
    tokenizer = TOKENIZERS[case.base](embedding_directory=str(case.files[0].parent))
    pairs = tokenizer.tokenize_with_weights(case.text)
    found = {}
    for key, (name, model) in zip(("h" if case.base == "sd2" else "l", "g"), models.items(), strict=False):
        (chunk,) = pairs[key]
        width = model.config.hidden_size
        config = {
            "num_hidden_layers": 1,
            "hidden_size": width,
            "num_attention_heads": width // 64,
            "intermediate_size": 8,
            "hidden_act": "gelu",
            "eos_token_id": 49407,
            "max_position_embeddings": 77,
            "vocab_size": 49408,
        }
        encoder = SDClipModel(textmodel_json_config=config)
        encoder.transformer.get_input_embeddings().weight.data.copy_(model.get_input_embeddings().weight)
        embeds, *_ = encoder.process_tokens([[token for token, _ in chunk]], "cpu")
        found[name] = embeds[0]
    return found


kit.main(read)
