"""What an operator decides: where it comes from, what is refused and how, and that no secret is ever shown."""

import pickle
import traceback
from pathlib import Path

import msgspec
import pytest

from batchmill.config.errors import ConfigError
from batchmill.config.settings import OPENROUTER_URL, Secret, Settings, load
from batchmill.config.urls import normalized_url
from batchmill.workers.fleet import pack_handover, unpack_handover

KEY = "sk-or-v1-do-not-show"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "batchmill.toml"


def refusal(file: Path | None = None, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(file, environ)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_nothing_has_to_be_said() -> None:
    settings = load(environ={})
    assert (settings.upstream.base_url, settings.redis_url, settings.api_key) == (OPENROUTER_URL, None, None)
    assert settings.upstream_name == OPENROUTER_URL
    assert settings.data_dir == Path.home() / ".local/share/batchmill"


def test_the_environment_wins_over_the_file_and_the_call_over_both(file: Path) -> None:
    file.write_text(
        'redis_url = "redis://file"\ndata_dir = "/file"\n'
        '[upstream]\nbase_url = "https://file/v1"\ntitle = "ours"\n[worker]\nconcurrency = 7\n'
    )
    settings = load(file, {})
    assert (settings.redis_url, settings.data_dir) == ("redis://file", Path("/file"))
    assert (settings.upstream.base_url, settings.worker.concurrency) == ("https://file/v1", 7)

    environ = {
        "BATCHMILL_REDIS_URL": "redis://env",
        "BATCHMILL_DATA_DIR": "/env",
        "BATCHMILL_BASE_URL": "https://env/v1",
    }
    settings = load(file, environ)
    assert (settings.redis_url, settings.data_dir) == ("redis://env", Path("/env"))
    assert (settings.upstream.base_url, settings.upstream.title) == ("https://env/v1", "ours")
    assert settings.worker.concurrency == 7
    assert load(file, environ, redis_url="redis://call").redis_url == "redis://call"


def test_a_variable_that_is_empty_says_nothing(file: Path) -> None:
    file.write_text('redis_url = "redis://file"\n')
    environ = dict.fromkeys(
        ("BATCHMILL_REDIS_URL", "BATCHMILL_BASE_URL", "BATCHMILL_DATA_DIR", "BATCHMILL_CONFIG", "OPENROUTER_API_KEY"),
        "",
    )
    settings = load(file, environ)
    assert (settings.redis_url, settings.upstream.base_url, settings.api_key) == ("redis://file", OPENROUTER_URL, None)


def test_the_file_may_be_named_by_the_environment(file: Path, tmp_path: Path) -> None:
    file.write_text("[worker]\nprocesses = 3\n")
    assert load(environ={"BATCHMILL_CONFIG": str(file)}).worker.processes == 3
    other = tmp_path / "other.toml"
    other.write_text("[worker]\nprocesses = 4\n")
    assert load(other, {"BATCHMILL_CONFIG": str(file)}).worker.processes == 4


def test_a_file_that_is_not_there_is_named() -> None:
    message = refusal(BATCHMILL_CONFIG="/nonexistent.toml")
    assert message == "config file /nonexistent.toml: No such file or directory; check BATCHMILL_CONFIG or --config"


@pytest.mark.parametrize("content", [b"[worker\n", b"a = \xff\n", b"a = 1\na = 2\n"])
def test_a_file_that_is_no_toml_is_told_so(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert refusal(file).startswith(f"config file {file} is not valid TOML: ")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("redis_ur = 'x'", "unknown key 'redis_ur'; did you mean 'redis_url'?"),
        ("[wroker]", "unknown key 'wroker'; did you mean 'worker'?"),
        ("[worker]\nconcurency = 3", "unknown key 'worker.concurency'; did you mean 'concurrency'?"),
        ("[retry]\nzzz = 3", "unknown key 'retry.zzz'; known: max_attempts, first_delay"),
        ("api_key = 'x'", "unknown key 'api_key'; known: upstream, catalogue"),
        ("simulate = true", "unknown key 'simulate'"),
        ("upstream = 3", "at `$.upstream`"),
        ("worker = []", "at `$.worker`"),
        ("data_dir = 3", "Expected a path, got 3 - at `$.data_dir`"),
        ("redis_url = 3", "at `$.redis_url`"),
        ("[worker]\nprocesses = 0", "`int` >= 1 - at `$.worker.processes`"),
        ("[worker]\nprocesses = '2'", "at `$.worker.processes`"),
        ("[worker]\nlease = inf", "at `$.worker.lease`"),
        ("[worker]\nlease = nan", "at `$.worker.lease`"),
        ("[worker]\nheartbeat = 6.0\nlease = 60.0", "at `$.worker.heartbeat`"),
        ("[results]\nretention_days = 1000000000", "at `$.results.retention_days`"),
        ("[worker]\nheartbeat = 3.0\nlease = 5.0", "worker.lease must be at least twice worker.heartbeat"),
        ("[log]\nlevel = 'loud'", "log.level must be one of debug, info, warning, error"),
        ("[log]\nformat = 'xml'", "log.format must be one of auto, console, json"),
        ("data_dir = '~nobody-of-that-name/x'", "names nobody's home"),
    ],
)
def test_what_can_not_be_meant_is_refused_with_its_place(file: Path, content: str, said: str) -> None:
    file.write_text(content)
    message = refusal(file, BATCHMILL_BASE_URL="https://env/v1")
    assert said in message
    assert str(file) in message


def test_a_lease_of_two_heartbeats_will_do(file: Path) -> None:
    file.write_text("[worker]\nheartbeat = 3.0\nlease = 6.0\n")
    assert load(file, {}).worker.lease == 6.0


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/v1",
        "host/v1",
        "https://",
        "https:///v1",
        "http://host:port/v1",
        "http://host:99999/v1",
        "http://[::1/v1",
    ],
)
def test_a_base_url_that_leads_nowhere_is_refused(url: str) -> None:
    message = refusal(BATCHMILL_BASE_URL=url)
    assert "is not an http(s) URL; e.g. https://openrouter.ai/api/v1" in message


@pytest.mark.parametrize(
    "url", ["http://host", "host:6379", "redis://", "redis:///0", "redis://host:port", "unix://", "redis://[::1"]
)
def test_a_redis_url_that_leads_nowhere_is_refused(url: str) -> None:
    message = refusal(BATCHMILL_REDIS_URL=url)
    assert "must start with redis://, rediss:// or unix://" in message
    with pytest.raises(ConfigError):
        load(environ={}, redis_url=url)


@pytest.mark.parametrize(
    "url", ["redis://h", "rediss://u:p@h:1/2", "unix:///run/redis.sock?db=1", "redis://[::1]:6379"]
)
def test_a_redis_url_of_any_kind_is_taken(url: str) -> None:
    assert load(environ={}, redis_url=url).redis_url == url


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://openrouter.ai/api/v1", "https://openrouter.ai/api/v1"),
        ("https://openrouter.ai/api/v1/", "https://openrouter.ai/api/v1"),
        ("HTTPS://OpenRouter.AI/api/v1", "https://openrouter.ai/api/v1"),
        ("https://user:pass@host/v1", "https://host/v1"),
        ("https://host:8443/v1?key=x#y", "https://host:8443/v1"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://host/V1", "http://host/V1"),
        ("https://host:443/v1", "https://host/v1"),
        ("http://host:80/v1", "http://host/v1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
    ],
)
def test_an_upstream_has_one_name(url: str, name: str) -> None:
    assert normalized_url(url) == name
    assert load(environ={"BATCHMILL_BASE_URL": url}).upstream_name == name


def test_the_simulator_is_an_upstream_of_its_own() -> None:
    assert load(environ={}, simulate=True).upstream_name == "simulator"


def test_the_data_folder_follows_the_desktop_s_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(environ={"XDG_DATA_HOME": "/data"}).data_dir == Path("/data/batchmill")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load(environ={"BATCHMILL_DATA_DIR": "~/mine"}).data_dir == tmp_path / "mine"


def test_the_key_comes_from_the_environment_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"  {KEY}\n")
    from_file = load(environ={"BATCHMILL_API_KEY_FILE": str(file)}).api_key
    assert from_file is not None
    assert from_file.reveal() == KEY
    both = load(environ={"OPENROUTER_API_KEY": " other ", "BATCHMILL_API_KEY_FILE": str(file)}).api_key
    assert both == Secret("other")
    blank = load(environ={"OPENROUTER_API_KEY": "  ", "BATCHMILL_API_KEY_FILE": str(file)}).api_key
    assert blank == from_file
    assert load(environ={"OPENROUTER_API_KEY": "\n"}).api_key is None


def test_a_key_file_that_is_of_no_use_is_named(tmp_path: Path) -> None:
    missing, empty, binary, prose = (tmp_path / name for name in ("missing", "empty", "binary", "prose"))
    empty.write_text(" \n")
    binary.write_bytes(b"\xff\xfe")
    prose.write_text(f"# my key\n{KEY}\n")
    said = {missing: "can't be read (No such file", empty: "is empty", binary: "is no text", prose: "more than a key"}
    for file, words in said.items():
        message = refusal(BATCHMILL_API_KEY_FILE=str(file))
        assert message.startswith(f"BATCHMILL_API_KEY_FILE: {file}")
        assert words in message
        assert KEY not in message


@pytest.mark.parametrize("key", ["sk or", "sk\nor", "schlüssel", "sk\x00"])
def test_what_no_header_can_carry_is_no_key(key: str) -> None:
    message = refusal(OPENROUTER_API_KEY=key)
    assert message.startswith("OPENROUTER_API_KEY holds more than a key")
    assert key not in message


@pytest.fixture
def secretive() -> Settings:
    environ = {
        "OPENROUTER_API_KEY": KEY,
        "BATCHMILL_REDIS_URL": "rediss://user:hidden-1@host:6379/0?password=hidden-2",
        "BATCHMILL_BASE_URL": "https://user:hidden-3@host/v1?key=hidden-4",
    }
    return load(environ=environ)


def test_a_secret_is_shown_nowhere(secretive: Settings) -> None:
    settings = secretive
    for shown in (repr(settings), str(settings), f"{settings}", repr(settings.api_key), f"{settings.api_key!s:>20}"):
        assert KEY not in shown
        assert "hidden" not in shown
    assert "rediss://***@host:6379/0?***" in repr(settings)
    assert "https://***@host/v1?***" in repr(settings)


def test_a_secret_is_not_carried_away(secretive: Settings) -> None:
    secret = secretive.api_key
    for carry in (pickle.dumps, msgspec.json.encode, msgspec.msgpack.encode, msgspec.to_builtins):
        for what in (secret, secretive):
            with pytest.raises(TypeError):
                carry(what)
    assert not hasattr(secret, "__dict__")


def test_a_traceback_shows_no_secret(secretive: Settings) -> None:
    def fail(settings: Settings, secret: Secret | None) -> None:
        raise ValueError(settings, secret)

    try:
        fail(secretive, secretive.api_key)
    except ValueError as error:
        shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    own = [line for line in shown.splitlines() if "hidden-" in line or KEY in line]
    assert own == []


def test_secrets_are_equal_when_they_are() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2


def test_settings_can_be_handed_to_a_worker(secretive: Settings) -> None:
    settings, handover = unpack_handover(pack_handover(secretive, "redis://host", embedded=True))
    assert settings == secretive
    assert (handover.redis_url, handover.embedded) == ("redis://host", True)


def test_a_policy_is_handed_to_a_worker_to_the_last_digit(file: Path) -> None:
    file.write_text(
        '[[budgets]]\nname = "b"\nlimit_usd = 4503599.627370497\n[[limits]]\nmatch = "a"\nmax_concurrency = 1\n'
    )
    settings = load(file, {})
    unpacked, _ = unpack_handover(pack_handover(settings, "redis://host", embedded=False))
    assert unpacked == settings
    assert settings.policy is not None


def test_settings_do_not_change(secretive: Settings) -> None:
    with pytest.raises(AttributeError):
        secretive.redis_url = "redis://other"  # type: ignore[misc]  # that is the point
