"""The endpoints of a model: a document made after the official schema, and what it may hold without harm."""

import copy
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.openrouter.endpoints import Endpoint, Percentiles, decode_endpoints

from .test_models import ANYTHING

PRICING = {"prompt": "0.0000004", "completion": "0.0000016", "discount": 0.1}
ENDPOINT = {
    "name": "DeepInfra | maker/model-20260901",
    "model_id": "maker/model-20260901",
    "model_name": "Maker: Model",
    "context_length": 131_072,
    "pricing": PRICING,
    "provider_name": "DeepInfra",
    "tag": "deepinfra/turbo",
    "quantization": "fp8",
    "max_completion_tokens": 16_384,
    "max_prompt_tokens": None,
    "supported_parameters": ["max_tokens", "tools"],
    "status": 0,
    "uptime_last_5m": 99.5,
    "uptime_last_30m": 98,
    "uptime_last_1d": 100,
    "latency_last_30m": {"p50": 310, "p75": 420.5, "p90": 800, "p99": 2100},
    "throughput_last_30m": {"p50": 81.5, "p75": 70, "p90": 60, "p99": 12},
    "supports_implicit_caching": True,
    "supports_tool_choice": {"auto": True, "none": True, "required": False, "function": True},
    "supports_diarization": False,
    "native_tools": {},
    "service_tier": "priority",
}


def decoded(*endpoints: Any) -> tuple[Endpoint, ...]:
    document = {"data": {"id": "maker/model", "name": "Maker: Model", "endpoints": list(endpoints)}}
    return decode_endpoints(json.dumps(document).encode())


def test_every_field_is_taken() -> None:
    (endpoint,) = decoded(ENDPOINT)
    assert endpoint == Endpoint(
        provider_name="DeepInfra",
        tag="deepinfra/turbo",
        name="DeepInfra | maker/model-20260901",
        model_id="maker/model-20260901",
        context_length=131_072,
        max_completion_tokens=16_384,
        max_prompt_tokens=None,
        pricing=json.dumps(PRICING).encode(),
        quantization="fp8",
        service_tier="priority",
        status=0,
        uptime_last_5m=99.5,
        uptime_last_30m=98.0,
        uptime_last_1d=100.0,
        latency_ms=Percentiles(310, 420.5, 800, 2100),
        throughput=Percentiles(81.5, 70, 60, 12),
        parameters=("max_tokens", "tools"),
        supports_implicit_caching=True,
        tool_choices=("auto", "none", "function"),
    )
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(endpoint), type=Endpoint) == endpoint


@pytest.mark.parametrize(
    ("told", "milliseconds"),
    [
        ({"p50": 0.25, "p75": 0.5, "p90": 1, "p99": 4}, Percentiles(250, 500, 1000, 4000)),
        ({"p50": 250, "p75": 500, "p90": 1000, "p99": 4000}, Percentiles(250, 500, 1000, 4000)),
        ({"p50": 59.5}, Percentiles(59_500)),
        ({"p50": 5, "p99": 60}, Percentiles(5, None, None, 60)),  # the same unit for all of them
        ({"p50": -1, "p75": "fast", "p90": 2}, Percentiles(None, None, 2000)),
        ({"p50": None}, None),
        ({}, None),
        (None, None),
        ([], None),
    ],
)
def test_the_unit_of_latencies_is_told_by_their_size(told: object, milliseconds: Percentiles | None) -> None:
    (endpoint,) = decoded(ENDPOINT | {"latency_last_30m": told})
    assert endpoint.latency_ms == milliseconds


@pytest.mark.parametrize(
    ("fields", "name", "expected"),
    [
        ({"status": None}, "status", None),
        ({"status": -5}, "status", -5),
        ({"status": "down"}, "status", None),
        ({"uptime_last_5m": None}, "uptime_last_5m", None),
        ({"uptime_last_5m": 140}, "uptime_last_5m", None),
        ({"pricing": None}, "pricing", b"{}"),
        ({"pricing": "cheap"}, "pricing", b"{}"),
        ({"quantization": "fp2"}, "quantization", "fp2"),
        ({"context_length": 0}, "context_length", None),
        ({"supported_parameters": ["a", 5]}, "parameters", ("a",)),
        ({"supports_tool_choice": None}, "tool_choices", None),
        ({"provider_name": None}, "provider_name", "deepinfra/turbo"),
    ],
)
def test_what_is_strange_is_not_known(fields: dict[str, Any], name: str, expected: object) -> None:
    endpoint, other = decoded(ENDPOINT | fields, ENDPOINT)
    assert getattr(endpoint, name) == expected
    assert other.latency_ms is not None


def test_who_has_no_name_is_left_out() -> None:
    assert decoded({}, 7, None, ENDPOINT | {"provider_name": 5, "tag": None}) == ()


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"data":[]}', b'{"data":{"endpoints":7}}', b"<html>", b"\xff"])
def test_what_is_no_answer_names_nobody(body: bytes) -> None:
    assert decode_endpoints(body) == ()


@given(st.dictionaries(st.sampled_from(sorted(ENDPOINT)), ANYTHING, max_size=5))
def test_no_endpoint_harms_another_or_can_not_be_kept(fields: dict[str, Any]) -> None:
    found = decoded(copy.deepcopy(ENDPOINT) | fields, ENDPOINT)
    assert found[-1].tag == "deepinfra/turbo"
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(found), type=tuple[Endpoint, ...]) == found
