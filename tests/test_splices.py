"""What is added to a body before it is sent."""

import json

import pytest

from batchmill.openrouter.splices import to_send, with_members, without_model

BODY = b'{"messages":[],"temperature":0.10}'


def test_model_price_and_provider_go_in_at_once() -> None:
    sent = to_send(BODY, model="a/b", max_price=b'{"prompt":1}', provider=b'{"order":["x"]}')
    assert sent == (
        b'{"messages":[],"temperature":0.10,"model":"a/b","provider":{"order":["x"],"max_price":{"prompt":1}}}'
    )
    assert to_send(BODY) == BODY
    assert to_send(b"{}", model="a/b") == b'{"model":"a/b"}'


@pytest.mark.parametrize("name", ["provider", "pro\\u0076ider"])
def test_what_the_body_says_of_its_provider_holds(name: str) -> None:
    body = b'{"%b":{"order":["own"],"max_price":{"prompt":"0.5","completion":9}}}' % name.encode()
    sent = json.loads(
        to_send(body, max_price=b'{"prompt":1,"completion":2}', provider=b'{"order":["x"],"ignore":["y"]}')
    )
    assert sent == {"provider": {"order": ["own"], "ignore": ["y"], "max_price": {"prompt": "0.5", "completion": 2}}}
    assert json.loads(to_send(body, provider=b'{"ignore":["y"]}'))["provider"]["max_price"]["completion"] == 9


def test_a_body_can_be_handed_back_as_it_came() -> None:
    body = b'{"model":"fast","messages":[]}'
    assert with_members(without_model(body), b'"model":"fast"') == b'{"messages":[],"model":"fast"}'
    assert with_members(body, b"") == body
