"""What the readers share: the cases, CLIP's tokenizer, tables of vectors, and the judgement."""

import ast
import copy
import json
import os
import sys
import traceback
import types
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, PreTrainedModel

BEFORE, AFTER = "a photo of ", " on the moon"

BESIDE_ONETRAINER = (
    "torch.utils.tensorboard",
    "mgds",
    "cv2",
    "bitsandbytes",
    "onnxruntime",
    "prodigyopt",
    "schedulefree",
    "gguf",
)
"""Packages that OneTrainer imports and that have nothing to do with the reading of words and LoRAs."""


@dataclass(frozen=True)
class Case:
    """Files of one word, and what a program should make of them.

    Attributes:
        base: "sd1", "sd2", "sdxl".
        count: vectors.
        files: one or two.
        prompt: what stands for the word in this program's prompt.
        token: the placeholder.
        rows: text encoder name → `[n, dim]`.
    """

    base: str
    count: int
    files: list[Path]
    prompt: str
    token: str
    rows: dict[str, Tensor]

    @property
    def text(self) -> str:
        return f"{BEFORE}{self.prompt}{AFTER}"


Reader = Callable[[Case, dict[str, CLIPTextModel], CLIPTokenizer], dict[str, Tensor]]
"""Reads a word by the program's own code, and returns what each text encoder's table gives for the prompt, `[L, dim]`."""


def tokenizer() -> CLIPTokenizer:
    """CLIP's, of which ComfyUI has a copy."""
    return CLIPTokenizer.from_pretrained(os.environ["CLIP_TOKENIZER"])


@cache
def text_encoder(width: int) -> CLIPTextModel:
    """A real text encoder with one random layer, for copies to be made of it."""
    sizes = {"hidden_size": width, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": width // 64}
    torch.manual_seed(width)
    return CLIPTextModel(CLIPTextConfig(vocab_size=49408, projection_dim=width, **sizes))


def stub(name: str, **content: Any) -> types.ModuleType:
    """Stand in for a module that has nothing to do with the reading of words."""
    module = types.ModuleType(name)
    vars(module).update(content)
    sys.modules[name] = module
    parent, _, last = name.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], last, module)
    return module


class _StandIns:
    """Finds packages as modules in which every name is there and nothing works."""

    def __init__(self, packages: tuple[str, ...]) -> None:
        self.packages = packages

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name.partition(".")[0] in self.packages or name in self.packages:
            return ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]
        return None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        module = types.ModuleType(spec.name)
        module.__getattr__ = lambda name: MagicMock(name=name) if name[:2] != "__" else _none(name)  # type: ignore[method-assign]
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def _none(name: str) -> Any:
    raise AttributeError(name)


def stand_in(*packages: str) -> None:
    """Stand in for packages that have nothing to do with the reading of words and LoRAs, whether they are installed or not."""
    sys.meta_path.insert(0, _StandIns(packages))  # type: ignore[arg-type]


def part(path: Path, name: str) -> ast.stmt:
    """One class or function out of a file whose imports are not to be had."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return next(node for node in ast.walk(tree) if getattr(node, "name", None) == name)  # type: ignore[return-value]


def assigned(path: Path, name: str) -> ast.stmt:
    """One constant out of such a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return next(
        node
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == name
    )


def run_part(node: ast.stmt, names: dict[str, Any]) -> dict[str, Any]:
    """Let a part of a program's own code do its work among the given names."""
    module = ast.fix_missing_locations(ast.Module([node], []))
    code = compile(module, "their own code", "exec")
    types.FunctionType(code, names)()
    return names


def _resized_quickly() -> None:
    """Leave out that new rows are drawn like the old ones, which takes long; programs write words over them."""
    own = PreTrainedModel.resize_token_embeddings

    def resize(self: Any, *arguments: Any, **options: Any) -> Any:
        return own(self, *arguments, **options | {"mean_resizing": False})

    PreTrainedModel.resize_token_embeddings = resize  # type: ignore[method-assign]


def main(read: Reader) -> None:
    """Read every case of the file that is named first on the command line, and print what became of each."""
    given = json.loads(Path(sys.argv[1]).read_text())
    _resized_quickly()
    words = tokenizer()
    answers = []
    with redirect_stdout(sys.stderr):
        for case in given:
            rows = load_file(case.pop("rows"))
            files = [Path(file) for file in case.pop("files")]
            answers.append(judge(read, Case(files=files, rows=rows, **case), words))
    print(json.dumps(answers))


def judge(read: Reader, case: Case, words: CLIPTokenizer) -> str:
    """Say "ok" if the sequence of vectors is that of the prompt with the word's rows in their place, bit for bit."""
    kept = {name: text_encoder(rows.shape[1]) for name, rows in case.rows.items()}
    models = {name: copy.deepcopy(model) for name, model in kept.items()}
    plain = {name: model.get_input_embeddings() for name, model in kept.items()}
    try:
        with torch.no_grad():
            got = read(case, models, words)
    except Exception as error:
        if os.environ.get("SHOW"):
            traceback.print_exc()
        reason = " ".join(str(error).partition("{")[0].split()).rstrip(": ")  # without a dump of what it got
        return f"refused: {type(error).__name__}: {reason[:160]}"
    for name, rows in case.rows.items():
        before, after = (words(text.strip(), add_special_tokens=False)["input_ids"] for text in (BEFORE, AFTER))
        around = [plain[name](torch.tensor(ids)) for ids in (before, after)]
        wanted = torch.cat([around[0], rows, around[1]])
        start = 1  # after the beginning of the text
        found = got[name].detach().float().cpu()[start : start + len(wanted)]
        if found.shape != wanted.shape or not torch.equal(found, wanted):
            return f"wrong: other vectors than the word's in {name}"
        rest = got[name][start + len(wanted)]
        if not torch.equal(rest.float(), plain[name].weight[words.eos_token_id]):
            return f"wrong: more vectors than the prompt has in {name}"
    return "ok"
