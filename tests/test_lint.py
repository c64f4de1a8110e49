"""What must not be in the tree: calls that run a stranger's code."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("sentinv", "initializers", "cli", "benchmarks", "toybox", "examples", "tests")
READS_PICKLES = "sentinv/files/unpickling.py"
"""The one program that may call torch.load, with weights_only=True."""

RUNS_EXAMPLES = {"tests/test_readme.py", "tests/test_batch_command.py"}
"""Those that may call exec, on our own README and guide."""

FORBIDDEN_CALLS = {"eval", "exec", "pickle.load", "pickle.loads", "pickle.Unpickler", "os.popen", "joblib.load"}
FORBIDDEN_OPTIONS = {"shell", "trust_remote_code", "allow_pickle"}


def sources() -> list[Path]:
    found = {path.resolve() for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    return sorted(found)


def faults(path: str, source: str) -> list[str]:
    """Line and fault of each forbidden call."""
    found = []
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        options = {keyword.arg: keyword.value for keyword in call.keywords}
        true = {key for key, value in options.items() if not (isinstance(value, ast.Constant) and not value.value)}
        if name in FORBIDDEN_CALLS and not (name == "exec" and path in RUNS_EXAMPLES):
            found.append(f"{path}:{call.lineno}: {name}")
        if name == "torch.load" and (path != READS_PICKLES or "weights_only" not in true):
            found.append(f"{path}:{call.lineno}: torch.load")
        if "custom_pipeline" in options:
            found.append(f"{path}:{call.lineno}: custom_pipeline")
        options_of_strangers = (
            FORBIDDEN_OPTIONS if name.split(".")[0] in ("np", "numpy") else FORBIDDEN_OPTIONS - {"allow_pickle"}
        )
        found += [f"{path}:{call.lineno}: {option}" for option in sorted(true & options_of_strangers)]
    return found


def test_the_tree_runs_no_strangers_code() -> None:
    checked = sources()
    assert len(checked) > 10
    found = [fault for path in checked for fault in faults(str(path.relative_to(ROOT)), path.read_text())]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "pickle.load(f)",
        "pickle.loads(b)",
        "torch.load(f)",
        "torch.load(f, weights_only=True)",
        "eval('1')",
        "exec(code)",
        "subprocess.run('ls', shell=True)",
        "run(c, shell=flag)",
        "M.from_pretrained(n, trust_remote_code=True)",
        "D.from_pretrained(n, custom_pipeline='x')",
        "np.load(f, allow_pickle=True)",
    ],
)
def test_each_is_found(line: str) -> None:
    assert faults("sentinv/other.py", line)


def test_the_one_reader_of_pickles() -> None:
    assert faults(READS_PICKLES, "torch.load(f, weights_only=True)") == []
    assert faults(READS_PICKLES, "torch.load(f, weights_only=False)")
    assert faults(READS_PICKLES, "torch.load(f)")
    assert faults("tests/test_readme.py", "eval(x)")
    assert faults("x.py", "subprocess.run(c, shell=False)") == []
