"""The document of the API: complete, in words, and true to the routes."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from batchmill.service.app import OPERATIONS
from batchmill.service.control import document as control_document
from batchmill.service.control import money_api, work_api
from batchmill.service.openapi import document
from batchmill.service.operations import Operation

PARTS = re.compile(r"{(\w+)(?::\w+)?}")
DOCUMENT = document(OPERATIONS, "1.2.3")


def parts(value: Any) -> Any:
    """Yield every object of the document."""
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from parts(each)
    elif isinstance(value, list):
        for each in value:
            yield from parts(each)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_every_operation_is_told_in_words(operation: Operation) -> None:
    assert 5 < len(operation.summary) < 60
    assert not operation.summary.endswith(".")
    assert len(inspect.getdoc(operation.handler) or "") > 20
    assert operation.tag
    assert inspect.iscoroutinefunction(operation.handler)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_what_has_a_name_in_its_address_may_not_be_there(operation: Operation) -> None:
    open_names = {"reset_breaker"}  # any model's breaker can be reset, there is none that does not exist
    if PARTS.search(operation.path) and operation.name not in open_names:
        assert 404 in operation.errors


def test_every_operation_has_a_name_and_a_place_of_its_own() -> None:
    names = [operation.name for operation in OPERATIONS]
    places = [(operation.method, operation.path) for operation in OPERATIONS]
    assert len(set(names)) == len(names)
    assert len(set(places)) == len(places)
    told = [(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods]
    assert sorted(told) == sorted((method, PARTS.sub(r"{\1}", path)) for method, path in places)


def test_every_reference_leads_somewhere() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    references = {part["$ref"] for part in parts(DOCUMENT) if "$ref" in part}
    assert references
    assert {reference.rpartition("/")[2] for reference in references} <= set(schemas)


def test_every_status_is_told_in_words() -> None:
    for methods in DOCUMENT["paths"].values():
        for told in methods.values():
            assert {"401", "403", "429", "431", "500", "503"} <= set(told["responses"])
            for status, response in told["responses"].items():
                assert response["description"] not in ("", "An error."), (told["operationId"], status)


def test_a_part_of_a_file_is_told_as_such() -> None:
    told = DOCUMENT["paths"]["/v1/files/{file_id}/content"]["get"]
    assert {"200", "206", "304", "404", "416"} <= set(told["responses"])
    assert told["responses"]["206"]["content"] == told["responses"]["200"]["content"]
    assert "content" not in told["responses"]["304"]
    assert {"Range", "If-Range", "If-None-Match"} <= {each["name"] for each in told["parameters"]}


def test_money_is_a_number() -> None:
    assert not [part for part in parts(DOCUMENT) if part.get("format") == "decimal"]
    assert DOCUMENT["components"]["schemas"]["CostNow"]["properties"]["today_usd"]["type"] == "number"


@pytest.mark.parametrize(
    "operation",
    [*work_api.OPERATIONS, *money_api.OPERATIONS, *control_document.OPERATIONS],
    ids=lambda operation: operation.name,
)
def test_our_own_operations_are_in_the_docs(operation: Operation) -> None:
    page = (Path(__file__).parent.parent / "docs" / "api.md").read_text("utf-8")
    path = PARTS.sub(r"{\1}", operation.path).replace("{batch_id}", "{id}").replace("{alert_id}", "{id}")
    mark = " *" if operation.operator else ""
    assert f"\n| `{operation.method} {path}`{mark} |" in page
