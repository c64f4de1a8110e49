"""Runs the trials of a study and keeps their records."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sentinv.bench.records import Record, read_records
from sentinv.bench.sharing import cost, shares
from sentinv.bench.study import Study, key_of, trials
from sentinv.bench.workbench import Workbench
from sentinv.errors import Interrupted, SentinvError
from sentinv.files.atomic import make_folder
from sentinv.files.json_lines import JsonLines, finite
from sentinv.files.locks import lock

Tell = Callable[[str], None]


@dataclass
class StudyOutcome:
    """What is there of a study.

    Attributes:
        records: in the order of the study.
        failures: (run, why it failed), of this sitting.
        missing: runs that have no record yet, because another part of the study does them, or nothing is to be run.
    """

    records: list[Record] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    missing: int = 0


def run_study(
    study: Study,
    bench: Workbench,
    folder: str | Path,
    *,
    part: tuple[int, int] = (1, 1),
    records_only: bool = False,
    tell: Tell | None = None,
) -> StudyOutcome:
    """Run what has no record yet; a trial that fails is told and left out.

    Args:
        study: what to run.
        bench: where.
        folder: of the records, made if need be; what was learned is kept in its folder ``learned``, so that it can be
            measured in another way without training again, and the first image of each prompt in its folder ``images``, as
            KEY-STEP.png.
        part: (k, n): of the trials only the k-th of n shares, which cost about the same, so that n processes share a study.
            Each has a file of its own.
        records_only: run nothing.
        tell: called with a line for each trial.

    Raises:
        SentinvError: If the records can't be read or written, or another process has this part.
        Interrupted: After Ctrl-C or SIGTERM. What was done is kept.
    """
    tell = tell or (lambda _: None)
    folder = make_folder(folder)
    name = "records.jsonl" if part[1] == 1 else f"records-{part[0]}-of-{part[1]}.jsonl"
    outcome, done = StudyOutcome(), read_records(folder)
    todo = list(trials(study, bench.concepts))
    mine = shares([cost(trial, study) for trial in todo], part[1])
    with lock(folder / name), JsonLines(folder / name) as file:
        for index, trial in enumerate(todo):
            try:
                settings = bench.settings(trial, study)
                key = key_of(settings)
                if key not in done and mine[index] == part[0] - 1 and not records_only:
                    begun = time.perf_counter()
                    result, timing = bench.run(trial, settings, study, folder)
                    done[key] = _plain({"key": key, "settings": settings, "result": result, "timing": timing})
                    file.write(done[key])
                    tell(f"{index + 1}/{len(todo)} {trial}: {time.perf_counter() - begun:.0f} s")
            except (KeyboardInterrupt, Interrupted) as error:
                raise Interrupted(
                    f"the study stopped at {index + 1} of {len(todo)} runs: its records are kept, the same command goes on",
                    getattr(error, "signal_number", signal.SIGINT),
                ) from error
            except SentinvError as error:
                outcome.failures.append((str(trial), str(error)))
                tell(f"{index + 1}/{len(todo)} {trial}: FAILED: {error}")
            else:
                if key in done:
                    outcome.records.append(done[key])
                else:
                    outcome.missing += 1
    return outcome


def _plain(record: Record) -> Record:
    """As it will be read back."""
    return json.loads(json.dumps(finite(record)))
