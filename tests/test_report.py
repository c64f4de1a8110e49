import re
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from sentinv.concepts.concept import Concept
from sentinv.concepts.initialization import Initialization, Start
from sentinv.files.decoding import Picture
from sentinv.report.chart import loss_chart, running_mean, ticks
from sentinv.report.run_page import Report, render
from sentinv.training.config import TrainConfig
from sentinv.training.history import History, StepRecord
from sentinv.training.invert import Learned
from sentinv.training.samples import Samples

EVIL = "<script>alert(1)</script>\"'&"


class Tags(HTMLParser):
    """Every element must be closed in order; what refers to anything is collected."""

    VOID = ("meta", "img", "circle", "line", "polyline")

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.links = [], set(), []

    def handle_starttag(self, tag, attributes):
        self.seen.add(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "action", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def build_report(count=2, text="red cat", samples=3, evaluations=((0, 1.2), (2, 1.0)), **options):
    rows = torch.arange(1.0, count * 16 + 1).reshape(count, 16)
    start = Start(Initialization(text, "phrase"), (text,) * count, {"text_encoder": rows.flip(1)})
    history = History([StepRecord(1, 1.3, 0.1), StepRecord(2, 1.1, 0.1, 1.0)], list(evaluations), 2, "steps", 3.0)
    pictures = [Image.new("RGB", (16, 16), "teal")] * samples
    learned = {
        "concept": Concept(token="<c>", rows={"text_encoder": rows}, base_model=text),
        "history": history,
        "start": start,
        "config": TrainConfig(steps=2, seed=5),
        "pictures": (Picture(image=Image.new("RGB", (1200, 900), "red")),),
        "device": "cpu",
        "dtype": "float32",
    }
    shown = {"prompt": "a photo of <c>", "before": pictures, "after": pictures}
    return Report(
        learned=Learned(**{**learned, **{name: value for name, value in options.items() if name in learned}}),
        samples=Samples(**{**shown, **{name: value for name, value in options.items() if name in shown}}),
        seconds={"training": 3.0},
    )


def parse(html):
    tags = Tags()
    tags.feed(html)
    assert not tags.open
    return tags


def test_the_page_needs_nothing_else():
    html = render(build_report())
    tags = parse(html)
    assert tags.links and all(link.startswith("data:image/") for link in tags.links)
    assert not {"script", "link", "iframe", "object"} & tags.seen
    assert not re.findall(r"https?://|url\(|@import", html)
    assert "default-src 'none'" in html


def test_what_comes_from_the_user_is_escaped():
    config = TrainConfig(templates=(f"{EVIL} {{}}",))
    html = render(build_report(text=EVIL, config=config, prompt=EVIL, device=EVIL))
    assert "script" not in parse(html).seen and "<script" not in html
    assert html.count("&lt;script&gt;alert(1)") >= 5


def test_the_page_tells_what_happened():
    html = render(build_report())
    for text in (
        "&lt;c&gt;_1",
        "2 vectors",
        "\u221216.7 %",
        "1.2000 → 1.0000",
        "seeds 5 to 7",
        "3.0 s",
        "red cat",
        "load_textual_inversion",
    ):
        assert text in html
    assert html.count('alt="start words') == html.count('alt="learned') == 3
    assert len(html) < 60_000


def test_rows_carry_norm_and_cosine():
    rows = torch.tensor([[3.0, 4.0]])
    start = Start(Initialization("x"), ("x",), {"text_encoder": torch.tensor([[0.0, 2.0]])})
    html = render(build_report(concept=Concept(token="<c>", rows={"text_encoder": rows}), start=start))
    assert "2.000 → 5.000" in html and "0.800" in html and "width:80%" in html


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"stop": "auto"}, "the loss no longer fell"),
        ({"stop": "not finite"}, "the loss was not finite"),
        ({"best_step": 0}, "Nothing was learned"),
    ],
)
def test_verdicts(change, text):
    report = build_report()
    for name, value in change.items():
        setattr(report.learned.history, name, value)
    assert text in render(report)


def test_without_samples_there_is_no_strip():
    html = render(build_report(samples=0))
    assert "start words" not in html
    parse(html)


def test_chart_is_bounded_by_its_frame():
    training = [(step, 1 / step) for step in range(1, 500)]
    svg = loss_chart(training, [(0, 1.0), (250, 0.2), (500, 0.1)], 500)
    points = [
        tuple(map(float, pair.split(","))) for line in re.findall(r'points="(.*?)"', svg) for pair in line.split()
    ]
    assert points and all(0 <= x <= 860 and 0 <= y <= 300 for x, y in points)
    assert svg.count('r="7"') == 1


@pytest.mark.parametrize(
    "evaluations", [[], [(0, float("nan"))], [(0, 0.5)], [(0, 0.0)], [(0, 0.5), (10, float("inf"))]]
)
def test_chart_of_odd_runs(evaluations):
    svg = loss_chart([(1, float("nan"))], evaluations, 0)
    assert "nan" not in svg and "inf" not in svg
    parse(svg)


def test_running_mean_is_unbiased():
    assert running_mean([(1, 2.0), (2, 2.0), (3, 2.0)]) == [(step, pytest.approx(2.0)) for step in (1, 2, 3)]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.0812, 0.0931), (3, 5000), (1e-9, 2e-9)])
def test_ticks_are_round_and_inside(low, high):
    found = ticks(low, high)
    assert 2 <= len(found) <= 7 and low <= found[0] + 1e-15 and found[-1] <= high * (1 + 1e-12)


def test_what_was_turned_off_is_told():
    html = render(build_report(config=TrainConfig(min_snr=None, max_norm=None)))
    for line in ("<td>max norm</td><td><code>none</code>", "<td>min snr</td><td><code>none</code>"):
        assert re.sub(r"\s", "", line) in re.sub(r"\s|class=\"[^\"]*\"", "", html)
    assert "pull" not in render(build_report())
