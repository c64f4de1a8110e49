import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from sentinv.concepts.initialization import Initialization, starting_rows
from sentinv.concepts.placeholder import PlaceholderRows
from sentinv.concepts.tokens import tokenize
from sentinv.models.loading import load
from sentinv.training.config import TrainConfig
from sentinv.training.lean_convolutions import lean_convolutions
from sentinv.training.memory import training_memory


def test_memory_is_what_a_real_step_keeps(model_folder):
    """The same step on real tensors: what autograd keeps, less the weights, to a few percent."""
    backbone = load(model_folder, device="cpu")
    estimate = training_memory(str(model_folder), TrainConfig(batch_size=3), "float32")
    parts = [backbone.unet, backbone.vae, backbone.text_encoders[0].model]
    assert estimate["weights"] == sum(weight.nbytes for part in parts for weight in part.parameters())

    own = {weight.data_ptr() for part in parts for weight in part.parameters()}
    kept, alive = {}, []

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            alive.append(tensor)
        return tensor

    rows = PlaceholderRows({"<c>": starting_rows(Initialization("cat"), backbone).rows})
    with rows.installed(backbone), lean_convolutions(backbone.unet), saved_tensors_hooks(pack, lambda tensor: tensor):
        condition = backbone.encode_ids(tokenize(backbone, ["a photo of <c>"] * 3, rows))
        backbone.predict(torch.randn(3, 4, 8, 8), torch.tensor([1, 2, 3]), condition)
    assert estimate["activations"] == pytest.approx(sum(kept.values()), rel=0.1)


def test_memory_grows_with_the_batch_and_shrinks_by_checkpointing(model_folder):
    name = str(model_folder)
    few, many = (training_memory(name, TrainConfig(batch_size=size))["activations"] for size in (1, 8))
    assert 6 < many / few < 9
    assert training_memory(name, TrainConfig(batch_size=8, gradient_checkpointing=True))["activations"] < many / 2
    assert (
        training_memory(name, TrainConfig(), "float16")["weights"] * 2
        == training_memory(name, TrainConfig(), "float32")["weights"]
    )


def test_memory_of_two_text_encoders(xl, tmp_path):
    xl.save_pretrained(tmp_path)
    assert training_memory(str(tmp_path), TrainConfig())["activations"] > 0


def test_memory_of_a_single_file_is_unknown(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert training_memory(str(tmp_path / "model.safetensors"), TrainConfig()) is None
