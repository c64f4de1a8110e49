"""`sentinv batch`: a word for each picture of a folder or a list."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sentinv.cli.invert import InvertOptions, train_config
from sentinv.cli.invert import invert as _invert
from sentinv.cli.options import quieten_transformers, tell_toybox
from sentinv.cli.settings import parameters
from sentinv.cli.starting import chosen
from sentinv.errors import Interrupted, SentinvError
from sentinv.files.atomic import shown

if TYPE_CHECKING:
    from sentinv.batch.book import Book
    from sentinv.batch.lists import Row
    from sentinv.batch.tasks import Assignment, Task
    from sentinv.models.names import Place

_NOT_SHARED = {"images", "token", "output", "masks", "samples", "resume", "plan_only", "tune", "force"}
"""Options of `invert` that a batch has not: those of a single picture, and what it does not do."""

_SHARED = [copy(param) for param in _invert.params if param.name not in _NOT_SHARED]

_OF_ALL = {"model", "vae", "device", "dtype", "json", "quiet", "debug", "gradient-checkpointing"}
"""Options that are the same for all pictures."""


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """What `batch` is told.

    Attributes:
        sources: folders, patterns, lists, pictures.
        output: folder of the results.
        at_once: words that are trained at a time; as at the first time, or as many as fit, if None.
        retry_failed: try failed pictures again.
        ray: address of a cluster, or None.
        workers: of the cluster.
        threads: of each worker.
        given: the options that `invert` has too.
    """

    sources: tuple[str, ...]
    output: Path
    at_once: int | None
    retry_failed: bool
    ray: str | None
    workers: int | None
    threads: int
    given: Mapping[str, Any]

    @property
    def quiet(self) -> bool:
        """Whether nothing is told on the way."""
        return bool(self.given["quiet"])

    @property
    def base(self) -> Place:
        """The model."""
        from sentinv.models.names import Place

        vae = click.get_current_context().meta.get("sentinv.vae")
        names = ("model", "device", "dtype")
        return Place(**{name: self.given[name] for name in names}, vae=vae)


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE…")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder of the results.")
@click.option(
    "--at-once",
    type=click.IntRange(1, 256),
    help="Words trained at a time.  [default: up to 8, as many as memory has room for]",
)
@click.option("--retry-failed", is_flag=True, help="Try pictures again that have failed.")
@click.option(
    "--ray",
    is_flag=False,
    flag_value="local",
    metavar="[ADDRESS]",
    help="Workers of a Ray cluster; without an address one on this machine. Put it last, or write --ray=ADDRESS.",
)
@click.option(
    "--workers", type=click.IntRange(1), help="Of the cluster.  [default: one for each GPU or share of cores]"
)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="CPU cores of each worker.")
def batch(**given: Any) -> None:
    """Learn a word from each picture of folders, patterns or lists.

    Writes a concept file and a record for each, and index.html. Started again, it goes on with what is missing or has other
    options. A list (.csv, .jsonl) has a column "image", and may have "name", "token", "mask" and any option below.

    \b
      sentinv batch photos/ -o words/
      sentinv batch products.csv -o words/ --steps 200 --stop auto
      sentinv batch "photos/*.jpg" -o words/ --ray
    """  # noqa: D301 - click reads \b as "leave these lines as they are"
    from sentinv.batch.book import Book
    from sentinv.batch.cluster import check_cluster

    own = {field.name: given.pop(field.name) for field in fields(BatchOptions) if field.name != "given"}
    options = BatchOptions(**own, given=given)
    check_usage(options)
    tasks = tasks_of(options)
    book = Book(options.output, options.base)
    book.check(options.sources)
    if options.ray is not None:
        check_cluster(options.ray)
    tell_toybox(options.base.model, quiet=options.quiet)
    with book.held(options.sources):
        run(book, tasks, options)


batch.params += _SHARED


def check_usage(options: BatchOptions) -> None:
    """Refuse options that would have no effect, or were taken for others.

    Raises:
        click.UsageError: If there is one.
    """
    from sentinv.cli.options import was_given

    if options.ray is not None and Path(options.ray).exists():
        raise click.UsageError(f"--ray took {shown(options.ray)} for an address: put --ray last")
    for name in ("workers", "threads"):
        if options.ray is None and was_given(name):
            raise click.UsageError(f"--{name} has no effect without --ray: leave it out")


def tasks_of(options: BatchOptions) -> list[Task]:
    """Read the sources, and say for each picture what is to be learned.

    Raises:
        SentinvError: If a source, a row or a value of it cannot be used, or two would write the same file.
        click.UsageError: If the options that are the same for all contradict each other.
    """
    from sentinv.batch.lists import read_sources
    from sentinv.batch.tasks import check_names

    names = [name for name in parameters(click.Command("batch", params=_SHARED)) if name not in _OF_ALL]
    rows = read_sources(options.sources, ("name", "token", "mask", *names))
    tasks = []
    for row in rows:
        try:
            tasks.append(_task(row, options))
        except (click.ClickException, SentinvError) as error:
            if not row.columns and isinstance(error, click.ClickException):
                raise
            told = error.format_message() if isinstance(error, click.ClickException) else str(error)
            raise SentinvError(f"{row.where}: {told}") from error
    check_names(tasks)
    return tasks


def _task(row: Row, options: BatchOptions) -> Task:
    from sentinv.batch.tasks import Task
    from sentinv.concepts.names import check_token
    from sentinv.report.outputs import name_of

    columns = dict(row.columns)
    name = columns.pop("name", None) or name_of(row.image)
    token, mask = columns.pop("token", None) or f"<{name_of(Path(name))}>", columns.pop("mask", None)
    if Path(name).name != name or name.startswith("."):
        raise SentinvError(f"expected a name without a folder, got {shown(name)}")
    values: dict[str, Any] = {**options.given, **_values(columns)}
    if {"word", "phrase", "from"} & columns.keys() and "init" not in columns:
        told = {"word": "word", "phrase": "phrase", "from": "from_file"}
        values |= {"init": None} | {param: None for column, param in told.items() if column not in columns}
    values |= {"images": (row.image,), "token": token, "output": None, "masks": (), "samples": 0}
    values |= dict.fromkeys(("resume", "plan_only", "tune", "force"), False)
    settings = InvertOptions(**values)
    starting = ("captioner", "classifier", "word", "phrase", "drop_stopwords", "drop_scene", "seed")
    return Task(
        name=name,
        image=str(row.image),
        mask=mask,
        crop=settings.crop,
        token=check_token(token),
        init=chosen(settings.init, settings),
        told={name: getattr(settings, name) for name in starting} | {"concept": settings.from_file},
        max_vectors=settings.max_vectors,
        config=train_config(settings),
        where=row.where,
    )


def _values(columns: Mapping[str, str]) -> dict[str, Any]:
    """Read a row's columns as the command line would read these options.

    Raises:
        click.BadParameter: If it would not.
    """
    context = click.get_current_context()
    found = {}
    for param in _SHARED:
        for name in (one.removeprefix("--") for one in param.opts if one.startswith("--")):
            if name in columns:
                kind = click.BOOL if isinstance(param, click.Option) and param.is_flag else param.type
                found[str(param.name)] = kind.convert(columns[name], param, context)
    return found


def run(book: Book, tasks: list[Task], options: BatchOptions) -> None:
    """Learn what is missing, and tell what came of all.

    Raises:
        SentinvError: If a picture has failed, now or before.
        Interrupted: After Ctrl-C or SIGTERM, with the index written.
    """
    from sentinv.cli.batch_telling import Teller

    todo, teller = _todo(book, tasks, options), Teller(book, tasks, options)
    at_once = _at_once(book, todo, options)
    try:
        with teller.watching(len(todo)) as on_result:
            if options.ray is None:
                _here(book, todo, at_once, on_result)
            elif todo:
                from sentinv.batch.cluster import Cluster, learn_with

                cluster = Cluster(
                    address=options.ray, workers=options.workers, threads=options.threads, at_once=at_once
                )
                learn_with(cluster, book.folder, book.base, todo, on_result)
    except (KeyboardInterrupt, Interrupted) as error:
        teller.write_index()
        raise Interrupted(
            f"stopped: {teller.counts()}; the same command goes on", getattr(error, "signal_number", 2)
        ) from error
    failed = teller.finish()
    if failed:
        raise SentinvError(
            f"{failed} of {len(tasks)} pictures failed: {shown(book.folder / 'index.html')} says why; --retry-failed tries "
            "them again"
        )


def _todo(book: Book, tasks: list[Task], options: BatchOptions) -> list[Assignment]:
    """What is missing, was told to be tried again, or has other settings now, which is said."""
    found, changed = [], dict[str, list[str]]()
    for task in tasks:
        book.record(task)
        assignment = book.assignment(task)
        state = book.state(assignment)
        if state == "done" or (state == "failed" and not options.retry_failed):
            continue
        if state not in ("missing", "failed"):
            changed.setdefault(state, []).append(task.name)
        found.append(assignment)
    for difference, names in changed.items():
        which = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        if not options.quiet:
            click.echo(f"sentinv: learned again, for other options ({difference}): {which}", err=True)
    return found


def _at_once(book: Book, todo: list[Assignment], options: BatchOptions) -> int:
    """How many words are trained at a time: as told, or as before, since words have other bits otherwise; or what fits."""
    from sentinv.training.batch import AT_ONCE

    count = options.at_once or book.at_once
    if count is None and todo:
        from sentinv.batch.fit import evenly, words_that_fit

        count, workers = AT_ONCE, options.workers or 1
        if options.ray is None:
            quieten_transformers()
            count = words_that_fit(book.base, max((one.task.config for one in todo), key=lambda config: config.items))
        count = evenly(-(-len(todo) // workers), count)
        book.keep(count)
    return count or AT_ONCE


def _here(book: Book, todo: list[Assignment], at_once: int, on_result: Any) -> None:
    from sentinv.batch.learner import Learner
    from sentinv.cli.options import load_backbone

    quieten_transformers()
    base = book.base
    learner = Learner(book, at_once, lambda: load_backbone(base.model, base.device, base.dtype))
    learner.learn(todo, on_result)
