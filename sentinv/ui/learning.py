"""A word being learned behind the page: in a thread of its own, so that no browser has to stay open."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import TYPE_CHECKING, Literal

from sentinv.concepts.concept import Concept
from sentinv.concepts.initialization import Initialization
from sentinv.concepts.placeholder import laid_aside
from sentinv.errors import SentinvError
from sentinv.files.decoding import Picture
from sentinv.generation.generate import GenerateConfig, generate
from sentinv.models.memory import is_out_of_memory, release
from sentinv.report.outputs import Outputs, write_result
from sentinv.report.run_page import Report
from sentinv.training.checkpoint import Checkpoints
from sentinv.training.config import TrainConfig
from sentinv.training.invert import Learned, find_start, learn
from sentinv.training.samples import PROMPTS, Samples

if TYPE_CHECKING:
    from PIL import Image

    from sentinv.models.backbone import Backbone
    from sentinv.training.loop import Loop
    from sentinv.ui.engine import Engine
    from sentinv.ui.folder import Folder

State = Literal["waiting", "loading", "learning", "finishing", "done", "failed"]
OVER = ("done", "failed")

SEEDS = 2
"""How many pictures are drawn anew on the way."""

EVERY = 25
"""Steps between two looks at the word."""

_PICTURES = "pictures on the way"
PREVIEW = GenerateConfig(steps=20, batch_size=SEEDS)


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is to be learned.

    Attributes:
        name: of the word, as its file will have it.
        pictures: of one thing.
        text: words to start from.
        source: who said them: "caption" or "phrase".
        model: to learn with.
        config: of the training.
    """

    name: str
    pictures: tuple[Picture, ...]
    text: str
    source: str
    model: str
    config: TrainConfig

    @property
    def token(self) -> str:
        """The placeholder."""
        return f"<{self.name}>"


@dataclass(eq=False)
class Run:
    """A word on its way; the page looks at it now and then.

    Attributes:
        wish: what is to be learned.
        outputs: where it is written.
        state: how far it is.
        told: what to say where it waits or has failed.
        step: steps done.
        losses: (step, loss) of every batch.
        evaluations: (step, loss on the fixed grid).
        best_step: of these, the best.
        previews: (step, the same seeds drawn with the word as it was then).
        began: when the first step began, of `time.monotonic`; 0 before.
        seconds: what took how long, when it is over.
        stopping: set where it is to end early.
        seen: whether somebody has seen how it ended.
    """

    wish: Wish
    outputs: Outputs
    state: State = "waiting"
    told: str = ""
    step: int = 0
    losses: list[tuple[float, float]] = field(default_factory=list)
    evaluations: list[tuple[float, float]] = field(default_factory=list)
    best_step: int = 0
    previews: list[tuple[int, Sequence[Image.Image]]] = field(default_factory=list)
    began: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    stopping: Event = field(default_factory=Event)
    seen: bool = False

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in OVER

    def left(self) -> float | None:
        """Seconds that are left, at the speed until now; None where nobody can tell yet."""
        if self.step < 2 or self.state != "learning":
            return None
        return (time.monotonic() - self.began) / self.step * (self.wish.config.steps - self.step)


class Learning:
    """All runs of this page, the newest last.

    Args:
        engine: the models.
        folder: where the words go.
    """

    def __init__(self, engine: Engine, folder: Folder) -> None:
        self.engine, self.folder = engine, folder
        self.runs: list[Run] = []
        self._threads: list[Thread] = []

    def start(self, wish: Wish) -> Run:
        """Begin a run, or let it wait for its turn.

        Raises:
            SentinvError: If too many wait already.
        """
        if sum(not run.over for run in self.runs) >= _MOST:
            raise SentinvError(f"{_MOST} words are being learned or waiting already: start this one when some are done")
        run = Run(wish=wish, outputs=self.folder.outputs(wish.name))
        self.runs = [*self.runs[-_KEPT:], run]
        thread = Thread(target=self._work, args=(run,), daemon=True)
        self._threads = [*(one for one in self._threads if one.is_alive()), thread]
        thread.start()
        return run

    def find(self, name: str) -> Run | None:
        """The newest run of that name."""
        return next((run for run in reversed(self.runs) if run.wish.name == name), None)

    def forget(self, name: str) -> None:
        """Show a run no more that is over: its word has another name by now, or is gone."""
        self.runs = [run for run in self.runs if run.wish.name != name or not run.over]

    def newest(self) -> Run | None:
        """The run that somebody who opens the page should see: one that goes on, else the last whose end nobody saw."""
        going = next((run for run in self.runs if not run.over), None)
        return going or next((run for run in reversed(self.runs) if not run.seen), None)

    def close(self) -> list[Run]:
        """Let every run end after its step, and wait for them; those that had begun are returned, their words saved."""
        going = [run for run in self.runs if not run.over]
        for run in going:
            run.stopping.set()
        for thread in self._threads:
            while thread.is_alive():
                thread.join(0.2)
        return [run for run in going if run.state == "done"]

    def _work(self, run: Run) -> None:
        try:
            with self.engine.line.join(f"learning {run.wish.token}") as turn:
                while not turn.ready():
                    run.told = turn.told()
                    if run.stopping.is_set():
                        raise SentinvError("stopped before it began: nothing was learned")
                with run.outputs.held(resume=False):
                    self._learn(run)
            run.state = "done"
        except SentinvError as error:
            run.told, run.state = str(error), "failed"
        except Exception as error:  # whatever it is, the page goes on
            sys.stderr.write(f"sentinv: error: {type(error).__name__}: {' '.join(str(error).split())}\n")
            run.told, run.state = unforeseen(error), "failed"

    def _learn(self, run: Run) -> None:
        wish, clock = run.wish, time.monotonic()
        run.state = "loading"
        backbone = self.engine.backbone(wish.model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            start = find_start(backbone, wish.pictures, Initialization(wish.text, wish.source))
        before = Concept(token=wish.token, rows=start.rows, base_model=backbone.name)
        run.seconds["loading the model"] = time.monotonic() - clock
        _preview(run, 0, backbone, before)
        run.state, run.began, shown = "learning", time.monotonic(), run.seconds[_PICTURES]
        learned = learn(
            backbone,
            wish.pictures,
            start,
            wish.config,
            token=wish.token,
            checkpoints=Checkpoints(run.outputs.checkpoints),
            watch=lambda loop: self._watch(run, loop, backbone),
        )
        run.seconds["training"] = time.monotonic() - run.began + shown - run.seconds[_PICTURES]
        run.state = "finishing"
        learned.concept.save(run.outputs.concept)
        if not run.previews or run.previews[-1][0] != learned.history.best_step:
            _preview(run, learned.history.best_step, backbone, learned.concept)
        write_result(run.outputs, Report(learned=learned, samples=_samples(run, learned), seconds=run.seconds))

    def _watch(self, run: Run, loop: Loop, backbone: Backbone) -> None:
        """Note how far the run is, draw with the word as it is, and end the run if it is to end."""
        history = loop.history
        run.step = loop.step
        run.losses = [(record.step, record.loss) for record in history.records]
        run.evaluations, run.best_step = list(history.evaluations), history.best_step
        if run.stopping.is_set():
            loop.end()
        elif loop.step % EVERY == 0 and loop.step < run.wish.config.steps:
            rows = {name.removeprefix("rows."): value.detach() for name, value in loop.parameters.items()}
            concept = Concept(token=run.wish.token, rows=rows, base_model=backbone.name)
            with laid_aside(backbone):
                _preview(run, loop.step, backbone, concept)


_MOST, _KEPT = 8, 20


def drawn(backbone: Backbone, concept: Concept, config: TrainConfig) -> list[Image.Image]:
    """The same seeds, with a word as it is now."""
    prompt = PROMPTS[config.kind].replace("{}", concept.token)
    return generate(backbone, prompt, [concept], count=SEEDS, seed=config.seed, config=PREVIEW)


def _preview(run: Run, step: int, backbone: Backbone, concept: Concept) -> None:
    """Draw with a word as it is at a step; where memory ends the run goes on without the picture.

    The time is that of the pictures, not of the training.
    """
    clock = time.monotonic()
    try:
        run.previews.append((step, drawn(backbone, concept, run.wish.config)))
        return
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    finally:
        run.seconds[_PICTURES] = run.seconds.get(_PICTURES, 0.0) + time.monotonic() - clock
    release()


def unforeseen(error: Exception) -> str:
    """What to say of an error that nobody foresaw."""
    if is_out_of_memory(error):
        return (
            "Memory ended, even for one thing at a time. Close other programs, or start the page with a smaller --model or "
            "with --dtype bfloat16."
        )
    return (
        f"Something went wrong that nobody foresaw ({type(error).__name__}). The page goes on; the terminal says more."
    )


def _samples(run: Run, learned: Learned) -> Samples:
    prompt = PROMPTS[run.wish.config.kind].replace("{}", learned.concept.token)
    if len(run.previews) < 2 or run.previews[0][0] != 0:  # there was no room for both
        return Samples(prompt=prompt)
    return Samples(prompt=prompt, before=run.previews[0][1], after=run.previews[-1][1])
