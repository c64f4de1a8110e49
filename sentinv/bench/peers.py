"""Other trainers' scripts, run as they are: what they learn is read from the file that they leave."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sentinv.concepts.concept import Concept
from sentinv.concepts.placeholder import PlaceholderRows
from sentinv.errors import SentinvError
from sentinv.files.atomic import shown
from sentinv.files.images import read_image
from sentinv.models.built_in import TOYBOX, built_in
from sentinv.models.parts import local_path
from sentinv.training.data import TrainingSet
from sentinv.training.objective import DenoisingObjective

if TYPE_CHECKING:
    from sentinv.bench.study import Trial
    from sentinv.models.backbone import Backbone

PEER_OPTIONS = (
    "--pretrained_model_name_or_path {model} --train_data_dir {folder} --placeholder_token <peer> --initializer_token * "
    "--learnable_property object --resolution {resolution} --train_batch_size {batch_size} --max_train_steps {steps} "
    "--learning_rate 5e-4 --scale_lr --lr_scheduler constant --lr_warmup_steps 0 --output_dir {output} --save_steps 1000000 "
    "--seed {seed}"
)
"""What scripts are given that come as a bare path: the options in the README of diffusers' examples/textual_inversion.

Its four pictures a step come in one batch, in place of four that are accumulated, and it starts from ``*``, as nobody says what
the thing is.
"""

FILES = ("learned_embeds.safetensors", "learned_embeds.bin")
"""What such scripts leave."""


def peer_program(peer: str, scratch: Path, images: Sequence[Path], values: Mapping[str, object]) -> list[str]:
    """What is to be run: the script and its options.

    Args:
        peer: a path, or a path with options in which {model}, {folder}, {resolution}, {batch_size}, {steps}, {seed} and
            {output} are filled in.
        scratch: a folder, for the images and what comes of them.
        images: to train on.
        values: of the names but folder and output.

    Raises:
        SentinvError: If there is no such script.
    """
    script, *options = shlex.split(peer)
    if not Path(script).is_file():
        raise SentinvError(f"there is no script {shown(script)}")
    folder = scratch / "images"
    folder.mkdir()
    for index, path in enumerate(images):
        shutil.copy(path, folder / f"{index}{path.suffix}")
    options = options or shlex.split(PEER_OPTIONS)
    for name, value in {**values, "folder": folder, "output": scratch / "output"}.items():
        options = [option.replace(f"{{{name}}}", str(value)) for option in options]
    return [str(Path(script).resolve()), *options]


def peer_files(peer: str) -> list[Path]:
    """The script of a peer, and the files that its options name: what they hold decides what it learns.

    Args:
        peer: as for `peer_program`.
    """
    script, *options = shlex.split(peer)
    named = [local_path(option.rpartition("=")[2]) for option in options]
    return [Path(script), *(path for path in named if path.is_file())]


def peer_folder(model: str) -> Path:
    """The folder of a model, which peers can read too.

    Raises:
        SentinvError: If it has none.
    """
    path = built_in("pipeline") if model == TOYBOX else Path(model)
    if not (path / "model_index.json").is_file():
        raise SentinvError(f"expected a diffusers folder, which peers can read too, got {model}: name one")
    return path


def run_peer(
    peer: str, images: Sequence[Path], values: Mapping[str, object], *, threads: int, timeout: float = 86400.0
) -> tuple[Concept, float]:
    """Let a script learn a word, in a process of its own.

    Args:
        peer: as for `peer_program`.
        images: to train on.
        values: as for `peer_program`.
        threads: of torch, on the CPU.
        timeout: seconds that it may take.

    Returns:
        The word, and the seconds that the process took.

    Raises:
        SentinvError: If it fails, saying in one line why, or leaves no file that can be read.
    """
    with tempfile.TemporaryDirectory() as scratch:
        program = peer_program(peer, Path(scratch), images, values)
        count = str(threads)
        environment = {**os.environ, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}
        begun = time.perf_counter()
        try:
            ended = subprocess.run(  # noqa: S603 - the user named the script to run
                [sys.executable, *program],
                env=environment,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise SentinvError(f"it took longer than {timeout:g} s") from error
        if ended.returncode:
            raise SentinvError(last_line(ended.stderr) or f"it ended with exit code {ended.returncode}")
        seconds = time.perf_counter() - begun
        files = [path for name in FILES if (path := Path(scratch) / "output" / name).is_file()]
        if not files:
            raise SentinvError(f"it left no {FILES[0]} in the folder that {{output}} stands for")
        return Concept.load(files[0], allow_pickle=True), seconds


def learn_with_peer(backbone: Backbone, trial: Trial) -> tuple[Concept, dict[str, Any], float]:
    """Let a peer's script learn the word of a trial, and take the losses on the grid on which all runs are compared.

    Returns:
        The word, what a record says of it, and the seconds that the script took, loading included.

    Raises:
        SentinvError: As `run_peer`.
    """
    config = trial.config
    values = {
        "model": peer_folder(backbone.name),
        "resolution": backbone.resolution,
        "batch_size": config.items,
        "steps": config.steps,
        "seed": trial.seed,
    }
    images = [trial.concept.image, *trial.concept.views][: trial.images]
    concept, seconds = run_peer(trial.spec.argument, images, values, threads=torch.get_num_threads())
    rows = PlaceholderRows.of_concepts([concept])
    picture = replace(read_image(trial.concept.image), mask=None)
    with rows.installed(backbone):
        grid = TrainingSet(backbone, [picture], rows, config).evaluation_batches()
        weighted, plain = DenoisingObjective(backbone, config.min_snr).evaluate(grid)
    result = {
        "vectors": concept.count,
        "losses": [[config.steps, plain]],
        "objectives": [[config.steps, weighted]],
        "scores": [],
        "norms_and_cosines": {},
    }
    return concept, result, seconds


def last_line(text: str) -> str:
    """The last line of what a program said, cut short; "" if it said nothing."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[-1].split())[:300] if lines else ""
