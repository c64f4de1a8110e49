import pytest
import torch
from conftest import same, snapshot
from torch import nn

from sentinv.concepts.names import check_free, check_token
from sentinv.concepts.placeholder import PlaceholderRows, laid_aside
from sentinv.concepts.tokens import tokenize
from sentinv.errors import ConceptError, PromptError


def random_rows(backbone, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {e.name: torch.randn(count, e.dim, generator=generator) * 0.02 for e in backbone.text_encoders}


@pytest.mark.parametrize("token", ["<C>", "c", "<c", "c>", "<>", "<a b>", "<|endoftext|>", "<-c>", "<é>", ""])
def test_refuses_names_that_cannot_be_placeholders(token):
    with pytest.raises(PromptError, match="use '<"):
        check_token(token)


def test_suggestion_is_itself_a_valid_name():
    with pytest.raises(PromptError) as error:
        check_token("My Mug!")
    assert check_token(str(error.value).split("'")[-2]) == "<my-mug>"


@pytest.mark.parametrize("taken", ["<c>", "<c>_1", "<c></w>"])
def test_refuses_names_in_the_vocabulary(taken):
    with pytest.raises(PromptError, match="already"):
        check_free("<c>", {taken: 7})


def test_leaves_no_trace_also_after_an_error(backbone):
    before = snapshot(backbone)
    rows = PlaceholderRows({"<c>": random_rows(backbone, 2)})
    with rows.installed(backbone):
        backbone.encode_ids(tokenize(backbone, ["a <c>"], rows))
    assert same(before, snapshot(backbone))
    with pytest.raises(KeyError), rows.installed(backbone):
        raise KeyError
    assert same(before, snapshot(backbone))


def test_rows_of_known_words_condition_as_the_words_do(backbone):
    """Oracle: a placeholder whose rows are those of "striped mug" is the prompt "striped mug"."""
    (encoder,) = backbone.text_encoders
    ids = encoder.text_ids("striped mug")
    rows = PlaceholderRows({"<c>": {encoder.name: encoder.table.weight[ids]}})
    wanted = backbone.encode_ids(tokenize(backbone, ["a photo of a striped mug on the moon"])).hidden
    with rows.installed(backbone):
        got = backbone.encode_ids(tokenize(backbone, ["a photo of a <c> on the moon"], rows)).hidden
    assert torch.equal(got, wanted)


def test_gradient_equals_that_of_training_the_whole_table(pipeline, backbone):
    """Oracle: diffusers' way, a resized table as the parameter."""
    (encoder,) = backbone.text_encoders
    start = random_rows(backbone, 2)[encoder.name]
    rows = PlaceholderRows({"<c>": {encoder.name: start}})
    with rows.installed(backbone):
        hidden = backbone.encode_ids(tokenize(backbone, ["a photo of <c>", "<c> on the moon"], rows)).hidden
        hidden.square().sum().backward()
    pipeline.load_textual_inversion({"<c>": start})
    table = pipeline.text_encoder.get_input_embeddings().weight.requires_grad_(True)
    texts = [pipeline.maybe_convert_prompt(text, pipeline.tokenizer) for text in ("a photo of <c>", "<c> on the moon")]
    ids = pipeline.tokenizer(texts, padding="max_length", max_length=40, return_tensors="pt").input_ids
    pipeline.text_encoder(ids)[0].square().sum().backward()
    assert torch.allclose(rows.rows[encoder.name].grad, table.grad[-2:], rtol=1e-4, atol=1e-7)
    assert rows.rows[encoder.name].grad.abs().max() > 0


def test_only_the_rows_get_a_gradient(backbone):
    rows = PlaceholderRows({"<c>": random_rows(backbone, 1)})
    with rows.installed(backbone):
        backbone.encode_ids(tokenize(backbone, ["<c>"], rows)).hidden.sum().backward()
    assert all(parameter.grad is None for part in backbone._modules() for parameter in part.parameters())


def test_several_placeholders_keep_their_own_rows(backbone):
    (encoder,) = backbone.text_encoders
    first, second = random_rows(backbone, 2, 1), random_rows(backbone, 3, 2)
    both = PlaceholderRows({"<a>": first, "<ab>": second})
    assert torch.equal(both.of("<a>")[encoder.name], first[encoder.name])
    assert torch.equal(both.of("<ab>")[encoder.name], second[encoder.name])
    alone = PlaceholderRows({"<ab>": second})
    with alone.installed(backbone):
        wanted = backbone.encode_ids(tokenize(backbone, ["a <ab> mug"], alone)).hidden
    with both.installed(backbone):
        assert torch.equal(backbone.encode_ids(tokenize(backbone, ["a <ab> mug"], both)).hidden, wanted)


def test_legacy_pooling_still_finds_the_end(backbone):
    """A config with eos_token_id 2 pools at the largest id, which must not be a placeholder."""
    (encoder,) = backbone.text_encoders
    rows = PlaceholderRows({"<c>": random_rows(backbone, 1)})
    with rows.installed(backbone):
        ids = tokenize(backbone, ["a <c> mug"], rows)[encoder.name]
        wanted = encoder.model(ids).pooler_output
        encoder.model.eos_token_id = 2
        assert torch.equal(encoder.model(ids).pooler_output, wanted)


def test_refuses_rows_of_another_width_and_double_installation(backbone):
    with (
        pytest.raises(ConceptError, match="do not fit"),
        PlaceholderRows({"<c>": {"text_encoder": torch.ones(1, 5)}}).installed(backbone),
    ):
        pass
    rows = PlaceholderRows({"<c>": random_rows(backbone, 1)})
    with rows.installed(backbone), pytest.raises(ValueError, match="already"), rows.installed(backbone):
        pass
    assert isinstance(backbone.text_encoders[0].table, nn.Embedding)


def test_half_precision_base_keeps_float32_rows(backbone):
    for part in backbone._modules():
        part.to(torch.bfloat16)
    rows = PlaceholderRows({"<c>": random_rows(backbone, 1)})
    with rows.installed(backbone):
        hidden = backbone.encode_ids(tokenize(backbone, ["<c>"], rows)).hidden
        hidden.float().sum().backward()
    assert hidden.dtype == torch.bfloat16
    (parameter,) = rows.parameters()
    assert parameter.dtype == parameter.grad.dtype == torch.float32


def test_rows_that_are_laid_aside_come_back(sd1_backbone):
    backbone = sd1_backbone
    rows = PlaceholderRows({"<c>": {encoder.name: torch.ones(2, encoder.dim) for encoder in backbone.text_encoders}})
    own = [encoder.table for encoder in backbone.text_encoders]
    with pytest.raises(ValueError, match="no rows"), laid_aside(backbone):
        pass
    with rows.installed(backbone):
        installed = [encoder.table for encoder in backbone.text_encoders]
        with pytest.raises(ZeroDivisionError), laid_aside(backbone):
            assert [encoder.table for encoder in backbone.text_encoders] == own
            _ = 1 / 0
        assert [encoder.table for encoder in backbone.text_encoders] == installed
    assert [encoder.table for encoder in backbone.text_encoders] == own
