import math
import re
from dataclasses import replace

import pytest
from PIL import Image

from sentinv.bench import plots
from sentinv.bench.arms import arms, measures, of_all_concepts, references
from sentinv.bench.beside import ends_table, less_tables
from sentinv.bench.runner import StudyOutcome
from sentinv.bench.study import Study
from sentinv.bench.study_report import write_report
from sentinv.bench.study_tables import (
    crossing_table,
    gain_table,
    loss_table,
    recognised_table,
    score_tables,
    spread_table,
    trade_table,
)
from sentinv.report.tables import Table

STEPS = (0, 1, 2, 5, 10, 25, 50, 100, 250, 500, 1000)
CONCEPTS = ("cat", "mug", "owl")


def record(concept, start, seed, *, steps=1000, speed=1.0, point=None):
    """Loss halves from 0.4 + offset towards 0.2 at the given speed; offset differs between concepts."""
    offset = 0.01 * CONCEPTS.index(concept) + 0.001 * seed
    at = [step for step in STEPS if step <= steps]
    losses = [[step, 0.2 + offset + 0.2 * math.exp(-speed * step / 300)] for step in at]
    scores = [
        [step, {"clip_i": 0.9 - loss, "clip_t": 0.2 + loss / 4}] for step, loss in losses if step in (0, 50, steps)
    ]
    if start.endswith("-only"):
        losses, scores = [], [[0, {"clip_i": 1.0 if start == "image-only" else 0.4, "clip_t": 0.1}]]
    train = {"steps": steps, "learning_rate": 0.01, "evaluation_timesteps": 16, "evaluation_noises": 2}
    train |= {
        "schedule": "cosine",
        "betas": [0.8, 0.9],
        "batch_size": 4,
        "min_snr": 0.05,
        "pull": 0.0,
        "flip": True,
        "kind": "object",
    }
    settings = {"concept": concept, "start": start, "seed": seed, "point": point or {}, "train": train}
    timing = {"training": [[step, 0.1 * step] for step in at]} if losses else {}
    weighted = [[step, loss / 5] for step, loss in losses]
    result = {"vectors": 3, "losses": losses, "objectives": weighted, "scores": scores}
    return {"key": f"{concept}{start}{seed}{steps}{point}", "settings": settings, "result": result, "timing": timing}


@pytest.fixture
def records():
    starts = {"vanilla": 1.0, "caption": 10.0}
    made = [record(c, s, seed, speed=v) for c in CONCEPTS for s, v in starts.items() for seed in (0, 1)]
    return made + [record(c, s, 0) for c in CONCEPTS for s in ("image-only", "prompt-only")]


def test_arms_hold_what_differs_only_in_concept_and_seed(records):
    found = arms(records)
    assert [(arm.label, len(arm.records)) for arm in found] == [("vanilla", 6), ("caption", 6)]
    budgets = arms([*records, record("cat", "caption", 0, steps=100)])
    assert [arm.label for arm in budgets] == ["vanilla", "caption, 1000 steps", "caption, 100 steps"]
    varied = arms([record("cat", "caption", 0, point={"min_snr": gamma}) for gamma in (0.0, 0.5)])
    assert [arm.label for arm in varied] == ["min snr 0", "min snr 0.5"]
    assert found[0].curves()["mug"][0] == (0, pytest.approx(0.4 + 0.01 + 0.0005))
    assert found[0].seconds_per_step() == pytest.approx(0.1)


def test_crossing_table_is_the_closed_form(records):
    """exp(-10 s / 300) ≤ exp(-500 / 300) from s = 50 on, ≤ exp(-1000 / 300) from 100 on."""
    table = crossing_table(arms(records), "losses")
    assert list(table.header) == [
        "start",
        "vanilla's at 500",
        "vanilla's at 1000",
        "concepts that end below vanilla at 1000",
    ]
    assert list(table.rows[1]) == ["caption", "50 [50, 50], 5.0 s", "100 [100, 100], 10.0 s", "3 of 3"]
    assert table.rows[0][1].startswith("500 [500, 500]")
    assert crossing_table([arm for arm in arms(records) if arm.start != "vanilla"], "losses") is None
    slow = arms([*records, *(record(c, "slow", 0, speed=0.1) for c in CONCEPTS)])
    assert list(crossing_table(slow, "losses").rows[2][1:]) == ["never (1000)", "never (1000)", "0 of 3"]


def test_recognised_is_reached_where_the_best_single_word_is_at_its_best(records):
    """Vanilla is best at 50 of its 1000 steps; the caption is as good at its first 50, and better at the end."""
    assert recognised_table(arms(records)) is None  # nothing recognised anything
    shares = {"vanilla": {0: 0.0, 50: 0.5, 1000: 0.25}, "caption": {0: 0.25, 50: 0.5, 1000: 0.75}}
    for one in records:
        for step, scores in one["result"]["scores"]:
            if one["settings"]["start"] in shares:
                scores["recognised"] = shares[one["settings"]["start"]][step]
    table = recognised_table(arms(records))
    assert list(table.header) == ["start", "vanilla's at 50", "its own best", "at step"]
    rows = {row[0]: list(row[1:]) for row in table.rows}
    assert rows["vanilla"] == ["50 [50, 50], 5.0 s", "0.500 [0.500, 0.500]", "50"]
    assert rows["caption"] == ["50 [50, 50], 5.0 s", "0.750 [0.750, 0.750]", "1000"]
    assert recognised_table([arm for arm in arms(records) if arm.start != "vanilla"]) is None


def test_last_scores_stand_beside_each_other_and_are_paired(records):
    """The caption's last CLIP-I is .1 above vanilla's, by more for each concept; seeds are averaged first."""
    for one in records:
        name = one["settings"]["start"]
        more = 0.1 * (1 + CONCEPTS.index(one["settings"]["concept"])) + 0.01 * one["settings"]["seed"]
        one["result"]["scores"][-1][1]["clip_i"] = 0.3 + (more if name == "caption" else 0.0)
    found = arms(records)
    seeds = sorted({one["settings"]["seed"] for one in records})
    middle = 0.01 * sum(seeds) / len(seeds)
    table = ends_table(found)
    row = next(dict(zip(table.header, row, strict=True)) for row in table.rows if row[0] == "caption")
    assert row["CLIP-I, picture"].startswith(f"{0.3 + 0.2 + middle:.3f} [")
    assert row["recognised"] == "-" and row["runs of concepts"] == f"{3 * len(seeds)} of 3"
    of_vanilla, of_ours = less_tables(found)
    assert "less vanilla" in of_vanilla.title and "less caption" in of_ours.title
    for table, sign in ((of_vanilla, 1), (of_ours, -1)):
        name = "caption" if sign > 0 else "vanilla"
        row = next(dict(zip(table.header, row, strict=True)) for row in table.rows if row[0] == name)
        least = min(sign * 0.1, sign * 0.3) + sign * middle
        assert row["concepts"] == "3" and row["recognised"] == "-"
        assert row["CLIP-I, picture"].startswith(f"{sign * (0.2 + middle):+.3f} [")
        assert row["CLIP-I, picture"].endswith(f"]; {least:+.3f}")
    assert ends_table([]) is None and less_tables([]) == []


def test_a_lora_has_steps_and_seconds_of_its_own(records):
    """A word of 100 steps at .1 s, then 50 of a LoRA at .3 s, which end below all that vanilla reaches."""
    for concept in CONCEPTS:
        tuned = record(concept, "caption", 0, steps=100, speed=10.0)
        tuned["settings"] |= {"start": "tuned", "initialization": "caption", "tune": {"steps": 50}}
        tuned["result"]["losses"].append([150, 0.1])
        tuned["timing"]["training"].append([150, 25.0])
        records.append(tuned)
    found = arms(records)
    arm = found[2]
    assert (arm.label, arm.steps, arm.tuned, arm.initialization) == ("tuned", 150, True, "caption")
    assert arm.seconds_at(50) == pytest.approx(5.0) and arm.seconds_at(150) == pytest.approx(25.0)
    rows = crossing_table(found, "losses").rows
    assert rows[2][1].startswith("50 ") and rows[2][1].endswith(", 5.0 s") and rows[2][3] == "3 of 3"
    table = loss_table(found, "losses")
    assert dict(zip(table.header, table.rows[2], strict=True))["step 150"].startswith("0.1000")
    assert table.rows[2][-1] == f"{25 / 150:.3f}"


def test_arms_are_compared_with_the_first_of_the_longest_that_start_from_vanilla(records):
    for record_ in records:
        own = record_["settings"]
        if own["start"] == "vanilla":
            own |= {"start": "published", "initialization": "vanilla"}
    table = crossing_table(arms(records), "losses")
    assert table.title == "Steps to reach published's loss"
    assert list(table.header)[1:] == [
        "published's at 500",
        "published's at 1000",
        "concepts that end below published at 1000",
    ]
    assert "published's" in table.note and "vanilla" not in table.note
    assert "that of published at step 1000" in trade_table(arms(records)).title


def test_the_weighted_loss_is_compared_only_where_all_weigh_alike(records):
    assert measures(arms(records)) == ["losses", "objectives"]
    for other in (None, 5.0):
        odd = record("cat", "caption", 3)
        odd["settings"]["train"]["min_snr"] = other
        assert measures(arms([*records, odd])) == ["losses"]


def test_loss_and_score_tables(records):
    table = loss_table(arms(records), "losses")
    assert table.rows[0][2] == "0.4105 [0.4005, 0.4205]"
    assert table.rows[0][-1] == "0.100"
    weighted = loss_table(arms(records), "objectives")
    assert weighted.title == "Weighted loss on the fixed grid" and weighted.rows[0][2] == "0.0821 [0.0801, 0.0841]"
    titles = [table.title.split(":")[0] for table in score_tables(arms(records), records)]
    assert titles == ["reconstruction", "editability"]
    alone = [record for record in records if record["settings"]["start"].endswith("-only")]
    (reconstruction, _) = score_tables(arms(alone), alone)
    assert [row[0] for row in reconstruction.rows] == ["image only", "prompt only"]
    points = references(records, "clip_t", "clip_i")
    assert points == {"image only": pytest.approx((0.1, 1.0)), "prompt only": pytest.approx((0.1, 0.4))}


def test_gain_and_trade_by_hand(records):
    """CLIP-I is 0.9 - loss and CLIP-T 0.2 + loss / 4, so gains are falls of the loss, and the trade a quarter of them."""
    found = arms(records)
    fall = 0.2 * (1 - math.exp(-10 * 50 / 300))
    gain = gain_table(found)
    assert list(gain.header) == ["start", "step 0", "step 50", "step 1000"]
    assert gain.rows[1][1] == "0.000 [0.000, 0.000]" and gain.rows[1][2].startswith(f"{fall:.3f} [")
    trade = trade_table(found)
    assert "at step 1000, where" in trade.title
    expected = 0.2 * (math.exp(-10 * 50 / 300) - math.exp(-1000 / 300)) / 4
    assert trade.rows[1][2].startswith(f"{expected:.3f} [") and trade.rows[0][3].startswith("0.000 [")
    assert trade_table([found[1]]) is None


def test_spread_over_seeds_by_hand(records):
    """Seeds differ by .001, concepts by .01: deviations .001 / √2 and .01, a fifth of that in the weighted loss."""
    rows = spread_table(arms(records)).rows
    assert [row[1:3] for row in rows] == [["0.0007 / 0.0100", "0.0001 / 0.0020"]] * 2
    assert rows[0][3] == "0.001 / 0.010"
    assert spread_table(arms([record(c, "caption", 0) for c in CONCEPTS])) is None


def test_report_is_whole_and_repeatable(records, tmp_path):
    study = Study(title="A <b>study</b>", question="Which?", convergence=True)
    outcome = StudyOutcome(records, [("owl, caption", "no picture & no file")])
    tables = write_report(study, outcome, tmp_path, notes={"model": "tiny"})
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {
        "loss.png",
        "weighted-loss.svg",
        "clip-i.png",
        "clip-t.svg",
        "plane.png",
        "summary.png",
        "report.html",
        "tables.md",
    } <= set(first)
    page = first["report.html"].decode()
    assert "A &lt;b&gt;study" in page and "no picture &amp; no file" in page and "http" not in page
    assert len(re.findall("data:image/png", page)) == 5
    assert all(table.title in first["tables.md"].decode() for table in tables)
    write_report(study, outcome, tmp_path, notes={"model": "tiny"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first


def test_a_curve_is_drawn_of_arms_that_have_every_concept(records, tmp_path):
    """A mean over other concepts is of other things: such an arm is in the tables, with their number."""
    some = [
        one for one in records if one["settings"]["start"] != "caption" or one["settings"]["concept"] == CONCEPTS[0]
    ]
    assert [arm.label for arm in of_all_concepts(arms(some))] == [
        arm.label for arm in arms(records) if arm.start != "caption"
    ]
    assert of_all_concepts(arms(records)) == arms(records)
    write_report(Study(title="some", convergence=True), StudyOutcome(some, []), tmp_path, notes={})
    assert "Arms that lack a concept are in the tables alone." in (tmp_path / "report.html").read_text()


def test_a_variant_has_the_colour_of_its_arm_and_is_hollow():
    points = [(0.1, 0.2), (0.3, 0.5)]
    paths = {"a": points, "a-half": points}
    figure = plots.plane({"a": points, "a-half": points, "b": points}, paths=paths, variants={"a-half": "a"})
    axes = figure.axes[0]
    (first, *_), (half, *_), (other, *_) = axes.containers
    assert first.get_color() == half.get_color() != other.get_color()
    assert first.get_marker() == half.get_marker() != other.get_marker()
    assert (first.get_markerfacecolor(), half.get_markerfacecolor()) == (first.get_color(), "white")
    assert {line.get_linestyle() for line in axes.lines} >= {"-", "--"}


def test_report_names_every_value_of_a_hyper_parameter_that_varies(tmp_path):
    runs = [record("cat", "caption", 0, steps=steps, point={"steps": steps}) for steps in (100, 500)]
    outcome = StudyOutcome(records=[record("cat", "prompt-only", 0), *runs])
    write_report(Study(title="x"), outcome, tmp_path, notes={})
    assert (
        "steps 100 or 500, learning_rate 0.01, schedule cosine, betas [0.8, 0.9]"
        in (tmp_path / "tables.md").read_text()
    )


def test_report_says_where_and_when_runs_were_made_as_far_as_they_tell(tmp_path):
    told, silent = record("cat", "caption", 0), record("mug", "caption", 0)
    told["timing"] |= {"machine": "here", "date": "2020-01-01"}
    for runs, date in (([told], "2020-01-01\n"), ([told, silent], "2020-01-01 (of 1 of 2 runs"), ([silent], "today")):
        write_report(Study(title="x"), StudyOutcome(records=runs), tmp_path, notes={"date": "today"})
        assert f"- **date**: {date}" in (tmp_path / "tables.md").read_text()


def test_report_of_nothing_but_failures(tmp_path):
    outcome = StudyOutcome([], [("cat", "not there")])
    assert write_report(Study(title="x", convergence=True), outcome, tmp_path, notes={}) == []
    assert "not there" in (tmp_path / "report.html").read_text()


def test_curves_draw_the_means(records):
    curves = {arm.label: list(arm.curves().values()) for arm in arms(records)}
    figure = plots.curves(plots.Panel(arms=curves, ylabel="loss", level=("vanilla at 500", 0.25)))
    axes = figure.axes[0]
    drawn = {line.get_label(): line for line in axes.lines}
    expected = [sum(dict(curve)[step] for curve in curves["caption"]) / 3 for step in STEPS]
    assert list(drawn["caption"].get_ydata()) == pytest.approx(expected)
    assert list(drawn["caption"].get_xdata()) == list(STEPS)
    assert len(axes.collections) == 2 and axes.get_xlim() == (0, 1000)


def test_panels_share_colours_and_a_legend(records):
    """An arm whose losses were not finite is in the second panel alone."""
    own = {arm.label: list(arm.curves().values()) for arm in arms(records)}
    figure = plots.curves(
        plots.Panel(arms=own, ylabel="loss"),
        plots.Panel(arms={"diverged": own["caption"], "caption": own["caption"]}, ylabel="again"),
    )
    first, second = figure.axes
    colours = {line.get_label(): line.get_color() for line in first.lines}
    again = {line.get_label(): line.get_color() for line in second.lines}
    assert again["caption"] == colours["caption"] and len({*colours.values(), again["diverged"]}) == 3
    assert [text.get_text() for text in second.get_legend().get_texts()] == ["vanilla", "caption", "diverged"]
    assert first.get_legend() is None


def test_figures_are_the_same_bytes_and_sharp(records, tmp_path):
    curves = {arm.label: list(arm.curves().values()) for arm in arms(records)}
    panel = plots.Panel(arms=curves, ylabel="loss")
    png, svg = plots.save_figure(plots.curves(panel), tmp_path, "a")
    again = plots.save_figure(plots.curves(panel), tmp_path, "b")
    assert (png.read_bytes(), svg.read_bytes()) == (again[0].read_bytes(), again[1].read_bytes())
    assert Image.open(png).width > 1000


def test_table_as_markdown():
    table = Table("Some", ["start", "loss"], [["* | *", "0.5"]], "A note.")
    assert table.markdown() == (
        "### Some\n\n| start    | loss |\n|----------|-----:|\n| \\* \\| \\* |  0.5 |\n\nA note.\n"
    )
    assert "<td>* | *</td>" in table.html() and "&lt;" in replace(table, title="<").html()
