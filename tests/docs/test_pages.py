"""The README and the pages of docs/: short, with links that lead somewhere, and as the code is.

The README's program runs in tests/test_copied_folders.py.
"""

import re

import yaml

LONGEST = 130  # lines of the README
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


def blocks(root, language):
    """The README's blocks of code in a language."""
    text = (root / "README.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_the_readme_is_short(root):
    assert len((root / "README.md").read_text().splitlines()) <= LONGEST


def test_every_link_leads_somewhere(root):
    pages = [root / "README.md", root / "CONTRIBUTING.md", *(root / "docs").rglob("*.md")]
    dead = [
        f"{page.relative_to(root)}: {link}"
        for page in pages
        for link in LINK.findall(page.read_text())
        if not (page.parent / link).exists()
    ]
    assert dead == []


def test_every_page_is_in_the_index(root):
    index = LINK.findall((root / "docs" / "README.md").read_text())
    assert {page.name for page in (root / "docs").glob("*.md")} - {"README.md"} <= set(index)


def test_the_strategy_shown_is_that_of_the_preset(root):
    (shown,) = blocks(root, "yaml")
    preset = yaml.safe_load((root / "recipes" / "alibaba21.yaml").read_text())
    assert yaml.safe_load(shown)["training_strategy"] == preset["training_strategy"]
