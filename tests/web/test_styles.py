"""The style sheets of two kinds of widgets are in force at once, so neither may name a class of the other."""

from __future__ import annotations

import re
from pathlib import Path

WEB = Path(__file__).resolve().parents[2] / "web"
EDITORS = ("editors.css",)
ROWS = ("rows.css", "chooser.css")
# Which is meant stands in the rules themselves: the element around it.
SHARED = {"loom-ui"}


def classes(sheets: tuple[str, ...]) -> set[str]:
    text = "".join((WEB / sheet).read_text("utf-8") for sheet in sheets)
    return set(re.findall(r"\.(loom-[a-z-]+)", text))


def test_rows_and_editors_style_no_class_in_common():
    assert classes(EDITORS) & classes(ROWS) <= SHARED


def test_every_rule_is_for_elements_of_this_pack_alone():
    for path in sorted(WEB.glob("*.css")):
        text = re.sub(r"/\*.*?\*/", "", path.read_text("utf-8"), flags=re.S)
        rules = [each.strip() for each in re.findall(r"([^{}]+)\{", text)]
        selectors = [each for rule in rules if not rule.startswith("@") for each in rule.split(",")]
        assert len(selectors) > 10
        assert [each for each in selectors if ".loom-" not in each] == [], path.name


def test_every_value_that_a_sheet_asks_for_is_given_somewhere():
    sheets = "".join(path.read_text("utf-8") for path in sorted(WEB.glob("*.css")))
    scripts = "".join(path.read_text("utf-8") for path in sorted(WEB.glob("*.js")))
    asked = set(re.findall(r"var\((--loom-[a-z-]+)", sheets))
    given = set(re.findall(r"(--loom-[a-z-]+):", sheets))
    given |= set(re.findall(r'setProperty\("(--loom-[a-z-]+)"', scripts))
    assert asked <= given
