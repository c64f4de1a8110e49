import json
import re

import click
import pytest
from click.testing import CliRunner

import sentinv.cli.invert
from sentinv.cli.bench import bench
from sentinv.cli.invert import invert
from sentinv.cli.main import cli
from sentinv.cli.settings import defaults_of, user_file
from sentinv.errors import SentinvError


@click.command()
@click.option("--model", default="toybox", envvar="SENTINV_MODEL")
@click.option("--max-vectors", type=int)
@click.option("--mask", "masks", multiple=True)
@click.option("--lr", "learning_rate", type=float)
@click.option("--loud", is_flag=True)
def probe(**given):
    click.echo(json.dumps(given))


@pytest.fixture(autouse=True)
def _workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("SENTINV_MODEL", raising=False)
    monkeypatch.setattr(sentinv.cli.invert, "invert", probe)
    for param in probe.params:
        monkeypatch.setattr(param, "envvar", "SENTINV_MODEL" if param.name == "model" else None)


def write(user="", project=""):
    user_file().parent.mkdir(parents=True, exist_ok=True)
    user_file().write_text(user)
    (user_file().parents[2] / "sentinv.toml").write_text(project)


def given(*args):
    result = CliRunner().invoke(cli, ["invert", *args])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_without_files_the_defaults_hold():
    assert given() == {"model": "toybox", "max_vectors": None, "masks": [], "learning_rate": None, "loud": False}


def test_flag_over_environment_over_project_over_user(monkeypatch):
    write('model = "user"\n[invert]\nmax-vectors = 1\nloud = true', "[invert]\nmax-vectors = 2")
    assert given() == {"model": "user", "max_vectors": 2, "masks": [], "learning_rate": None, "loud": True}
    write('model = "user"', 'model = "project"')
    assert given()["model"] == "project"
    monkeypatch.setenv("SENTINV_MODEL", "environment")
    assert given()["model"] == "environment"
    assert given("--model", "flag")["model"] == "flag"


def test_every_option_has_a_variable_too(monkeypatch):
    monkeypatch.setenv("SENTINV_INVERT_MAX_VECTORS", "5")
    assert given()["max_vectors"] == 5


def test_settings_are_called_what_the_command_line_calls_them(monkeypatch):
    write(project="[invert]\nlr = 0.5")
    assert given()["learning_rate"] == 0.5
    monkeypatch.setattr(sentinv.cli.invert, "invert", invert)
    command = cli.get_command(click.Context(cli), "invert")
    (param,) = (param for param in command.params if param.name == "learning_rate")
    monkeypatch.setenv("SENTINV_INVERT_LR", "0.25")
    assert param.resolve_envvar_value(click.Context(command)) == "0.25"


def test_a_setting_of_one_command_wins_over_that_of_all():
    write(project='model = "all"\n[invert]\nmodel = "own"\nmask = ["a.png", "b.png"]')
    assert given() == {
        "model": "own",
        "max_vectors": None,
        "masks": ["a.png", "b.png"],
        "learning_rate": None,
        "loud": False,
    }


def test_one_value_will_do_where_there_may_be_several():
    write(project='[invert]\nmask = "a.png"')
    assert given()["masks"] == ["a.png"]


def test_what_a_command_does_not_know_is_for_others():
    write(project='device = "cpu"\n[generate]\ncount = 2')
    assert given()["model"] == "toybox"


@pytest.mark.parametrize(
    ("project", "text"),
    [
        (
            "[invert]\nstepz = 3",
            "sentinv.toml: there is no setting 'stepz' in [invert]; settings are model, max-vectors",
        ),
        ('modl = "x"', "sentinv.toml: there is no setting 'modl'; settings are model, vae, device, dtype, quiet"),
        ("[invret]\nsteps = 3", "sentinv.toml: there is no command 'invret'; tables are invert, batch, describe"),
        ("[invert", "sentinv.toml is not valid TOML: "),
        ("\x00", "sentinv.toml is not valid TOML: "),
    ],
)
def test_mistakes_are_told_in_one_line(project, text):
    write(project=project)
    result = CliRunner().invoke(cli, ["invert"])
    assert result.exit_code == 1 and result.stderr.count("\n") == 1 and text in result.stderr


@pytest.mark.parametrize(
    ("project", "text"),
    [
        ("[bench]\nsteps = 3", "there is no setting 'steps' in [bench]; its tables are [bench.convergence]"),
        ("[bench.convergence]\nstepz = 3", "there is no setting 'stepz' in [bench.convergence]"),
    ],
)
def test_mistakes_about_studies_are_told_in_one_line(project, text):
    write(project=project)
    with pytest.raises(SentinvError, match=re.escape(text)):
        defaults_of("bench", bench)


def test_studies_have_settings_of_their_own():
    write('model = "user"\n[bench.convergence]\nsteps = 7', "[bench.convergence]\nsteps = 8\nlr = 0.5")
    found = defaults_of("bench", bench)
    assert found["convergence"] == {"model": "user", "steps": 8, "learning_rate": 0.5}
    assert found["speed"] == {"model": "user"}
    write(project='model = "no/such/model-at-all"')
    cli.commands["bench"] = bench
    result = CliRunner().invoke(cli, ["bench", "convergence", "--image", "x.png"])
    assert result.exit_code == 1 and "no/such/model-at-all" in result.stderr


def test_a_value_of_the_wrong_kind_is_a_usage_error():
    write(project='[invert]\nmax-vectors = "many"')
    result = CliRunner().invoke(cli, ["invert"])
    assert result.exit_code == 2 and "'many' is not a valid integer" in result.stderr


def test_a_folder_in_place_of_the_file_is_told(tmp_path):
    (tmp_path / "sentinv.toml").mkdir()
    with pytest.raises(SentinvError, match="cannot read the settings in sentinv"):
        defaults_of("invert", probe)
