"""What people do around the thing itself: threads, odd terminals, no home, proxies, captions, other programs' syntax."""

import json
import logging
import os
import re
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import build_pipeline
from PIL import Image

import sentinv
import sentinv.cli.progress
import sentinv.cli.results
from sentinv.cli.main import cli
from sentinv.cli.progress import progress
from sentinv.cli.targets import slug
from sentinv.concepts.concept import Concept, several
from sentinv.concepts.dialects import foreign_syntax
from sentinv.concepts.names import latin, token_of
from sentinv.editing.edit import EditConfig, ddim_invert, edit
from sentinv.editing.inversion import InversionConfig
from sentinv.editing.masked import MaskConfig, edit_masked
from sentinv.errors import ConceptError, ModelError, PromptError
from sentinv.files import tensors
from sentinv.files.atomic import check_writable
from sentinv.generation.denoiser import encode_prompts
from sentinv.generation.generate import GenerateConfig, generate
from sentinv.initializers.caption import tidy
from sentinv.models import parts
from sentinv.models.backbone import Backbone
from sentinv.models.network import why_out_of_reach
from sentinv.report.outputs import name_of
from sentinv.training.config import TrainConfig

FEW = TrainConfig(steps=1, batch_size=1, blended=0, evaluation_timesteps=1, evaluation_noises=1)


@pytest.fixture(autouse=True)
def _workplace(tmp_path, monkeypatch, model_folder, picture):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SENTINV_MODEL", str(model_folder))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nobody"))
    picture.save("mug.png")


@pytest.fixture
def word():
    return Concept(token="<c>", rows={"text_encoder": torch.arange(1.0, 33.0).reshape(2, 16) / 100})


# Python


def test_threads_take_turns(sd1_backbone, word):
    config, made, wrong = GenerateConfig(steps=2), {}, []
    alone = generate(sd1_backbone, "a photo of <c>", [word], config=config)[0]

    def work(number):
        try:
            if number % 4 == 3:
                sentinv.invert(sd1_backbone, Image.new("RGB", (16, 16)), "red", FEW, token="<own>")
            else:
                made[number] = generate(sd1_backbone, "a photo of <c>", [word], config=config)[0]
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not wrong and all(image.tobytes() == alone.tobytes() for image in made.values()) and len(made) == 6


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_training_inside_no_grad(sd1_backbone, picture, context):
    outside = sentinv.invert(sd1_backbone, picture, "red", FEW)
    with context():
        inside = sentinv.invert(sd1_backbone, picture, "red", FEW)
    assert inside.to_bytes() == outside.to_bytes()


def test_one_concept_is_a_list_of_one(sd1_backbone, picture, word):
    few = GenerateConfig(steps=1)
    alone, listed = (generate(sd1_backbone, "<c>", one, config=few)[0] for one in (word, [word]))
    assert alone.tobytes() == listed.tobytes()
    archive = ddim_invert(sd1_backbone, picture, "<c>", word, InversionConfig(steps=2))
    assert edit(sd1_backbone, archive, "a <c>", word, EditConfig()).image.size == archive.image.size
    mask = Image.new("L", picture.size)
    mask.paste(255, (2, 2, 9, 9))
    edit_masked(sd1_backbone, picture, mask, "a <c>", word, MaskConfig(steps=2))
    with pytest.raises(ValueError, match=r"sentinv\.Concept\.load"):
        generate(sd1_backbone, "<c>", "c.safetensors", config=few)
    assert several(word) == [word]


def test_a_wide_picture_is_told_in_python_too(sd1_backbone):
    wide = np.zeros((16, 64, 3), np.uint8)
    wide[:, 24:40] = 200
    with pytest.warns(UserWarning, match="only the middle 16 x 16 of 64 x 16 pixels are trained on; sentinv"):
        concept = sentinv.invert(sd1_backbone, Image.fromarray(wide), "red", FEW)
    middle = sentinv.invert(sd1_backbone, Image.fromarray(wide[:, 24:40]), "red", FEW)
    assert torch.equal(concept.rows["text_encoder"], middle.rows["text_encoder"])


# weights


def test_weights_lead_away_from_the_prompt_in_which_nothing_attends_to_the_word(sd1_backbone, word):
    prompt, other = "a <c> on the <d> moon", Concept(token="<d>", rows={"text_encoder": torch.rand(1, 16)})
    both = [word, other]
    plain, none = (encode_prompts(sd1_backbone, [text], both).hidden[0] for text in (prompt, ""))
    unseen = {name: encode_prompts(sd1_backbone, [prompt], both, {name: 0.0}).hidden[0] for name in ("<c>", "<d>")}
    assert torch.equal(unseen["<c>"][:2], plain[:2]) and not torch.allclose(unseen["<c>"][2:], plain[2:], atol=1e-4)
    for first, second in ((0.5, 1.0), (1.0, 1.0), (1.7, 0.2)):
        weights = {"<c>": first, "<d>": second}
        wanted = plain + (first - 1) * (plain - unseen["<c>"]) + (second - 1) * (plain - unseen["<d>"])
        alone = encode_prompts(sd1_backbone, [prompt], both, weights).hidden[0]
        guided = encode_prompts(sd1_backbone, [None, prompt], both, weights).hidden
        assert torch.allclose(alone, wanted, atol=1e-5) and torch.allclose(guided[1], wanted, atol=1e-5)
        assert torch.allclose(guided[0], none, atol=1e-6)


def test_what_is_unseen_does_not_count(sd1_backbone, word):
    louder = Concept(token="<c>", rows={"text_encoder": 3 * word.rows["text_encoder"].flip(-1)})
    states = [
        encode_prompts(sd1_backbone, ["a <c> on the moon"], one, {"<c>": 0.0}).hidden[0] for one in (word, louder)
    ]
    assert torch.allclose(states[0][4:], states[1][4:], atol=1e-6)  # behind the word's two vectors


def test_weights_for_two_text_encoders(xl):
    xl_backbone = Backbone.from_pipeline(xl, "xl")
    shapes = {encoder.name: encoder.dim for encoder in xl_backbone.text_encoders}
    word = Concept(token="<c>", rows={name: torch.ones(1, dim) / 10 for name, dim in shapes.items()})
    weights = ({}, {"<c>": 1.0}, {"<c>": 2.0})
    plain, same, double = (encode_prompts(xl_backbone, ["a <c> cat"], word, one) for one in weights)
    assert torch.equal(plain.hidden, same.hidden) and torch.equal(plain.pooled, double.pooled)
    changed = (plain.hidden[0] - double.hidden[0]).abs() > 1e-6
    assert not changed[:2].any() and changed[3, :16].any() and changed[3, 16:].any()


@pytest.mark.parametrize("weights", [{"<c>": 4.0}, {"<c>": float("nan")}, {"<dog>": 1.2}])
def test_weights_that_cannot_be_used(sd1_backbone, word, weights):
    with pytest.raises(PromptError):
        encode_prompts(sd1_backbone, ["a <c>"], word, weights)


def test_a_weight_changes_the_image_and_is_in_its_metadata(word):
    word.save("c.safetensors")
    for weight in ("1", "2"):
        call = [
            "generate",
            "<c>",
            "-c",
            "c.safetensors",
            "--steps",
            "2",
            "-o",
            f"{weight}.png",
            "--weight",
            f"<c>={weight}",
        ]
        assert CliRunner().invoke(cli, call).exit_code == 0
    one, two = (Image.open(f"{weight}.png") for weight in "12")
    assert one.tobytes() != two.tobytes() and json.loads(two.text["sentinv"])["weights"] == {"<c>": 2.0}


# prompts of other programs


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("a (<cat>:1.4)", "--weight '<cat>=1.4'"),
        ("a (red:1.2) cat", "(words:weight) is text here"),
        ("((masterpiece)) cat", "((words)) is text here"),
        ("<cat>++ on the moon", "<name>++ is text here"),
        ("a cat <lora:x:.8>", "<lora:x:.8> is text here"),
        ("a cat BREAK a dog", "BREAK is text here"),
        ("a cat AND a dog", "AND is text here"),
        ("a [cat|dog]", "[a|b] is text here"),
        ("a [cat:dog:0.5]", "[a:b:step] is text here"),
        ("a {cat|dog}", "{a|b} is text here"),
        ("a __animal__", "__animal__ is text here"),
        ("embedding:cat on the moon", "embedding:cat is text here"),
    ],
)
def test_syntax_of_other_programs_is_told(prompt, told):
    (line,) = foreign_syntax(prompt)
    assert told in line


@pytest.mark.parametrize(
    "prompt", ["a <cat> (in the snow) [sic]", "a photo: cat and dog", "AND", "50/50", "a 3:2 photo"]
)
def test_plain_prompts_are_not_nagged(prompt):
    assert foreign_syntax(prompt) == []


# names


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("Кот", "kot"),
        ("щи", "shchi"),
        ("Γάτα", "gata"),
        ("Ünïcödé", "unicode"),
        ("Straße", "strasse"),
        ("猫", "u732b"),
        ("a1_", "a1_"),
    ],
)
def test_names_in_latin(name, plain):
    assert latin(name) == plain


def test_different_pictures_have_different_names():
    pictures = ["猫.png", "狗.png", "кот.png", "пёс.png", "IMG 20.jpg", "cat-concept.safetensors"]
    names = [name_of(Path(name)) for name in pictures]
    assert names == ["u732b", "u72d7", "kot", "pyos", "img-20", "cat"]
    assert token_of("猫") == "<u732b>" and slug("Кот на Луне!") == "кот-на-луне" and slug("!!") == "images"


# captions


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("arafed cat sitting on a table", "cat sitting on a table"),
        ("there is a araffe cat that is", "a cat"),
        ("there are two cats", "two cats"),
        ("a cat that is", "a cat"),
        ("a cat with a", "a cat"),
        ("this is a close up of a cat", "a cat"),
        ("a cat &amp; a dog", "a cat & a dog"),
        ("a photo of a cat &#39; s tail", "a cat ' s tail"),
        ("a cat cat cat on the moon", "a cat on the moon"),
        ("a pencil sketch of a cat", "a pencil sketch of a cat"),
        ("arafed", "arafed"),
    ],
)
def test_captions_are_cleaned(said, kept):
    assert tidy(said) == kept


# terminals


@pytest.mark.parametrize("charset", ["latin-1", "cp1252", "cp437"])
def test_no_output_is_worth_a_failure(charset):
    call = ["invert", "mug.png", "--word", "red", "--steps", "1", "--samples", "0", "-o", "käse.safetensors"]
    result = CliRunner(charset=charset).invoke(cli, call)
    assert result.exit_code == 0, result.output
    assert "->" in result.stdout and Path("käse.safetensors").exists()
    told = CliRunner(charset=charset).invoke(cli, [*call, "--force", "--json"])
    assert json.loads(told.stdout_bytes.decode(charset))["concept"] == "käse.safetensors"


def test_no_images_for_the_report_is_no_failure(monkeypatch):
    def fail(*args, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("sentinv.training.samples.sample_images", fail)
    result = CliRunner().invoke(cli, ["invert", "mug.png", "--word", "red", "--steps", "1"])
    assert result.exit_code == 0 and "no images in the report: out of memory" in result.stderr
    assert Path("mug-concept.safetensors").exists() and Path("mug-run/report.html").exists()


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb"), ("SOMETHING", "else")])
def test_colours(monkeypatch, variable, value, word):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(variable, value)
    word.save("c.safetensors")
    result = CliRunner().invoke(cli, ["inspect", "c.safetensors"], color=True)
    assert ("\x1b[" in result.output) == (variable == "SOMETHING")


@pytest.mark.parametrize("columns", [20, 39, 40, 50, 60, 80, 200])
def test_the_bar_fits(monkeypatch, columns):
    class Terminal:
        encoding, text = "utf-8", ""

        def isatty(self):
            return True

        def write(self, text):
            self.text += text

        def flush(self):
            pass

    terminal = Terminal()
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress("inverting", 1000) as bar:
        for step in (1, 500, 1000):
            bar.at(step, "loss 0.1234  grid 0.1234")
    plain = re.sub(r"\x1b\[[0-9?;]*[A-Za-z]", "", terminal.text)
    assert all(len(line) <= columns for line in re.split(r"[\r\n]", plain))
    assert bool(plain) == (columns >= 40)


def test_quiet_is_quiet_where_weights_are_in_half_precision_only(tokenizer, tmp_path):
    build_pipeline(tokenizer, 16, "epsilon").save_pretrained(tmp_path / "half", variant="fp16")
    heard = logging.Handler()
    heard.records = []
    heard.emit = heard.records.append
    for name in ("diffusers", "transformers", "huggingface_hub"):
        logging.getLogger(name).addHandler(heard)
    try:
        result = CliRunner().invoke(cli, ["generate", "cat", "--model", "half", "--steps", "1", "-n", "1", "-q"])
    finally:
        for name in ("diffusers", "transformers", "huggingface_hub"):
            logging.getLogger(name).removeHandler(heard)
    assert result.exit_code == 0 and result.stderr == "" and not heard.records


def test_the_header_of_one_vector_does_not_run_together():
    Concept(token="<c>", rows={"text_encoder": torch.ones(1, 16)}).save("c.safetensors")
    assert "vector  started as" in CliRunner().invoke(cli, ["inspect", "c.safetensors"]).stdout


# surroundings


@pytest.mark.parametrize("home", ["none", "closed"])
def test_without_a_home_there_are_no_settings(monkeypatch, home, word):
    word.save("c.safetensors")
    monkeypatch.delenv("XDG_CONFIG_HOME")
    if home == "none":

        def nowhere():
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", nowhere)
    else:
        honest = Path.stat

        def closed(self, **options):
            if self.name == "config.toml":
                raise PermissionError(13, "Permission denied")
            return honest(self, **options)

        monkeypatch.setattr(Path, "stat", closed)
    assert CliRunner().invoke(cli, ["inspect", "c.safetensors"]).exit_code == 0


@pytest.mark.parametrize(
    ("environment", "error", "told"),
    [
        (
            {"ALL_PROXY": "socks5://me:secret@proxy:9"},
            ImportError("Using SOCKS proxy, but 'socksio' …"),
            "httpx[socks]",
        ),
        (
            {"HTTPS_PROXY": "http//typo"},
            ValueError("Unknown scheme for proxy URL"),
            "HTTPS_PROXY=http//typo can't be used",
        ),
        ({"HTTPS_PROXY": "http://proxy:9"}, ConnectionError("refused"), "perhaps because of the proxy HTTPS_PROXY"),
        (
            {"SSL_CERT_FILE": "/nowhere/ca.pem"},
            FileNotFoundError(2, "…"),
            "SSL_CERT_FILE names /nowhere/ca.pem, which does",
        ),
        (
            {},
            OSError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed"),
            "its certificate is not trusted here",
        ),
        ({}, ConnectionError("refused"), ""),
    ],
)
def test_proxies_and_certificates_are_told(monkeypatch, environment, error, told):
    for name in ("HTTPS_PROXY", "ALL_PROXY", "HTTP_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    class Session:
        def head(self, *args, **options):
            raise error

    monkeypatch.setattr("huggingface_hub.get_session", Session)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    parts._go_offline_if_unreachable.cache_clear()
    with pytest.raises(ModelError) as refused:
        parts.load_part("owner/name", "unet", lambda: (_ for _ in ()).throw(error))
    parts._go_offline_if_unreachable.cache_clear()
    assert told in str(refused.value) and "out of reach" in str(refused.value) and "secret" not in str(refused.value)
    assert "\n" not in str(refused.value) and told in why_out_of_reach(error)
    assert parts.load_part("owner/name", "unet", lambda: "cached") == "cached"


def test_the_reader_of_pickles_finds_what_this_process_finds(monkeypatch, tmp_path):
    torch.save({"<c>": torch.ones(1, 16)}, tmp_path / "c.pt")
    assert Concept.load(tmp_path / "c.pt", allow_pickle=True).count == 1
    elsewhere = [path for path in sys.path if "site-packages" not in path]
    monkeypatch.setattr(tensors.sys, "path", elsewhere)
    monkeypatch.setattr(tensors.sys, "executable", tensors.sys.executable)
    with pytest.raises(
        ConceptError, match=r"could not start the reader of pickles for .*ModuleNotFoundError: No module"
    ):
        Concept.load(tmp_path / "c.pt", allow_pickle=True)
    monkeypatch.setattr(tensors.sys, "executable", "/nowhere/python")
    with pytest.raises(ConceptError, match=r"could not start the reader of pickles for .*No such file"):
        Concept.load(tmp_path / "c.pt", allow_pickle=True)


# told before the work


def refuse_to_work(monkeypatch):
    def work(*args, **options):
        raise AssertionError("worked before it was told")

    for name in ("sentinv.models.backbone.Backbone.predict", "sentinv.editing.edit.ddim_invert"):
        monkeypatch.setattr(name, work)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_closed_folder(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(sentinv.SentinvError, match="permission denied"):
        check_writable(tmp_path / "closed" / "a.png")


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ("edit mug.png --ddim-invert --source-prompt cat --prompt <dog>", "the prompt names <dog>"),
        ("edit mug.png --ddim-invert --source-prompt <dog> --prompt cat", "the prompt names <dog>"),
        ("edit mug.png --ddim-invert --source-prompt cat --prompt cat --mask mug.png", "picture in colours"),
        ("edit mug.png --ddim-invert --source-prompt cat --prompt cat -o file/x.png", "part of its path is a file"),
        ("edit mug.png --ddim-invert --source-prompt cat --prompt cat --save-archive file/x.safetensors", "is a file"),
        ("generate <dog>", "the prompt names <dog>"),
        ("generate cat -o file/x", "part of its path is a file"),
    ],
)
def test_what_can_be_known_is_told_first(monkeypatch, call, told):
    refuse_to_work(monkeypatch)
    Path("file").write_text("")
    result = CliRunner().invoke(cli, call.split())
    assert (result.exit_code == 1 and told in result.output.splitlines()[-1]) or "does not exist" in result.output
