import json
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from sentinv.cli.invert import InvertOptions, invert, train_config
from sentinv.cli.main import cli
from sentinv.cli.tune import TuneOptions, tune, tune_config
from sentinv.concepts.initialization import Initialization, starting_rows
from sentinv.concepts.placeholder import PlaceholderRows
from sentinv.diffusion.ddim import ddim_steps
from sentinv.errors import ModelError
from sentinv.generation.denoiser import Denoiser, encode_prompts
from sentinv.models.loading import load
from sentinv.models.names import Place
from sentinv.training.config import TrainConfig, TuneConfig
from sentinv.training.data import TrainingSet
from sentinv.training.fitting import fit, ways
from sentinv.training.lean_convolutions import lean_convolutions
from sentinv.training.memory import WORTHWHILE, peak, training_memory
from sentinv.training.objective import DenoisingObjective
from sentinv.training.rescue import Rescue
from sentinv.training.samples import PAIRS


def counted(backbone, work):
    return peak(work, [backbone.unet, backbone.vae, *(encoder.model for encoder in backbone.text_encoders)], "cpu")


@pytest.mark.parametrize("checkpointing", [False, True])
def test_memory_is_what_real_tensors_take(model_folder, checkpointing):
    """The same step and the same images on tensors with values, counted in the same way, to a few percent."""
    backbone = load(model_folder, device="cpu")
    config = TrainConfig(batch_size=3, blended=0, gradient_checkpointing=checkpointing)
    estimate = training_memory(Place(model=str(model_folder), dtype="float32"), config)
    parts = [backbone.unet, backbone.vae, backbone.text_encoders[0].model]
    assert estimate["weights"] == sum(weight.nbytes for part in parts for weight in part.parameters())
    rows = PlaceholderRows({"<c>": starting_rows(Initialization("cat"), backbone).rows})
    with rows.installed(backbone), lean_convolutions(backbone.unet), Rescue(backbone, config):
        data = TrainingSet(backbone, [Image.new("RGB", (16, 16))], rows, config)
        objective, batch = DenoisingObjective(backbone, 0.05), data.draw(torch.Generator().manual_seed(0))
        taken = counted(backbone, lambda: objective(batch).mean().backward())
    assert estimate["activations"] == pytest.approx(taken, rel=0.1)
    condition = encode_prompts(backbone, ["", "a cat"])
    denoise = Denoiser(backbone, condition, 7.5)
    latents = torch.zeros(2 * PAIRS, 4, 8, 8)
    drawing = counted(backbone, lambda: denoise(latents, ddim_steps(backbone.schedule, 2)[0]))
    decoding = counted(backbone, lambda: backbone.decode(latents[:1]))
    assert estimate["images"] == pytest.approx(max(drawing, decoding), rel=0.1)
    assert estimate["total"] == estimate["weights"] + max(estimate["activations"], estimate["images"])


def test_memory_grows_with_the_batch_and_shrinks_by_checkpointing(model_folder):
    name = str(model_folder)
    few, many = (
        training_memory(Place(model=name), TrainConfig(batch_size=size, blended=0))["activations"] for size in (1, 8)
    )
    assert 6 < many / few < 9
    assert (
        training_memory(Place(model=name), TrainConfig(batch_size=8, blended=0, gradient_checkpointing=True))[
            "activations"
        ]
        < 0.6 * many
    )
    assert (
        training_memory(Place(model=name, dtype="float16"), TrainConfig())["weights"] * 2
        == training_memory(Place(model=name, dtype="float32"), TrainConfig())["weights"]
    )


def test_memory_of_two_text_encoders(xl, tmp_path):
    xl.save_pretrained(tmp_path)
    assert training_memory(Place(model=str(tmp_path)), TrainConfig())["activations"] > 0


@pytest.mark.parametrize(
    ("part", "changes", "why"),
    [
        ("scheduler/scheduler_config.json", {"_class_name": "EDMEulerScheduler"}, "expected a scheduler with betas"),
        ("unet/config.json", {"in_channels": 9}, "models for inpainting"),
        ("unet/config.json", {"sample_size": None}, "sample_size None, expected whole numbers"),
    ],
)
def test_a_model_that_no_run_would_take_is_not_planned_for(part, changes, why, sd1, tmp_path):
    sd1.save_pretrained(tmp_path)
    path = tmp_path / part
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ModelError, match=why):
        training_memory(Place(model=str(tmp_path)), TrainConfig())


def test_the_plan_says_with_which_options_a_run_fits(model_folder, monkeypatch):
    name, config = str(model_folder), TrainConfig(batch_size=8, blended=0)
    memory = training_memory(Place(model=name, dtype="float32", device="cpu"), config)
    sparing = training_memory(
        Place(model=name, dtype="float32", device="cpu"), replace(config, gradient_checkpointing=True)
    )
    half = training_memory(Place(model=name, dtype="bfloat16", device="cpu"), config)
    assert half["total"] < sparing["total"] < memory["total"]

    def told(free):
        monkeypatch.setattr("sentinv.training.fitting.free_memory", lambda device: free)
        return fit(Place(model=name, dtype="float32", device="cpu"), config, memory)

    assert told(memory["total"]).enough and told(None).enough and told(memory["total"]).told == ""
    found = told(sparing["total"])
    assert (found.options, found.needed) == ("--gradient-checkpointing", sparing["total"]) and not found.enough
    assert told(half["total"]).options == "--dtype bfloat16"
    assert "no option makes it fit" in told(1).told


def test_the_plan_is_printed_with_what_to_do(model_folder, picture, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture.save("mug.png")
    monkeypatch.setattr("sentinv.training.fitting.free_memory", lambda device: 1)
    call = ["invert", "mug.png", "--word", "red", "--model", str(model_folder), "--plan"]
    told = CliRunner().invoke(cli, call)
    assert told.exit_code == 0 and "too little  only 1 MB are free there, and no option makes it fit" in told.output
    there = json.loads(CliRunner().invoke(cli, [*call, "--json"]).stdout)
    assert there["fit"]["enough"] is False and there["memory"]["images"] > 0
    assert there["memory"]["total"] == there["memory"]["weights"] + max(
        there["memory"]["activations"], there["memory"]["images"]
    )


@pytest.mark.parametrize(
    ("command", "config"),
    [
        (invert, TrainConfig()),
        (invert, TrainConfig(blended=4)),
        (tune, TuneConfig()),
        (tune, TuneConfig(batch_size=3, blended=3, others=3)),
    ],
)
def test_all_that_is_advised_is_taken_by_the_command_that_advises_it(command, config):
    def config_of(*args):
        context = command.make_context(command.name, ["first.safetensors", "second.png", *args])
        with context.scope():
            if command is tune:
                return tune_config(TuneOptions(**context.params))
            return train_config(InvertOptions(**context.params))

    given = [f"--{name.replace('_', '-')}={getattr(config, name)}" for name in config.usual_items]
    assert config_of(*given) == config and config_of("--batch-size", "1").batch_size == 1
    for options, changes in ways(config, whole=True):
        own = {name: value for name, value in changes.items() if hasattr(config, name)}
        assert config_of(*given, *options.split()) == replace(config, **own)
    assert config_of("--kind", "style").blended == 0


def test_on_an_accelerator_evaluations_count_and_a_graph_keeps_its_step(model_folder):
    def activations(device, **more):
        config = TrainConfig(batch_size=2, blended=0, **more)
        return training_memory(Place(model=str(model_folder), dtype="float32", device=device), config)["activations"]

    step, short = activations("cpu"), activations("cuda", steps=WORTHWHILE - 1)
    with_graph, sparing = activations("cuda"), activations("cuda", gradient_checkpointing=True)
    assert step <= short < with_graph < 2 * step
    assert sparing == activations("cpu", gradient_checkpointing=True)
    assert activations("mps") == short
