"""What people had in the place of a model, given to the command line: what was tried, and what is said.

    python benchmarks/reliability/models.py

The list is tests/odd_models.py. Each is built tiny and given to `sentinv generate`; what works there is also given to `invert`
and `selftest`. The table goes to models.md beside this file. A case is wrong if it ends in a traceback or "this is a bug", if
what is said is not what the list has, or if something that should be refused works.
"""

import logging
import os
import sys
import tempfile
import traceback
from pathlib import Path

import torch
from click.testing import CliRunner
from tiny import picture

from sentinv.cli.main import cli

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from odd_models import CASES, USERS, Models, Place

HERE = Path(__file__).parent
DRAW = ["generate", "a cat", "--steps", "1", "-n", "1", "-o", "cat.png"]
LEARN = ["invert", "mug.png", "--word", "red", "--steps", "1", "--samples", "0", "--batch-size", "1"]
OPTIONS = {"name": "--model", "vae": "--vae", "concept": "--concept", "lora": "--lora"}


def ran(call, given):
    """Run a call: exit code, and the last line that it says on stderr."""
    options = [word for name, value in given.items() for word in (OPTIONS[name], value)]
    result = CliRunner().invoke(cli, [*call, *options])
    said = result.stderr.strip().splitlines()
    assert "this is a bug" not in result.output and "Traceback" not in result.output, result.output
    assert result.exit_code != 1 or said[-1].startswith("sentinv: "), result.output
    return result.exit_code, said[-1].removeprefix("sentinv: error: ") if said else ""


def tried(case, models):
    """What came of a case: whether it is right, and what is said in few words."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        try:
            picture().save("mug.png")
            given = case.build(Place(Path(name), models))
            code, said = ran(DRAW, given)
            said = said.replace(f"{name}/", "").replace(str(models.path), "…")
            if case.told:
                return code == 1 and case.told in said, said
            codes = [code, ran(LEARN, given)[0], ran(["selftest", "--steps", "2", "--quiet"], given)[0]]
            return codes[:2] == [0, 0], "works" if codes[:2] == [0, 0] else said
        except Exception:
            return False, traceback.format_exc().strip().splitlines()[-1][:300]
        finally:
            os.chdir(before)


def main():
    rows, wrong, count = [], 0, 0
    with tempfile.TemporaryDirectory() as name:
        os.environ |= {"XDG_CONFIG_HOME": str(Path(name, "nobody")), "HF_HUB_OFFLINE": "1"}
        models = Models(Path(name))
        for module in USERS:
            module.CONFIGS = models.configs
        for kind, cases in CASES.items():
            rows += ["", f"## {kind}", "", "| thread | what | outcome |", "|---|---|---|"]
            for case in cases:
                right, said = tried(case, models)
                count, wrong = count + 1, wrong + (not right)
                told = said if right else f"**WRONG**: {said}"
                rows.append(" | ".join((f"| {case.source or '-'}", case.what, told.replace("|", chr(92) + "|"))) + " |")
                print("ok   " if right else "WRONG", case.what, "" if right else said, flush=True)
    head = [
        "# What people had in the place of a model",
        "",
        f"{count} tried, from the threads of other programs and beside them: {wrong} wrong.",
        "`python benchmarks/reliability/models.py` builds each tiny, gives it to `sentinv generate` and writes this table.",
    ]
    (HERE / "models.md").write_text("\n".join([*head, *rows]) + "\n", encoding="utf-8")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    main()
