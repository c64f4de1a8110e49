"""What the scripts in benchmarks/ compute by themselves."""

import json
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from PIL import Image

from sentinv.concepts.concept import Concept
from sentinv.models.backbone import Backbone

ROOT = Path(__file__).parent.parent


@pytest.fixture
def script(monkeypatch):
    """A script by its name, with those beside it, as Python finds them."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield import_module
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or "/").parent == ROOT / "benchmarks":
            del sys.modules[name]


def write_records(folder, rows):
    """Records of (start, concept, seed, step, what is recognised)."""
    folder.mkdir()
    lines = [
        {
            "settings": {"start": start, "concept": concept, "seed": seed},
            "result": {"scores": [[step, {"recognised": value}]]},
        }
        for start, concept, seed, step, value in rows
    ]
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_arms_are_paired_by_concept_and_seeds_averaged_first(tmp_path, script, monkeypatch, capsys):
    ours = write_records(
        tmp_path / "ours",
        [
            ("caption", "fox", 0, 100, 0.8),
            ("caption", "fox", 1, 100, 0.6),
            ("caption", "fox", 0, 50, 0.0),  # another step
            ("caption", "dog", 0, 100, 0.3),
            ("caption", "car", 0, 100, 1.0),  # the other has none
            ("stars", "fox", 0, 100, 0.0),
        ],
    )
    theirs = write_records(tmp_path / "theirs", [("plain", "fox", 0, 500, 0.5), ("plain", "dog", 0, 500, 0.5)])
    told = ["paired.py", str(ours), "caption@100", "plain@500", "--other", str(theirs)]
    monkeypatch.setattr(sys, "argv", told)
    script("paired").main()
    first, *_, row = capsys.readouterr().out.strip().splitlines()
    assert first == "2 concepts: dog, fox"
    measure, mean, other, less, lowest = (cell.strip() for cell in row.strip("|").split("|"))
    assert (measure, lowest) == ("recognised", "-0.200")
    assert mean.startswith("0.500 [0.3") and other == "0.500 [0.500, 0.500]" and less[1:] == "0.000 [-0.200, +0.200]"
    monkeypatch.setattr(sys, "argv", [*told, "--without", "dog"])
    script("paired").main()
    assert "| +0.200 [+0.200, +0.200] |" in capsys.readouterr().out


def test_rows_are_brought_to_so_many_usual_lengths_and_keep_their_direction(sd1, script):
    backbone = Backbone.from_pipeline(sd1, "tiny")
    rows = torch.tensor([[3.0, 4.0] + [0.0] * 14, [0.0] * 15 + [2.0]])
    learned = Concept(token="<c>", rows={"text_encoder": rows}, base_model="tiny")
    used = script("lengths").used
    assert used(backbone, learned, None)[0] is learned
    brought = used(backbone, learned, 2.0)[0].rows["text_encoder"]
    usual = backbone.text_encoders[0].median_norm
    assert torch.allclose(brought.norm(dim=1), torch.full((2,), 2 * usual))
    assert torch.allclose(torch.cosine_similarity(brought, rows), torch.ones(2))


def test_what_changed_outside_a_mask_is_counted_beyond_its_feather(script):
    scene, mask = Image.new("RGB", (20, 20), "gray"), Image.new("L", (20, 20))
    mask.paste(255, (5, 5, 10, 10))
    edited = scene.copy()
    edited.paste("red", (3, 3, 12, 12))  # the mask, and two pixels around it
    masked_edits = script("masked_edits")
    assert masked_edits.changed_outside(edited, scene, mask, feather=2) == 0
    edited.putpixel((2, 2), (255, 0, 0))
    assert masked_edits.changed_outside(edited, scene, mask, feather=2) == 1
    assert masked_edits.inside(edited, mask).size == (5, 5)
    assert masked_edits.inside(edited, mask).getpixel((0, 0)) == (255, 0, 0)
