"""What `import sentinv` offers, and the traps that it must not have."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import sentinv
from sentinv.bench.concepts import StudyConcept
from sentinv.bench.trials import training_pictures
from sentinv.concepts.initialization import Initialization, starting_rows
from sentinv.concepts.placeholder import PlaceholderRows
from sentinv.editing.edit import encode_image, prepared
from sentinv.errors import ConceptError, SentinvError
from sentinv.models.backbone import Backbone
from sentinv.training.config import TrainConfig

QUICK = TrainConfig(blended=0, steps=1, evaluation_timesteps=1, evaluation_noises=1)
ROOT = Path(__file__).parent.parent


def word(token="<c>"):
    return sentinv.Concept(token=token, rows={"text_encoder": torch.ones(2, 16)})


@pytest.mark.filterwarnings("ignore:nothing was learned")
def test_the_name_of_an_initializer_is_no_phrase(sd1_backbone, picture):
    with pytest.warns(UserWarning, match=r"pass sentinv\.initializers\.make\('class'\)"):
        concept = sentinv.invert(sd1_backbone, picture, "class", QUICK)
    assert concept.metadata["sentinv.initial_text"] == "class"


@pytest.mark.filterwarnings("ignore:nothing was learned")
def test_learning_tells_its_history(sd1_backbone, picture):
    picture = sentinv.Picture(image=picture)
    start = sentinv.find_start(sd1_backbone, [picture], "a mug")
    learned = sentinv.learn(sd1_backbone, [picture], start, QUICK)
    assert isinstance(learned.history, sentinv.History) and len(learned.history.records) == 1
    assert learned.start is start and isinstance(start, sentinv.Start)
    same = sentinv.invert(sd1_backbone, picture, "a mug", QUICK)
    assert same.to_bytes() == learned.concept.to_bytes()
    with pytest.raises(TypeError, match="stepz"):
        sentinv.invert(sd1_backbone, picture, "a mug", QUICK, stepz=1)


def test_transparent_is_black_in_every_mask(tmp_path):
    drawn = Image.new("RGBA", (32, 32), (255, 255, 255, 0))
    drawn.paste((255, 255, 255, 255), (0, 0, 16, 32))
    drawn.save(tmp_path / "mask.png")
    Image.new("RGB", (32, 32), "red").save(tmp_path / "thing.png")
    mask = sentinv.read_mask(tmp_path / "mask.png")
    assert mask.mode == "L" and mask.getpixel((2, 2)) == 255 and mask.getpixel((30, 2)) == 0
    studied = StudyConcept(name="thing", image=tmp_path / "thing.png", mask=tmp_path / "mask.png")
    (own,) = training_pictures(studied, 1, masked=True)
    assert own.mask.tobytes() == mask.tobytes()


def test_a_mask_has_the_size_of_its_picture():
    picture = sentinv.Picture(image=Image.new("RGB", (32, 16)))
    assert picture.with_mask(Image.new("1", (32, 16))).mask.mode == "L"
    with pytest.raises(SentinvError, match="the mask has 16 x 32, its picture 32 x 16 pixels"):
        picture.with_mask(Image.new("L", (16, 32)))


def test_the_fingerprint_is_not_taken_of_a_model_with_rows_in_it(sd1):
    first, second = Backbone.from_pipeline(sd1, "tiny"), Backbone.from_pipeline(sd1, "tiny")
    with PlaceholderRows.of_concepts([word()]).installed(first), pytest.raises(ValueError, match="fingerprint before"):
        _ = first.fingerprint
    assert first.fingerprint == second.fingerprint
    with PlaceholderRows.of_concepts([word()]).installed(first):
        assert first.fingerprint == second.fingerprint  # taken before, and kept


def test_from_pipeline_freezes_what_it_shares_and_says_so(sd1):
    sd1.unet.train().requires_grad_(True)
    before = {name: value.clone() for name, value in sd1.unet.state_dict().items()}
    backbone = Backbone.from_pipeline(sd1, "tiny")
    assert backbone.unet is sd1.unet and not sd1.unet.training
    assert not any(parameter.requires_grad for parameter in sd1.unet.parameters())
    assert all(torch.equal(value, before[name]) for name, value in sd1.unet.state_dict().items())
    assert "frozen" in Backbone.from_pipeline.__doc__ and "evaluation mode" in Backbone.from_pipeline.__doc__


def test_records_with_tensors_can_be_compared(sd1_backbone, picture):
    archive = sentinv.ddim_invert(sd1_backbone, picture, "a mug", config=sentinv.InversionConfig(steps=2))
    records = [
        word(),
        starting_rows(Initialization("a mug"), sd1_backbone),
        starting_rows(Initialization("a mug", concept=word()), sd1_backbone),
        sd1_backbone.schedule,
        sd1_backbone.encode(prepared(sd1_backbone, picture)),
        archive,
        archive.trajectory,
        sentinv.edit(sd1_backbone, archive, "a cat"),
    ]
    for record in records:
        assert record == record and record != replace(record)
        assert record in {record}
    said = Initialization("a mug", concept=word())
    assert said == replace(said) != Initialization("a mug", concept=word())
    assert encode_image(sd1_backbone, prepared(sd1_backbone, picture)).ndim == 4


class Hub:
    """A hub with one repository."""

    def __init__(self, monkeypatch, folder, *names):
        self.asked, self.names = [], names
        word("<hub>").save(folder / "word.safetensors")

        def download(repository, name):
            self.asked.append((repository, name))
            return str(folder / "word.safetensors")

        monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", lambda _, repository: list(names))
        monkeypatch.setattr("sentinv.models.parts._go_offline_if_unreachable", lambda: None)


def test_a_concept_of_the_hub(monkeypatch, tmp_path):
    hub = Hub(monkeypatch, tmp_path, "README.md", "learned_embeds.bin", "learned_embeds.safetensors", "x.safetensors")
    assert sentinv.Concept.load("owner/word").token == "<hub>"
    assert hub.asked == [("owner/word", "learned_embeds.safetensors")]


@pytest.mark.parametrize(
    ("names", "told"), [(["learned_embeds.bin"], "got none"), (["a.safetensors", "b.safetensors"], "a.s")]
)
def test_what_is_no_safetensors_file_is_not_taken_from_the_hub(monkeypatch, tmp_path, names, told):
    hub = Hub(monkeypatch, tmp_path, *names)
    with pytest.raises(ConceptError, match=told):
        sentinv.Concept.load("owner/word", allow_pickle=True)
    assert hub.asked == []


def test_a_file_that_is_not_there_is_not_looked_for_on_the_hub(monkeypatch, tmp_path):
    hub = Hub(monkeypatch, tmp_path, "learned_embeds.safetensors")
    for name in ("owner/word.safetensors", "owner/word.pt", "word", "a/b/c"):
        with pytest.raises(ConceptError, match="does not exist"):
            sentinv.Concept.load(name)
    assert hub.asked == []


def test_the_guides_import_nothing_but_the_package():
    for page in ("README.md", "docs/editing.md"):
        blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
        lines = [line for block in blocks for line in block.splitlines() if "import" in line]
        assert {line for line in lines if "sentinv" in line} <= {
            "import sentinv",
            "from sentinv.initializers import make",
        }
