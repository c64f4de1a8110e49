"""The editing study: what it measures, what it compares, and that a second run says the same."""

import json
import math
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from test_adapters import random_layers
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from sentinv.adapters.lora import Lora
from sentinv.bench.concepts import StudyConcept
from sentinv.bench.editing_arms import ARMS, EditingStudy
from sentinv.bench.editing_report import comparisons, paired, round_trips, write_editing_report
from sentinv.bench.editing_runner import EditingBench
from sentinv.bench.editing_study import Case, measure_edit, run_case
from sentinv.cli.main import cli
from sentinv.concepts.concept import Concept
from sentinv.editing.edit import EditConfig, ddim_invert, sweep
from sentinv.editing.inversion import InversionConfig
from sentinv.evaluation.judges import AttributeJudge

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PROMPTS = ("a photo of {} on the moon", "a pencil sketch of {}")


def judge():
    labels = ["object: mug", "object: dog", "scene: on the moon", "scene: in the snow", "style: photo"]
    labels.append("style: pencil sketch")
    config = ViTConfig(
        image_size=16,
        patch_size=8,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    torch.manual_seed(0)
    return AttributeJudge(ViTForImageClassification(config), ViTImageProcessor(size={"height": 16, "width": 16}))


@pytest.fixture(scope="module")
def source(tmp_path_factory, picture):
    folder = tmp_path_factory.mktemp("concept")
    image = picture.resize((16, 16))
    image.save(folder / "image.png")
    mask = Image.new("L", image.size)
    mask.paste(255, (4, 4, 12, 12))
    mask.save(folder / "mask.png")
    for index in (1, 2):
        image.rotate(90 * index).save(folder / f"edit-{index}.png")
    targets = tuple(folder / f"edit-{index}.png" for index in (1, 2))
    return StudyConcept("mug", folder / "image.png", "a red mug", "mug", folder / "mask.png", (), PROMPTS, targets)


@pytest.fixture
def case(sd1_backbone, source):
    rows = torch.randn(1, 16, generator=torch.Generator().manual_seed(0)) * 0.1
    return Case.read(sd1_backbone, source, Concept(token="<mug>", rows={"text_encoder": rows}))


def test_measures_of_copying_and_of_the_target_itself(case):
    copied, perfect = measure_edit(case, 0, case.image, judge()), measure_edit(case, 0, case.targets[0], judge())
    assert copied["source_psnr"] == copied["source_psnr_inside"] == math.inf
    assert copied["target_ratio"] == pytest.approx(1)
    assert perfect["target_psnr"] == math.inf
    assert perfect["target_ratio"] == 0
    assert set(copied) >= {"judge_scene", "judge_object", "success"}
    assert "judge_style" not in copied


def test_preservation_is_averaged_over_its_own_pixels_only(case):
    changed = np.asarray(case.image).copy()
    changed[4:12, 4:12] ^= 128
    result = measure_edit(case, 0, Image.fromarray(changed), None)
    assert result["source_psnr_outside"] == math.inf
    assert result["source_psnr_inside"] == pytest.approx(20 * math.log10(255 / 128))
    assert "success" not in result


def test_the_judge_looks_for_what_the_prompt_names():
    one = judge()
    assert one.wanted(PROMPTS[0], "mug") == {"scene": "on the moon", "object": "mug"}
    assert one.wanted(PROMPTS[1], "cup") == {"style": "pencil sketch"}
    shares = one.probabilities(Image.new("RGB", (20, 20)), {"scene": "on the moon"})
    other = one.probabilities(Image.new("RGB", (20, 20)), {"scene": "in the snow"})
    assert shares["scene"] + other["scene"] == pytest.approx(1)


def test_two_runs_give_the_same_records_and_controls_are_what_they_say(sd1_backbone, case):
    study = EditingStudy(steps=4, skips=(0.0, 0.5), arms=("pec-npi", "ddim-none"))
    first, second = (
        [{k: v for k, v in record.items() if k != "timing"} for record, _ in run_case(sd1_backbone, case, study)]
        for _ in range(2)
    )
    assert json.dumps(first) == json.dumps(second)
    edits = [record for record in first if record["kind"] == "edit"]
    assert len(edits) == 2 * (3 + 3 * 2)
    cost = {(record["arm"], record["skip"]): record["evaluations"] for record in edits}
    assert cost["copy", 1.0] == cost["autoencoder", 1.0] == 0
    assert cost["regenerate", 0.0] == cost["sdedit", 0.0] == 8
    assert (cost["ddim-none", 0.5], cost["pec-npi", 0.5]) == (4 + 4, 11 + 4)
    trips = [record for record in first if record["kind"] == "round trip"]
    assert all(record["latent_error"] <= 1e-5 for record in trips if record["guidance"] == 7.5)
    assert len(round_trips(first + second).rows) == 8


def test_an_arm_may_have_a_guidance_of_its_own(sd1_backbone, case):
    study = EditingStudy(steps=2, guidance_scale=2.0, skips=(0.0,), arms=("ddim-none", "ddim-7.5"))
    made = {record["arm"]: image for record, image in run_case(sd1_backbone, case, study) if record["kind"] == "edit"}
    (plain,) = sweep(
        sd1_backbone,
        archive_of(sd1_backbone, case),
        PROMPTS[1].replace("{}", "<mug>"),
        [case.concept],
        EditConfig(guidance_scale=7.5, source="none"),
        [0.0],
    )
    assert made["ddim-7.5"].tobytes() == plain.image.tobytes() != made["ddim-none"].tobytes()


def test_halves_and_wholes_are_of_the_models_own_guidance(sd1_backbone, monkeypatch):
    monkeypatch.setattr(sd1_backbone, "guidance_scale", 6.0)
    found = {}
    for own in (None, 2.0):
        study = EditingStudy(guidance_scale=own)
        for name, arm in ARMS.items():
            config = EditConfig(guidance_scale=arm.guidance(study, sd1_backbone), source=arm.source)
            found.setdefault(name, []).append(config.guidance(sd1_backbone))
    assert found["ddim-7.5"] == [7.5, 7.5]
    assert found["pec-none"] == found["pec-delta"] == found["ddpm-none"] == [6.0, 2.0]
    assert found["pec-npi"] == found["ddpm-npi"] == [3.0, 2.0]
    assert found["pec-npi-full"] == [6.0, 6.0]
    assert found["pec-none-half"] == found["pec-delta-half"] == [3.0, 3.0]


def archive_of(backbone, case):
    return ddim_invert(
        backbone, case.image, "a photo of <mug>", [case.concept], InversionConfig(method="ddim", steps=2)
    )


def synthetic(ours, theirs):
    """Records of straight lines: success falls from 1 to 0 as PSNR rises; `ours` and `theirs` shift it."""
    records = []
    for concept in "abcdef":
        for arm, shift, psnrs in (("pec-npi", ours, (10, 20, 30)), ("sdedit", theirs, (15, 25, 35))):
            for psnr in psnrs:
                value = (40 - psnr) / 40 + shift + (0.001 * ord(concept) if arm == "sdedit" else 0)
                own = {"concept": concept, "prompt": "p", "arm": arm, "skip": psnr / 100}
                records.append({"kind": "edit", **own, "source_psnr": psnr, "success": value})
    return records


def test_compares_at_equal_preservation():
    differences = paired(synthetic(0.5, 0.0), "pec-npi", "sdedit", "success")
    assert len(differences) == 6
    assert differences[0] == ("a", pytest.approx(0.5 - 0.097))
    for ours, verdict in ((0.5, "better"), (-0.5, "worse")):
        (table,) = comparisons(synthetic(ours, 0.0), "pec-npi")
        assert table.rows[0][2] == verdict
    apart = [r | {"source_psnr": r["source_psnr"] + 100 * (r["arm"] == "sdedit")} for r in synthetic(0, 0)]
    assert paired(apart, "pec-npi", "sdedit", "success") == []


@pytest.fixture
def command(_pipelines, source, tmp_path):
    """Arguments of a study of two concepts; the picture of the second is missing."""
    _pipelines["sd1"].save_pretrained(tmp_path / "model")
    one = judge()
    one.model.save_pretrained(tmp_path / "judge")
    one.processor.save_pretrained(tmp_path / "judge")
    entry = {"name": "mug", "image": str(source.image), "mask": str(source.mask), "word": "mug", "caption": "a red mug"}
    entry["edits"] = [{"prompt": p, "target": str(t)} for p, t in zip(source.edits, source.targets, strict=True)]
    (tmp_path / "concepts.json").write_text(json.dumps([entry, entry | {"name": "cup", "image": "cup.png"}]))
    arguments = ["bench", "editing", "--concepts", tmp_path / "concepts.json", "-o", tmp_path / "out", "--steps", "3"]
    arguments += [
        "--model",
        tmp_path / "model",
        "--judge",
        tmp_path / "judge",
        "--train-steps",
        "1",
        "--arm",
        "pec-npi",
    ]
    return [str(argument) for argument in arguments]


def test_the_command_writes_records_tables_curves_and_sheets(command, tmp_path):
    folder, arguments = tmp_path / "out", [*command, "--concept", "mug"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.stderr
    names = {path.name for path in folder.iterdir()}
    assert {"mug.jsonl", "tables.md", "curve.png", "curve.svg", "mug-edit-1.png", "mug-edit-2.png"} <= names
    table = (folder / "tables.md").read_text()
    written = (folder / "mug.jsonl").stat().st_mtime_ns
    assert CliRunner().invoke(cli, arguments).exit_code == 0
    assert (folder / "tables.md").read_text() == table
    other = CliRunner().invoke(cli, [*arguments, "--arm", "ddim-none"])
    assert other.exit_code == 1 and "other settings (study, arms): name another folder" in other.stderr
    assert (folder / "mug.jsonl").stat().st_mtime_ns == written


def test_a_lora_is_on_while_the_edits_of_its_word_are_made(command, _pipelines, tmp_path):
    arguments = [*command, "--concept", "mug"]
    layers = random_layers(_pipelines["sd1"].unet)
    files = [
        Lora(layers=layers, token=token).save(tmp_path / f"{token[1:-1]}-lora.safetensors")
        for token in ("<mug>", "<cup>")
    ]
    assert CliRunner().invoke(cli, arguments).exit_code == 0
    plain = (tmp_path / "out" / "mug.jsonl").read_text().splitlines()
    shutil.move(tmp_path / "out", tmp_path / "plain")
    with_loras = [*arguments, "--lora", str(files[0]), "--lora", str(files[1])]
    assert CliRunner().invoke(cli, with_loras).exit_code == 0
    tuned = (tmp_path / "out" / "mug.jsonl").read_text().splitlines()
    assert json.loads(plain[0])["loras"] is None and len(json.loads(tuned[0])["loras"]) == 1
    assert len(tuned) == len(plain) and tuned[1:] != plain[1:]
    assert "other settings (loras)" in CliRunner().invoke(cli, arguments).stderr


def test_a_concept_that_fails_is_told_and_the_others_are_done(command, tmp_path, source):
    folder = tmp_path / "out"
    other = CliRunner().invoke(cli, [*command, "--part", "2/2", "--json"])
    assert other.exit_code == 1 and "cup: FAILED: " in other.stderr and not (folder / "tables.md").exists()
    assert "1 of 2 concepts are other parts'" in other.stderr
    said = json.loads(other.stdout)
    assert (said["records"], said["missing"], [name for name, _ in said["failures"]]) == (0, 1, ["cup"])
    both = CliRunner().invoke(cli, command)
    assert both.exit_code == 1 and "1 of 2 concepts failed" in both.stderr and (folder / "tables.md").exists()
    Image.open(source.image).save(tmp_path / "cup.png")
    whole = CliRunner().invoke(cli, [*command, "--part", "2/2"])  # the last part to end writes the tables
    assert whole.exit_code == 0, whole.stderr
    assert "pec-npi" in whole.stdout and {"mug.jsonl", "cup.jsonl"} <= {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    "folder", sorted({file.parent for file in RESULTS.glob("editing*/*.jsonl")}), ids=lambda path: path.name
)
def test_published_tables_are_those_of_the_published_records(folder, tmp_path, monkeypatch):
    """Whoever runs the command beside the records gets the tables, and no record is of other settings than today's."""
    published = (folder / "tables.md").read_text()
    (command,) = re.findall("- command: sentinv (.*)", published)
    for file in folder.glob("*.jsonl"):
        shutil.copy(file, tmp_path)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(EditingBench, "run", lambda *_: pytest.fail("a concept has no records"))
    result = CliRunner().invoke(cli, [*shlex.split(command), "--device", "cpu", "-o", str(tmp_path)])
    assert result.exit_code == 0, result.output
    said = [text.partition("- model:")[0] for text in (published, (tmp_path / "tables.md").read_text())]
    assert said[0] == said[1]


def test_refuses_unknown_arms():
    with pytest.raises(ValueError, match="magic"):
        EditingStudy(arms=("magic",))


def test_one_concept_has_no_verdict():
    (table,) = comparisons([r for r in synthetic(0.5, 0.0) if r["concept"] == "a"], "pec-npi")
    assert table.rows[0][2] == "one concept: none"


def test_a_measure_that_some_edits_have_is_drawn_from_those(tmp_path):
    records = [r | {"evaluations": 1, "timing": {"seconds": 1.0}} for r in synthetic(0.5, 0.0)]
    records += [
        {k: v for k, v in r.items() if k != "success"} | {"concept": "z", "target_ratio": 0.5} for r in records[:6]
    ]
    assert write_editing_report(records, tmp_path, {})
    assert (tmp_path / "curve.png").is_file() and (tmp_path / "target.png").is_file()


def test_a_mask_without_an_outside_has_no_measure_of_it(case):
    case.mask = np.ones_like(case.mask)
    assert set(measure_edit(case, 0, case.targets[0], None)) == {
        "source_psnr",
        "source_psnr_inside",
        "target_psnr",
        "target_psnr_inside",
        "target_ratio",
    }
