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
    from sentinv.archive import Archive
    from sentinv.backbone import Backbone
    from sentinv.concept import Concept
    from sentinv.config import TrainConfig
    from sentinv.editing import EditConfig, ddim_invert, edit
    from sentinv.errors import SentinvError
    from sentinv.generation import GenerateConfig, generate
    from sentinv.images import read_image
    from sentinv.initialization import Initialization, Initializer, starting_rows
    from sentinv.inversion import invert
    from sentinv.masking import MaskConfig, edit_masked
    from sentinv.models import load
    from sentinv.noising import InversionConfig
    from sentinv.placeholder import PlaceholderRows
    from sentinv.training import train_concept

_HOME = {
    "Archive": "archive",
    "Backbone": "backbone",
    "Concept": "concept",
    "EditConfig": "editing",
    "GenerateConfig": "generation",
    "Initialization": "initialization",
    "Initializer": "initialization",
    "InversionConfig": "noising",
    "MaskConfig": "masking",
    "PlaceholderRows": "placeholder",
    "SentinvError": "errors",
    "TrainConfig": "config",
    "ddim_invert": "editing",
    "edit": "editing",
    "edit_masked": "masking",
    "generate": "generation",
    "invert": "inversion",
    "load": "models",
    "read_image": "images",
    "starting_rows": "initialization",
    "train_concept": "training",
}

__all__ = [
    "Archive",
    "Backbone",
    "Concept",
    "EditConfig",
    "GenerateConfig",
    "Initialization",
    "Initializer",
    "InversionConfig",
    "MaskConfig",
    "PlaceholderRows",
    "SentinvError",
    "TrainConfig",
    "__version__",
    "ddim_invert",
    "edit",
    "edit_masked",
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
