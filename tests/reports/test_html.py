"""The page of a report: what stands in it, and how a browser shows it."""

import base64
import html
import itertools
import json
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.records.examples import parse_example
from datasets.records.frames import read_frames
from evaluation import predictions
from reports import html as reports_html
from reports.predictions import draw_by_class, draw_confusions, images_of, summarize_predictions
from reports.reader import read_record
from reports.report import report
from reports.run_record import RunRecord
from training.inputs import find_validation
from training.recipes import load_recipe
from training.run_folder import RunFolder

BUCKETS = ("start_up", "data", "tracing", "steps", "checkpoints", "evaluation")
CLASSES = [f"class {number}" for number in range(9)]
CLASSES.append("<script>alert('9 & \"9\"')</script>, which is a very long name for a class")
LONG_PATH = "/an/unreasonably/long/path/without/a/blank/" + "deeper/" * 12


@pytest.fixture(scope="module")
def examples(digits):
    """The JPEG, the file name and the label from 0 of each validation record."""
    (path,) = (digits / "28").glob("validation-*")
    found = [parse_example(data) for data, _ in read_frames(path)]
    keys = ("image/encoded", "image/filename", "image/class/label")
    rows = [[example[key][0] for key in keys] for example in found]
    return [(jpeg, name.decode(), label - 1) for jpeg, name, label in rows]


def write_run(path, digits, examples, seed=0):
    """A run of the demo whose last checkpoint predicts 30 images wrong, image 7 most surely."""
    recipe = load_recipe("demo").model_copy(update={"seed": seed})
    records = find_validation(digits, recipe)
    run = RunFolder(path)
    settings = {"workers": 2, "images": 4000, "data_dir": LONG_PATH, "validation": records.name}
    run.start(recipe, settings)
    run.write_classes(CLASSES)
    schedule = recipe.schedule(2, 4000)
    for count, (step, top1) in enumerate([(0, 0.1), (360, 0.9), (810, 0.97)]):
        clock = dict(zip(BUCKETS, (4.0, 1.0, 2.0, step / 10, 2.0, 0.0), strict=True))
        run.note_checkpoint(schedule, step, sum(clock.values()), clock)
        row = {**run.noted_checkpoints()[-1], "top1": top1, "top5": 1.0, "loss": 0.25}
        row |= {"images": 1000, "image_size": 28, "crop": "centre", "data": records.name}
        folder = str(digits / "28")
        run.write_evaluation_row(count, {**row, "folder": folder, "images_per_second": 1.0})
    run.write_clock_row(810, "end", 81000, clock | {"evaluation": 9.0})
    found = []
    for number, (_, name, label) in enumerate(examples):
        wrong = number % 34 == 7
        sure = 0.9 - number / 10000 if wrong else 0.98
        classes = [(label + wrong) % 10, (label + 2) % 10]
        found.append([number, name, label, classes, [sure, 0.01]])
    predictions.write(run.predictions_csv, run.noted_checkpoints()[-1], records, found)
    return run


@pytest.fixture(scope="module")
def run(digits, examples, tmp_path_factory):
    run = write_run(tmp_path_factory.mktemp("page") / "demo-page", digits, examples)
    report([run.path])
    return run


class Page(HTMLParser):
    """The elements of a page, each with its attributes, and the texts in them."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page(run):
    return Page(run.page.read_text(encoding="utf-8"))


def test_the_page_needs_nothing_else(page):
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "link", "iframe", "object"})
    for _, attributes in page.elements:
        for name in attributes.keys() & {"src", "srcset", "href", "data", "action", "poster"}:
            assert attributes[name].startswith("data:image/")
        assert not [name for name in attributes if name.startswith("on")]
    style = "".join(page.texts[page.texts.index(next(t for t in page.texts if ":root" in t)) :][:1])
    assert not re.search(r"url\(|@import|https?:", style)
    (policy,) = [a["content"] for a in page.all("meta") if "http-equiv" in a]
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_the_page_reads_well_without_eyes(page):
    assert page.all("html") == [{"lang": "en"}]
    assert Counter(tag for tag, _ in page.elements)["h1"] == len(page.all("title")) == 1
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    images = page.all("img")
    assert len(images) == 6 + 24  # pictures and mistakes
    assert all(image["alt"] for image in images)
    tables = len(page.all("table"))
    assert tables == len(page.all("caption")) == len(page.all("thead")) > 6
    assert all(cell["scope"] in ("row", "col") for cell in page.all("th"))
    assert {a["tabindex"] for a in page.all("div") if "aria-label" in a} == {"0"}


def test_the_page_says_what_the_run_did_and_got_wrong(page, run, examples):
    text = " ".join(page.texts)
    for words in ("97.00%", "The surest mistakes", "training_strategy:", "resnet8", "2 worker(s)"):
        assert words in text
    assert CLASSES[9] in text  # as text; a script would be an element
    assert any(LONG_PATH in words for words in page.texts)
    mistakes = [a for a in page.all("img") if "tiny" in a.get("class", "")]
    assert len(mistakes) == 24
    jpeg, name, label = examples[7]
    assert base64.b64decode(mistakes[0]["src"].split(",")[1]) == jpeg
    taken = CLASSES[(label + 1) % 10]
    assert mistakes[0]["alt"] == f"{name}: {CLASSES[label]}, taken for {taken}"
    figures = json.loads((run.path / "report.json").read_text())["runs"][0]["predictions"]
    assert figures["top1"] == 0.97
    assert figures["mistakes"][0]["probability"] == pytest.approx(0.8993)
    assert sum(row["images"] for row in figures["confusions"]) == 30
    assert [row["top1"] for row in figures["by_class"]] == sorted(
        row["top1"] for row in figures["by_class"]
    )
    # 970 images at 0.98, all right; 30 between 0.8 and 0.9, all wrong.
    wrong = sum(0.9 - number / 10000 for number in range(7, 1000, 34))
    error = (970 * 0.02 + wrong) / 1000
    assert figures["expected_calibration_error"] == pytest.approx(error)
    for name in ("confusions", "accuracy_by_class", "calibration"):
        assert (run.path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_images_that_are_gone_or_others_are_not_shown(run):
    record = read_record(run.path)
    mistake, *others = summarize_predictions(record)["mistakes"]
    assert None not in images_of(record, [mistake, *others])
    # The records were built again, in another order or with fewer images.
    changed = [mistake | {"name": "other.png"}, mistake | {"record": 5000}, mistake]
    assert [bool(jpeg) for jpeg in images_of(record, changed)] == [False, False, True]
    gone = replace(record, facts={**record.facts, "images": Path("/gone/28")})
    figures = json.loads((run.path / "report.json").read_text())
    page = Page(reports_html.page([gone], figures, {}))
    assert page.all("img") == []
    assert page.texts.count("no image") == 24
    assert any(f"were not found in {Path('/gone/28')}." in text for text in page.texts)


def test_a_run_that_went_on_shows_no_old_predictions(run, tmp_path):
    resumed = RunFolder(tmp_path / "resumed")
    shutil.copytree(run.path, resumed.path)
    assert read_record(resumed.path).predictions is not None
    resumed.write_checkpoint_row(900, 20.0, 100.0, 90000)
    assert read_record(resumed.path).predictions is None


def test_several_runs_are_compared_on_one_page(run, digits, examples, root, tmp_path):
    other = write_run(tmp_path / "demo-other", digits, examples, seed=1)
    entry = root / "benchmarks" / "published" / "gehc_resnet50.tsv"
    report([run.path, other.path, entry], output=tmp_path / "out")
    page = Page((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    text = " ".join(page.texts)
    assert "3 runs compared" in text
    assert "2 repeats, median (range)" in text
    pictures = [image["alt"].split(":")[0] for image in page.all("img") if "class" not in image]
    assert pictures[0] == "Line chart"
    assert len(pictures) == 5  # each of all runs; confusions are a run's own
    assert len(page.all("img")) == 5 + 2 * 24


def many(classes, seed=0):
    """The predictions of 5,000 images of many classes, of which half are right."""
    generator = np.random.default_rng(seed)
    labels = np.sort(generator.integers(0, classes, 5000))
    labels[::50] = 3
    likeliest = np.where(generator.uniform(size=5000) < 0.5, labels, (labels + 1) % classes)
    likeliest[labels == 3] = 4
    places = np.arange(5000)
    found = predictions.Predictions(
        (1, 1, ""), [""] * 5000, places, [""] * 5000, labels, likeliest[:, None], np.ones((5000, 1))
    )
    facts = {"class names": tuple(f"n{number:08}" for number in range(classes)), "images": None}
    return RunRecord("many", None, "run folder", (), predictions=found, facts=facts)


def test_of_many_classes_the_worst_pairs_are_drawn():
    record = many(200)
    (axes,) = draw_confusions(record).axes
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert len(labels) == 20
    assert labels[0] == "n00000003 \N{RIGHTWARDS ARROW} n00000004"
    assert axes.patches[0].get_width() == (record.predictions.labels == 3).sum()
    (axes,) = draw_by_class([record]).axes
    _, top1 = axes.get_lines()[0].get_data()
    assert len(top1) == 200
    assert top1[0] == 0
    assert list(top1) == sorted(top1)
    found = summarize_predictions(record)
    assert found["by_class"][0] | {"images": 0} == {
        "class": "n00000003",
        "images": 0,
        "hits": 0,
        "top1": 0,
    }
    (axes,) = draw_confusions(many(10)).axes
    shown = {(t.get_position()[::-1], t.get_text()) for t in axes.texts}
    assert ((3, 4), str((many(10).predictions.labels == 3).sum())) in shown


# --- in a browser

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), ""
)
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium or Chrome here")
DARK, LIGHT = 0, 1  # Blink's PreferredColorScheme
SCHEME = {DARK: "dark", LIGHT: "light"}
WIDTHS = (390, 1280)

# Stands in a copy of the page, which may run it, and tells the page around it what it sees.
PROBE = """<script>
const refused = [];
addEventListener("securitypolicyviolation", event => refused.push(event.blockedURI));
addEventListener("load", () => parent.postMessage({
  width: innerWidth,
  needed: document.documentElement.scrollWidth,
  dark: matchMedia("(prefers-color-scheme: dark)").matches,
  page: getComputedStyle(document.body).backgroundColor,
  text: getComputedStyle(document.body).color,
  card: getComputedStyle(document.querySelector(".picture img")).backgroundColor,
  broken: [...document.images].filter(image => !image.complete || !image.naturalWidth).length,
  images: document.images.length,
  widest: Math.max(...[...document.images].map(image => image.getBoundingClientRect().right)),
  refused,
  asked: performance.getEntriesByType("resource").map(entry => entry.name),
}, "*"));
</script>"""
# Holds a page in frames of two widths: the browser's own window is never narrower than 500 pixels.
AROUND = """<!doctype html><body><script>
addEventListener("message", event => {
  const list = document.createElement("pre");
  list.textContent = JSON.stringify(event.data);
  document.body.append(list);
});
</script>"""


def browse(tmp_path, page, scheme, *options):
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--no-first-run"]
    command += [f"--blink-settings=preferredColorScheme={scheme}", *options, page.as_uri()]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def seen(tmp_path, text, scheme):
    """What the probe sees of a page, by the width of its frame."""
    allowed = "style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    copy = text.replace("style-src 'unsafe-inline'", allowed).replace("<title>", PROBE + "<title>")
    (tmp_path / "copy.html").write_text(copy, encoding="utf-8")
    frames = [f'<iframe src="copy.html" width="{w}" height="900"></iframe>' for w in WIDTHS]
    (tmp_path / "around.html").write_text(AROUND + "".join(frames), encoding="utf-8")
    # The browser waits until the frames have loaded and the messages have come.
    dom = browse(tmp_path, tmp_path / "around.html", scheme, "--dump-dom")
    found = [json.loads(html.unescape(text)) for text in re.findall(r"<pre>(.*?)</pre>", dom)]
    return {one["width"]: one for one in found}


def brightness(colour):
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3


@needs_chromium
@pytest.mark.parametrize("scheme", SCHEME, ids=SCHEME.values())
def test_a_browser_shows_all_of_it_at_any_width(run, tmp_path, scheme):
    found = seen(tmp_path, run.page.read_text(encoding="utf-8"), scheme)
    assert sorted(found) == list(WIDTHS)
    for width, one in found.items():
        assert one["needed"] <= width  # no need to scroll sideways
        assert one["widest"] <= width
        assert (one["images"], one["broken"]) == (30, 0)
        assert (one["refused"], one["asked"]) == ([], [])
        assert one["dark"] == (scheme == DARK)
        dark, light = (one["page"], one["text"])[:: 1 if scheme == DARK else -1]
        assert brightness(dark) < 50 < 200 < brightness(light)
        assert brightness(one["card"]) == 255  # pictures are drawn on white


@needs_chromium
def test_a_picture_from_elsewhere_is_refused_and_noticed(run, tmp_path):
    """The policy in the page works, and the probe would see what is asked for."""
    outside = '<img src="http://127.0.0.1:9/outside.png" alt="outside">'
    text = run.page.read_text(encoding="utf-8").replace("<header>", f"<header>{outside}")
    one = seen(tmp_path, text, LIGHT)[390]
    assert one["refused"] == ["http://127.0.0.1:9/outside.png"]
    assert one["broken"] == 1


@needs_chromium
def test_a_screenshot_of_a_phone_in_the_dark(run, tmp_path):
    path = tmp_path / "phone.png"
    browse(tmp_path, run.page, DARK, "--window-size=390,2000", f"--screenshot={path}")
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("L"))
    assert pixels.shape == (2000, 390)
    assert pixels[:, :8].max() < 50  # the left margin, from top to bottom
    assert (pixels == 255).mean() > 0.1  # the cards of the pictures
