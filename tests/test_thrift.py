"""Where memory ends outside of training: in sampling, in the autoencoder, while loading, in the report."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from judging import build_judge, random_picture

from sentinv.cli.main import cli
from sentinv.concepts.concept import Concept
from sentinv.editing.edit import ddim_invert, edit
from sentinv.editing.inversion import InversionConfig
from sentinv.errors import ModelError
from sentinv.evaluation.judges import ClipJudge
from sentinv.generation.generate import GenerateConfig, generate, generate_beside
from sentinv.models.backbone import Backbone
from sentinv.models.loading import load
from sentinv.models.memory import is_out_of_memory
from sentinv.training.reaction import thing_mask

ENDS = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
CONFIG = GenerateConfig(steps=3)


@pytest.fixture
def narrow(monkeypatch):
    """Lets the model take so many rows at once and no more; the sizes that it was asked for."""

    def limit(most):
        honest, calls = Backbone.predict, []

        def predict(self, latents, *rest):
            calls.append(len(latents))
            if len(latents) > most:
                raise ENDS
            return honest(self, latents, *rest)

        monkeypatch.setattr(Backbone, "predict", predict)
        return calls

    return limit


def pixels(images):
    return np.stack([np.asarray(image, np.int16) for image in images])


@pytest.mark.parametrize("most", [1, 2, 3])
def test_sampling_in_smaller_parts_gives_the_same_images(backbone, narrow, most):
    free = generate(backbone, "a cat", count=3, config=CONFIG)
    calls = narrow(most)
    with pytest.warns(UserWarning, match="going on with . of 6 at a time, slower and to the same result"):
        rescued = generate(backbone, "a cat", count=3, config=CONFIG)
    assert abs(pixels(rescued) - pixels(free)).max() <= 1
    failed = len(calls) - 1 - [size > most for size in reversed(calls)].index(True)
    assert max(calls[failed + 1 :]) <= most and len(calls) > failed + 6
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what was found out is kept: the next one does not try again
        generate(backbone, "a cat", count=3, config=CONFIG)


def test_not_even_one_row_is_told_as_it_is(backbone, narrow):
    narrow(0)
    with pytest.warns(UserWarning), pytest.raises(torch.OutOfMemoryError):
        generate(backbone, "a cat", config=CONFIG)


@pytest.mark.parametrize("most", [1, 3])
def test_a_thing_is_found_in_smaller_parts_too(backbone, narrow, most):
    """Before any step of a training could say that there is too little."""
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    scenes = [f"on the {place}" for place in ("moon", "beach", "sea", "road", "roof")]
    free = thing_mask(backbone, latents, "a mug", scenes, together=4)
    assert torch.equal(thing_mask(backbone, latents, "a mug", scenes), free)
    narrow(most)
    with pytest.warns(UserWarning, match="going on with . of 4 at a time, slower and to the same result"):
        assert torch.equal(thing_mask(backbone, latents, "a mug", scenes, together=4), free)


def test_edits_and_evaluations_go_on_too(sd1_backbone, narrow, picture, tmp_path, monkeypatch, model_folder, tokenizer):
    free = edit(sd1_backbone, ddim_invert(sd1_backbone, picture, "a cat", config=InversionConfig(steps=3)), "a mug")
    narrow(1)
    with pytest.warns(UserWarning, match="at a time"):
        rescued = edit(
            sd1_backbone, ddim_invert(sd1_backbone, picture, "a cat", config=InversionConfig(steps=3)), "a mug"
        )
    assert torch.allclose(rescued.latents, free.latents, atol=1e-4)
    monkeypatch.chdir(tmp_path)
    picture.save("mug.png")
    Concept(token="<c>", rows={"text_encoder": torch.ones(1, 16)}).save("c.safetensors")
    monkeypatch.setattr(ClipJudge, "load", lambda *names, **options: build_judge(tokenizer))
    options = ["--count", "2", "--steps", "2", "--model", str(model_folder)]
    told = CliRunner().invoke(cli, ["evaluate", "c.safetensors", "--image", "mug.png", *options])
    assert told.exit_code == 0, told.output
    assert "warning: out of memory: going on with 2 of 4 at a time" in told.stderr


@pytest.fixture
def roomy(sd1_backbone, monkeypatch):
    """An autoencoder that works on so many latents at once and no more."""

    def limit(most):
        vae = sd1_backbone.vae
        for name, scale in (("encoder", sd1_backbone.vae_scale), ("decoder", 1)):
            module = getattr(vae, name)

            def forward(x, *rest, honest=module.forward, scale=scale):
                if x.shape[0] * x.shape[-1] * x.shape[-2] > most * scale**2:
                    raise ENDS
                return honest(x, *rest)

            monkeypatch.setattr(module, "forward", forward)
        return sd1_backbone

    return limit


@pytest.mark.parametrize(("most", "what"), [(64 * 64, "one image at a time"), (32 * 32, "tiles"), (16 * 16, "tiles")])
def test_the_autoencoder_in_slices_and_tiles(roomy, sd1_backbone, most, what):
    generator = torch.Generator().manual_seed(0)
    latents, images = torch.randn(2, 4, 64, 64, generator=generator), torch.rand(2, 3, 128, 128, generator=generator)
    decoded, encoded = sd1_backbone.decode(latents), sd1_backbone.encode(images * 2 - 1)
    names = ("use_slicing", "use_tiling", "tile_latent_min_size", "tile_sample_min_size")
    before = [getattr(sd1_backbone.vae, name) for name in names]
    backbone = roomy(most)
    with pytest.warns(UserWarning, match=what):
        assert backbone.decode(latents).shape == decoded.shape
    found = backbone.decode(latents)
    assert [getattr(backbone.vae, name) for name in names] == before
    close = (found - decoded).abs().mean() / decoded.std()
    assert close < (1e-5 if most == 64 * 64 else 0.5) and torch.isfinite(found).all()
    moments = backbone.encode(images * 2 - 1)
    assert moments.mean.shape == encoded.mean.shape


def test_an_autoencoder_for_which_there_is_no_room_at_all(roomy):
    backbone = roomy(1)
    with pytest.warns(UserWarning, match="tiles"), pytest.raises(torch.OutOfMemoryError):
        backbone.decode(torch.zeros(1, 4, 64, 64))
    with pytest.raises(torch.OutOfMemoryError):  # nothing smaller than this is asked for
        backbone.decode(torch.zeros(1, 4, 16, 16))


def test_pictures_are_looked_at_fewer_at_a_time(tokenizer, monkeypatch):
    judge, pictures = build_judge(tokenizer), [random_picture(seed) for seed in range(5)]
    free, honest = judge.images(pictures), judge.model.get_image_features

    def narrow(pixel_values):
        if len(pixel_values) > 2:
            raise ENDS
        return honest(pixel_values=pixel_values)

    monkeypatch.setattr(judge.model, "get_image_features", narrow)
    with pytest.warns(UserWarning, match="going on with 2 of 5 at a time"):
        found = judge.images(pictures)
    assert torch.allclose(found, free, atol=1e-6)


@pytest.mark.parametrize("part", ["_text_encoder", "read_weights", "Backbone.to"])
@pytest.mark.parametrize("error", [ENDS, MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_memory_that_ends_while_loading_is_one_line(model_folder, monkeypatch, part, error):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(f"sentinv.models.loading.{part}", fail)
    with pytest.raises(ModelError, match=r"was loaded in float32: .* are free on cpu; .*--dtype bfloat16"):
        load(model_folder, device="cpu")
    with pytest.raises(ModelError) as told:
        load(model_folder, device="cpu", dtype=torch.bfloat16)
    assert "--dtype" not in str(told.value) and str(told.value).isprintable()


def test_both_states_of_a_word_in_one_batch(backbone):
    config = replace(CONFIG, batch_size=2)
    generator = torch.Generator().manual_seed(0)
    rows = [
        {one.name: torch.randn(1, one.dim, generator=generator) for one in backbone.text_encoders} for _ in range(2)
    ]
    concepts = [Concept(token="<c>", rows=own) for own in rows]
    steps = []
    pair = generate_beside(
        backbone, "a <c>", tuple(concepts), count=3, config=config, on_step=lambda *at: steps.append(at)
    )
    for concept, images in zip(concepts, pair, strict=True):
        assert abs(pixels(images) - pixels(generate(backbone, "a <c>", [concept], count=3, config=CONFIG))).max() <= 1
    assert steps == [(step, 6) for step in range(1, 7)]
    assert abs(pixels(pair[0]) - pixels(pair[1])).max() > 1


def test_a_report_that_fails_costs_neither_word_nor_disk(tmp_path, monkeypatch, picture, model_folder):
    monkeypatch.chdir(tmp_path)
    picture.save("mug.png")

    def fail(*args, **options):
        raise MemoryError

    monkeypatch.setattr("sentinv.report.run_page.render", fail)
    call = ["invert", "mug.png", "--word", "red", "--steps", "1", "--samples", "1", "--model", str(model_folder)]
    told = CliRunner().invoke(cli, call)
    assert told.exit_code == 1 and "what was learned is in mug-concept.safetensors" in told.stderr
    assert (tmp_path / "mug-concept.safetensors").exists() and not (tmp_path / "mug-run" / "checkpoints").exists()


def test_the_images_of_a_report_on_a_lora_are_no_failure_either(tmp_path, monkeypatch, picture, model_folder):
    monkeypatch.chdir(tmp_path)
    picture.save("mug.png")
    call = ["--steps", "1", "--samples", "1", "--model", str(model_folder)]
    assert CliRunner().invoke(cli, ["invert", "mug.png", "--word", "red", *call]).exit_code == 0

    def fail(*args, **options):
        raise ENDS

    monkeypatch.setattr("sentinv.training.samples.generate", fail)
    told = CliRunner().invoke(cli, ["tune", "mug-concept.safetensors", "mug.png", *call])
    assert told.exit_code == 0 and "no images in the report: out of memory" in told.stderr
    assert (tmp_path / "mug-lora.safetensors").exists() and not (tmp_path / "mug-lora-run" / "checkpoints").exists()


@pytest.mark.parametrize(
    "text",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 4.00 GiB",
        "CUDA error: out of memory",
        "CUDA driver error: CUDA_ERROR_OUT_OF_MEMORY",
        "cudaErrorMemoryAllocation",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "HIP out of memory. Tried to allocate 512.00 MiB",
        "HIP error: hipErrorOutOfMemory: out of memory",
        "MPS backend out of memory (MPS allocated: 17.72 GB, max allowed: 18.13 GB)",
        "Invalid buffer size: 16.00 GB",
        "XPU out of memory. Tried to allocate 1.00 GiB",
        "UR error: UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY",
        "Native API failed: 40 (UR_RESULT_ERROR_OUT_OF_HOST_MEMORY)",
        "Could not allocate tensor with 671088640 bytes. There is not enough GPU video memory available!",
        "Allocation on device 0 would exceed allowed memory. (out of memory)",
        "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes",
        "DefaultCPUAllocator: not enough memory: you tried to allocate 6553600 bytes.",
        "std::bad_alloc",
        "[Errno 12] Cannot allocate memory",
        "The paging file is too small for this operation to complete. (os error 1455)",
        "[WinError 1455] The paging file is too small for this operation to complete",
        "Failed to allocate 12884901888 bytes",
        "hipErrorOutOfMemory",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "Unable to find a valid cuDNN algorithm to run convolution",
        "GET was unable to find an engine to execute this computation",
        "NVML_SUCCESS == r INTERNAL ASSERT FAILED at CUDACachingAllocator.cpp:1131",
        "Allocation on device 0 would exceed allowed memory.",
        "Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
        "vk::Device::allocateMemory: ErrorOutOfDeviceMemory",
        "OpenCL: CL_OUT_OF_HOST_MEMORY",
        "DML: GPU will not respond: E_OUTOFMEMORY",
        "RESOURCE_EXHAUSTED: while allocating 4 bytes",
    ],
)
def test_the_many_ways_of_saying_that_memory_has_ended(text, model_folder, monkeypatch):
    kind = OSError if "rrno" in text or "1455" in text else RuntimeError

    def fail(*args, **options):
        raise kind(text)

    assert is_out_of_memory(kind(text))
    monkeypatch.setattr("sentinv.models.loading.read_weights", fail)
    with pytest.raises(ModelError, match="out of memory while"):
        load(model_folder, device="cpu")


def test_the_end_of_memory_behind_what_a_library_says_of_it(model_folder, monkeypatch):
    """diffusers says "unable to load weights" of every error there, and only the cause tells which it was."""

    def fail(*args, **options):
        raise MemoryError("Cannot allocate memory (os error 12)")

    monkeypatch.setattr("safetensors.torch.load_file", fail)
    monkeypatch.setattr("diffusers.models.model_loading_utils.safetensors.torch.load_file", fail)
    with pytest.raises(ModelError, match="out of memory while"):
        load(model_folder, device="cpu")


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: device-side assert triggered",
        "mat1 and mat2 shapes cannot be multiplied (77x768 and 1024x320)",
        "Expected all tensors to be on the same device",
        "Error while deserializing header: incomplete metadata, file not fully covered",
        "No space left on device",
        "invalid size of a buffer",
        "CUDA error: an illegal memory access was encountered",
        "pin memory thread exited unexpectedly",
    ],
)
def test_what_is_not_the_end_of_memory(text):
    assert not is_out_of_memory(RuntimeError(text))
