"""Where a concept came from, as entries of its file's header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn.functional import cosine_similarity

from sentinv.version import __version__

if TYPE_CHECKING:
    from sentinv.concepts.initialization import Start
    from sentinv.models.backbone import Backbone
    from sentinv.training.config import TrainConfig
    from sentinv.training.history import History


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
    statistics = row_statistics(rows, start.rows)
    rounded = {name: [[round(norm, 5), round(cosine, 5)] for norm, cosine in part] for name, part in statistics.items()}
    size = f"{backbone.resolution}x{backbone.resolution}"
    return {
        "modelspec.architecture": f"{backbone.architecture}/textual-inversion",
        "modelspec.implementation": "diffusers",
        "modelspec.resolution": size,
        "modelspec.prediction_type": "v"
        if backbone.schedule.prediction_type == "v_prediction"
        else backbone.schedule.prediction_type,
        "sentinv.version": __version__,
        "sentinv.base_model_hash": backbone.fingerprint,
        "sentinv.initializer": start.initialization.source,
        "sentinv.initial_text": start.text,
        "sentinv.tokens": json.dumps(start.tokens),
        "sentinv.steps": str(history.best_step),
        "sentinv.learning_rate": repr(config.learning_rate),
        "sentinv.seed": str(config.seed),
        "sentinv.norms_and_cosines": json.dumps(rounded),
        "sentinv.start_loss": repr(history.start_loss),
        "sentinv.best_loss": repr(history.best_loss),
        "sentinv.final_loss": repr(history.evaluations[-1][1]),
    }
