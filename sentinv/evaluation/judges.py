"""Models that look at pictures and do not take part in making them: CLIP, classifier of attributes, DINO, LPIPS."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sentinv.errors import ModelError
from sentinv.models.built_in import TOYBOX
from sentinv.models.eyes import load_eye
from sentinv.models.memory import Thrift
from sentinv.models.names import eye
from sentinv.models.parts import load_part
from sentinv.models.weights import refuse_missing

if TYPE_CHECKING:
    from PIL import Image

HUB_DINO = "facebook/dino-vits16"
"""The model of DreamBooth's DINO score (Ruiz et al. 2023, arXiv:2208.12242, section 4.2)."""

_LPIPS_WEIGHTS = "alexnet-owt-7be5be79.pth"
_LPIPS_SIDE = 64
_BATCH = 32
"""The most pictures that are looked at together."""


class Unavailable(Exception):  # noqa: N818 - not a fault: a measure that cannot be taken here, and why
    """A measure cannot be taken; the text says why."""


class ClipJudge:
    """CLIP: pictures and texts as unit vectors.

    Args:
        name: what tables call it.
        model: a transformers `CLIPModel`, or a `ResidualClip`.
        processor: its `CLIPProcessor`.
    """

    def __init__(self, name: str, model: Any, processor: Any) -> None:
        self.name, self.model, self.processor = name, model.eval().requires_grad_(False), processor
        self.thrift = Thrift(_BATCH)

    @classmethod
    def load(cls, name: str | None = None, *, base_model: str = "", device: str | torch.device = "cpu") -> ClipJudge:
        """Load the judge that fits a model: the toybox has its own; for others it is OpenAI's CLIP B/32.

        Args:
            name: a folder or a hub id in its place.
            base_model: the model whose pictures are judged.
            device: where to.

        Raises:
            ModelError: If it is missing, damaged or out of reach.
        """
        from transformers import CLIPModel, CLIPProcessor

        source = name or eye("clip", base_model)
        label = (
            "toybox CLIP"
            if name is None and base_model == TOYBOX
            else Path(source).name
            if Path(source).is_dir()
            else source
        )
        model, processor = load_eye(source, "CLIP", CLIPModel, CLIPProcessor)
        return cls(label, model.to(device), processor)

    @cached_property
    def digest(self) -> str:
        """Which weights these are, in 16 hex digits."""
        digest = hashlib.sha256()
        for name, parameter in sorted(self.model.named_parameters()):
            digest.update(f"{name} {tuple(parameter.shape)}".encode())
            digest.update(parameter.detach().flatten()[:512].float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    @torch.no_grad()
    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """Embed pictures: `[N, D]` unit vectors, float32 on the CPU; fewer at a time where memory ends."""

        def embedded(rows: slice) -> Tensor:
            batch = [image.convert("RGB") for image in images[rows]]
            pixels = self.processor(images=batch, return_tensors="pt").pixel_values
            return _pooled(self.model.get_image_features(pixel_values=pixels.to(self.model.device))).float().cpu()

        return normalize(self.thrift.in_parts(len(images), embedded), dim=-1)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Embed texts: `[N, D]` unit vectors, float32 on the CPU. What is too long is cut."""
        inputs = self.processor(text=list(texts), return_tensors="pt", padding=True, truncation=True)
        output = self.model.get_text_features(**inputs.to(self.model.device))
        return normalize(_pooled(output).float().cpu(), dim=-1)


class AttributeJudge:
    """A classifier whose labels are "attribute: value"; it shares no weight with what makes the images.

    Args:
        model: an image classifier of transformers.
        processor: its image processor.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model.eval(), processor
        self.groups: dict[str, dict[str, int]] = {}
        for index, label in model.config.id2label.items():
            attribute, _, value = label.partition(": ")
            self.groups.setdefault(attribute, {})[value] = int(index)

    @classmethod
    def load(cls, folder: str | Path) -> AttributeJudge:
        """Load it from a folder.

        Raises:
            ModelError: If it is missing or damaged.
        """
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        return cls(*load_eye(str(folder), "judge", AutoModelForImageClassification, AutoImageProcessor))

    def wanted(self, prompt: str, word: str) -> dict[str, str]:
        """What a prompt asks for: attribute → value, for the values that it names, and the coarse word as the object."""
        found = {
            attribute: value
            for attribute, values in self.groups.items()
            for value in values
            if attribute in ("scene", "style") and value in prompt and value != "photo"
        }
        return found | ({"object": word} if word in self.groups.get("object", {}) else {})

    @property
    def digest(self) -> str:
        """Which weights these are, in 16 hex digits."""
        digest = hashlib.sha256()
        for name, parameter in sorted(self.model.named_parameters()):
            digest.update(name.encode() + parameter.detach().flatten()[:512].float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    @torch.no_grad()
    def probabilities(self, image: Image.Image, wanted: Mapping[str, str]) -> dict[str, float]:
        """Probability of each wanted value among those of its attribute."""
        logits = self.model(**self.processor(images=image.convert("RGB"), return_tensors="pt")).logits[0].float()
        result = {}
        for attribute, value in wanted.items():
            values = self.groups[attribute]
            shares = logits[list(values.values())].softmax(0)
            result[attribute] = shares[list(values).index(value)].item()
        return result


class DinoJudge:
    """DINO: pictures as unit vectors, of the class token.

    Args:
        name: a folder or a hub id; the well-known one if None, and only from the local cache.

    Raises:
        Unavailable: If its weights are not to be had.
    """

    def __init__(self, name: str | None = None) -> None:
        from huggingface_hub import snapshot_download
        from transformers import AutoImageProcessor, AutoModel

        self.name = name or HUB_DINO
        options: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
        try:  # by its folder nobody asks the hub
            source = name or snapshot_download(HUB_DINO, local_files_only=True)
            self.model, info = load_part(source, "DINO", lambda: AutoModel.from_pretrained(source, **options))
            self.processor = load_part(source, "processor", lambda: AutoImageProcessor.from_pretrained(source))
        except (ModelError, OSError, ValueError) as error:
            raise Unavailable(f"the weights of {self.name} are not here; name a DINO model or folder") from error
        refuse_missing(self.name, "DINO", (key for key in info["missing_keys"] if not key.startswith("pooler.")))
        self.model.eval().requires_grad_(False)
        self.thrift = Thrift(_BATCH)

    @torch.no_grad()
    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """Embed pictures: `[N, D]` unit vectors; fewer at a time where memory ends."""

        def embedded(rows: slice) -> Tensor:
            inputs = self.processor(images=[image.convert("RGB") for image in images[rows]], return_tensors="pt")
            return self.model(**inputs).last_hidden_state[:, 0].float()

        return normalize(self.thrift.in_parts(len(images), embedded), dim=-1)


class LpipsJudge:
    """LPIPS with AlexNet (Zhang et al. 2018, arXiv:1801.03924), version 0.1.

    Nothing is downloaded, and without AlexNet's weights there is no number.

    Raises:
        Unavailable: If the weights are not in torch's cache.
    """

    name = "LPIPS 0.1, AlexNet"

    def __init__(self) -> None:
        if not (Path(torch.hub.get_dir()) / "checkpoints" / _LPIPS_WEIGHTS).is_file():
            raise Unavailable(
                "AlexNet's weights are not in torch's cache; once, while online, run "
                "python -c \"import torchvision; torchvision.models.alexnet(weights='DEFAULT')\""
            )
        import lpips

        try:
            self.model = lpips.LPIPS(net="alex", verbose=False).eval().requires_grad_(False)
        except (OSError, RuntimeError) as error:
            raise Unavailable(f"AlexNet's weights cannot be read: {' '.join(str(error).split())[:160]}") from error

    @torch.no_grad()
    def distance(self, first: Tensor, second: Tensor) -> Tensor:
        """Distance `[N]` of pictures `[N, 3, H, W]` in [-1, 1]; small ones are enlarged to 64 pixels."""
        side = min(first.shape[-2:])
        if side < _LPIPS_SIDE:
            scale = _LPIPS_SIDE / side
            first, second = (
                torch.nn.functional.interpolate(x, scale_factor=scale, mode="bilinear") for x in (first, second)
            )
        return self.model(first, second).flatten()


def _pooled(output: Any) -> Tensor:
    """The projected embedding: an output's `pooler_output` since transformers 5, the tensor itself before."""
    return output if isinstance(output, Tensor) else output.pooler_output
