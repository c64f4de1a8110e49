"""Pivotal tuning: a LoRA around a learned word (after Roich et al. 2021, arXiv:2106.05744, who tune a generator around a code).

The word stays as it is, or learns on; the UNet gets low-rank layers, and its own weights keep their bits. What keeps it from
reproducing the picture whatever the prompt says is `sentinv.training.blend`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Generator, Tensor

from sentinv.adapters.install import Adapters, fresh_layers, learning
from sentinv.adapters.layouts import LoraLayer
from sentinv.adapters.lora import Lora
from sentinv.concepts.concept import Concept
from sentinv.concepts.placeholder import PlaceholderRows
from sentinv.errors import PromptError
from sentinv.training.blend import Blend, BlendedSet, blended_set, named
from sentinv.training.blend_objective import BlendedObjective
from sentinv.training.config import TuneConfig
from sentinv.training.graphs import fast_float32, with_graph
from sentinv.training.history import History
from sentinv.training.interrupt import stop_request
from sentinv.training.invert import ImageLike, pictures_of
from sentinv.training.lean_convolutions import lean_convolutions
from sentinv.training.loop import Loop, ParameterGroup
from sentinv.training.provenance import lora_provenance, tuned_provenance
from sentinv.training.rescue import Rescue
from sentinv.training.train import STEPS_PER_SYNC, rows_groups, run_settings, run_to_the_end

if TYPE_CHECKING:
    from sentinv.files.decoding import Picture
    from sentinv.models.backbone import Backbone
    from sentinv.training.checkpoint import Checkpoints
    from sentinv.training.loop import OnStep


@dataclass(frozen=True, kw_only=True, eq=False)
class Tuned:
    """What tuning gives.

    Attributes:
        lora: with the weights that had the smallest loss on the fixed grid.
        concept: the word; another than before if its rows learned too.
        history: of the run.
        before: the word as it was.
        config: of the training.
        pictures: what it was learned from.
        device: where it was trained.
        dtype: precision of the frozen model.
    """

    lora: Lora
    concept: Concept
    history: History
    before: Concept
    config: TuneConfig
    pictures: tuple[Picture, ...]
    device: str
    dtype: str


def tune(
    backbone: Backbone,
    concept: Concept,
    images: ImageLike | Sequence[ImageLike],
    config: TuneConfig | None = None,
    *,
    words: str | None = None,
    checkpoints: Checkpoints | None = None,
    on_step: OnStep | None = None,
) -> Tuned:
    """Train a LoRA around a word, so that it shows its very thing.

    Args:
        backbone: the frozen model; it is bit for bit the same afterwards.
        concept: the learned word.
        images: what it was learned from: paths, Pillow images, or pictures with masks. Where the thing is in one without a mask
            is found by `sentinv.training.reaction`.
        config: hyper-parameters.
        words: for the thing, in place of those that the word started from (`sentinv.training.blend.ANYTHING`, if these do not
            say it): what the model as it was is told.
        checkpoints: as for `train_concept`.
        on_step: as for `train_concept`.

    Raises:
        PromptError: If `words` are none.
        ConceptError: If the word does not fit the model.
        TypeError: If it is none.
        SentinvError: As `train_concept` and `read_image`.
    """
    if not isinstance(concept, Concept):
        raise TypeError(f"expected a Concept, got {type(concept).__name__}: sentinv.load_concepts reads files")
    config = config or TuneConfig()
    blend = Blend.of(config, words_of(concept, words), config.others)
    pictures = pictures_of(images)
    _tell_other_model(concept, backbone)
    rows = PlaceholderRows.of_concepts([concept])
    layers = fresh_layers(backbone.unet, config.targets, config.rank, Generator().manual_seed(config.seed))
    with ExitStack() as stack:
        stack.enter_context(fast_float32())
        rescue = stack.enter_context(Rescue(backbone, config))
        stack.enter_context(rows.installed(backbone))
        adapters = stack.enter_context(learning(backbone, layers))
        stack.enter_context(lean_convolutions(backbone.unet))
        request = stack.enter_context(stop_request())
        data = blended_set(lambda: BlendedSet(backbone, pictures, rows, config, blend), rescue)
        loop = _tuning_loop(data, rows, adapters, config, rescue, on_step)
        with_graph(loop)
        run_to_the_end(loop, run_settings(data, config, concept.token, concept.rows), checkpoints, request)
    now, lora = _learned(backbone, concept, config, layers, loop)
    return Tuned(
        lora=lora,
        concept=now,
        history=loop.history,
        before=concept,
        config=config,
        pictures=tuple(pictures),
        device=str(backbone.device),
        dtype=str(backbone.dtype).removeprefix("torch."),
    )


def _tuning_loop(
    data: BlendedSet,
    rows: PlaceholderRows,
    adapters: Adapters,
    config: TuneConfig,
    rescue: Rescue,
    on_step: OnStep | None,
) -> Loop:
    """What trains the layers that are on, and the rows, which are installed, if they learn too."""
    backbone = data.backbone
    groups = [ParameterGroup(parameters=adapters.parameters, learning_rate=config.learning_rate)]
    if config.train_rows:
        groups += rows_groups(rows, backbone, config)
    objective = BlendedObjective(
        backbone,
        config.min_snr,
        frozen=adapters.off,
        data=data,
        fixed_rows=not config.train_rows,
        others_weight=config.others_weight,
    )
    return Loop(
        data,
        objective,
        groups,
        config,
        evaluation=data.evaluation_batches(objective.timestep_weights),
        rescue=rescue,
        on_step=on_step,
        steps_per_sync=1 if backbone.device.type == "cpu" else STEPS_PER_SYNC,
    )


def _tell_other_model(concept: Concept, backbone: Backbone) -> None:
    """Warn of a word that was learned on another model. The fingerprint is taken, and kept, while nothing is installed yet."""
    if backbone.fingerprint != (concept.fingerprint or backbone.fingerprint):
        made = f" ({concept.base_model})" if concept.base_model else ""
        warnings.warn(
            f"{concept.token} was learned on another model{made} than {backbone.name}: learn it there first",
            stacklevel=3,
        )


def words_of(concept: Concept, words: str | None = None) -> str:
    """Words for a concept's thing: those given, or those that it started from; `named` if these do not say it.

    Raises:
        PromptError: If none are given, or a placeholder or ``{}`` is among them.
    """
    if words is not None and (not words.strip(" *") or set("<>{}") & set(words)):
        got = repr(words) if words.strip(" *") else "none"
        raise PromptError(f"expected words for the thing that {concept.token} means, such as 'a mug', got {got}")
    return named(words or concept.thing, concept.token)


def _learned(
    backbone: Backbone, concept: Concept, config: TuneConfig, layers: dict[str, LoraLayer], loop: Loop
) -> tuple[Concept, Lora]:
    history, best = loop.history, loop.best
    if config.steps and not history.learned:
        warnings.warn(
            f"nothing was learned: no step had a smaller evaluation loss than the start ({history.start_loss:.4f}), "
            "which is kept; try another learning rate or more steps",
            stacklevel=3,
        )
    if config.train_rows:
        rows = {name.removeprefix("rows."): value for name, value in best.items() if name.startswith("rows.")}
        metadata = tuned_provenance(backbone, concept, config, history, rows)
        concept = Concept(token=concept.token, rows=rows, base_model=backbone.name, metadata=metadata)
    learned = {
        name: LoraLayer(_rounded(best[f"{name}.down"]), _rounded(best[f"{name}.up"]), layer.alpha)
        for name, layer in layers.items()
    }
    metadata = lora_provenance(backbone, concept, config, history)
    return concept, Lora(layers=learned, token=concept.token, base_model=backbone.name, metadata=metadata)


def _rounded(tensor: Tensor) -> Tensor:
    """As the file will have it, so that a LoRA and its file draw the same."""
    return tensor.half().float()
