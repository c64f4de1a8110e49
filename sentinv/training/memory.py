"""How much memory a run takes at its highest, found without loading a weight.

The networks are built on torch's "meta" device, which knows shapes and no values. There a picture is encoded, a training step
is made, forward and backward, and the report's images are drawn, while every tensor is counted as it comes and goes. What
libraries take beside tensors (workspaces of convolutions, torch itself) is not in it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sentinv.adapters.install import add_layers, fresh_layers
from sentinv.generation.generate import GenerateConfig
from sentinv.models.describe import written
from sentinv.models.loading import best_device, best_dtype
from sentinv.models.meta import networks_on_meta
from sentinv.models.names import Place
from sentinv.training.config import TrainConfig, TuneConfig
from sentinv.training.data import evaluated_together
from sentinv.training.lean_convolutions import lean_convolutions

if TYPE_CHECKING:
    from sentinv.models.backbone import Backbone

SAMPLING = GenerateConfig()
"""How the images of a report are drawn."""

WORTHWHILE = 20
"""Steps below which a CUDA graph, whose capture takes about as long as three of them, is left out."""

PAIRS = SAMPLING.batch_size // 2
"""Seeds of them at a time, each without the training and with it."""


def training_memory(place: Place, config: TrainConfig, *, images: bool = True) -> dict[str, int]:
    """Estimate what training with a model takes, which is judged first as `load` judges it.

    Args:
        place: the model, and where it would run.
        config: of the training; batch size and gradient checkpointing count.
        images: whether images are drawn for a report.

    Returns:
        Bytes: "weights"; "activations", what steps and evaluations take beside them at their highest; "images", what encoding a
        picture and drawing the report's takes; and "total", the weights and the larger of these. A single checkpoint file is
        counted by the configs that it is read with; one of Stable Diffusion 2 that does not say what it predicts by 768 pixels.

    Raises:
        ModelError: If the model's configs cannot be loaded, or are of a model that is not supported.
    """
    device = torch.device(place.device) if place.device else best_device()
    precision = getattr(torch, place.dtype) if place.dtype else best_dtype(device)
    unet, vae, encoders = networks_on_meta(place)
    parts = [network.to(precision) for network in (unet, vae, *encoders)]
    weights = sum(weight.nbytes for part in parts for weight in part.parameters())
    for part in parts:
        part.requires_grad_(False).eval()
    drawing = _drawing_memory(unet, vae, encoders, images=images)
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    if isinstance(config, TuneConfig):
        adapt(unet, config)
    rows = not isinstance(config, TuneConfig) or config.train_rows
    activations = step_peak(unet, encoders, -(-config.items // config.parts(side_of(unet))), rows=rows)
    evaluation = evaluation_peak(unet, encoders, evaluated_together(config, device))
    if device.type == "cuda" and config.steps >= WORTHWHILE and not config.gradient_checkpointing:
        activations += evaluation  # a graph keeps the memory of its step
    activations = max(activations, evaluation)
    return {
        "weights": weights,
        "activations": activations,
        "images": drawing,
        "total": weights + max(activations, drawing),
    }


def adapt(unet: Any, config: TuneConfig) -> None:
    """Put layers that learn on a UNet without values.

    Raises:
        ConceptError: If it has no module that they are for.
    """
    layers = fresh_layers(unet, config.targets, config.rank, torch.Generator())
    with torch.device("meta"):
        add_layers(unet, "planned", layers)


def step_memory(backbone: Backbone, batch: int = 1) -> int:
    """Bytes that a training step of a loaded model takes beside the weights, with gradient checkpointing."""
    dtype = backbone.dtype
    with torch.device("meta"):
        unet = type(backbone.unet).from_config(backbone.unet.config).to(dtype)
        encoders = [type(encoder.model)(encoder.model.config).to(dtype) for encoder in backbone.text_encoders]
    for part in (unet, *encoders):
        part.requires_grad_(False).eval()
    unet.enable_gradient_checkpointing()
    return step_peak(unet, encoders, batch)


def side_of(unet: Any) -> int:
    """Side of the latents that a UNet is made for."""
    size = unet.config.sample_size
    return size if isinstance(size, int) else max(size)


def step_peak(unet: Any, encoders: list[Any], batch: int, *, rows: bool = True) -> int:
    """Bytes that a training step takes at its highest; text encoders have a part in it where rows learn."""

    def step() -> None:
        hidden = [_encoded(encoder, batch) for encoder in encoders]
        if not rows:
            hidden = [one.detach() for one in hidden]
        _predicted(unet, encoders, batch, torch.cat(hidden, dim=-1)).float().square().mean().backward()

    with torch.inference_mode(False), torch.enable_grad(), lean_convolutions(unet):  # whatever ended for want of memory
        return peak(step, (unet, *encoders))


def evaluation_peak(unet: Any, encoders: list[Any], batch: int) -> int:
    """Bytes that a pass takes at its highest which keeps nothing for a gradient."""
    hidden = sum(encoder.config.hidden_size for encoder in encoders)
    length = encoders[0].config.max_position_embeddings

    def evaluate() -> None:
        _predicted(unet, encoders, batch, torch.empty(batch, length, hidden, dtype=unet.dtype))

    with torch.no_grad():
        return peak(evaluate, (unet,))


def _drawing_memory(unet: Any, vae: Any, encoders: list[Any], *, images: bool) -> int:
    """Bytes that encoding a picture takes at its highest, and drawing those of a report."""
    side = side_of(unet)
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    upcast = vae.dtype == torch.float16 and bool(written(vae.config, type(vae)).get("force_upcast"))
    worker, more = vae, 0
    if upcast:  # for the time being
        worker = type(vae).from_config(vae.config).to("meta").eval().requires_grad_(False)
        more = sum(weight.nbytes for weight in vae.parameters())

    def encode() -> None:
        worker.encode(torch.empty(1, 3, side * scale, side * scale, dtype=worker.dtype))

    def decode() -> None:
        worker.decode(torch.empty(1, unet.config.in_channels, side, side, dtype=worker.dtype))

    with torch.no_grad():
        found = [peak(encode, (worker,)) + more]
        if images:
            rows = 2 * GenerateConfig.batch_size  # each with its prompt and without
            found += [evaluation_peak(unet, encoders, rows), peak(decode, (worker,)) + more]
    return max(found)


def _predicted(unet: Any, encoders: list[Any], batch: int, hidden: Tensor) -> Tensor:
    """What the UNet answers."""
    dtype, config, side = unet.dtype, unet.config, side_of(unet)
    extra: dict[str, Any] = {}
    if config.addition_embed_type == "text_time":
        width = encoders[-1].config.projection_dim
        times = torch.empty(batch, 6, dtype=dtype)
        extra = {"added_cond_kwargs": {"text_embeds": torch.empty(batch, width, dtype=dtype), "time_ids": times}}
    latents = torch.empty(batch, config.in_channels, side, side, dtype=dtype)
    return unet(latents, torch.empty(batch, dtype=torch.int64), hidden, return_dict=False, **extra)[0]


def _encoded(encoder: Any, batch: int) -> Tensor:
    """Hidden states `[batch, length, width]` that need a gradient, as those of installed rows do."""
    table = encoder.get_input_embeddings()
    ids = torch.empty(batch, encoder.config.max_position_embeddings, dtype=torch.int64)
    handle = table.register_forward_hook(lambda module, inputs, output: output.requires_grad_())
    try:
        return encoder(ids, output_hidden_states=True).hidden_states[-1]
    finally:
        handle.remove()


def peak(work: Callable[[], object], networks: Iterable[Any], device: str = "meta") -> int:
    """Bytes of tensors that some work makes, at its highest.

    Args:
        work: to be counted.
        networks: whose weights are there anyway.
        device: where its tensors are made.
    """
    counted = _Counted([weight for network in networks for weight in (*network.parameters(), *network.buffers())])
    with torch.device(device), _fused_attention(), counted:
        work()
    return counted.peak


class _Counted(TorchDispatchMode):
    """Counts storages from the operation that makes them until they are gone."""

    def __init__(self, there: Iterable[Tensor]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._there = [tensor.untyped_storage() for tensor in there]  # kept: one that is gone could give its address on
        self._seen = {storage._cdata for storage in self._there}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        self.peak = max(self.peak, self.live)
        return output

    def _note(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._seen:
            return
        count = storage.nbytes()
        self._seen.add(storage._cdata)
        self.live += count
        weakref.finalize(storage, self._forget, storage._cdata, count)

    def _forget(self, address: int, count: int) -> None:
        self._seen.discard(address)
        self.live -= count


@contextmanager
def _fused_attention() -> Iterator[None]:
    """Attention as the fused kernels do it, which do not keep the scores; on "meta" torch would.

    A mode of torch's would be left out where activations are recomputed, and so its function is replaced for the time being;
    tensors with values, of other threads, get its own.
    """
    own = functional.scaled_dot_product_attention

    def attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any) -> Tensor:
        if query.device.type != "meta":
            return own(query, key, value, *args, **options)
        return _Fused.apply(query, key, value)

    functional.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = own


class _Fused(torch.autograd.Function):
    """Keeps what a fused kernel keeps: its inputs, its output and a number for each query."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, output, torch.empty(query.shape[:-1], dtype=torch.float32))
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])
