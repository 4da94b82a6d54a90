"""What `deploy/` ships: dashboards and alerts over metrics that exist, and a cluster that keeps our promises."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from batchmill.config.settings import load
from batchmill.service.health import OPERATIONS
from batchmill.store.metrics import METRICS, Kind

DEPLOY = Path(__file__).parents[1] / "deploy"
_NAME = re.compile(r"batchmill_[a-z_]+")
_SUFFIXES = {Kind.COUNTER: ("_total",), Kind.GAUGE: ("",), Kind.HISTOGRAM: ("_bucket", "_sum", "_count")}
SHOWN = {metric.name + suffix for metric in METRICS for suffix in _SUFFIXES[metric.kind]}


def dashboard() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((DEPLOY / "grafana-dashboard.json").read_text(encoding="utf-8"))
    return read


def alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((DEPLOY / "prometheus-alerts.yaml").read_text(encoding="utf-8"))["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "kubernetes" / "batchmill.yaml").read_text(encoding="utf-8")))


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in documents() if each["kind"] == kind}


def expressions() -> Iterator[str]:
    for panel in dashboard()["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    yield from (rule["expr"] for rule in alerts())
    yield of_kind("ScaledObject")["worker"]["spec"]["triggers"][0]["metadata"]["query"]


@pytest.mark.parametrize("expression", list(expressions()))
def test_every_metric_that_is_asked_for_is_shown(expression: str) -> None:
    asked = set(_NAME.findall(expression))
    assert asked
    assert asked <= SHOWN
    assert expression.count("(") == expression.count(")")


def test_every_metric_but_those_for_debugging_is_on_the_dashboard() -> None:
    asked = {name for panel in dashboard()["panels"] for target in panel.get("targets", ())
             for name in _NAME.findall(target["expr"])}  # fmt: skip
    missing = {m.name for m in METRICS if not any(m.name + suffix in asked for suffix in _SUFFIXES[m.kind])}
    assert missing == {"batchmill_suspects", "batchmill_live_batches", "batchmill_books_alarm"}


def test_panels_don_t_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_alerts_say_what_to_do() -> None:
    for rule in alerts():
        assert rule["alert"].startswith("Batchmill")
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"].endswith((".", ".`"))


def test_the_cluster_s_settings_are_ours(tmp_path: Path) -> None:
    file = tmp_path / "batchmill.toml"
    file.write_text(of_kind("ConfigMap")["batchmill"]["data"]["batchmill.toml"], encoding="utf-8")
    settings = load(file, environ={})
    worker = of_kind("Deployment")["worker"]["spec"]["template"]["spec"]
    assert worker["terminationGracePeriodSeconds"] >= settings.worker.grace + settings.worker.lease
    assert settings.storage.kind == "s3", "gateways of a cluster share no folder"


def test_the_cluster_s_probes_ask_what_there_is() -> None:
    paths = {each.path for each in OPERATIONS}
    (gateway,) = of_kind("Deployment")["gateway"]["spec"]["template"]["spec"]["containers"]
    for probe in ("readinessProbe", "livenessProbe"):
        assert gateway[probe]["httpGet"]["path"] in paths
    assert gateway["livenessProbe"]["httpGet"]["path"] == "/healthz", "an outage of Redis is no reason to restart"


def test_no_secret_stands_in_the_cluster_s_files() -> None:
    for deployment in of_kind("Deployment").values():
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        for variable in container["env"]:
            secret = "secretKeyRef" in variable.get("valueFrom", {})
            assert secret or variable["name"] == "BATCHMILL_DATA_DIR"
