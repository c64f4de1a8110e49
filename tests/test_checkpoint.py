import pytest
import torch

from sentinv.errors import CheckpointError
from sentinv.training.checkpoint import Checkpoint, check_settings, latest_checkpoint, save_checkpoint


def checkpoint(step):
    return Checkpoint(
        step, {"rows": torch.full((2, 3), float(step)), "step": torch.tensor(1.0)}, {"a": [1]}, {"lr": 0.1}
    )


def test_round_trip_keeps_the_two_newest(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path / "new", checkpoint(step))
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "step-000002.safetensors",
        "step-000003.safetensors",
    ]
    loaded = latest_checkpoint(tmp_path / "new")
    assert (loaded.step, loaded.state, loaded.settings) == (3, {"a": [1]}, {"lr": 0.1})
    assert torch.equal(loaded.tensors["rows"], checkpoint(3).tensors["rows"])


def test_what_an_earlier_run_left_does_not_outlive_a_new_one(tmp_path):
    """A run that starts anew in the folder of an old one, which had gone further."""
    for step in (100, 150, 50):
        path = save_checkpoint(tmp_path, checkpoint(step))
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    assert latest_checkpoint(tmp_path).step == 50


def test_a_long_history_can_be_read_back(tmp_path):
    long = Checkpoint(
        100_000, {"rows": torch.ones(1, 2)}, {"history": [[step, 0.123456789] for step in range(400_000)]}, {}
    )
    save_checkpoint(tmp_path, long)
    assert latest_checkpoint(tmp_path).state == long.state


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-3], lambda data: data[:-1] + b"\x55", lambda data: b"", lambda data: b"x" * 99]
)
def test_a_damaged_newest_is_skipped_and_told(tmp_path, damage):
    for step in (1, 2):
        path = save_checkpoint(tmp_path, checkpoint(step))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match="step-000002"):
        assert latest_checkpoint(tmp_path).step == 1


def test_nothing_to_resume_from(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(CheckpointError, match="no checkpoint"):
            latest_checkpoint(folder)


def test_differences_are_listed():
    check_settings({"a": 1}, {"a": 1})
    with pytest.raises(CheckpointError, match=r"a: 1 there, 2 here; b: None there, 3 here"):
        check_settings({"a": 1}, {"a": 2, "b": 3})
