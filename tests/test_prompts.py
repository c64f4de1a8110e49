import pytest
import torch

from sentinv.concepts.placeholder import PlaceholderRows
from sentinv.concepts.prompts import OBJECT_TEMPLATES, STYLE_TEMPLATES, check_placeholders, expand, fill, read_templates
from sentinv.concepts.tokens import padded_ids, token_ids
from sentinv.errors import PromptError, SentinvError

VOCABULARY = {"<c>": [-1, -2], "<cat>": [-3]}


@pytest.fixture
def encoder(sd1_backbone):
    return sd1_backbone.text_encoders[0]


def test_the_templates_of_the_paper():
    assert (len(OBJECT_TEMPLATES), len(STYLE_TEMPLATES)) == (27, 19)  # two of the style templates occur twice
    assert all(template.count("{}") == 1 for template in OBJECT_TEMPLATES + STYLE_TEMPLATES)


@pytest.mark.parametrize(
    "text", ["", "a photo", "Zebra-crossing, 2 of 3!", "it's  a\n\ttest", "naïve 日本 🙂", "a " * 60]
)
def test_plain_text_tokenises_as_the_tokenizer_does(encoder, text):
    wanted = encoder.tokenizer(
        text, padding="max_length", truncation=True, max_length=40, return_tensors="pt"
    ).input_ids
    with pytest.warns() if len(text) > 100 else _nothing():
        assert torch.equal(padded_ids([text], encoder), wanted)


@pytest.mark.parametrize("text", ["a <c> mug", "<c>", "x<c>y", "a <c>, and <cat>'s tail", "<cat> <cat><c>"])
def test_placeholders_tokenise_as_added_tokens_do(sd1, encoder, text):
    """Oracle: diffusers' loader, which adds the names to the tokenizer."""
    ids = token_ids(text, encoder, VOCABULARY)
    size = len(sd1.tokenizer)
    sd1.load_textual_inversion([{"<c>": torch.ones(2, 16)}, {"<cat>": torch.ones(1, 16)}])
    added = sd1.tokenizer(sd1.maybe_convert_prompt(text, sd1.tokenizer), add_special_tokens=False).input_ids
    assert ids == [index if index < size else size - 1 - index for index in added]


def test_expansion_and_single_vectors(encoder):
    assert expand("a <c> by <cat>", VOCABULARY) == "a <c> <c>_1 by <cat>"
    assert token_ids("<c>_1", encoder, VOCABULARY) == [-2]
    with pytest.raises(PromptError, match="2 vectors"):
        token_ids("<c>_2", encoder, VOCABULARY)


def test_a_placeholder_is_never_cut_off(encoder):
    fits = "mug " * 36 + "<c>"
    assert -2 in padded_ids([fits], encoder, VOCABULARY)
    with pytest.raises(PromptError, match="cut off"):
        padded_ids(["mug " + fits], encoder, VOCABULARY)


def test_unknown_placeholders_are_refused():
    check_placeholders("a <c> and 1 < 2 > 0 <|endoftext|>", VOCABULARY)
    with pytest.raises(PromptError, match="<dog>"):
        check_placeholders("a <dog>", VOCABULARY)


def test_templates_from_a_file(tmp_path):
    path = tmp_path / "templates.txt"
    path.write_text("# mine\n\na sketch of {}\n  {x} of {}\n", encoding="utf-8")
    templates = read_templates(path)
    assert [fill(template, "<c>") for template in templates] == ["a sketch of <c>", "{x} of <c>"]
    path.write_text("a sketch\n")
    with pytest.raises(PromptError, match="line 1"):
        read_templates(path)
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(SentinvError, match="cannot read"):
        read_templates(path)


def test_vocabulary_of_rows_is_disjoint():
    rows = PlaceholderRows({"<a>": {"text_encoder": torch.ones(2, 4)}, "<b>": {"text_encoder": torch.ones(3, 4)}})
    ids = [index for part in rows.vocabulary.values() for index in part]
    assert sorted(ids) == [-5, -4, -3, -2, -1]


def _nothing():
    from contextlib import nullcontext

    return nullcontext()
