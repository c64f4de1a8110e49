"""Which concept a picture shows."""

from dataclasses import replace

import pytest
import torch
from judging import build_judge, random_picture
from PIL import Image
from torch.nn.functional import normalize

from sentinv.bench.concepts import read_concepts
from sentinv.bench.measuring import ConceptPictures
from sentinv.cli.studying import _recogniser
from sentinv.errors import SentinvError
from sentinv.evaluation.recognition import Gallery, Recogniser, prototype
from sentinv.files.images import read_image

AXES = torch.eye(4)


def test_a_picture_is_read_as_what_it_is_nearest_to():
    """Concepts along two axes, and two things of the gallery along the others."""
    recogniser = Recogniser({"own": AXES[0], "other": AXES[1]}, Gallery(("fox", "cup"), AXES[2:], "judge"), "pictures")
    pictures = normalize(torch.tensor([[1, 0.5, 0, 0], [0.5, 1, 0, 0], [0.5, 0, 1.0, 0], [0.5, 0, 0, 1.0]]), dim=1)
    assert recogniser.reads_as(pictures, "own").tolist() == [True, False, False, False]
    assert recogniser.reads_as(pictures, "own", ["fox"]).tolist() == [True, False, True, False]
    assert recogniser.reads_as(pictures, "other").tolist() == [False, True, False, False]
    others = Gallery(("fox",), AXES[2:3], "judge")
    assert recogniser.digest != Recogniser({"own": AXES[0], "other": AXES[1]}, others, "pictures").digest


def test_a_gallery_is_read_as_it_was_written(tmp_path):
    gallery = Gallery(("fox", "a cup"), normalize(torch.randn(2, 8), dim=1), "0123")
    gallery.save(tmp_path / "things.safetensors")
    read = Gallery.read(tmp_path / "things.safetensors")
    assert (read.names, read.judge) == (gallery.names, gallery.judge)
    assert torch.equal(read.prototypes, gallery.prototypes.half().float())
    for content in (b"", b"not one", (tmp_path / "things.safetensors").read_bytes()[:40]):
        (tmp_path / "things.safetensors").write_bytes(content)
        with pytest.raises(SentinvError, match="is no gallery of things"):
            Gallery.read(tmp_path / "things.safetensors")


class Seeing:
    """A judge whose embeddings differ in the last bits by the machine."""

    def __init__(self, machine):
        self.machine = machine

    def images(self, images):
        return normalize(AXES[: len(images)] + 1e-3 * self.machine, dim=1)


def test_what_can_be_told_apart_has_one_digest_on_all_machines_and_another_for_other_pictures(tmp_path):
    Gallery(("fox",), normalize(torch.randn(1, 4), dim=1), "judge").save(tmp_path / "things.safetensors")
    gallery = Gallery.read(tmp_path / "things.safetensors")
    white, black = Image.new("RGB", (4, 4), "white"), Image.new("RGB", (4, 4))
    first, second = (Recogniser.of(Seeing(machine), {"own": [white]}, gallery) for machine in (0, 1))
    assert not torch.equal(first.concepts["own"], second.concepts["own"])
    assert first.digest == second.digest
    for other in ({"own": [black]}, {"its": [white]}, {"own": [white, white]}):
        assert Recogniser.of(Seeing(0), other, gallery).digest != first.digest
    shares = ({"own": [white, black], "its": [white]}, {"own": [white], "its": [black, white]})
    assert len({Recogniser.of(Seeing(0), own, gallery).digest for own in shares}) == 2
    other = Gallery(gallery.names, -gallery.prototypes, gallery.judge)
    assert Recogniser.of(Seeing(0), {"own": [white]}, other).digest != first.digest


class Attributes:
    """Sees every second edit in the right scene, and never a painting."""

    digest = "attributes"

    def __init__(self):
        self.seen = 0

    def wanted(self, prompt, word):
        assert word == ""
        return {"style": "painting"} if "painting" in prompt else {"scene": "on the moon"}

    def probabilities(self, image, wanted):
        self.seen += 1
        return {name: float(value != "painting" and self.seen % 2) for name, value in wanted.items()}


def test_recognised_is_the_share_that_shows_the_concept_where_it_was_asked_for(concepts, measuring):
    own = prototype(measuring.judge, [read_image(concepts[0].image).image])
    far = Gallery(("fox",), -own[None], measuring.judge.digest)
    alone = replace(measuring, recogniser=Recogniser({"mug": own}, far, ""))
    pictures = ConceptPictures(concepts[0], alone, (16, 16))
    image = random_picture(0)
    assert pictures.measure([image], [[image], [image]])["recognised_prompts"] == [1, 1, 1]
    judged = replace(alone, attributes=Attributes())
    scores = ConceptPictures(concepts[0], judged, (16, 16)).measure([image], [[image, image], [image]])
    assert scores["recognised_prompts"] == [1, 0.5, 0] and scores["recognised"] == pytest.approx(0.5)
    assert scores["right"] == 0.25 and "right" not in pictures.measure([image], [[image], [image]])
    taken = replace(measuring, recogniser=Recogniser({"mug": own, "twin": own}, far, ""))
    made = [image], [[image], [image]]
    assert ConceptPictures(concepts[0], taken, (16, 16)).measure(*made)["recognised"] == 0  # not nearer than its twin
    assert "recognised" not in ConceptPictures(concepts[0], measuring, (16, 16)).measure(*made)


class Options:
    """What `_recogniser` asks of a study's options."""

    images = ()

    def __init__(self, path):
        self.concepts = path

    def all_concepts(self):
        return read_concepts(self.concepts)


def test_a_study_recognises_where_a_gallery_of_its_judge_lies_beside_the_concepts(concepts, tokenizer):
    judge = build_judge(tokenizer)
    options = Options(concepts[0].image.parent.parent / "concepts.json")
    assert _recogniser(judge, options) == (None, "")
    path = options.concepts.with_name("things.safetensors")
    Gallery(("fox",), normalize(torch.randn(1, 8), dim=1), "of another").save(path)
    assert _recogniser(judge, options) == (None, "unavailable: things.safetensors is of another judge")
    Gallery(("fox",), normalize(torch.randn(1, 8), dim=1), judge.digest).save(path)
    recogniser, told = _recogniser(judge, options)
    assert told == "the nearest of 2 concepts, by their held-out views, and 1 things"
    views = judge.images([read_image(view).image for view in concepts[1].views])
    assert torch.allclose(recogniser.concepts["cat"], normalize(views.mean(0), dim=0))
