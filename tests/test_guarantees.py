"""The page of promises and of others' failures names tests; here it is held to that."""

import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "guarantees.md"
_TEST = re.compile(r"`(test_\w+)\.(test_\w+)`")


def test_every_test_that_the_page_names_exists() -> None:
    named = _TEST.findall(PAGE.read_text("utf-8"))
    assert len(named) > 30
    for module, function in named:
        file = TESTS / f"{module}.py"
        assert file.exists(), f"{PAGE.name} names {module}"
        assert re.search(rf"^(async )?def {function}\(", file.read_text("utf-8"), re.MULTILINE), (
            f"{PAGE.name} names {module}.{function}"
        )


def test_every_row_of_the_page_names_a_source_and_a_test() -> None:
    rows = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ")]
    failures = [row for row in rows if "](https://" in row]
    assert len(failures) > 30
    for row in failures:
        *_, source, rule, tests, _ = row.split("|")
        assert re.search(r"\]\(https://\S+\)", source), row
        assert rule.strip(), row
        assert _TEST.search(tests), row


def test_every_lesson_stands_on_the_page() -> None:
    page = PAGE.read_text("utf-8")
    lessons = re.findall(
        r"^(?:async )?def (test_\w+)\(redis", (TESTS / "test_lessons.py").read_text("utf-8"), re.MULTILINE
    )
    assert lessons
    for lesson in lessons:
        assert f"`test_lessons.{lesson}`" in page, f"{PAGE.name} does not name {lesson}"
