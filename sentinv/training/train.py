"""Textual inversion (Gal et al. 2022, arXiv:2208.01618): only the placeholder's rows learn, the model is frozen."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sentinv.concepts.concept import Concept
from sentinv.concepts.initialization import Initialization, Start, starting_rows
from sentinv.concepts.placeholder import PlaceholderRows
from sentinv.errors import Interrupted
from sentinv.training.blend import Blend, BlendedSet, blended_set, named
from sentinv.training.blend_objective import BlendedObjective
from sentinv.training.checkpoint import Checkpoints, check_settings, latest_checkpoint, save_checkpoint
from sentinv.training.config import TrainConfig
from sentinv.training.data import TrainingSet, only
from sentinv.training.graphs import fast_float32, with_graph
from sentinv.training.history import History
from sentinv.training.interrupt import StopRequest, stop_request
from sentinv.training.lean_convolutions import lean_convolutions
from sentinv.training.lengths import Lengths
from sentinv.training.loop import Loop, OnStep, ParameterGroup, Watch
from sentinv.training.objective import DenoisingObjective
from sentinv.training.provenance import provenance
from sentinv.training.rescue import NoRescue, Rescue

if TYPE_CHECKING:
    from PIL import Image

    from sentinv.files.decoding import Picture
    from sentinv.models.backbone import Backbone


STEPS_PER_SYNC = 10
"""Steps between two looks at the losses on an accelerator; on the CPU there is nothing to wait for."""


def train_concept(
    backbone: Backbone,
    images: Sequence[Image.Image | Picture],
    initialization: Initialization | Start,
    config: TrainConfig | None = None,
    *,
    token: str = "<concept>",  # noqa: S107 - not a password
    checkpoints: Checkpoints | None = None,
    on_step: OnStep | None = None,
    watch: Watch | None = None,
) -> tuple[Concept, History]:
    """Learn a word for what the images have in common.

    Args:
        backbone: the frozen model; it is bit for bit the same afterwards.
        images: of one concept, ≥ 1, of any size; the centre is cropped to the model's square. A `Picture` may have a
            mask, white where the concept is, which weighs the loss.
        initialization: words (or a concept) to start from, or a start made of them by `starting_rows`.
        config: hyper-parameters.
        token: the placeholder.
        checkpoints: where they are written, the last one at the end, and whether to go on from the newest of them, which
            gives the same bytes as without the break; None for none.
        on_step: called with each step's record, on accelerators ten steps at a time, so that the host need not wait.
        watch: called after every step with the run, which it may end.

    Returns:
        The concept, with the rows that had the smallest loss on the fixed grid, and the history. Where the loss is not
        finite, the run goes back to the last step where it was, and on in float32; if that is what it computes in, or a
        row has grown beyond all use, it ends there, and `history.stop` says so. Where memory ends, it goes on with less.

    Raises:
        PromptError: If token, words or templates cannot be used.
        CheckpointError: If there is nothing to resume from, or it is of a run with other settings.
        Interrupted: After Ctrl-C or SIGTERM, when the step is done and the checkpoint saved.
        TrainingError: If not even the start has a finite loss, or memory is too small for a single item.
    """
    with torch.inference_mode(False), torch.enable_grad():  # whatever the caller is in the middle of
        return _trained(backbone, images, initialization, config or TrainConfig(), token, checkpoints, on_step, watch)


def _trained(
    backbone: Backbone,
    images: Sequence[Image.Image | Picture],
    initialization: Initialization | Start,
    config: TrainConfig,
    token: str,
    checkpoints: Checkpoints | None,
    on_step: OnStep | None,
    watch: Watch | None,
) -> tuple[Concept, History]:
    start = initialization if isinstance(initialization, Start) else starting_rows(initialization, backbone)
    rows = PlaceholderRows({token: start.rows})
    _ = backbone.fingerprint  # taken once and kept: with rows installed it could not be
    lean = lean_convolutions(backbone.unet)
    with fast_float32(), Rescue(backbone, config) as rescue, rows.installed(backbone), lean, stop_request() as request:
        loop, data = word_loop(backbone, images, start, rows, config, rescue)
        loop.on_step = on_step
        with_graph(loop)
        run_to_the_end(loop, run_settings(data, config, token, start.rows), checkpoints, request, watch)
    return word_of(backbone, start, token, loop), loop.history


def word_loop(
    backbone: Backbone,
    images: Sequence[Image.Image | Picture],
    start: Start,
    rows: PlaceholderRows,
    config: TrainConfig,
    rescue: Rescue,
) -> tuple[Loop, TrainingSet]:
    """What trains a word's rows, which are installed, and on what.

    Raises:
        SentinvError: As `TrainingSet`.
    """
    data, objective = data_and_objective(backbone, images, rows, config, start.thing, rescue)
    loop = Loop(
        data,
        objective,
        rows_groups(rows, backbone, config),
        config,
        evaluation=data.evaluation_batches(objective.timestep_weights),
        rescue=rescue,
        steps_per_sync=1 if backbone.device.type == "cpu" else STEPS_PER_SYNC,
    )
    return loop, data


def word_of(backbone: Backbone, start: Start, token: str, loop: Loop) -> Concept:
    """The word that a run of `word_loop` has come to; it warns where that is its start."""
    history, learned = loop.history, {name.removeprefix("rows."): value for name, value in loop.best.items()}
    if loop.config.steps and not history.learned:
        warnings.warn(
            f"nothing was learned: no step had a smaller evaluation loss than the start ({history.start_loss:.4f}), "
            "whose rows are kept; try another learning rate or more steps",
            stacklevel=3,
        )
    metadata = provenance(backbone, start, loop.config, history, learned)
    return Concept(token=token, rows=learned, base_model=backbone.name, metadata=metadata)


def data_and_objective(
    backbone: Backbone,
    images: Sequence[Image.Image | Picture],
    rows: PlaceholderRows,
    config: TrainConfig,
    words: str,
    rescue: NoRescue | None = None,
) -> tuple[TrainingSet, DenoisingObjective]:
    """What a word's rows, which are installed, are trained on, and what a step costs; blended items if the config has some.

    Args:
        backbone: the frozen model.
        images: as for `train_concept`.
        rows: of the placeholder.
        config: hyper-parameters.
        words: for the thing: what the frozen model is told of blended items; "" if nobody has said what it is.
        rescue: what may be done where its first answers are no numbers.
    """
    if not config.blended:
        return TrainingSet(backbone, images, rows, config), DenoisingObjective(backbone, config.min_snr)
    blend = Blend.of(config, named(words, only(rows.vocabulary)))
    data = blended_set(lambda: BlendedSet(backbone, images, rows, config, blend), rescue or NoRescue())
    return data, BlendedObjective(backbone, config.min_snr)


def rows_groups(rows: PlaceholderRows, backbone: Backbone, config: TrainConfig) -> list[ParameterGroup]:
    """What trains of placeholders: for each text encoder the rows, called "rows." and its name, at its learning rate."""
    groups = []
    for encoder in backbone.text_encoders:
        name = f"rows.{encoder.name}"
        parameters = {name: rows.rows[encoder.name]}
        lengths = None
        if config.fixed_norms:
            lengths = Lengths.fixed_to(parameters)
        elif config.max_norm is not None:
            lengths = Lengths.up_to(parameters, {name: config.max_norm * encoder.median_norm})
        groups.append(
            ParameterGroup(
                parameters=parameters,
                learning_rate=config.rows_rate(backbone.name, encoder.median_norm, encoder.dim),
                usual_norm={name: encoder.median_norm},
                lengths=lengths,
            )
        )
    return groups


def run_to_the_end(
    loop: Loop,
    settings: Mapping[str, Any],
    checkpoints: Checkpoints | None,
    request: StopRequest,
    watch: Watch | None = None,
) -> None:
    """Run a loop, from where it was if it is to be resumed, and save its state on the way and at the end.

    Args:
        loop: to run.
        settings: what has to be the same for a run to go on, as JSON can say it.
        checkpoints: where they are; None to keep none.
        request: of somebody to stop, which is looked at after every step.
        watch: called after every step with the loop.

    Raises:
        CheckpointError: If there is nothing to resume from, or it is of a run with other settings.
        Interrupted: If it was asked to stop, when the step is done and the checkpoint saved.
    """
    if checkpoints is not None and checkpoints.resume:
        checkpoint = latest_checkpoint(checkpoints.folder)
        check_settings(checkpoint.settings, settings)
        loop.restore(checkpoint)
    every = loop.config.checkpoint_every
    for step in loop.steps():
        if checkpoints is not None and step % every == 0:
            save_checkpoint(checkpoints.folder, loop.checkpoint(settings))
        if watch is not None:
            watch(loop)
        if request.signal_number is not None:
            break
    stopped = request.signal_number is not None  # also by a signal that came during the last step
    if checkpoints is not None and (stopped or loop.step % every):  # until the caller has saved the concept
        save_checkpoint(checkpoints.folder, loop.checkpoint(settings))
    if request.signal_number is not None:
        kept = "resume to go on" if checkpoints is not None else "nothing was saved, for want of a checkpoint folder"
        raise Interrupted(f"stopped after step {loop.step} of {loop.config.steps}: {kept}", request.signal_number)


def run_settings(data: TrainingSet, config: TrainConfig, token: str, rows: Mapping[str, Tensor]) -> dict[str, Any]:
    """What has to be the same for a run to go on, as JSON has it.

    Args:
        data: of the run.
        config: of the run.
        token: the placeholder.
        rows: where it starts, or what it keeps to.
    """
    settings = json.loads(json.dumps(asdict(config)))  # lists for tuples, as a checkpoint gives them back
    del settings["checkpoint_every"]
    blended = [*data.teacher_ids.values(), data.own] if isinstance(data, BlendedSet) else []
    all_ids = data.all_ids if isinstance(data, BlendedSet) else data.ids
    return settings | {
        "token": token,
        "model": data.backbone.fingerprint,
        "constants": data.backbone.constants,
        "dtype": str(data.backbone.dtype),
        "start": _digest(list(rows.values())),
        "images": _digest([data.pixels]),
        "masks": _digest([] if data.mask is None else [data.mask]),
        "prompts": _digest(list(all_ids.values())),
        "blend": _digest(blended),
    }


def _digest(tensors: Sequence[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)}".encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
