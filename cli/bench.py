"""`sentinv bench`: the studies, one module per command, imported when it is used."""

from __future__ import annotations

from importlib import import_module

import click

STUDIES = {
    "convergence": "How soon each start reaches vanilla's loss.",
    "ablation": "Grids of settings, declared in files.",
    "editing": "Edits with and without learned words.",
    "peers": "Other trainers' scripts, measured as ours.",
    "speed": "Seconds, memory and FLOPs per step, beside other trainers.",
}
"""Name → what it does, in one line. `sentinv.cli.bench_<name>` has the command under its name."""


class _Studies(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(STUDIES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in STUDIES:
            return None
        return getattr(import_module(f"sentinv.cli.bench_{cmd_name}"), cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(STUDIES.items()))


@click.group(cls=_Studies)
def bench() -> None:
    """Repeat the studies: convergence, editing, ablation, peers, speed.

    A study that was stopped goes on where it was when the same command is given again. What it found is in tables.md (speed.md)
    in its folder; convergence and ablation have a line in records.jsonl for each run, and report.html, as well.
    """
