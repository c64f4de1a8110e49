import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from conftest import build_pipeline
from judging import random_picture

from sentinv.bench import sd15
from sentinv.bench.speed import SpeedConfig, Timed, speed_table
from sentinv.bench.step_meter import floor_flops
from sentinv.cli.main import cli
from sentinv.models.backbone import Backbone
from sentinv.models.text_encoder import TextEncoder

PEER = """
import sys, torch
assert sys.argv[1] == "--steps"
weight = torch.nn.Parameter(torch.ones(8, 8))
optimizer = torch.optim.AdamW([weight])
for step in range(int(sys.argv[2])):
    (torch.ones(4, 8) @ weight).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
"""


def test_sd15_has_the_published_number_of_parameters():
    with torch.device("meta"):
        parts = sd15.models()
    assert [sum(p.numel() for p in part.parameters()) for part in parts] == [859_520_964, 83_653_863, 123_060_480]


def test_the_counted_floor_of_sd15_is_that_of_the_literature(tmp_path, monkeypatch):
    """Oracle: 1.669 TFLOP for the UNet and 0.027 for the text encoder at 512 pixels, batch 1, counted independently."""
    from diffusers import DDIMScheduler

    monkeypatch.setattr("sentinv.models.backbone.check_weights", lambda *_: None)  # shapes are enough here
    with torch.device("meta"):
        unet, vae, text = sd15.models()
    words = sd15.tokenizer(tmp_path / "tokenizer")
    assert len(words) == 49408 and words("x", add_special_tokens=False).input_ids == [words.get_vocab()["x</w>"]]
    backbone = Backbone("shape", unet, vae, [TextEncoder("text_encoder", words, text)], DDIMScheduler(**sd15.SCHEDULE))
    assert floor_flops(backbone, 1) == pytest.approx(1.696e12, rel=0.02)


@pytest.mark.slow
def test_our_step_costs_the_floor_and_peers_stand_beside_it(tmp_path, tokenizer):
    build_pipeline(tokenizer, 16, "epsilon").save_pretrained(tmp_path / "model")
    random_picture(0).save(tmp_path / "image.png")
    (tmp_path / "peer.py").write_text(PEER)
    (tmp_path / "broken.py").write_text("raise RuntimeError('needs a newer library')")
    peer = tmp_path / "peer.py"
    peers = [f"{peer} --steps {{steps}}", str(tmp_path / "broken.py"), str(tmp_path / "absent.py"), f"{peer} --steps 1"]
    command = ["bench", "speed", "--model", str(tmp_path / "model"), "--image", str(tmp_path / "image.png")]
    command += ["--steps", "2", "--batch-size", "2", "--warmup", "1", "--repeats", "1", "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(cli, [*command, *(part for peer in peers for part in ("--peer", peer))])
    assert result.exit_code == 1 and "needs a newer library" in result.stdout
    trainers = json.loads((tmp_path / "out/speed.json").read_text())["trainers"]
    ours, theirs, broken, absent, short = trainers
    (run,) = ours["runs"]
    assert len(run["all_seconds"]) == 2 and 0 < run["seconds"] < 60 and run["peak"] > 2**20
    assert run["flops"] == pytest.approx(run["floor"], rel=0.05)
    assert theirs["runs"][0]["flops"] == 2 * (2 * 4 * 8 * 8)  # forward, and the gradient of the weight
    assert "needs a newer library" in broken["failure"] and "no script" in absent["failure"]
    assert "1 optimizer steps" in short["failure"]
    wrong = CliRunner().invoke(cli, [*command, "--model", "sd15"])
    assert wrong.exit_code == 1 and wrong.stderr.count("\n") == 1


def test_table_by_hand():
    """Ours takes 1 and 3 s, theirs 4 and 4: medians 2 and 4, pairs 0.25 and 0.75."""
    config = SpeedConfig(model=Path("m"), images=(), resolution=64, batch_size=4)
    ours = Timed("ours", [{"seconds": s, "peak": 2**20 * 50, "flops": 2e9, "floor": 2e9} for s in (1, 3)])
    theirs = Timed("theirs", [{"seconds": 4, "peak": 2**20 * 100, "flops": 5e9} for _ in range(2)])
    rows = speed_table([ours, theirs, Timed("other", failure="no such file")], config).rows
    assert list(rows[1]) == ["theirs", "4 [4, 4]", "1", "100", "5", "2.500", "0.500", "0.500"]
    assert list(rows[0]) == ["ours", "2 [1, 3]", "2", "50", "2", "1.000", "1.000", "1.000"]
    assert rows[2][1] == "failed: no such file"
