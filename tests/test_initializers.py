import json
import math
import shutil
import warnings
from contextlib import contextmanager

import pytest
import torch
from PIL import Image
from seeing import SENTENCE, build_captioner, build_classifier

import sentinv
from sentinv.concepts.concept import Concept
from sentinv.concepts.initialization import Initialization, Start, whole_words
from sentinv.errors import ConceptError, ModelError, PromptError
from sentinv.evaluation.judges import ClipJudge
from sentinv.initializers import INITIALIZERS, Options, make
from sentinv.initializers.caption import Caption, tidy
from sentinv.initializers.class_ import ClassLabel, first_synonym
from sentinv.initializers.concept import Continue
from sentinv.models import eyes
from sentinv.models.built_in import built_in
from sentinv.training.config import TrainConfig

IMAGE = Image.new("RGB", (32, 24), "teal")


@pytest.fixture(scope="module")
def captioner(tmp_path_factory):
    return str(build_captioner(tmp_path_factory.mktemp("captioner")))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return str(build_classifier(tmp_path_factory.mktemp("classifier")))


def test_caption_describes_the_thing(captioner):
    said = Caption(captioner)(IMAGE)
    assert (said.text, said.source) == (SENTENCE.removeprefix("a photo of "), "caption")
    assert -1 < said.score <= 0
    assert Caption(captioner, drop_scene=True)(IMAGE).text == "a red striped cat"
    assert Caption(captioner, drop_stopwords=True, drop_scene=True)(IMAGE).text == "red striped cat"


def test_several_pictures_are_described_as_each_alone(captioner, classifier):
    pictures = [IMAGE, Image.new("RGB", (20, 20), "red"), Image.effect_noise((40, 30), 90)]
    for initializer in (Caption(captioner), ClassLabel(classifier)):
        alone = [initializer(picture) for picture in pictures]
        for one, other in zip(alone, initializer.several(pictures), strict=True):
            assert (one.text, one.source) == (other.text, other.source)
            assert one.score == pytest.approx(other.score, abs=1e-5)


@pytest.mark.parametrize(
    ("sentence", "text"),
    [
        ("a photo of a red cat", "a red cat"),
        ("A Picture of the cup.", "the cup"),
        ("there is a photo of a cat", "a cat"),
        ("an image of two dogs", "two dogs"),
        ("a close up of a teapot", "a teapot"),
        ("there is a close-up photograph of a cat", "a cat"),
        ("a photography of a dog", "a dog"),
        ("a pencil sketch of a cat", "a pencil sketch of a cat"),
        ("a painting of a photo of a cat", "a painting of a photo of a cat"),
        ("a cat cat with with a hat", "a cat with a hat"),
        ("a cat on a bed on a bed on a bed", "a cat on a bed"),
        ("[DEC] a cat", "a cat"),
        ("an orange cat and an orange cat on the beach", "an orange cat on the beach"),
        ("a red cat and a blue cat", "a red cat and a blue cat"),
        ("a black and black and white cow", "a black and white cow"),
        ("salt &amp; pepper mills", "salt & pepper mills"),
        ("salt & amp ; pepper mills", "salt & pepper mills"),
        ("salt &amp;amp; pepper", "salt & pepper"),
        ("the cat&#39;s bowl", "the cat's bowl"),
        ("the cat & # 39 ; s bowl", "the cat ' s bowl"),
        ("a &quot;stop&quot; sign", "a stop sign"),
        ("a cat&nbsp;on a bed", "a cat on a bed"),
        ("a &lt;cat&gt;", "a cat"),
        ("black & white cow; a bell", "black & white cow a bell"),
        ("a cafe\u0301 cafe\u0301 sign", "a caf\u00e9 sign"),
        ("a pi\u006e\u0303ata &eacute;toile", "a pi\u00f1ata \u00e9toile"),
    ],
)
def test_tidy(sentence, text):
    assert tidy(sentence) == text


@pytest.mark.parametrize(
    ("sentence", "text"),
    [
        ("a cat sitting on a bed", "a cat"),
        ("a red cup in the forest at night", "a red cup"),
        ("a cup at sunset", "a cup"),
        ("a robot in space", "a robot"),
        ("a cat sitting on top of a table", "a cat"),
        ("a car parked in front of a house", "a car"),
        ("a woman in red", "a woman in red"),
        ("a cat with a hat", "a cat with a hat"),
    ],
)
def test_tidy_drops_the_scene(sentence, text):
    assert tidy(sentence, drop_scene=True) == text


def test_stopwords_are_kept_where_there_is_nothing_else():
    assert tidy("with the", drop_stopwords=True) == "with the"


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_class_takes_the_first_synonym(kind, tmp_path):
    classifier = str(build_classifier(tmp_path, kind))
    said = ClassLabel(classifier)(IMAGE)
    assert (said.text, said.source) == ("tabby", "class")
    assert said.score == pytest.approx(math.exp(3) / (math.exp(3) + 2), abs=1e-5)
    assert first_synonym("Tabby_Cat, tabby") == "tabby cat"


def test_words_of_the_user():
    assert make("word", word=" cat ")(IMAGE) == Initialization("cat", "word")
    assert make("phrase", phrase="a  red cat")(IMAGE) == Initialization("a red cat", "phrase")
    assert make("vanilla")(IMAGE) == Initialization("*", "vanilla")


@pytest.mark.parametrize(("name", "options"), [("word", {"word": "two words"}), ("phrase", {"phrase": " "})])
def test_words_that_cannot_be_used(name, options):
    with pytest.raises(PromptError, match="expected"):
        make(name, **options)


def test_random_is_a_word_of_the_vocabulary_and_seeded(model_folder, tokenizer):
    words = [make("random", str(model_folder), seed=seed)(IMAGE).text for seed in (1, 1, 2, 3, 4)]
    assert words[0] == words[1] and len(set(words)) > 2
    assert set(words) <= set(whole_words(tokenizer))
    assert all(len(tokenizer(word, add_special_tokens=False).input_ids) == 1 for word in whole_words(tokenizer))


@pytest.mark.parametrize(
    ("text", "initializer", "thing"),
    [
        ("a red mug", "phrase", "a red mug"),
        ("a red mug", "", "a red mug"),
        ("zebra", "random", ""),
        (" * ", "vanilla", ""),
        ("<cat>", "concept", ""),
        ("", "", ""),
    ],
)
def test_not_all_starting_words_say_what_the_thing_is(text, initializer, thing):
    metadata = {"sentinv.initial_text": text, "sentinv.initializer": initializer}
    word = Concept(token="<c>", rows={"text_encoder": torch.ones(1, 16)}, metadata=metadata)
    assert word.thing == thing
    assert Start(Initialization(text, initializer), ("a",), dict(word.rows)).thing == thing
    assert Continue(word)(IMAGE).text == (thing or "<c>")


def test_concept_continues_a_file(tmp_path):
    rows = {"text_encoder": torch.ones(2, 16)}
    path = Concept(token="<c>", rows=rows, metadata={"sentinv.initial_text": "red cat"}).save(
        tmp_path / "c.safetensors"
    )
    said = make("concept", concept=path)(IMAGE)
    assert said.text == "red cat" and torch.equal(said.concept.rows["text_encoder"], rows["text_encoder"])
    with pytest.raises(ConceptError):
        make("concept", concept=tmp_path / "none.safetensors")(IMAGE)


@pytest.mark.parametrize("model", [Caption, ClassLabel])
def test_a_missing_model_is_told_in_one_line_when_it_is_needed(model, tmp_path):
    initializer = model(str(tmp_path))
    with pytest.raises(ModelError) as caught:
        initializer(IMAGE)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_names():
    assert list(INITIALIZERS) == ["caption", "class", "word", "phrase", "vanilla", "random", "concept"]
    with pytest.raises(ValueError, match="caption, class"):
        make("nonsense")
    with pytest.raises(ValueError, match="needs the file"):
        INITIALIZERS["concept"](Options())


def test_any_callable_is_an_initializer(sd1_backbone, picture):
    concept = sentinv.invert(
        sd1_backbone,
        picture,
        lambda image: Initialization("red" if image.width == image.height == 20 else "blue"),
        TrainConfig(steps=1, evaluation_timesteps=1, evaluation_noises=1),
    )
    assert concept.metadata["sentinv.initial_text"] == "red" and concept.count == 1


def unsure(folder, limit):
    """Let a captioner or classifier say in its config below what score it is not to be believed."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "unsure_below": limit}))
    return str(folder)


def test_where_the_captioner_is_not_sure_the_classifier_is_asked(tmp_path):
    captioner, classifier = build_captioner(tmp_path / "captioner"), build_classifier(tmp_path / "classifier")
    image = Image.new("RGB", (16, 16), (128, 128, 128))
    names = {"captioner": unsure(captioner, 0.0), "classifier": str(classifier)}
    with pytest.warns(
        UserWarning, match=r"not sure of the caption 'a red striped cat on the moon' \(score .*, believed"
    ):
        said = make("caption", **names)(image)
    assert (said.text, said.source) == ("tabby", "class")
    unsure(classifier, 0.95)  # it is sure at .91
    with pytest.warns(
        UserWarning, match=r"starts from it all the same: the class 'tabby' is not sure either; --word or --phrase says"
    ):
        said = make("caption", **names)(image)
    assert (said.text, said.source, said.sure) == ("a red striped cat on the moon", "caption", False)
    with pytest.warns(UserWarning, match=r"not sure of the class 'tabby' .* starts from \*; --word or --phrase says"):
        assert make("class", **names)(image).text == "*"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        said = make("caption", **names, fallback=False)(image)
        assert (said.source, said.sure) == ("caption", False)
        unsure(captioner, -5.0)
        assert make("caption", **names)(image).source == "caption"


@pytest.mark.parametrize(("part", "file"), [("clip", "tokenizer.json"), ("captioner", "tokenizer.json")])
def test_an_eye_without_its_vocabulary_is_refused(part, file, tmp_path, picture):
    folder = shutil.copytree(built_in(part), tmp_path / part)
    (folder / file).unlink()
    with pytest.raises(ModelError, match=r"cannot load tokenizer of .*: its vocabulary is missing"):
        ClipJudge.load(str(folder)) if part == "clip" else Caption(str(folder))(picture)


def test_a_classifier_without_names_is_refused(tmp_path, picture):
    folder = shutil.copytree(built_in("classifier"), tmp_path / "classifier")
    config = json.loads((folder / "config.json").read_text())
    names = {name: value for name, value in config.items() if name not in ("id2label", "label2id")}
    (folder / "config.json").write_text(json.dumps({**names, "num_labels": len(config["id2label"])}))
    with pytest.raises(ModelError, match=r"has no names for its classes in its config \(id2label\)"):
        ClassLabel(str(folder))(picture)


@pytest.mark.parametrize(("make_eye", "build"), [(Caption, build_captioner), (ClassLabel, build_classifier)])
def test_where_memory_ends_the_picture_is_looked_at_on_the_cpu(make_eye, build, tmp_path, picture, monkeypatch):
    eye = make_eye(str(build(tmp_path)), device="cpu")
    plain = eye(picture)
    looked = []

    @contextmanager
    def scarce(model, device):
        looked.append(device.type)
        if device.type in short:
            raise torch.OutOfMemoryError("CUDA out of memory")
        yield device

    monkeypatch.setattr(eyes, "looking", scarce)
    short, eye.device = ("cuda",), "cuda"
    with pytest.warns(UserWarning, match="out of memory on cuda: the picture is looked at on the CPU"):
        assert eye(picture) == plain
    short = ("cuda", "cpu")
    with pytest.warns(UserWarning), pytest.raises(ModelError, match=r"while the picture was looked at: .* give a --"):
        eye(picture)
    assert looked == ["cuda", "cpu"] * 2
