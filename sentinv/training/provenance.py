"""Where a concept came from, as entries of its file's header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn.functional import cosine_similarity

from sentinv.training.objective import own_gamma
from sentinv.version import __version__

if TYPE_CHECKING:
    from sentinv.concepts.concept import Concept
    from sentinv.concepts.initialization import Start
    from sentinv.models.backbone import Backbone
    from sentinv.training.config import TrainConfig, TuneConfig
    from sentinv.training.history import History


RHO = "sentinv.relative_learning_rate"
"""The entry for the relative learning rate of rows, where they have one."""


def row_statistics(rows: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> dict[str, list[tuple[float, float]]]:
    """For each text encoder and each vector its norm, and the cosine of its angle to where it started."""
    return {
        name: list(zip(value.norm(dim=1).tolist(), cosine_similarity(value, start[name], dim=1).tolist(), strict=True))
        for name, value in rows.items()
    }


def provenance(
    backbone: Backbone, start: Start, config: TrainConfig, history: History, rows: Mapping[str, Tensor]
) -> dict[str, str]:
    """Header entries for learned rows. They hold no date, so that the same seed gives the same file."""
    return _of_rows(backbone, config, history, rows, start.rows) | {
        "sentinv.initializer": start.initialization.source,
        "sentinv.initial_text": start.text,
        "sentinv.tokens": json.dumps(start.tokens),
    }


def tuned_provenance(
    backbone: Backbone, concept: Concept, config: TuneConfig, history: History, rows: Mapping[str, Tensor]
) -> dict[str, str]:
    """Header entries for rows that learned on beside a LoRA: where they began stays, how they were trained is of this run."""
    began = {key: value for key, value in concept.metadata.items() if key != RHO}
    return began | _of_rows(backbone, config, history, rows, concept.rows)


def lora_provenance(backbone: Backbone, concept: Concept, config: TuneConfig, history: History) -> dict[str, str]:
    """Header entries for a LoRA: of which word and model it is, and how it was trained."""
    return _of_run(backbone, "lora", config, history) | {
        "sentinv.concept_hash": concept.digest,
        "sentinv.initial_text": concept.metadata.get("sentinv.initial_text", ""),
        "sentinv.rank": str(config.rank),
        "sentinv.learning_rate": repr(config.learning_rate),
    }


def _of_rows(
    backbone: Backbone,
    config: TrainConfig,
    history: History,
    rows: Mapping[str, Tensor],
    before: Mapping[str, Tensor],
) -> dict[str, str]:
    """How rows were trained, and how far they have come from what they were before."""
    statistics = row_statistics(rows, before)
    rounded = {name: [[round(norm, 5), round(cosine, 5)] for norm, cosine in part] for name, part in statistics.items()}
    run = _of_run(backbone, "textual-inversion", config, history)
    return run | {"sentinv.norms_and_cosines": json.dumps(rounded), **_rates(backbone, config)}


def _rates(backbone: Backbone, config: TrainConfig) -> dict[str, str]:
    """The rows' learning rate for each text encoder, and what it comes of."""
    rates = [config.rows_rate(backbone.name, encoder.median_norm, encoder.dim) for encoder in backbone.text_encoders]
    entries = {"sentinv.learning_rate": ", ".join(f"{rate:.6g}" for rate in dict.fromkeys(rates))}
    if config.absolute_rows_rate is None:
        entries[RHO] = repr(config.rho(backbone.name))
    return entries


def _of_run(backbone: Backbone, kind: str, config: TrainConfig, history: History) -> dict[str, str]:
    prediction, gamma = backbone.schedule.prediction_type, own_gamma(backbone, config.min_snr)
    return {
        "modelspec.architecture": f"{backbone.architecture}/{kind}",
        "modelspec.implementation": "diffusers",
        "modelspec.resolution": f"{backbone.resolution}x{backbone.resolution}",
        "modelspec.prediction_type": "v" if prediction == "v_prediction" else prediction,
        "sentinv.version": __version__,
        "sentinv.base_model_hash": backbone.fingerprint,
        "sentinv.steps": str(history.best_step),
        "sentinv.min_snr": "none" if gamma is None else repr(gamma),
        "sentinv.seed": str(config.seed),
        "sentinv.start_loss": repr(history.start_loss),
        "sentinv.best_loss": repr(history.best_loss),
        "sentinv.final_loss": repr(history.evaluations[-1][1]),
    }
