"""DirectEdit and Direct Inversion on tiny pipelines, against loops of both branches written out."""

import pytest
from conftest import FAMILIES
from test_editing import SOURCE, calmed, inverted, learned

from sentinv.bench.editing_arms import ARMS
from sentinv.editing.edit import EditConfig, edit
from sentinv.editing.inversion import relative_rms
from sentinv.editing.reconstruction import reconstruct
from sentinv.errors import EditError
from sentinv.generation.denoiser import Denoiser

TARGET = "a blue <c> on the moon"
STEPS = 8


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def backbone(pipeline, picture):
    return calmed(pipeline, picture)


@pytest.fixture
def concepts(backbone):
    return [learned(backbone.text_encoders[0].dim)]


@pytest.fixture
def archive(backbone, picture, concepts):
    return inverted(backbone, picture, concepts, "ddim", steps=STEPS)


def moved(latents, eps, step):
    """A DDIM step, as its paper has it."""
    clean = (latents - (1 - step.alpha_from) ** 0.5 * eps) / step.alpha_from**0.5
    return step.alpha_to**0.5 * clean + (1 - step.alpha_to) ** 0.5 * eps


def test_direct_edit_is_its_two_branches_written_out(backbone, archive, concepts):
    """Yang & Ye 2026: both branches ask beside their latents, by what the inversion moved; none sees the other."""
    states, skipped = archive.trajectory.states, 2
    source, target = Denoiser.of(backbone, SOURCE, concepts, 1.0), Denoiser.of(backbone, TARGET, concepts, 3.0)
    kept = changed = states[skipped]
    for number, step in list(enumerate(archive.steps))[skipped:]:
        difference = states[number + 1] - states[number]
        kept = moved(kept, source(kept + difference, step), step)
        changed = moved(changed, target(changed + difference, step), step)
        assert relative_rms(kept, states[number + 1]).max() <= 1e-5
    config = EditConfig(guidance_scale=3.0, source="direct", skip=skipped / STEPS)
    edited = edit(backbone, archive, TARGET, concepts, config)
    assert relative_rms(edited.latents, changed).max() <= 1e-5
    assert edited.evaluations == 2 * (STEPS - skipped)
    plain = edit(backbone, archive, TARGET, concepts, EditConfig(guidance_scale=3.0, source="none", skip=config.skip))
    assert min(relative_rms(edited.latents, other).max() for other in (kept, plain.latents)) > 1e-3


def test_direct_edit_with_the_source_prompt_brings_the_picture_back_where_plain_sampling_strays(
    backbone, archive, concepts
):
    clean, errors = archive.trajectory.states[-1], {}
    for source in ("direct", "none"):
        back = edit(backbone, archive, SOURCE, concepts, EditConfig(guidance_scale=1, source=source))
        errors[source] = relative_rms(back.latents, clean).item()
    assert errors["direct"] <= 1e-5 < errors["none"] / 10


def test_direct_inversion_without_attention_is_the_plain_edit(backbone, archive, concepts):
    """Ju et al. 2023: the source branch is put back on the inversion's path after every step, the target branch goes free."""
    states, config = archive.trajectory.states, EditConfig(guidance_scale=7.5, source="none")
    prompts = [Denoiser.of(backbone, prompt, concepts, 7.5) for prompt in (SOURCE, TARGET)]
    branches = [states[0], states[0]]
    for number, step in enumerate(archive.steps):
        branches = [moved(latents, ask(latents, step), step) for latents, ask in zip(branches, prompts, strict=True)]
        branches[0] = branches[0] + (states[number + 1] - branches[0])
    assert relative_rms(branches[0], states[-1]).max() <= 1e-6
    edited = edit(backbone, archive, TARGET, concepts, config)
    assert relative_rms(edited.latents, branches[1]).max() <= 1e-5
    assert ARMS["direct-inversion"] == ARMS["ddim-none"]


def test_direct_edit_wants_the_inversion_whose_questions_it_knows(backbone, picture, concepts):
    for method in ("pec", "fixed-point", "ddpm"):
        archive = inverted(backbone, picture, concepts, method, steps=2)
        with pytest.raises(EditError, match=f'method "ddim".*"{method}"'):
            edit(backbone, archive, TARGET, concepts, EditConfig(source="direct"))
    plain = inverted(backbone, picture, concepts, "ddim", steps=2)
    assert reconstruct(backbone, plain, concepts, EditConfig(guidance_scale=1, source="direct")).guidance_error <= 1e-5
