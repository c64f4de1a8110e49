"""What can go wrong, told in one line: what was expected, what was got, what to do."""

import signal


class SentinvError(Exception):
    """An error that the user can do something about. Its text is one line."""


class ModelError(SentinvError):
    """A model is missing, incomplete, offline or of a family that is not supported."""


class ConceptError(SentinvError):
    """A concept file is damaged, of an unknown layout, or does not fit the model."""


class PromptError(SentinvError):
    """A prompt, template or placeholder cannot be used as it is."""


class CheckpointError(SentinvError):
    """A checkpoint is missing, damaged or of a run with other settings."""


class TrainingError(SentinvError):
    """Training cannot go on, for example because the loss is not finite."""


class EditError(SentinvError):
    """An image cannot be inverted or edited as asked, or an archive is damaged or belongs to something else."""


class Interrupted(SentinvError):  # noqa: N818 - an interruption is not an error of anybody
    """The run was asked to stop and has saved where it was.

    Attributes:
        signal_number: the signal that asked; the shell's convention for the exit code is 128 plus this number.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


class Terminated(KeyboardInterrupt):
    """SIGTERM. No `Exception`, so that no library takes it for an error of its own."""

    signal_number = signal.SIGTERM
