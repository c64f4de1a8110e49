"""Words that a model's tokenizer has learned, as the folders of diffusers' own textual_inversion.py. Oracle: diffusers."""

import pytest
import torch
from click.testing import CliRunner
from conftest import build_pipeline
from diffusers import StableDiffusionPipeline
from transformers import CLIPTokenizer

from sentinv.cli.main import cli
from sentinv.concepts.initialization import Initialization, starting_rows
from sentinv.errors import PromptError
from sentinv.generation.denoiser import encode_prompts
from sentinv.models.backbone import Backbone
from sentinv.models.loading import load


@pytest.fixture
def taught(tokenizer, tmp_path):
    """A function that saves a model with words in its tokenizer, as that program does: tokens added, table resized."""

    def made(*words):
        tokenizer.save_pretrained(tmp_path / "words")
        own = CLIPTokenizer.from_pretrained(tmp_path / "words")
        pipeline = build_pipeline(own, 16, "epsilon")
        assert own.add_tokens(list(words)) == len(words)
        torch.manual_seed(5)
        pipeline.text_encoder.resize_token_embeddings(len(own), mean_resizing=False)
        pipeline.save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    return made


@pytest.mark.parametrize("words", [["<cat-toy>"], ["<cat-toy>", "<cat-toy>_1", "<cat-toy>_2"], ["sks", "<x>"]])
@pytest.mark.parametrize(
    "prompt", ["a photo of {}", "{}", "{}, {} and a mug", "a photo of a cat", "a small{}-like mug", "A PHOTO OF {} ON"]
)
def test_prompts_are_those_of_the_pipeline(taught, words, prompt):
    folder = taught(*words)
    prompt = prompt.replace("{}", words[0])
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    wanted, _ = pipeline.encode_prompt(prompt, "cpu", 1, False)
    assert torch.equal(encode_prompts(load(folder, device="cpu"), [prompt]).hidden, wanted)


def test_generate_knows_the_word(taught, tmp_path):
    where = ["--model", str(taught("<cat-toy>")), "--device", "cpu", "--steps", "1", "-n", "1", "-o"]
    result = CliRunner().invoke(cli, ["generate", "a photo of <cat-toy>", *where, str(tmp_path / "made")])
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(cli, ["generate", "a photo of <dog-toy>", *where, str(tmp_path / "other")])
    assert result.exit_code == 1 and "add its concept file" in result.output


def test_a_word_that_only_one_of_two_tokenizers_has_is_not_known(xl):
    xl.tokenizer_2.add_tokens(["<c>"])
    xl.text_encoder_2.resize_token_embeddings(len(xl.tokenizer_2), mean_resizing=False)
    backbone = Backbone.from_pipeline(xl, "tiny")
    with pytest.raises(PromptError, match="add its concept file"):
        encode_prompts(backbone, ["a photo of <c>"])


@pytest.mark.parametrize(
    "text", ["a cat!", "a cat!!", "!", "a ! cat", "stop! it!", "cat!!!", "wow !!", "a!b", "a cat?!", "!cat", "cat&!"]
)
def test_starts_are_alike_where_a_second_tokenizer_pads_with_an_exclamation_mark(xl, tmp_path, text):
    """As Stable Diffusion XL's does. Every vector starts from the text's row, not from that of padding."""
    xl.tokenizer_2.save_pretrained(tmp_path)
    xl.tokenizer_2 = CLIPTokenizer.from_pretrained(tmp_path, pad_token="!")
    backbone = Backbone.from_pipeline(xl, "tiny")
    start = starting_rows(Initialization(text), backbone)
    words = [xl.tokenizer(word, add_special_tokens=False).input_ids for word in text.split()]
    ids = [index for word in words for index in word]
    for encoder in backbone.text_encoders:
        assert torch.equal(start.rows[encoder.name], encoder.table.weight[ids])
