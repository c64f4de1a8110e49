import json
import math
import re
import shlex
import shutil
import warnings
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from conftest import build_pipeline, copied
from judging import DESCRIBERS, random_picture, write_concepts
from safetensors.torch import load_file

from sentinv.adapters.install import adapted
from sentinv.bench.arms import arms
from sentinv.bench.concepts import read_concepts
from sentinv.bench.measuring import ConceptPictures
from sentinv.bench.peers import PEER_OPTIONS, peer_files
from sentinv.bench.records import ADDED, read_records, same_settings
from sentinv.bench.runner import run_study
from sentinv.bench.sharing import cost, shares
from sentinv.bench.starts import REFERENCES, StartSpec
from sentinv.bench.study import Study, key_of, trials
from sentinv.bench.study_file import read_study
from sentinv.bench.study_report import write_report
from sentinv.bench.study_tables import crossing_table, score_tables
from sentinv.bench.trials import TOKEN, TrainingCurve, train_curve
from sentinv.bench.workbench import Workbench
from sentinv.cli.main import cli
from sentinv.concepts.concept import Concept
from sentinv.concepts.placeholder import PlaceholderRows
from sentinv.errors import Interrupted, SentinvError
from sentinv.files.images import read_image
from sentinv.files.json_lines import JsonLines
from sentinv.generation.generate import generate
from sentinv.models.backbone import Backbone
from sentinv.models.loading import load
from sentinv.training.checkpoint import read_checkpoint
from sentinv.training.config import TrainConfig, TuneConfig
from sentinv.training.data import TrainingSet
from sentinv.training.objective import DenoisingObjective
from sentinv.training.tune import tune

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
TRAIN = {"steps": 4, "evaluation_timesteps": 4, "evaluation_noises": 1, "blended": 0}
STUDY = Study(
    title="tiny",
    starts=("vanilla@5", "caption", "image-only", "prompt-only", "targets-only"),
    seeds=(0, 1),
    train=TRAIN,
    loss_at=(0, 2),
    images_at=(0, 4),
    count=2,
    sampling_steps=1,
)


@pytest.fixture(autouse=True)
def _random_models_learn_little():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="nothing was learned")
        yield


@pytest.fixture
def bench(sd1_backbone, concepts, measuring):
    return Workbench(sd1_backbone, concepts, DESCRIBERS, measuring)


def without_timing(records):
    return [{name: value for name, value in record.items() if name != "timing"} for record in records]


def test_trials_are_the_product_and_references_come_once(concepts):
    study = replace(STUDY, grid={"learning_rate": (0.1, 0.2), "images": (1, 2)})
    every = list(trials(study, concepts))
    assert len(every) == 2 * (2 * 4 * 2 + 3)
    assert {trial.config.steps for trial in every if trial.spec.name == "vanilla"} == {5}
    assert {trial.config.learning_rate for trial in every if trial.spec.name == "caption"} == {0.1, 0.2}


def test_an_arm_may_have_seeds_of_its_own(concepts):
    study = replace(STUDY, grid={}, seeds=(0, 1), arms={"long": {"start": "vanilla@9", "seeds": [4]}})
    runs = [(trial.arm.name, trial.seed) for trial in trials(study, concepts) if trial.concept.name == "mug"]
    assert [seed for name, seed in runs if name == "long"] == [4]
    assert sorted({seed for name, seed in runs if name == "caption"}) == [0, 1]


def test_key_covers_all_that_decides(bench, concepts):
    study = replace(STUDY, starts=("caption",), concepts=("mug",), seeds=(0,))
    keys = set()
    variants = [
        study,
        replace(study, seeds=(1,)),
        replace(study, starts=("class",)),
        replace(study, concepts=("cat",)),
        replace(study, train={**TRAIN, "learning_rate": 0.5}),
        replace(study, grid={"mask": (True,)}),
        replace(study, count=3),
        replace(study, sampling_steps=2),
        replace(study, bfloat16_images=True),
        replace(study, images_at=(0,)),
    ]
    for variant in variants:
        (trial,) = trials(variant, concepts)
        keys.add(key_of(bench.settings(trial, variant)))
    assert len(keys) == len(variants)
    before = len(keys)
    random_picture(99).save(concepts[0].image)
    (trial,) = trials(study, concepts)
    keys.add(key_of(bench.settings(trial, study)))
    assert len(keys) == before + 1


def test_zero_is_none_where_toml_has_no_word_for_it(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text("[arms.a]\nstart = 'vanilla@7'\ntrain = { min_snr = 0, max_norm = 0.0 }\n[grid]\nflip = [true]")
    study = read_study(path)
    (arm,) = study.compared()
    wanted = TrainConfig(steps=7, min_snr=None, max_norm=None, flip=True, evaluation_timesteps=16)
    assert study.config(arm, 0, {"flip": True}) == wanted
    arms = {"a": {"start": "word", "tune": {"min_snr": 0}}}
    tuned = Study(title="tiny", arms=arms)
    assert tuned.tuning(*tuned.compared(), 5) == TuneConfig(min_snr=None, seed=5)


def test_arms_come_first_and_starts_only_if_they_are_asked_for(concepts):
    alone = replace(STUDY, starts=(), arms={"short": {"start": "caption", "train": {"steps": 2, "images": 2}}})
    assert [arm.name for arm in alone.compared()] == ["short"]
    assert [arm.name for arm in replace(alone, starts=("word",)).compared()] == ["short", "word"]
    assert [arm.name for arm in Study(title="tiny").compared()] == ["caption"]
    every = list(trials(replace(alone, grid={"flip": (True, False)}), concepts))
    assert [(one.config.steps, one.images, one.config.flip) for one in every[:3]] == [(2, 2, True)] * 2 + [
        (2, 2, False)
    ]
    assert len(every) == 2 * 2 * 2


def test_an_arm_that_is_a_start_has_its_records_and_any_other_its_own(bench, concepts):
    def key(**given):
        study = replace(STUDY, concepts=("mug",), seeds=(0,), **given)
        (trial,) = trials(study, concepts)
        return key_of(bench.settings(trial, study))

    faster = {"learning_rate": 0.5}
    assert key(starts=(), arms={"caption": {"start": "caption"}}) == key(starts=("caption",))
    own = key(starts=(), arms={"caption": {"start": "caption", "train": faster}})
    assert own == key(starts=("caption",), train={**TRAIN, **faster})
    named = [key(starts=(), arms={name: {"start": start}}) for name, start in (("a", "caption"), ("a", "class"))]
    tunes = [key(starts=(), arms={"a": {"start": "caption", "tune": tune}}) for tune in ({}, {"rank": 4})]
    assert len({key(starts=("caption",)), own, *named, *tunes}) == 6


TUNE = {"steps": 2, "evaluate_every": 1, "evaluation_timesteps": 2, "evaluation_noises": 1, "learning_rate": 0.05}
TUNE |= {
    "batch_size": 2,
    "blended": 1,
    "others": 0,
    "rank": 2,
    "scenes": ["on the moon"],
    "styles": ["a painting of {}"],
}
TUNED = replace(
    STUDY, starts=("caption",), concepts=("mug",), seeds=(1,), arms={"tuned": {"start": "caption", "tune": TUNE}}
)


def test_a_lora_is_a_further_point_after_the_word(bench, concepts, sd1_backbone, measuring, tmp_path):
    """Oracle: the same word, taken from where the caption's own run ends, tuned and measured by hand."""
    tuned, plain = run_study(TUNED, bench, tmp_path).records
    assert [record["settings"]["start"] for record in (tuned, plain)] == ["tuned", "caption"]
    for name in ("losses", "objectives", "scores"):
        assert tuned["result"][name][:-1] == plain["result"][name]
    assert [step for step, _ in tuned["result"]["scores"]] == [0, 4, 6]
    word, end = (tuned["timing"]["training"][index] for index in (-2, -1))
    assert (word, end[0]) == (plain["timing"]["training"][-1], 6) and end[1] > word[1]  # trained once for both

    (path,) = (path for path in (tmp_path / "learned").iterdir() if "tune" not in read_checkpoint(path).settings)
    before = Concept(token="<c>", rows=TrainingCurve.read(path).rows[4])
    picture = replace(read_image(concepts[0].image), mask=None)
    config = TuneConfig(**{**TUNE, "scenes": ("on the moon",), "styles": ("a painting of {}",)}, seed=1)
    by_hand = tune(sd1_backbone, before, picture, config, words="a blue striped dog")
    with adapted(sd1_backbone, [by_hand.lora]):
        scores = ConceptPictures(concepts[0], measuring, (16, 16)).scores(sd1_backbone, before)
        rows = PlaceholderRows.of_concepts([before])
        with rows.installed(sd1_backbone):
            grid = TrainingSet(sd1_backbone, [picture], rows, TrainConfig(**TRAIN)).evaluation_batches()
            weighted, loss = DenoisingObjective(sd1_backbone, 0.05).evaluate(grid)
    last = tuned["result"]["scores"][-1][1]
    assert last == {name: pytest.approx(value, rel=1e-5) for name, value in scores.items()}
    assert abs(last["clip_i"] - tuned["result"]["scores"][-2][1]["clip_i"]) > 1e-4
    assert tuned["result"]["losses"][-1][1] == pytest.approx(loss, rel=1e-5)
    assert tuned["result"]["objectives"][-1][1] == pytest.approx(weighted, rel=1e-5)
    assert by_hand.history.learned and abs(loss / tuned["result"]["losses"][-2][1] - 1) > 1e-4


def test_a_lora_is_kept_and_taken_again(bench, tmp_path, monkeypatch):
    """Whatever the arm is called, and though no images were measured then. The word's last step is looked at in any case."""
    study = replace(TUNED, starts=(), images_at=(0, 2))
    whole = run_study(study, bench, tmp_path / "whole").records
    assert [step for step, _ in whole[0]["result"]["scores"]] == [0, 2, 4, 6]
    bench.measuring, measuring = None, bench.measuring
    run_study(study, bench, tmp_path / "later")
    bench.measuring = measuring
    kept = list((tmp_path / "later/learned").iterdir())
    assert len(kept) == 2
    for name in ("workbench.train_curve", "tuning.tune"):
        monkeypatch.setattr(f"sentinv.bench.{name}", lambda *_, **__: pytest.fail("trained again"))
    later = run_study(study, bench, tmp_path / "later").records
    assert without_timing(later) == without_timing(whole)
    renamed = replace(study, arms={"other": study.arms["tuned"]})
    (other,) = run_study(renamed, bench, tmp_path / "later").records
    assert other["result"] == later[0]["result"] and other["key"] != later[0]["key"]
    monkeypatch.undo()
    (tmp_path / "later/records.jsonl").unlink()
    for path in kept:
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert without_timing(run_study(study, bench, tmp_path / "later").records) == without_timing(whole)


def test_a_word_that_went_wrong_is_not_tuned(bench, tmp_path, monkeypatch):
    def train(*args, **options):
        curve = train_curve(*args, **options)
        curve.stop = "runaway"
        del curve.rows[4]
        return curve

    monkeypatch.setattr("sentinv.bench.workbench.train_curve", train)
    (record,) = run_study(replace(TUNED, starts=()), bench, tmp_path).records
    assert record["result"]["stop"] == "runaway"
    assert [step for step, _ in record["result"]["losses"]] == [0, 2, 4]


def test_the_arms_of_the_evidence_are_the_published_recipes(request):
    """Diffusers' 5e-4 times a batch of 4, Gal et al.'s .005, AdamW's usual decay rates, the plain loss, and no limit."""
    study = read_study(request.config.rootpath / "benchmarks" / "evidence.toml")
    found = {arm.name: (study.config(arm, 0, {}), study.tuning(arm, 0)) for arm in study.compared()}
    usual = TrainConfig(evaluation_timesteps=16)
    before = replace(usual, batch_size=4, blended=0, schedule="constant", max_norm=None, flip=True)
    plain = replace(before, steps=3000, min_snr=None, betas=(0.9, 0.999))
    for name, rate in (("published", 0.002), ("published-word", 0.002), ("gal", 0.005)):
        assert found[name] == (replace(plain, learning_rate=rate), None)
    assert found["vanilla-ours"] == (replace(usual, steps=3000), None)
    assert found["caption"] == (usual, None) and found["tuned"] == (usual, TuneConfig())
    assert found["first-edition"][0] == replace(before, relative_learning_rate=0.95)
    assert found["fixed-norms"][0] == replace(usual, fixed_norms=True, max_norm=None)
    assert {"class", "human", "stars", "random-words", "other-caption", *REFERENCES} <= found.keys()
    assert study.convergence and study.seeds == (0, 1, 2)


def test_two_runs_give_the_same_records(bench, tmp_path):
    first, again = (run_study(STUDY, bench, tmp_path / name) for name in ("first", "again"))
    assert without_timing(first.records) == without_timing(again.records)
    assert len(first.records) == 2 * (2 * 2 + 3) and not first.failures
    on_disk = [json.loads(line) for line in (tmp_path / "first/records.jsonl").read_text().splitlines()]
    assert on_disk == first.records
    caption = next(record for record in first.records if record["settings"]["start"] == "caption")
    assert [step for step, _ in caption["result"]["losses"]] == [0, 2, 4]
    assert [step for step, _ in caption["result"]["scores"]] == [0, 4]
    assert caption["result"]["tokens"] == ["a", "blue", "striped", "dog"]


def test_a_start_that_several_runs_share_is_measured_once(bench, tmp_path, monkeypatch):
    measured = []
    honest = ConceptPictures.measure

    def counted(self, made, edited, trained=1):
        measured.append(trained)
        return honest(self, made, edited, trained)

    monkeypatch.setattr(ConceptPictures, "measure", counted)
    study = replace(STUDY, starts=("caption",), concepts=("mug",), grid={"images": (1, 2)})
    records = run_study(study, bench, tmp_path / "out").records
    assert measured == [1, 1, 1, 2, 2, 2]  # for each number of pictures: the start, and the ends of two seeds
    starts = [record["result"]["scores"][0][1] for record in records]
    assert starts[0] == starts[1] and starts[0]["clip_i_views"] != starts[2]["clip_i_views"]
    alone = run_study(replace(study, seeds=(1,)), bench, tmp_path / "alone").records
    assert without_timing(alone) == without_timing(records[1::2])


def test_what_was_learned_is_measured_later_without_training_again(bench, tmp_path, monkeypatch):
    study = replace(STUDY, starts=("vanilla@5", "caption"), concepts=("mug",), seeds=(0,))
    whole = run_study(study, bench, tmp_path / "whole").records
    bench.measuring, measuring = None, bench.measuring
    losses = run_study(study, bench, tmp_path / "later").records
    assert [record["result"]["scores"] for record in losses] == [[], []]
    bench.measuring = measuring

    def trains(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr("sentinv.bench.workbench.train_curve", trains)
    later = run_study(study, bench, tmp_path / "later").records
    assert without_timing(later) == without_timing(whole)
    assert [record["timing"]["training"] for record in later] == [record["timing"]["training"] for record in losses]
    assert len(list((tmp_path / "later/learned").iterdir())) == 2

    (tmp_path / "later/records.jsonl").unlink()
    for path in (tmp_path / "later/learned").iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    monkeypatch.undo()
    assert without_timing(run_study(study, bench, tmp_path / "later").records) == without_timing(whole)


def test_a_killed_study_goes_on_and_equals_an_uninterrupted_one(bench, tmp_path, monkeypatch):
    """Killed in the middle of writing its fourth record: that line is torn."""
    whole = run_study(STUDY, bench, tmp_path / "whole")
    honest, written = JsonLines.write, []

    def dies(self, record):
        if len(written) == 3:
            with self.path.open("a") as file:
                file.write('{"key": "half a rec')
            raise KeyboardInterrupt
        written.append(record["key"])
        honest(self, record)

    monkeypatch.setattr(JsonLines, "write", dies)
    with pytest.raises(Interrupted, match="the same command goes on"):
        run_study(STUDY, bench, tmp_path / "killed")
    monkeypatch.setattr(JsonLines, "write", honest)
    assert len(read_records(tmp_path / "killed")) == 3
    told = []
    resumed = run_study(STUDY, bench, tmp_path / "killed", tell=told.append)
    assert len(told) == len(whole.records) - 3
    assert without_timing(resumed.records) == without_timing(whole.records)
    lines = (tmp_path / "killed/records.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == [record["key"] for record in whole.records]


def test_the_first_image_of_each_prompt_can_be_looked_at(bench, tmp_path, sd1_backbone, measuring):
    study = replace(TUNED, starts=(), images_at=(4,))
    (record,) = run_study(study, bench, tmp_path).records
    strips = {path.stem: read_image(path).image for path in (tmp_path / "images").iterdir()}
    assert set(strips) == {f"{record['key']}-{step}" for step in (4, 6)}
    (path,) = (path for path in (tmp_path / "learned").iterdir() if "tune" not in read_checkpoint(path).settings)
    word = Concept(token=TOKEN, rows=TrainingCurve.read(path).rows[4])
    texts = [
        f"{text} {TOKEN}{rest}"
        for text, rest in (("a photo of", ""), ("a photo of", " on the moon"), ("a painting of", ""))
    ]
    drawn = [generate(sd1_backbone, text, [word], count=2, seed=0, config=measuring.sampling)[0] for text in texts]
    strip = strips[f"{record['key']}-4"]
    assert strip.size == (3 * 16, 16)
    assert all(strip.crop((16 * n, 0, 16 * n + 16, 16)).tobytes() == one.tobytes() for n, one in enumerate(drawn))


def test_a_report_of_the_records_there_are_runs_nothing(bench, tmp_path, monkeypatch):
    study = replace(STUDY, concepts=("mug",), starts=("caption", "class"), seeds=(0,), grid={})
    run_study(replace(study, starts=("class",)), bench, tmp_path)
    monkeypatch.setattr("sentinv.bench.workbench.train_curve", lambda *_, **__: pytest.fail("trained"))
    outcome = run_study(study, bench, tmp_path, records_only=True)
    assert [record["settings"]["start"] for record in outcome.records] == ["class"]
    assert (outcome.missing, outcome.failures) == (1, [])


def test_parts_share_a_study(bench, tmp_path):
    study = replace(STUDY, starts=("caption",), images_at=())
    first = run_study(study, bench, tmp_path, part=(1, 2))
    assert (len(first.records), first.missing) == (2, 2)
    second = run_study(study, bench, tmp_path, part=(2, 2))
    assert (len(second.records), second.missing) == (4, 0)
    whole = run_study(study, bench, tmp_path / "whole")
    assert without_timing(second.records) == without_timing(whole.records)


def test_shares_cost_about_the_same():
    """Alternating dear and cheap ones, of which every second would give one process all the dear ones."""
    costs = [500, 10] * 6
    mine = shares(costs, 2)
    assert [sum(c for c, share in zip(costs, mine, strict=True) if share == k) for k in (0, 1)] == [1530, 1530]
    assert shares([7, 5], 1) == [0, 0]


def test_cost_counts_training_and_looks(concepts):
    """Two looks of 3 prompts, 2 images, 1 step and 2 evaluations each; a step of 4 items counts three times."""
    costs = {trial.spec.name: cost(trial, STUDY) for trial in trials(STUDY, concepts[:1])}
    assert costs["vanilla"] == 3 * 4 * 5 + 2 * 2 * 3 * 2
    assert costs["caption"] == 3 * 4 * 4 + 2 * 2 * 3 * 2
    assert costs["prompt-only"] == 2 * 3 * 2
    tuned, _ = trials(TUNED, concepts)  # three items a step, and one more look
    assert cost(tuned, TUNED) == costs["caption"] + 3 * 3 * 2 + 2 * 3 * 2


def test_the_small_convergence_study_is_small(request, monkeypatch):
    """Of two concepts; the evaluations of the UNet are what it costs."""
    asked = []
    monkeypatch.setattr("sentinv.cli.bench_convergence.conduct", lambda studies, *_, **__: asked.extend(studies))
    monkeypatch.chdir(request.config.rootpath)
    result = CliRunner().invoke(cli, ["bench", "convergence", "--small"])
    assert result.exit_code == 0, result.output
    ((small, folder),) = asked
    todo = list(trials(small, read_concepts("benchmarks/concepts/concepts.json")))
    assert folder.name == "convergence-small" and len(todo) == 2 * 4
    assert {trial.config.steps for trial in todo if trial.spec.name == "vanilla"} == {500}
    assert sum(cost(trial, small) for trial in todo) < 30_000


def test_a_picture_that_cannot_be_read_fails_alone(bench, concepts, tmp_path):
    concepts[0].image.write_bytes(b"no picture")
    study = replace(STUDY, starts=("caption",), seeds=(0,))
    outcome = run_study(study, bench, tmp_path / "out")
    assert [record["settings"]["concept"] for record in outcome.records] == ["cat"]
    assert [name.split(",")[0] for name, _ in outcome.failures] == ["mug"]
    random_picture(0).save(concepts[0].image)
    assert len(run_study(study, bench, tmp_path / "out").records) == 2


def test_damaged_records_are_refused(tmp_path):
    (tmp_path / "records.jsonl").write_text('{"key": "a"}\nnonsense\n{"key": "b"}\n')
    with pytest.raises(SentinvError, match="line 2"):
        read_records(tmp_path)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("titel = 'x'", "there is no key 'titel'"),
        ("[train]\nstep = 5", "there is no hyper-parameter 'step'"),
        ("[grid]\nlearning_rates = [1.0]", "there is no hyper-parameter 'learning_rates'"),
        ("[grid]\nlearning_rate = 1.0", "must be a list"),
        ("[grid]\nlearning_rate = []", "no values"),
        ("[grid]\nlearning_rate = [-1.0]", "learning_rate must be"),
        ("[grid]\nimages = [0]", "images must be"),
        ("[grid]\nmask = [1]", "mask must be true or false"),
        ("[train]\nschedule = 'linear'", "schedule must be"),
        ("starts = ['captoin']", "captoin"),
        ("starts = 'caption'", "must be a list"),
        ("seeds = ['a']", "seed"),
        ("count = 0", "at least one"),
        ("title = ", "not valid TOML"),
        ("arms = 3", "arms must be a table"),
        ("[arms]\na = 3", "must have a start"),
        ("[arms.a.train]\nsteps = 5", "must have a start"),
        ("[arms.a]\nstart = 'caption'\nwords = 'x'", "may have tables train and tune"),
        ("[arms.a]\nstart = 'caption'\ntune = true", "may have tables train and tune"),
        ("[arms.a]\nstart = 'captoin'", "captoin"),
        ("[arms.a]\nstart = 'caption'\nseeds = 0", "a list of seeds"),
        ("[arms.a]\nstart = 'caption'\nseeds = []", "seeds must be whole numbers"),
        ("[arms.a]\nstart = 'caption'\nseeds = [true]", "seeds must be whole numbers"),
        ("[arms.a]\nstart = 'image-only'", "list them in starts"),
        ("[arms.prompt-only]\nstart = 'caption'", "list them in starts"),
        ("[arms.a]\nstart = 'vanilla'\ntune = {}", "a LoRA needs words"),
        ("[arms.a]\nstart = 'caption'\ntrain = { rank = 4 }", "there is no hyper-parameter 'rank'"),
        ("[arms.a]\nstart = 'caption'\ntrain = { steps = -1 }", "steps must be"),
        ("[arms.a]\nstart = 'caption'\ntune = { seed = 4 }", "there is no hyper-parameter 'seed'"),
        ("[arms.a]\nstart = 'caption'\ntune = { rank = 0 }", "rank must be"),
        ("[grid]\nsteps = [1]\n[arms.a]\nstart = 'caption'\ntrain = { steps = 2 }", "the grid both say steps"),
        ("starts = ['caption']\n[arms.caption]\nstart = 'word'", "an arm and a start caption"),
        ("convergence = 'yes'", "convergence must be true or false"),
    ],
)
def test_a_wrong_study_file_is_one_line(text, complaint, tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(text)
    with pytest.raises(SentinvError, match=complaint) as error:
        read_study(path)
    assert "\n" not in str(error.value)


def test_the_study_files_of_the_repository_can_be_read(request):
    folder = request.config.rootpath / "benchmarks"
    files = [
        *folder.glob("ablations/*.toml"),
        *(folder / f"{name}.toml" for name in ("sweep", "weighting", "evidence", "guidance")),
    ]
    assert len(files) >= 11
    concepts = read_concepts(folder / "concepts" / "concepts.json")
    for path in files:
        assert list(trials(read_study(path), concepts)), path


@pytest.mark.parametrize(
    "folder",
    sorted(file.parent for file in RESULTS.rglob("records.jsonl") if file.parts[-3] != "tuning"),
    ids=lambda path: path.name,
)
def test_published_tables_are_those_of_the_published_records(folder, tmp_path, monkeypatch):
    """Whoever runs the command beside the records gets the tables, and no record is of other settings than today's."""
    published = (folder / "tables.md").read_text()
    (command,) = re.findall(r"\*\*command\*\*: sentinv (.*)", published)
    words = shlex.split(command)
    output = tmp_path / folder.relative_to(ROOT / words[words.index("-o") + 1])
    output.mkdir(exist_ok=True)
    shutil.copy(folder / "records.jsonl", output)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(Workbench, "run", lambda *_: pytest.fail("a run has no record"))
    result = CliRunner().invoke(cli, [*words, "--device", "cpu", "-o", str(tmp_path)])
    assert result.exit_code == 0, result.output
    said = [
        [line for line in text.splitlines() if not line.startswith(("- **command", "- **sentinv"))]
        for text in (published, (output / "tables.md").read_text())
    ]
    assert said[0] == said[1]


@pytest.mark.parametrize("path", sorted(RESULTS.rglob("rows.safetensors")), ids=lambda path: path.parent.name)
def test_published_words_are_those_of_the_published_records(path):
    """Each under the key that its record has today, with as many vectors as it says; none is missing."""
    records, rows = read_records(path.parent), load_file(path)
    trained = {key for key, one in records.items() if one["result"]["losses"] and "tune" not in one["settings"]}
    assert rows.keys() == trained
    assert all(len(own) == records[key]["result"]["vectors"] for key, own in rows.items())


def test_a_peer_with_open_quotes_is_told_in_one_line():
    with pytest.raises(SentinvError, match="close the quotes"):
        Study(title="tiny", starts=("peer:'a.py",))


def test_a_peer_is_named_without_the_folders_of_its_files(tmp_path):
    command = "/home/a.py --vae /home/kl.pt --config=~/c.toml --data D:\\\\x\\\\y --lr 5e-4 --out {output}/x ../z.json a/b k:v"
    label = "peer:a.py --vae kl.pt --config=c.toml --data y --lr 5e-4 --out {output}/x z.json a/b k:v"
    assert StartSpec.parse(f"peer:{command}@7") == StartSpec(label, "peer", command, 7)
    one, other = tmp_path / "a.py", tmp_path / "b.toml"
    one.write_text("")
    other.write_text("")
    assert peer_files(f"{one} --config={other} --seed 3 --out nowhere") == [one, other]


@pytest.mark.parametrize(
    "folder",
    [ROOT / "benchmarks" / "first-edition" / "rates", *sorted(RESULTS.glob("tuning/*"))],
    ids=lambda path: path.name,
)
def test_tables_of_tuning_are_those_of_their_records(folder):
    """Of records that benchmarks/tuning.py has made."""
    spec = spec_from_file_location("tuning_tables", ROOT / "benchmarks" / "tuning_tables.py")
    made = module_from_spec(spec)
    spec.loader.exec_module(made)
    assert made.tables(folder) == (folder / "tables.md").read_text()


def test_records_with_hyper_parameters_that_are_gone_are_read_if_those_had_no_effect(tmp_path):
    now = {"start": "caption", "train": {"steps": 100, **ADDED}}
    then = [{**now, "train": {"steps": 100, "pull": pull, "max_norm": None}} for pull in (0.0, 0.5)]
    lines = [json.dumps({"key": key_of(settings), "settings": settings}) + "\n" for settings in then]
    (tmp_path / "records.jsonl").write_text("".join(lines))
    assert list(read_records(tmp_path)) == [key_of(now), key_of(then[1])]
    old = {"study": 1, "train": {"steps": 100, "pull": 0.0}}
    assert same_settings(old, {"study": 1, "train": {"steps": 100}})
    assert not same_settings(old | {"train": {"steps": 100, "pull": 0.1}}, {"study": 1, "train": {"steps": 100}})
    assert not same_settings(old, {"study": 1, "train": {"steps": 100, "seed": 0}})
    assert same_settings(old, {"study": 1, "train": {"steps": 100, **ADDED}})
    assert not same_settings(old, {"study": 1, "train": {"steps": 100, **ADDED, "blended": 4}})


# Other trainers' scripts

PEER = """
import sys
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

model, folder, steps, seed, output, batch_size = sys.argv[1:7]
assert batch_size == "4"  # as many as ours has in all, blended ones among them
assert (Path(model) / "model_index.json").is_file() and seed == "0"
assert [Image.open(path).size for path in Path(folder).iterdir()] == [(16, 16)]
Path(output).mkdir()
save_file({"<peer>": torch.full((1, 16), float(steps))}, Path(output) / "learned_embeds.safetensors")
"""


def test_a_bare_script_is_given_what_its_readme_says():
    """Without --scale_lr diffusers' script would learn at a quarter of the rate that its README asks for."""
    told = dict(re.findall(r"--(\w+) ([^-]\S*)", PEER_OPTIONS))
    assert "--scale_lr " in PEER_OPTIONS and (told["learning_rate"], told["lr_scheduler"]) == ("5e-4", "constant")
    assert (told["train_batch_size"], told["lr_warmup_steps"], told["initializer_token"]) == ("{batch_size}", "0", "*")


def test_the_word_of_a_peer_s_script_is_measured_as_one_of_ours(tmp_path, tokenizer, measuring):
    build_pipeline(tokenizer, 16, "epsilon").save_pretrained(tmp_path / "model")
    measuring.judge.model.save_pretrained(tmp_path / "clip")
    measuring.judge.processor.save_pretrained(tmp_path / "clip")
    concepts = write_concepts(tmp_path / "concepts")
    shared = ["--model", str(tmp_path / "model"), "--clip", str(tmp_path / "clip"), "--concepts", str(concepts)]
    name = read_concepts(concepts)[0].name
    (tmp_path / "peer.py").write_text(PEER)
    (tmp_path / "broken.py").write_text("raise SystemExit('no gas')")
    (tmp_path / "silent.py").write_text("")
    (tmp_path / "own.toml").write_text("")
    told = "{model} {folder} {steps} {seed} {output} {batch_size}"
    good = f"{tmp_path / 'peer.py'} {told} --config={tmp_path / 'own.toml'}"
    scripts = [good, str(tmp_path / "broken.py"), str(tmp_path / "silent.py"), str(tmp_path / "absent.py")]
    command = [
        "bench",
        "peers",
        *scripts,
        *shared,
        "--concept",
        name,
        "--steps",
        "2",
        "--steps",
        "3",
        "--init",
        "human",
    ]
    command += ["--count", "1", "--sampling-steps", "1", "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 1, result.output
    for told in ("no gas", "it left no learned_embeds.safetensors", "cannot read"):
        assert told in result.stderr
    records = [json.loads(line) for line in (tmp_path / "out" / "records.jsonl").read_text().splitlines()]
    theirs = [record for record in records if record["settings"]["start"].startswith("peer:")]
    assert {record["settings"]["train"]["steps"] for record in theirs} == {2, 3} and len(records) == len(theirs) + 2
    assert str(tmp_path) not in json.dumps(theirs)  # where files lie is nobody's business
    assert all(record["settings"]["start"].endswith("{batch_size} --config=own.toml") for record in theirs)
    losses = {record["result"]["losses"][0][0]: record["result"]["losses"][0][1] for record in theirs}
    backbone = load(str(tmp_path / "model"))
    source = read_concepts(concepts)[0]
    for steps, loss in losses.items():
        rows = PlaceholderRows({"<peer>": {"text_encoder": torch.full((1, 16), float(steps))}})
        config = TrainConfig(evaluation_timesteps=16, evaluation_noises=2)
        with rows.installed(backbone):
            grid = TrainingSet(backbone, [replace(read_image(source.image), mask=None)], rows, config)
            objective = DenoisingObjective(backbone, config.min_snr)
            assert objective.evaluate(grid.evaluation_batches())[1] == pytest.approx(loss, rel=1e-5)
    assert all(record["result"]["scores"][0][1]["clip_i"] for record in theirs)


# The command line


def test_commands(tmp_path, tokenizer, measuring):
    build_pipeline(tokenizer, 16, "epsilon").save_pretrained(tmp_path / "model")
    measuring.judge.model.save_pretrained(tmp_path / "clip")
    measuring.judge.processor.save_pretrained(tmp_path / "clip")
    path = write_concepts(tmp_path / "concepts")
    shared = ["--model", str(tmp_path / "model"), "--clip", str(tmp_path / "clip"), "--concepts", str(path)]
    command = ["bench", "convergence", *shared, "-o", str(tmp_path / "out"), "--steps", "3", "--seeds", "1"]
    command += ["--init", "vanilla", "--init", "human", "--init", "image-only", "--count", "1", "--sampling-steps", "1"]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.stderr
    assert "Steps to reach vanilla's loss" in result.stdout
    names = {
        "report.html",
        "tables.md",
        "records.jsonl",
        "loss.png",
        "loss.svg",
        "weighted-loss.png",
        "weighted-loss.svg",
        "plane.png",
        "plane.svg",
    }
    assert names <= {file.name for file in (tmp_path / "out").iterdir()}

    (tmp_path / "concepts/cat/image.png").write_bytes(b"no picture")
    failed = CliRunner().invoke(cli, command)
    assert failed.exit_code == 1 and "cat" in failed.stderr
    assert "Failed" in (tmp_path / "out/report.html").read_text()

    study = tmp_path / "rates.toml"
    study.write_text(
        "starts = ['word']\nseeds = [0]\ncount = 1\nsampling_steps = 1\nimages_at = [0, 2]\n"
        "[train]\nsteps = 2\n[grid]\nlearning_rate = [0.01, 0.1]\n"
    )
    command = ["bench", "ablation", str(study), *shared, "-o", str(tmp_path / "ablation"), "--concept", "mug", "--json"]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["studies"][0]["runs"] == 2
    half = CliRunner().invoke(cli, [*command[:-1], "--part", "1/2", "--no-images"])
    assert half.exit_code == 0 and "1 runs of other parts are missing" in half.stdout
    assert "##" not in half.stdout
    study.write_text(
        "seeds = [0]\ncount = 1\nsampling_steps = 1\nimages_at = [0]\nloss_at = [0, 1]\nconvergence = true\n"
        "[arms.published]\nstart = 'vanilla@3'\ntrain = { min_snr = 0 }\n[arms.short]\nstart = 'word@2'\n"
    )
    result = CliRunner().invoke(cli, command[:-1])
    assert result.exit_code == 0, result.stderr
    assert "Steps to reach published's loss" in result.stdout and "weighted" not in result.stdout.split("### How")[0]
    assert "- **arm published**: vanilla@3; train: min_snr 0" in (tmp_path / "ablation/rates/tables.md").read_text()
    assert (tmp_path / "ablation/rates/loss.png").is_file()
    study.write_text("unknown = 1")
    wrong = CliRunner().invoke(cli, command)
    assert wrong.exit_code == 1 and wrong.stderr.count("\n") == 1 and "unknown" in wrong.stderr


def test_convergence_leaves_out_starts_that_cannot_be_had(monkeypatch):
    asked = []
    monkeypatch.setattr("sentinv.cli.bench_convergence.conduct", lambda studies, *_, **__: asked.append(studies[0][0]))
    every = {"word", "human", "other-caption", "targets-only", "image-only", "caption"}
    for options, lacking in (
        ([], set()),
        (["--no-images"], {"targets-only", "image-only"}),
        (["--image", "a.png"], {"word", "human", "other-caption", "targets-only"}),
        (["--image", "a.png", "--image", "b.png"], {"word", "human", "targets-only"}),
    ):
        assert CliRunner().invoke(cli, ["bench", "convergence", *options]).exit_code == 0
        assert every & set(asked[-1].starts) == every - lacking
    wrong = CliRunner().invoke(cli, ["bench", "convergence", "--lr", "0"])
    assert wrong.exit_code == 1 and "learning_rate" in wrong.stderr


def test_convergence_takes_so_many_seeds_or_those_that_are_named(monkeypatch):
    asked = []
    monkeypatch.setattr("sentinv.cli.bench_convergence.conduct", lambda studies, *_, **__: asked.append(studies[0][0]))
    for options, seeds in (
        ([], (0, 1, 2)),
        (["--small"], (0,)),
        (["--seeds", "2"], (0, 1)),
        (["--seed", "2", "--seed", "7", "--seed", "2"], (2, 7)),
    ):
        assert CliRunner().invoke(cli, ["bench", "convergence", *options]).exit_code == 0
        assert asked[-1].seeds == seeds
    both = CliRunner().invoke(cli, ["bench", "convergence", "--seeds", "2", "--seed", "0"])
    assert both.exit_code == 1 and "give one of them" in both.stderr and len(asked) == 4


def test_studies_leave_the_model_as_it_was(_pipelines, concepts, measuring, tmp_path):
    from conftest import same, snapshot

    backbone = Backbone.from_pipeline(copied(_pipelines["sd1"]), "tiny")
    before = snapshot(backbone)
    study = replace(STUDY, seeds=(0,), arms=TUNED.arms)
    run_study(study, Workbench(backbone, concepts, DESCRIBERS, measuring), tmp_path / "out")
    assert same(before, snapshot(backbone))


def test_a_signal_ends_a_study_and_is_no_failed_run(bench, tmp_path, monkeypatch):
    def stopped(self, *_):
        raise Interrupted("stopped", 15)

    monkeypatch.setattr(Workbench, "run", stopped)
    with pytest.raises(Interrupted, match="stopped at 1 of") as told:
        run_study(STUDY, bench, tmp_path / "stopped")
    assert told.value.signal_number == 15


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("title = 2026", "title must be text, got 2026"),
        ("count = 2.5", "count must be a whole number, got 2.5"),
        ("sampling_steps = 2.5", "sampling_steps must be a whole number"),
        ("starts = [1]", "starts must be texts"),
        ('guidance_scale = "7"', "guidance_scale must be a number"),
        ("guidance_scale = -1", "guidance_scale must be a number of at least 0"),
        ('[train]\nflip = "false"', "flip must be True or False, got 'false'"),
        ("[train]\nbatch_size = 2.5", "batch_size must be a whole number"),
    ],
)
def test_values_of_another_type_are_refused(tmp_path, line, text):
    (tmp_path / "study.toml").write_text(line)
    with pytest.raises(SentinvError, match=text):
        read_study(tmp_path / "study.toml")


def test_runs_that_went_wrong_are_told_and_not_averaged_away(bench, tmp_path, monkeypatch):
    """Of the mug, vanilla has no finite loss, and the caption's run ends after two steps; a second reading says the same."""
    study = replace(STUDY, starts=("vanilla", "caption"), seeds=(0,), images_at=(0, 2, 4))
    calls = []

    def train(*args, **options):
        curve = train_curve(*args, **options)
        calls.append(curve)
        if len(calls) == 1:
            curve.losses = [(step, math.nan) for step, _ in curve.losses]
        if len(calls) == 2:
            curve.stop = "runaway"
            curve.losses, curve.objectives = (
                [point for point in own if point[0] <= 2] for own in (curve.losses, curve.objectives)
            )
            del curve.rows[4]
        return curve

    monkeypatch.setattr("sentinv.bench.workbench.train_curve", train)
    reports = []
    for _ in range(2):
        outcome = run_study(study, bench, tmp_path / "records")
        write_report(replace(study, convergence=True), outcome, tmp_path / "report", notes={})
        reports.append((tmp_path / "report" / "tables.md").read_text())
    assert len(calls) == 4 and reports[0] == reports[1]
    assert "1 ended early: runaway" in reports[0] and "nan" not in reports[0]
    found = {arm.label: arm for arm in arms(outcome.records)}
    assert list(found["vanilla"].curves()) == ["cat"]
    (table,) = (
        table
        for table in score_tables(list(found.values()), outcome.records)
        if "CLIP-I to the training" in table.title
    )
    assert table.rows[1][0] == "caption" and table.rows[1][-1] == "-" != table.rows[1][1]
    assert "Measured in" not in table.note
    outcome.records[1]["result"]["scores"] = []
    less = score_tables(list(found.values()), outcome.records)
    assert all(one.note.endswith("Measured in 3 of 4 runs.") for one in less)
    below = {row[0]: row[-1] for row in crossing_table(list(found.values()), "losses").rows}
    assert below["caption"].endswith("of 1")


def test_what_cannot_be_sampled_is_told_before_it_is_trained(model_folder, tmp_path):
    random_picture(0).save(tmp_path / "mug.png")
    command = ["bench", "convergence", "--model", str(model_folder), "--image", str(tmp_path / "mug.png")]
    command += ["--clip", "nowhere", "-o", str(tmp_path / "out"), "--sampling-steps", "2000"]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 1 and "steps must be in [1, 1000], got 2000" in result.stderr.splitlines()[-1]
    (tmp_path / "other").mkdir()
    random_picture(1).save(tmp_path / "other/mug.png")
    result = CliRunner().invoke(cli, [*command, "--image", str(tmp_path / "other/mug.png")])
    assert result.exit_code == 1 and "different names, got mug, mug" in result.stderr
