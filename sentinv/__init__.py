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
    from sentinv.concepts.concept import Concept
    from sentinv.concepts.export import export
    from sentinv.concepts.initialization import Initialization, Initializer, starting_rows
    from sentinv.concepts.placeholder import PlaceholderRows
    from sentinv.concepts.reading import load_concepts
    from sentinv.editing.archive import Archive
    from sentinv.editing.edit import EditConfig, ddim_invert, edit
    from sentinv.editing.inversion import InversionConfig
    from sentinv.editing.masked import MaskConfig, edit_masked
    from sentinv.errors import SentinvError
    from sentinv.files.images import read_image
    from sentinv.generation.generate import GenerateConfig, generate
    from sentinv.models.backbone import Backbone
    from sentinv.models.loading import load
    from sentinv.training.config import TrainConfig
    from sentinv.training.invert import invert
    from sentinv.training.train import train_concept

_HOME = {
    "Archive": "editing.archive",
    "Backbone": "models.backbone",
    "Concept": "concepts.concept",
    "EditConfig": "editing.edit",
    "GenerateConfig": "generation.generate",
    "Initialization": "concepts.initialization",
    "Initializer": "concepts.initialization",
    "InversionConfig": "editing.inversion",
    "MaskConfig": "editing.masked",
    "PlaceholderRows": "concepts.placeholder",
    "SentinvError": "errors",
    "TrainConfig": "training.config",
    "ddim_invert": "editing.edit",
    "edit": "editing.edit",
    "edit_masked": "editing.masked",
    "export": "concepts.export",
    "generate": "generation.generate",
    "invert": "training.invert",
    "load": "models.loading",
    "load_concepts": "concepts.reading",
    "read_image": "files.images",
    "starting_rows": "concepts.initialization",
    "train_concept": "training.train",
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
    "export",
    "generate",
    "invert",
    "load",
    "load_concepts",
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
