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
    from sentinv.adapters.export import export
    from sentinv.adapters.install import adapted
    from sentinv.adapters.lora import Lora, load_lora
    from sentinv.concepts.concept import Concept
    from sentinv.concepts.initialization import Initialization, Initializer, Start, starting_rows
    from sentinv.concepts.placeholder import PlaceholderRows
    from sentinv.concepts.reading import load_concepts
    from sentinv.editing.archive import Archive
    from sentinv.editing.edit import EditConfig, Edited, ddim_invert, edit, sweep
    from sentinv.editing.inversion import InversionConfig
    from sentinv.editing.masked import MaskConfig, edit_masked
    from sentinv.editing.reconstruction import reconstruct
    from sentinv.errors import SentinvError
    from sentinv.files.decoding import Picture
    from sentinv.files.images import read_image, read_mask
    from sentinv.generation.generate import GenerateConfig, GeneratedImage, generate, generate_images
    from sentinv.models.backbone import Backbone
    from sentinv.models.loading import load
    from sentinv.training.batch import Job, Outcome, train_concepts
    from sentinv.training.checkpoint import Checkpoints
    from sentinv.training.config import TrainConfig, TuneConfig
    from sentinv.training.history import History
    from sentinv.training.invert import Learned, find_start, invert, learn
    from sentinv.training.train import train_concept
    from sentinv.training.tune import Tuned, tune

_HOME = {
    "Archive": "editing.archive",
    "Backbone": "models.backbone",
    "Checkpoints": "training.checkpoint",
    "Concept": "concepts.concept",
    "EditConfig": "editing.edit",
    "Edited": "editing.edit",
    "GenerateConfig": "generation.generate",
    "GeneratedImage": "generation.generate",
    "History": "training.history",
    "Initialization": "concepts.initialization",
    "Initializer": "concepts.initialization",
    "InversionConfig": "editing.inversion",
    "Job": "training.batch",
    "Learned": "training.invert",
    "Lora": "adapters.lora",
    "MaskConfig": "editing.masked",
    "Outcome": "training.batch",
    "Picture": "files.decoding",
    "PlaceholderRows": "concepts.placeholder",
    "SentinvError": "errors",
    "Start": "concepts.initialization",
    "TrainConfig": "training.config",
    "TuneConfig": "training.config",
    "Tuned": "training.tune",
    "adapted": "adapters.install",
    "ddim_invert": "editing.edit",
    "edit": "editing.edit",
    "edit_masked": "editing.masked",
    "export": "adapters.export",
    "find_start": "training.invert",
    "generate": "generation.generate",
    "generate_images": "generation.generate",
    "invert": "training.invert",
    "learn": "training.invert",
    "load": "models.loading",
    "load_concepts": "concepts.reading",
    "load_lora": "adapters.lora",
    "read_image": "files.images",
    "read_mask": "files.images",
    "reconstruct": "editing.reconstruction",
    "starting_rows": "concepts.initialization",
    "sweep": "editing.edit",
    "train_concept": "training.train",
    "train_concepts": "training.batch",
    "tune": "training.tune",
}

__all__ = [
    "Archive",
    "Backbone",
    "Checkpoints",
    "Concept",
    "EditConfig",
    "Edited",
    "GenerateConfig",
    "GeneratedImage",
    "History",
    "Initialization",
    "Initializer",
    "InversionConfig",
    "Job",
    "Learned",
    "Lora",
    "MaskConfig",
    "Outcome",
    "Picture",
    "PlaceholderRows",
    "SentinvError",
    "Start",
    "TrainConfig",
    "TuneConfig",
    "Tuned",
    "__version__",
    "adapted",
    "ddim_invert",
    "edit",
    "edit_masked",
    "export",
    "find_start",
    "generate",
    "generate_images",
    "invert",
    "learn",
    "load",
    "load_concepts",
    "load_lora",
    "read_image",
    "read_mask",
    "reconstruct",
    "starting_rows",
    "sweep",
    "train_concept",
    "train_concepts",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sentinv' has no attribute {name!r}")
    value = getattr(import_module(f"sentinv.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
