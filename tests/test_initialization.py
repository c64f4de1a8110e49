import pytest
import torch

from sentinv.concepts.concept import Concept
from sentinv.concepts.initialization import Initialization, plan, starting_rows
from sentinv.errors import ConceptError, PromptError


@pytest.mark.parametrize(
    ("text", "tokens"), [("a striped mug", ("a", "striped", "mug")), ("zebra", ("z", "e", "br", "a")), ("*", ("*",))]
)
def test_as_many_vectors_as_tokens_each_its_own_row(backbone, text, tokens):
    start = starting_rows(Initialization(text), backbone)
    (encoder,) = backbone.text_encoders
    ids = encoder.tokenizer(text, add_special_tokens=False).input_ids
    assert start.tokens == tokens and start.count == len(ids)
    assert torch.equal(start.rows["text_encoder"], encoder.table.weight[ids])
    start.rows["text_encoder"].zero_()
    assert encoder.table.weight[ids].any()


def test_cuts_at_a_word_and_says_so(sd1_backbone):
    with pytest.warns(UserWarning, match="'zebra mug' was cut"):
        start = starting_rows(Initialization("a striped zebra mug"), sd1_backbone, max_vectors=5)
    assert (start.tokens, start.dropped) == (("a", "striped"), "zebra mug")
    with pytest.warns(UserWarning, match="room for 38 vectors"):
        assert starting_rows(Initialization("mug " * 50), sd1_backbone).count == 38


@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_no_words_no_start(tokenizer, text):
    with pytest.raises(PromptError, match="expected words"):
        plan(text, tokenizer)


def test_a_word_that_is_too_long(tokenizer):
    with pytest.raises(PromptError, match="'zebra' alone needs 4 vectors, allowed are 3"):
        plan("zebra mug", tokenizer, 3)
    with pytest.raises(ValueError, match="at least 1"):
        plan("mug", tokenizer, 0)


def test_continues_from_a_concept(sd1_backbone):
    concept = Concept(token="<old>", rows={"text_encoder": torch.ones(2, 16)})
    start = starting_rows(Initialization("", "concept", concept=concept), sd1_backbone)
    assert start.tokens == ("<old>", "<old>_1")
    assert torch.equal(start.rows["text_encoder"], concept.rows["text_encoder"])
    with pytest.raises(ConceptError, match="allowed are 1"):
        starting_rows(Initialization("", concept=concept), sd1_backbone, max_vectors=1)
    other = Concept(token="<old>", rows={"text_encoder": torch.ones(2, 7)})
    with pytest.raises(ConceptError, match="does not fit"):
        starting_rows(Initialization("", concept=other), sd1_backbone)
