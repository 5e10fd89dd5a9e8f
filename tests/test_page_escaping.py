"""The HTML report escapes what it prints, and loads nothing."""

import html.parser

from gluon_confseg import page, results

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</pre></title></style><b>{{ 7 * 7 }}{% raw %}",
    "$\\frac{",
    "' onmouseover='x",
)
ELEMENTS = (
    "html head meta title style body h1 p ul li h2 h3 div table thead tr th tbody td details summary pre figure img "
    "figcaption nav a"
).split()
ATTRIBUTES = "lang charset name content class alt src href id tabindex role aria-label".split()


class Reader(html.parser.HTMLParser):
    """What elements a page has, their attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.attributes, self.text = set(), [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.add(tag)
        self.attributes += [(tag, *pair) for pair in attributes]

    def handle_data(self, data):
        self.text.append(data)


def source(folder):
    """Finished results all of whose names are hostile."""
    script, image, end, dollar, quote = HOSTILE

    def cell(key, role, title, good):
        counts = [[good, 4 - good], [0, 4]]
        matrix = results.ConfusionMatrix.from_counts(counts)
        return results.make_cell(matrix, key=key, title=title, role=role).model_dump(mode="json")

    images = {"split": image, "images": 1, "fingerprint": end}
    tree = {
        "name": "x",
        "seed": 0,
        "dataset": {"name": script, "source": "option", "train": images, "val": images, "confusion_images": dollar},
        "classes": [dollar, script],
        "groups": [{"classes": [dollar, script], "reason": end}],
        "cells": [cell("a", "baseline", script, 2), cell("b", "paper", dollar, 3), cell("c", "control", quote, 4)],
        "subnets": [{"group": 1, "loss": image, "miou_group": 0.5, "baseline_miou_group": 0.6}],
        "seconds": {end: 1.0},
        "versions": {"gluon_confseg": image, script: quote},
        "config": {script: image, "encoder": {"name": end}},
    }
    results.write(folder / "results.json", tree)
    (folder / "overlays.png").write_bytes(b'"><script>alert(1)</script>')
    return page.read_sources([folder])


def test_hostile_names_stay_text(tmp_path):
    page.write(tmp_path / "page.html", source(tmp_path))
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    found = Reader(text)
    assert found.elements <= set(ELEMENTS)
    assert {name for _, name, _ in found.attributes} <= set(ATTRIBUTES)
    assert all(value.startswith("#") for _, name, value in found.attributes if name == "href")
    places = [value for _, name, value in found.attributes if name == "src"]
    assert places and all(value.startswith("data:image/png;base64,") for value in places)
    for name in HOSTILE[:2]:
        assert name in "".join(found.text) and name not in text
