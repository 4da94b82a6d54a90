"""`batchmill keys`, and what `batchmill serve` says of them."""

import json

import pytest

from batchmill.store import api_keys

from .cli_helpers import Desk, desk, shared_simulator

__all__ = ["desk", "shared_simulator"]


def made(desk: Desk, *options: str) -> str:
    told = desk.run("keys", "create", *options)
    assert told.code == 0, told.err
    return told.out.strip()


def test_the_key_alone_goes_to_standard_output(desk: Desk) -> None:
    told = desk.run("keys", "create", "ci", "--project", "web", "--expires", "90d", "--budget", "5", "--window", "day")
    assert told.out.count("\n") == 1
    key_id = api_keys.id_in(told.out.strip())
    assert key_id is not None
    assert told.err.startswith(f"API key ci ({key_id}) for project web: submit, read until ")
    assert told.out.strip() not in told.err
    (listed,) = json.loads(desk.run("keys", "list", "--json").out)
    assert (listed["id"], listed["state"], listed["scopes"]) == (key_id, "active", ["submit", "read"])
    assert listed["expires_at"] - listed["created_at"] == 90 * 86_400
    assert listed["budget"] == {"limit_usd": 5, "window": "day"}
    (budget,) = json.loads(desk.run("budgets", "--json").out)
    assert (budget["name"], budget["window"], budget["limit_usd"]) == ("key:ci", "day", 5)
    table = desk.run("budgets").out
    assert "what the key handed over" in table


def test_a_new_key_as_json_has_its_text(desk: Desk) -> None:
    told = json.loads(desk.run("keys", "create", "boss", "--all-projects", "--scope", "admin", "--json").out)
    assert api_keys.id_in(told["key"]) == told["id"]
    assert (told["project"], told["scopes"], told["budget"]) == (None, ["admin"], None)
    table = desk.run("keys", "list").out
    assert told["key"] not in table
    assert "boss" in table


def test_a_key_is_revoked_and_its_budget_changed_by_id_or_name(desk: Desk) -> None:
    key_id = api_keys.id_in(made(desk, "ci"))
    assert "$2.0000 in total" in desk.run("keys", "update", "ci", "--budget", "2").err
    assert "$3.0000 a month" in desk.run("keys", "update", str(key_id), "--budget", "3", "--window", "month").err
    assert "raised from $3.0000 to $4.0000" in desk.run("budgets", "raise", "key:ci", "4").err
    assert "$" not in desk.run("keys", "update", "ci", "--no-budget").err
    assert desk.run("budgets").out.startswith("no budgets")
    assert desk.run("keys", "revoke", "ci").code == 0
    (listed,) = json.loads(desk.run("keys", "list", "--json").out)
    assert listed["state"] == "revoked"
    told = [entry["what"] for entry in json.loads(desk.run("audit", "--json").out)]
    assert told[0] == "key.revoked"
    assert told[-1] == "key.created"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("create", "a b"), "a name has letters"),
        (("create", "x", "--project", "web", "--all-projects"), "exclude each other"),
        (("create", "x", "--expires", "soon"), "no time; e.g. 90d"),
        (("create", "x", "--expires", "0d"), "no time; e.g. 90d"),
        (("create", "x", "--budget", "much"), "no amount of dollars"),
        (("create", "x", "--scope", "root"), "root"),
        (("create",), "NAME"),
        (("revoke", "nobody"), "no API key 'nobody' here"),
        (("update", "nobody"), "say --budget USD, or --no-budget"),
        (("update", "nobody", "--budget", "1"), "no API key 'nobody' here"),
    ],
)
def test_what_can_t_be_meant_is_explained(desk: Desk, arguments: tuple[str, ...], said: str) -> None:
    told = desk.run("keys", *arguments)
    assert (told.code, told.out) == (2, "")
    assert said in told.err


def test_a_name_is_given_once(desk: Desk) -> None:
    made(desk, "ci")
    told = desk.run("keys", "create", "ci")
    assert told.code == 2
    assert "choose another name" in told.err


def test_no_keys_yet(desk: Desk) -> None:
    assert "answers this machine alone" in desk.run("keys", "list").out
    assert json.loads(desk.run("keys", "list", "--json").out) == []


def test_serve_listens_elsewhere_only_when_there_is_a_key(desk: Desk) -> None:
    told = desk.run("serve", "--host", "0.0.0.0", "--port", "0")
    assert told.code == 2
    assert "batchmill keys create" in told.err
    assert "loopback only" not in told.err
