"""Learn a word for the thing in one image, in about a hundred steps.

    import sentinv

    backbone = sentinv.load("toybox")
    concept = sentinv.invert(backbone, "mug.png", "a striped mug", token="<mug>")
    concept.save("mug.safetensors")
    images = sentinv.generate(backbone, "an oil painting of <mug> on the moon", [concept], count=4)

Names are imported when they are first used: ``import sentinv`` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sentinv.version import __version__

if TYPE_CHECKING:
    from sentinv.backbone import Backbone
    from sentinv.concept import Concept
    from sentinv.config import TrainConfig
    from sentinv.errors import SentinvError
    from sentinv.generation import GenerateConfig, generate
    from sentinv.images import read_image
    from sentinv.initialization import Initialization, Initializer, starting_rows
    from sentinv.inversion import invert
    from sentinv.models import load
    from sentinv.placeholder import PlaceholderRows
    from sentinv.training import train_concept

_HOME = {
    "Backbone": "backbone",
    "Concept": "concept",
    "GenerateConfig": "generation",
    "Initialization": "initialization",
    "Initializer": "initialization",
    "PlaceholderRows": "placeholder",
    "SentinvError": "errors",
    "TrainConfig": "config",
    "generate": "generation",
    "invert": "inversion",
    "load": "models",
    "read_image": "images",
    "starting_rows": "initialization",
    "train_concept": "training",
}

__all__ = [
    "Backbone",
    "Concept",
    "GenerateConfig",
    "Initialization",
    "Initializer",
    "PlaceholderRows",
    "SentinvError",
    "TrainConfig",
    "__version__",
    "generate",
    "invert",
    "load",
    "read_image",
    "starting_rows",
    "train_concept",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sentinv' has no attribute {name!r}")
    value = getattr(import_module(f"sentinv.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
