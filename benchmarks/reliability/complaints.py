"""Complaints of people who do this job with other programs, tried on this one: what was run, and what came of it.

    python benchmarks/reliability/complaints.py

Each is run on a tiny model of random weights; the table goes to complaints.md beside this file. A complaint counts as silently
wrong where the check that stands beside it fails, whatever was printed.
"""

import os
import shlex
import signal
import sys
import tempfile
import threading
import traceback
from pathlib import Path

import numpy as np
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file
from tiny import pipeline_folder

import sentinv
from sentinv.cli.main import cli
from sentinv.concepts.concept import Concept
from sentinv.concepts.tokens import token_ids
from sentinv.files.images import read_image, read_mask
from sentinv.generation.generate import GenerateConfig, generate
from sentinv.training.checkpoint import Checkpoints
from sentinv.training.config import TrainConfig

HERE = Path(__file__).parent
LEARN = "--word red --steps 1 --samples 0 --batch-size 1"
FEW = TrainConfig(steps=1, batch_size=1, evaluation_timesteps=1, evaluation_noises=1)
ONE = GenerateConfig(steps=1)
CASES = []
said = []


def complaint(source, what):
    """Note a case; the function runs it, checks it, and answers what came of it in few words."""

    def note(case):
        CASES.append((source, what, case))
        return case

    return note


def run(call, code=0, told="", charset="utf-8"):
    """Run a call, check its exit code and a part of what it says, and note the call."""
    result = CliRunner(charset=charset).invoke(cli, shlex.split(call), env={"SENTINV_MODEL": str(MODEL)})
    said.append(call)
    output = result.stdout_bytes.decode(charset) + result.stderr
    assert result.exit_code == code, output
    assert told in output, output
    assert "this is a bug" not in output and "Traceback" not in output
    if code == 1:
        assert result.stderr.splitlines()[-1].startswith("sentinv: "), output
    return output


def model():
    return sentinv.load(MODEL)


def word(token="<c>", count=2, width=16):
    return Concept(token=token, rows={"text_encoder": torch.arange(1.0, 1 + count * width).reshape(count, width) / 100})


def inside(size=(16, 16)):
    values = np.zeros(size, np.uint8)
    values[size[0] // 4 : size[0] // 2, size[1] // 4 : size[1] // 2] = 255
    return values


def noise(height=16, width=16):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8))


@complaint("invoke-ai/InvokeAI#3438", "the word inside a file is another than the file's name")
def _():
    word("<inner>").save("outer.safetensors")
    run("inspect outer.safetensors", told="<inner>")
    run("generate 'a <outer>' -c outer.safetensors --steps 1 -n 1", 1, "the concepts given are: <inner>")
    return "inspect shows the word; a prompt with another one is refused and the word is named"


@complaint("invoke-ai/InvokeAI#5670", "`<trainingTest>` was trained and is not found")
def _():
    run(f"invert mug.png {LEARN} --token '<trainingTest>'", 1, "use '<trainingtest>'")
    return "refused before any work, with the name that works"


@complaint("invoke-ai/InvokeAI#1153", "a word called `*` gives weirdness")
def _():
    run(f"invert mug.png {LEARN} --token '*'", 1, "use '<concept>'")
    return "refused before any work"


@complaint("invoke-ai/InvokeAI#2752", "the second file whose word is `*` is not loaded")
def _():
    for name in ("a", "b"):
        save_file({"*": torch.rand(1, 16)}, f"{name}.safetensors")
    run("generate '<a> and <b>' -c a.safetensors -c b.safetensors --steps 1 -n 1")
    return "each is called after its file"


@complaint("invoke-ai/InvokeAI#146", "a starting word that is several tokens is refused")
def _():
    run("invert mug.png --word cpixel --steps 1 --samples 0 --json")
    assert Concept.load("mug-concept.safetensors").count > 1
    return "one vector for each token"


@complaint("invoke-ai/InvokeAI#2663", "training had no effect, and nobody said so")
def _():
    run(f"invert mug.png {LEARN} --lr 1e-30", told="nothing was learned")
    return "saved, with a warning that nothing was learned"


@complaint("invoke-ai/InvokeAI#3279", "black images from a word that holds NaN")
def _():
    save_file({"<c>": torch.full((1, 16), float("nan"))}, "c.safetensors")
    run("generate '<c>' -c c.safetensors", 1, "values in <c> that are NaN or infinite")
    return "the file is refused in one line"


@complaint("invoke-ai/InvokeAI#803", "transparent borders count as mask although a mask is given")
def _():
    both = noise().convert("RGBA")
    both.putalpha(Image.fromarray(np.pad(np.full((12, 12), 255, np.uint8), 2)))
    both.save("framed.png")
    Image.fromarray(inside()).save("mask.png")
    mask = read_image("framed.png").with_mask(read_mask("mask.png")).mask
    assert (np.asarray(mask) == inside()).all()
    run(f"invert framed.png --mask mask.png {LEARN}")
    return "the mask that is given decides alone"


@complaint("AUTOMATIC1111/stable-diffusion-webui#1753", "words with common names take over prompts")
def _():
    noise().save("painting.png")
    run(f"invert painting.png {LEARN}", told="painting-concept.safetensors")
    return "the file is called painting-concept, which is no word of prompts"


@complaint("AUTOMATIC1111/stable-diffusion-webui#8060", "a bare word of the prompt activates an embedding")
def _():
    word("<red>").save("red.safetensors")
    run("generate 'a red cat' -c red.safetensors --steps 1 -n 1", told="<red> does not occur in the prompt")
    return "only `<red>` is the learned word, and that it is not there is told"


@complaint("AUTOMATIC1111/stable-diffusion-webui#14892", "an embedding that is missing is taken for text")
def _():
    run("generate 'a <badhand> cat' --steps 1 -n 1", 1, "the prompt names <badhand>")
    return "refused before the model is loaded"


@complaint("AUTOMATIC1111/stable-diffusion-webui#3657", "UnicodeDecodeError when training starts")
def _():
    Path("templates.txt").write_text("a photo of {}", encoding="utf-16")
    run(f"invert mug.png {LEARN} --templates templates.txt", 1, "cannot read templates from templates.txt")
    return "one line that names the file"


@complaint("AUTOMATIC1111/stable-diffusion-webui#9071", "training crashes: cannot convert float NaN to integer")
def _():
    run(f"invert mug.png {LEARN} --steps 3 --lr 1e30", 1, "the best rows until then are in mug-concept.safetensors")
    assert torch.isfinite(Concept.load("mug-concept.safetensors").rows["text_encoder"]).all()
    return "stops in one line; the last good rows are saved"


@complaint("AUTOMATIC1111/stable-diffusion-webui#12898", "the alpha of a picture is not taken for its mask")
def _():
    cut_out = noise().convert("RGBA")
    cut_out.putalpha(Image.fromarray(inside()))
    cut_out.save("cut-out.png")
    assert (np.asarray(read_mask("cut-out.png")) == inside()).all()
    run("edit mug16.png --mask cut-out.png --prompt 'a dog' --steps 2", told="what is opaque, 6% of it, is the mask")
    return "alpha is the mask, and that is told"


@complaint("AUTOMATIC1111/stable-diffusion-webui#10643", "a few transparent pixels of a mask make it count for nothing")
def _():
    mask = Image.fromarray(inside()).convert("RGBA")
    mask.putpixel((0, 0), (0, 0, 0, 0))
    mask.save("mask.png")
    assert (np.asarray(read_mask("mask.png")) == inside()).all()
    run("edit mug16.png --mask mask.png --prompt 'a dog' --steps 2")
    return "what is white is the mask"


@complaint("AUTOMATIC1111/stable-diffusion-webui#1188", "the picture itself was uploaded as mask: it paints outside")
def _():
    run("edit mug16.png --mask mug16.png --prompt 'a dog' --steps 2", 1, "is a picture in colours")
    return "refused in one line"


@complaint("AUTOMATIC1111/stable-diffusion-webui#101", "assertion: embedding file has multiple terms in it")
def _():
    save_file({"a": torch.rand(1, 16), "b": torch.rand(1, 16)}, "two.safetensors")
    run("inspect two.safetensors", 1, "expected one tensor, or clip_l and clip_g, got 2: a, b")
    return "one line that names the tensors"


@complaint("AUTOMATIC1111/stable-diffusion-webui#2201", "Thumbs.db in the folder of pictures")
def _():
    Path("Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(99))
    run(f"invert mug.png Thumbs.db {LEARN}", 1, "Thumbs.db is not a picture")
    return "one line that names the file"


@complaint("Comfy-Org/ComfyUI#97", "RuntimeError: sizes 1024 and 768 (a word of SD 1 on SD 2)")
def _():
    word(width=24).save("c.safetensors")
    run("generate '<c>' -c c.safetensors", 1, "expected widths text_encoder 16, got text_encoder 24")
    return "one line with both widths"


@complaint("Comfy-Org/ComfyUI#4280", "a word next to a comma has no effect")
def _():
    encoder, vocabulary = model().text_encoders[0], {"<c>": [-1, -2]}
    for prompt in ("a <c>, red", "a,<c>,red", "(<c>)", '"<c>"', "<c><c>", "red<c>red"):
        ids = token_ids(prompt, encoder, vocabulary)
        assert ids.count(-1) == ids.count(-2) == prompt.count("<c>"), prompt
    said.append("the token ids of `a <c>, red`, `a,<c>,red`, `(<c>)`, `red<c>red` …")
    return "the word is found whatever stands beside it"


@complaint("Comfy-Org/ComfyUI#2539", "black and white are reversed where alpha is the mask")
def _():
    values = np.zeros((16, 16, 2), np.uint8)
    values[..., 1] = inside()
    Image.fromarray(values).save("black.png")
    assert (np.asarray(read_mask("black.png")) == inside()).all()
    said.append("a mask painted in black on nothing")
    return "what is painted is inside, in whatever colour, and that is told"


@complaint("Comfy-Org/ComfyUI#1515", "colours hidden under alpha come back")
def _():
    hidden = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    hidden.paste((0, 0, 255, 255), (4, 4, 8, 8))
    hidden.save("hidden.png")
    assert read_image("hidden.png").image.getpixel((0, 0)) == (255, 255, 255)
    run(f"invert hidden.png {LEARN}", told="is partly transparent")
    return "laid on white, and left out of the loss"


@complaint("huggingface/diffusers#3442", "a saved vector is read as 768 vectors of one number")
def _():
    torch.save({"<cattu>": torch.rand(16)}, "learned_embeds.bin")
    run("inspect learned_embeds.bin --allow-pickle", told="vectors     1")
    return "one vector"


@complaint("huggingface/diffusers#2052", "a run that was stopped does not go on")
def _():
    backbone, config = model(), TrainConfig(steps=4, batch_size=1, evaluation_timesteps=1, evaluation_noises=1)
    whole = sentinv.invert(backbone, "mug.png", "red", config)

    def stop(record):
        if record.step == 2:
            signal.raise_signal(signal.SIGINT)

    try:
        sentinv.invert(backbone, "mug.png", "red", config, checkpoints=Checkpoints(Path("at")), on_step=stop)
        raise AssertionError("it was not stopped")
    except sentinv.errors.Interrupted:
        pass
    resumed = sentinv.invert(backbone, "mug.png", "red", config, checkpoints=Checkpoints(Path("at"), resume=True))
    assert resumed.to_bytes() == whole.to_bytes()
    said.append("`sentinv.invert` of four steps, Ctrl-C in the second, then again with `resume`")
    return "the same bytes as without the stop"


@complaint("huggingface/diffusers#3097", "loading an embedding does nothing")
def _():
    images = [generate(model(), prompt, word(), config=ONE)[0].tobytes() for prompt in ("a <c>", "a c")]
    assert images[0] != images[1]
    said.append("`generate` with and without the word in the prompt")
    return "the images differ"


@complaint("huggingface/diffusers#3672", "two threads on one pipeline fail")
def _():
    backbone, made = model(), []
    alone = generate(backbone, "a <c>", word(), config=ONE)[0].tobytes()
    work = [
        threading.Thread(target=lambda: made.append(generate(backbone, "a <c>", word(), config=ONE)[0])) for _ in "1234"
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert [image.tobytes() for image in made] == [alone] * 4
    said.append("`generate` in four threads on one model")
    return "calls wait; the images are those of one thread"


@complaint("huggingface/diffusers#3501", "weights do not work with words of several vectors")
def _():
    word().save("c.safetensors")
    run("generate 'a <c>' -c c.safetensors --weight '<c>=1.3' --steps 1 -n 1")
    run(
        "generate 'a (<c>:1.3)' -c c.safetensors --steps 1 -n 1 --force",
        told="--weight '<c>=1.3' weighs a learned word",
    )
    return "all vectors are weighed; the other syntax is told to be text"


@complaint("huggingface/diffusers#5890", "what is too long for the text encoder is cut")
def _():
    word().save("c.safetensors")
    run("generate '<c> " + "cat " * 60 + "' -c c.safetensors --steps 1 -n 1 -o long", told="was cut")
    run("generate '" + "cat " * 60 + "<c>' -c c.safetensors --steps 1 -n 1", 1, "a placeholder would be cut off")
    said[:] = ["a prompt of 60 words, with the learned word first, and last"]
    return "what was cut is named; a learned word is never cut"


@complaint("kohya-ss/sd-scripts#1316", "pictures that are turned by EXIF are learned lying")
def _():
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(16, 32).save("turned.jpg", exif=exif)
    assert read_image("turned.jpg").image.size == (16, 32)
    run(f"invert turned.jpg {LEARN}")
    return "turned upright"


@complaint("kohya-ss/sd-scripts#728", "captions without the word learn nothing")
def _():
    Path("templates.txt").write_text("a photo of a cat\n")
    run(f"invert mug.png {LEARN} --templates templates.txt", 1, "line 1: expected one '{}' where the placeholder goes")
    return "refused in one line that names file and line"


@complaint("kohya-ss/sd-scripts#2131", "a word of SDXL has no name in its file")
def _():
    save_file({"clip_l": torch.rand(2, 768), "clip_g": torch.rand(2, 1280)}, "elise.safetensors")
    run("inspect elise.safetensors", told="token       <elise>")
    return "it is called after its file"


@complaint("bmaltais/kohya_ss#1143", "permission denied in the home folder of a container")
def _():
    home = Path("home")
    home.mkdir()
    (home / ".config").write_text("closed")
    before = os.environ.copy()
    os.environ.pop("XDG_CONFIG_HOME", None)
    os.environ["HOME"] = str(home.resolve())
    try:
        run(f"invert mug.png {LEARN}")
    finally:
        os.environ.clear()
        os.environ.update(before)
    return "works without a settings file"


@complaint("Nerogar/OneTrainer#646", "pictures are cut without a word, through what counts")
def _():
    noise(48, 16).save("tall.png")
    run(
        f"invert tall.png {LEARN}",
        told="only the middle 16 x 16 of 16 x 48 pixels are trained on; --crop top, bottom or none",
    )
    run(f"invert tall.png {LEARN} --crop top --force", told="only the top 16 x 16")
    return "told, with what changes it; around the mask where there is one"


@complaint("Nerogar/OneTrainer#228", "whether `<embedding>` is to be typed so")
def _():
    word().save("c.safetensors")
    run("generate 'a <embedding>' -c c.safetensors --steps 1", 1, "the concepts given are: <c>")
    return "refused; the word to type is named"


@complaint("Nerogar/OneTrainer#514", "a file with `clip_g` 768 wide and `t5` is taken, and ignored")
def _():
    save_file({"clip_g": torch.rand(4, 768), "t5": torch.rand(4, 4096)}, "flux.safetensors")
    run("generate 'a <flux>' -c flux.safetensors", 1, "expected one tensor, or clip_l and clip_g, got 2: clip_g, t5")
    return "refused in one line"


@complaint("Nerogar/OneTrainer#1690", "a format that nobody writes: nothing is saved, silently")
def _():
    run(f"invert mug.png {LEARN} -o mug.pt", 1, "expected a name that ends in .safetensors")
    return "refused before any work"


@complaint("ostris/ai-toolkit#689", "'charmap' codec can't encode characters of a file's name")
def _():
    noise().save("мой кот.png")
    run(f"invert 'мой кот.png' {LEARN}", told="moy-kot-concept.safetensors", charset="cp1252")
    return "learned; signs that the terminal has not are replaced"


@complaint("ostris/ai-toolkit#404", "gray pictures of one channel are not supported")
def _():
    noise().convert("L").save("gray.png")
    run(f"invert gray.png {LEARN}")
    return "learned"


@complaint("ostris/ai-toolkit#180", "pictures that are not square, without cutting them")
def _():
    noise(16, 48).save("wide.png")
    run(f"invert wide.png {LEARN} --crop none --plan", told="all of 48 x 16 pixels, padded to a square")
    run(f"invert wide.png {LEARN} --crop none")
    return "padded, and nothing is learned from the margin"


def tried(case):
    """What came of a case: whether it is right, what was run, and in few words the outcome."""
    said.clear()
    with tempfile.TemporaryDirectory() as folder:
        before = Path.cwd()
        os.chdir(folder)
        os.environ["XDG_CONFIG_HOME"] = str(Path(folder, "nobody"))
        try:
            noise(16, 16).save("mug.png")
            noise(16, 16).save("mug16.png")
            outcome = case()
        except Exception:
            return False, list(said), "WRONG: " + traceback.format_exc().strip().splitlines()[-1][:300]
        finally:
            os.chdir(before)
    return True, list(said), outcome


def main():
    rows, wrong = [], 0
    for source, what, case in CASES:
        right, calls, outcome = tried(case)
        wrong += not right
        calls = [call.replace(LEARN, "…") for call in calls]
        plain = [call.split()[0] not in ("invert", "edit", "generate", "inspect") for call in calls]
        shown = "; ".join(call if is_text else f"`{call}`" for call, is_text in zip(calls, plain, strict=True))
        rows.append(
            f"| {source} | {what} | {shown.replace('|', chr(92) + '|')} | {outcome.replace('|', chr(92) + '|')} |"
        )
        print("ok   " if right else "WRONG", source, "" if right else outcome, flush=True)
    head = [
        "# Complaints that were tried",
        "",
        f"{len(CASES)} complaints from the threads of other programs: {wrong} wrong.",
        "`python benchmarks/reliability/complaints.py` runs and checks each on a tiny model and writes this table;",
        f"`…` stands for `{LEARN}`.",
        "",
        "| thread | complaint | run | outcome |",
        "|---|---|---|---|",
    ]
    (HERE / "complaints.md").write_text("\n".join([*head, *rows]) + "\n", encoding="utf-8")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it may be ignored
    with tempfile.TemporaryDirectory() as place:
        MODEL = pipeline_folder(Path(place, "model"))
        main()
