"""The accelerator's path, on the CPU: steps that are settled ten at a time, and every tensor where it belongs.

Whether tensors are on the right device is asked of torch's fake tensors: they know device, type and shape, and refuse to be
mixed as the real ones do, without any accelerator.
"""

import math
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from conftest import copied
from PIL import Image
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from sentinv.adapters.install import fresh_layers, learning
from sentinv.bench.trials import train_curve
from sentinv.bench.workbench import _told
from sentinv.concepts.concept import Concept
from sentinv.concepts.initialization import Initialization, starting_rows
from sentinv.concepts.placeholder import PlaceholderRows
from sentinv.diffusion.ddim import ddim_step, ddim_steps
from sentinv.editing.archive import Archive
from sentinv.editing.edit import EditConfig, ddim_invert, edit
from sentinv.editing.inversion import InversionConfig
from sentinv.editing.masked import MaskConfig, edit_masked, region_of
from sentinv.files.decoding import Picture
from sentinv.generation.denoiser import Denoiser, encode_prompts
from sentinv.generation.generate import GenerateConfig, generate
from sentinv.models.backbone import Backbone
from sentinv.training.blend import Blend, BlendedSet
from sentinv.training.blend_objective import BlendedObjective
from sentinv.training.checkpoint import copies_in_one
from sentinv.training.config import TrainConfig, TuneConfig
from sentinv.training.data import TrainingSet
from sentinv.training.graphs import WARMUP, Graphed, with_graph
from sentinv.training.lean_convolutions import lean_convolutions
from sentinv.training.loop import Loop, ParameterGroup
from sentinv.training.objective import DenoisingObjective
from sentinv.training.rescue import Measures
from sentinv.training.train import data_and_objective, rows_groups

CONFIG = TrainConfig(blended=0, schedule="constant", steps=25, evaluate_every=25, evaluation_timesteps=2)
WORDS = Initialization("a striped mug")


class Looped:
    """A loop on a tiny model, and what it told."""

    def __init__(self, backbone, picture, steps_per_sync, config=CONFIG):
        self.rows = PlaceholderRows({"<c>": starting_rows(WORDS, backbone).rows})
        self.told = []
        with self.rows.installed(backbone):
            data, self.objective = data_and_objective(backbone, [picture], self.rows, config, WORDS.text)
            self.loop = Loop(
                data,
                self.objective,
                rows_groups(self.rows, backbone, config),
                config,
                evaluation=data.evaluation_batches(),
                on_step=self.told.append,
                steps_per_sync=steps_per_sync,
            )
        self.backbone = backbone

    def run(self, steps=None):
        """Go on to the end, or for so many steps; how many records had been told after each."""
        counts = []
        with self.rows.installed(self.backbone):
            for _ in self.loop.steps():
                counts.append(len(self.told))
                if len(counts) == steps:
                    break
        return counts

    @property
    def values(self):
        return self.rows.rows["text_encoder"].detach().clone()


def test_ten_steps_to_a_settle_give_the_same_run(sd1_backbone, picture):
    often, seldom = (Looped(sd1_backbone, picture, steps) for steps in (1, 10))
    assert often.run() == list(range(1, 26))
    assert seldom.run() == [0] * 9 + [10] * 10 + [20] * 5 + [25]
    assert torch.equal(often.values, seldom.values)
    assert often.told == seldom.told == seldom.loop.history.records
    assert often.loop.history.evaluations == seldom.loop.history.evaluations


def test_what_goes_wrong_rolls_back_over_the_steps_since_the_last_settle(sd1_backbone, picture, monkeypatch):
    good = Looped(sd1_backbone, picture, 1, replace(CONFIG, steps=10, evaluate_every=100))
    good.run()
    bad = Looped(sd1_backbone, picture, 10, replace(CONFIG, evaluate_every=100))
    honest, calls = DenoisingObjective.__call__, []

    def breaks(self, batch):
        calls.append(torch.is_grad_enabled())
        return honest(self, batch) * (float("nan") if calls[-1] and sum(calls) == 14 else 1)

    monkeypatch.setattr(DenoisingObjective, "__call__", breaks)
    with pytest.warns(UserWarning, match="not finite at step 14: stopped"):
        bad.run()
    assert bad.loop.step == 10 and bad.loop.history.stop == "not finite"
    assert torch.equal(bad.values, good.values)
    assert [(one.step, one.loss) for one in bad.told] == [(one.step, one.loss) for one in good.told]


def test_a_checkpoint_settles_what_is_pending(sd1_backbone, picture):
    whole = Looped(sd1_backbone, picture, 10)
    whole.run()
    begun, resumed = Looped(sd1_backbone, picture, 10), Looped(sd1_backbone, picture, 10)
    begun.run(7)
    assert not begun.told
    checkpoint = begun.loop.checkpoint({})
    assert [record.step for record in begun.told] == [1, 2, 3, 4, 5, 6, 7]
    resumed.loop.restore(checkpoint)
    resumed.run()
    assert torch.equal(resumed.values, whole.values)
    assert resumed.loop.history.records == whole.loop.history.records


class Answers(TorchDispatchMode):
    """Answers what a fake tensor cannot, its value: "true", or some number; counts the waits for an accelerator.

    The host waits where it reads a value, and where it copies one there or back by a copy that blocks.
    """

    def __init__(self):
        super().__init__()
        self.asked = self.waits = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            there = args[0] if func is torch.ops.aten.copy_.default else (kwargs or {}).get("device")
            ends = {args[-1].device.type, getattr(getattr(there, "device", there), "type", args[-1].device.type)}
            self.waits += ends == {"cpu", "cuda"} and not (kwargs or {}).get("non_blocking", False)
        if func is torch.ops.aten._local_scalar_dense.default:
            self.waits += args[0].device.type == "cuda"
            self.asked += 1
            return True if args[0].dtype == torch.bool else 1 / (1 + self.asked) if args[0].is_floating_point() else 1
        return func(*args, **(kwargs or {}))


def backward(loss):
    """The engine of autograd starts the accelerator's driver: here gradients are like their parameters."""
    todo, seen = [loss.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        todo += [further for further, _ in node.next_functions]
        if hasattr(node, "variable"):
            node.variable.grad = torch.zeros_like(node.variable)


def halved(image):
    """A mask of an image's size, white on the left."""
    mask = Image.new("L", image.size)
    mask.paste(255, (0, 0, image.width // 2, image.height))
    return mask


def moved(rows, device):
    """Move rows; as `Module.to`, which cannot swap fake parameters that somebody refers to."""
    for name, parameter in rows.rows.items():
        rows.rows[name] = torch.nn.Parameter(parameter.detach().to(device))


@contextmanager
def on_cuda(pipeline, dtype, monkeypatch):
    """A backbone whose weights are fake ones on an accelerator."""

    def blank(images):
        return [Image.new("RGB", (images.shape[-1], images.shape[-2]))] * len(images)

    for module in ("editing.edit", "editing.masked", "files.images"):
        monkeypatch.setattr(f"sentinv.{module}.to_pil", blank)
    backbone = Backbone.from_pipeline(pipeline, "tiny")
    backbone.vae.register_to_config(force_upcast=False)  # fake weights cannot be converted twice
    _ = backbone.fingerprint
    norms = [encoder.median_norm for encoder in backbone.text_encoders]
    assert all(norm > 0 for norm in norms)
    monkeypatch.setattr(Concept, "digest", property(lambda _: ""))
    whole = region_of(halved(Image.new("L", (20, 16))), (16, 20), 2)
    monkeypatch.setattr("sentinv.editing.masked.region_of", lambda *_: whole)
    monkeypatch.setattr(Archive, "check", lambda *_: None)  # it compares numbers
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(torch.Tensor, "backward", backward)
    monkeypatch.setattr(PlaceholderRows, "to", moved)
    with FakeTensorMode(allow_non_fake_inputs=True), Answers() as answers:
        for module in backbone._modules():
            module.to("cuda", dtype)
        backbone.answers = answers
        yield backbone


def rows_of_ones(backbone):
    return PlaceholderRows({"<c>": {one.name: torch.ones(1, one.dim) for one in backbone.text_encoders}})


def waits_of(loop, steps):
    """How often the host waits in so many steps, after the first, in which the optimizer makes its state."""
    answers = loop.objective.backbone.answers
    counts = [answers.waits for _, _ in zip(range(steps), loop.steps(), strict=False)]
    return [later - counts[0] for later in counts]


@pytest.fixture(params=[torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def fake(request, sd1, monkeypatch):
    with on_cuda(sd1, request.param, monkeypatch) as backbone:
        yield backbone


def test_training_on_an_accelerator(fake, picture):
    rows = PlaceholderRows({"<c>": {"text_encoder": torch.ones(2, 16)}})
    config = replace(CONFIG, steps=12)
    with rows.installed(fake), lean_convolutions(fake.unet):
        assert fake.device.type == "cuda" and rows.rows["text_encoder"].device.type == "cuda"
        data = TrainingSet(fake, [picture], rows, config)
        groups = rows_groups(rows, fake, config)
        objective = DenoisingObjective(fake, config.min_snr)
        loop = Loop(data, objective, groups, config, evaluation=data.evaluation_batches(), steps_per_sync=10)
        waits = [fake.answers.waits for _ in loop.steps()]
        assert len(waits) == 12 and [later > sooner for sooner, later in pairwise(waits)] == [False] * 8 + [
            True,
            False,
            True,
        ]
        assert loop.best["rows.text_encoder"].device.type == "cpu"
        loop.restore(loop.checkpoint({}))
        assert rows.rows["text_encoder"].device.type == "cuda"


def test_what_is_copied_in_one_is_what_was_there():
    tensors = {"a": torch.randn(2, 3), "b": torch.tensor(7.0), "c": torch.randn(4, 1, 3, 3), "d": torch.randn(2, 3).t()}
    copies = copies_in_one(tensors)
    assert list(copies) == list(tensors)
    for name, one in tensors.items():
        assert torch.equal(copies[name], one) and copies[name].untyped_storage().nbytes() == 4 * one.numel()


def test_the_grid_goes_through_in_larger_parts_on_an_accelerator_and_in_small_ones_where_memory_ended(fake, picture):
    rows, config = rows_of_ones(fake), replace(CONFIG, steps=1, batch_size=2, evaluation_timesteps=8)
    with rows.installed(fake), lean_convolutions(fake.unet):
        data = TrainingSet(fake, [picture], rows, config)
        grid = data.evaluation_batches()
        assert {len(batch) for batch in grid} == {8}
        thrifty = TrainingSet(fake, [picture], rows, replace(config, gradient_checkpointing=True))
        assert {len(batch) for batch in thrifty.evaluation_batches()} == {2}
        loop = Loop(data, DenoisingObjective(fake, None), rows_groups(rows, fake, config), config, evaluation=grid)
        for parts, longest in ((1, 8), (2, 1)):
            loop.rescue.take(Measures(parts=parts))
            pieces = [len(part) for batch in grid for part in batch.parts(loop._evaluation_parts(len(batch)))]
            assert max(pieces) == longest and sum(pieces) == sum(map(len, grid))


def test_a_trial_of_a_study_on_an_accelerator(fake, picture):
    """What it learned is compared with where it started, which is on the CPU."""
    start = starting_rows(Initialization("a red cat"), fake)
    pictures = [Picture(image=picture, mask=None, notices=())]
    curve = train_curve(fake, pictures, start, replace(CONFIG, steps=3), loss_at=[0, 3], keep_at=[2, 3])
    assert {rows["text_encoder"].device.type for rows in curve.rows.values()} == {"cpu"}
    assert len(_told(start, curve)["norms_and_cosines"]["text_encoder"]) == 3


@pytest.mark.parametrize("family", ["sd1", "sd2", "xl", "ldm"])
def test_no_step_waits_for_the_accelerator(family, request, picture, monkeypatch):
    """Neither a step of training nor one of sampling, of any family; the last of ten reads the losses."""
    pipeline = (
        request.getfixturevalue("xl") if family == "xl" else copied(request.getfixturevalue("_pipelines")[family])
    )
    with on_cuda(pipeline, torch.bfloat16, monkeypatch) as backbone:
        rows = rows_of_ones(backbone)
        with rows.installed(backbone), lean_convolutions(backbone.unet):
            data = TrainingSet(backbone, [picture], rows, CONFIG)
            loop = Loop(
                data, DenoisingObjective(backbone, 0.05), rows_groups(rows, backbone, CONFIG), CONFIG, steps_per_sync=10
            )
            assert waits_of(loop, 9) == [0] * 9
        denoise = Denoiser(backbone, encode_prompts(backbone, [None, "a cat"]), 4.0)
        latents = torch.zeros(2, 4, 8, 8, device="cuda")
        for step in ddim_steps(backbone.schedule, 3):
            before = backbone.answers.waits
            latents = ddim_step(latents, denoise(latents, step), step.alpha_from, step.alpha_to)
            assert backbone.answers.waits == before


def test_no_step_with_blended_items_waits_either(sd1, picture, monkeypatch):
    config = replace(CONFIG, blended=2)
    with on_cuda(sd1, torch.bfloat16, monkeypatch) as backbone:
        rows = rows_of_ones(backbone)
        with rows.installed(backbone), lean_convolutions(backbone.unet):
            pictures = [Picture(image=picture, mask=halved(picture), notices=())]
            data = BlendedSet(backbone, pictures, rows, config, Blend.of(config, "a mug"))
            groups = rows_groups(rows, backbone, config)
            loop = Loop(data, BlendedObjective(backbone, 0.05), groups, config, steps_per_sync=10)
            assert waits_of(loop, 3) == [0] * 3


def test_no_step_of_a_lora_waits_either(sd1, picture, monkeypatch):
    """Adapters on and off for the teacher, and prompts of other things, whose pictures the model makes before."""
    config = TuneConfig(steps=25, evaluate_every=25, evaluation_timesteps=2, targets=("attn2.to_v", "conv1"))
    monkeypatch.setattr("sentinv.training.blend._SAMPLING", GenerateConfig(steps=1))
    monkeypatch.setattr("sentinv.training.blend.OTHERS", 2)
    with on_cuda(sd1, torch.bfloat16, monkeypatch) as backbone, ExitStack() as stack:
        rows, layers = rows_of_ones(backbone), fresh_layers(backbone.unet, config.targets, 2, torch.Generator())
        stack.enter_context(rows.installed(backbone))
        with monkeypatch.context() as patch:  # peft's own weights, which are written over: fake ones cannot be swapped
            patch.setattr(torch.nn.Module, "to", lambda self, *_, **__: self)
            adapters = stack.enter_context(learning(backbone, layers))
        with lean_convolutions(backbone.unet):
            assert {parameter.device.type for parameter in adapters.parameters.values()} == {"cuda"}
            pictures = [Picture(image=picture, mask=halved(picture), notices=())]
            data = BlendedSet(backbone, pictures, rows, config, Blend.of(config, "a mug", config.others))
            objective = BlendedObjective(backbone, config.min_snr, frozen=adapters.off, data=data, fixed_rows=True)
            groups = [ParameterGroup(parameters=adapters.parameters, learning_rate=config.learning_rate)]
            assert waits_of(Loop(data, objective, groups, config, steps_per_sync=10), 3) == [0] * 3


class Recorded:
    """A capture without an accelerator: the work is kept, and done again into the same tensors by each replay."""

    def __init__(self, loop, fault=""):
        self.loop, self.fault, self.replays, self.captures = loop, fault, 0, 0

    def __call__(self, work):
        self.captures += 1
        if self.fault == "capture":
            raise RuntimeError("operation not permitted when stream is capturing")
        self.work, self.loss = work, work()
        self.gradients = {name: parameter.grad for name, parameter in self.loop.parameters.items()}
        return self, self.loss

    def replay(self):
        self.replays += 1
        loss = self.work()
        for name, parameter in self.loop.parameters.items():
            self.gradients[name].copy_(parameter.grad * (2 if self.fault == "values" else 1))
        self.loss.data.copy_(loss.data)


@pytest.mark.parametrize(("fault", "blended"), [("", 0), ("", 1), ("capture", 1), ("values", 0)])
def test_steps_by_a_graph_are_the_same_steps(sd1_backbone, picture, fault, blended):
    """With a graph, with one that can't be captured, with one whose numbers are wrong: the same run."""
    config = replace(CONFIG, evaluate_every=5, blended=blended)
    plain, graphed = (Looped(sd1_backbone, picture, 10, config) for _ in range(2))
    plain.run()
    recorded = Recorded(graphed.loop, fault)
    graphed.loop.backward = Graphed(graphed.loop, recorded)
    if fault:
        with pytest.warns(UserWarning, match="without a CUDA graph, more slowly"):
            graphed.run()
    else:
        graphed.run()
        assert recorded.replays == CONFIG.steps - WARMUP  # with the one that was held against a step without
    assert recorded.captures == 1
    assert torch.allclose(graphed.values, plain.values, atol=1e-6)
    assert [one.loss for one in graphed.told] == pytest.approx([one.loss for one in plain.told], rel=1e-5)


def test_gradients_are_held_against_each_other_all_together():
    """A LoRA has layers whose gradient is little more than rounding: they don't decide whether a graph is right."""
    loop = SimpleNamespace(backward=None, rescue=SimpleNamespace(measures=None))
    graphed, large, small = Graphed(loop, None), torch.ones(100, 2), torch.full((3, 2), 1e-3)
    for ours, same in (
        ({"large": large, "small": small}, True),
        ({"large": large, "small": 2 * small}, True),
        ({"large": 1.06 * large, "small": small}, False),
        ({"large": large, "small": None}, False),
        ({"large": large, "small": small * math.nan}, False),
    ):
        graphed._gradients = ours
        assert graphed._same({"large": large, "small": small}) == same
        assert graphed._same({"large": large, "small": None}) == (ours["small"] is None)


def test_a_graph_ends_where_memory_or_numbers_do(sd1_backbone, picture):
    looped = Looped(sd1_backbone, picture, 1)
    recorded = Recorded(looped.loop)
    looped.loop.backward = Graphed(looped.loop, recorded)
    looped.run(10)
    looped.loop.rescue.take(Measures(parts=2))
    before = recorded.replays
    looped.run()
    assert before == 7 and recorded.replays == before and looped.loop.step == CONFIG.steps


def test_no_graph_on_the_cpu_or_for_a_handful_of_steps(sd1_backbone, picture):
    assert not with_graph(Looped(sd1_backbone, picture, 1).loop)


def test_sampling_and_edits_on_an_accelerator(fake, picture):
    concept = Concept(token="<c>", rows={"text_encoder": torch.ones(2, 16)})
    made = generate(fake, "a <c>", [concept], count=3, config=GenerateConfig(steps=1, batch_size=2))
    assert len(made) == 3
    for method, source in (("pec", "npi"), ("ddim", "delta"), ("ddpm", "none")):
        archive = ddim_invert(
            fake, picture, "a <c>", [concept], InversionConfig(method=method, steps=2 if method == "pec" else 1)
        )
        assert archive.trajectory.states.device.type == "cpu"
        edited = edit(fake, archive, "a cat", [concept], EditConfig(source=source))
        assert edited.latents.device.type == "cuda"
    config = MaskConfig(steps=2, keep="latents")
    inside = edit_masked(fake, picture, halved(picture), "a cat", config=config)
    assert inside.latents.device.type == "cuda" and inside.latents.dtype == torch.float32
