"""Who may know whom, who may read the environment, and what a script and a key must say of themselves."""

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from batchmill.store import keys, service_keys

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "config": set(),
    "openrouter": {"config"},
    "routing": {"config", "openrouter"},
    "spend": {"config", "openrouter", "routing"},
    "store": {"config", "openrouter", "routing", "spend"},
    "archive": {"config", "spend", "store"},
    # producer and workers never import each other: they meet in Redis
    "producer": {"config", "openrouter", "routing", "spend", "store"},
    "storage": {"config"},
    "webhooks": {"config"},
    "service": {"config", "openrouter", "routing", "spend", "store", "archive", "storage", "webhooks", "producer"},
    "workers": {"config", "openrouter", "routing", "spend", "store", "archive", "webhooks"},
}
ALLOWED["cli"] = set(ALLOWED)  # the composition root

READS_ENVIRONMENT = {
    "config/settings.py",  # the one place
    "workers/fleet.py",  # hands it on to the workers, without the key
    "openrouter/client.py",  # the system's proxy
}
ENVIRONMENT = {"os": {"environ", "environb", "getenv", "getenvb"}, "urllib.request": {"getproxies", "proxy_bypass"}}
FILES = sorted(path for room in ALLOWED for path in (ROOT / room).rglob("*.py"))
PRELUDES = {"bucket", "usage"}  # what goes before other scripts, and is none by itself
LUA = sorted((ROOT / "store").glob("*.lua"))
SCRIPTS = [path for path in LUA if path.stem not in PRELUDES]
KEYS = [
    made
    for module in (keys, service_keys)
    for _, made in inspect.getmembers(module, inspect.isfunction)
    if made.__module__ == module.__name__
]
NO_KEY = {"upstream_tag", "reference", "batch_of", "in_index", "_gate", "_answers"}
TYPES = ("String", "Hash", "Set", "Sorted set", "Stream", "Bitmap", "Channel")
LIVES = re.compile(r"Permanent|Retention|Expires|Gone when empty|Kept as long|A day|Staging time|About a day")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def tree(path: Path) -> ast.Module:
    text = path.read_text(encoding="utf-8")
    try:
        return ast.parse(text)
    except (
        SystemError
    ):  # under load, CPython 3.11 now and then says "AST constructor recursion depth mismatch" of any file
        return ast.parse(text)


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(tree(path))


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the modules that a file imports, with the line; a relative one begins with a dot."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            if module == "batchmill":
                yield from ((node.lineno, f"batchmill.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, module


def test_every_room_is_known() -> None:
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert rooms == set(ALLOWED)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_rooms_import_only_whom_they_may(path: Path) -> None:
    room = name_of(path).split("/", 1)[0]
    for line, module in imported(path):
        assert not module.startswith("."), f"{name_of(path)}:{line}: imports are absolute"
        top, _, rest = module.partition(".")
        assert top not in ALLOWED, f"{name_of(path)}:{line}: {top} on its own is somebody else's package"
        if top == "batchmill":
            other = rest.split(".")[0]
            assert other in ALLOWED[room] | {room}, f"{name_of(path)}:{line}: {room} must not know {other}"


def reads_environment(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom):
        return any(alias.name in ENVIRONMENT.get(node.module or "", ()) for alias in node.names)
    return isinstance(node, ast.Attribute) and node.attr in ENVIRONMENT.get(ast.unparse(node.value), ())


def test_only_config_reads_the_environment() -> None:
    assert {name_of(path) for path in FILES if any(map(reads_environment, nodes(path)))} == READS_ENVIRONMENT


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_a_script_s_head_names_its_keys_arguments_and_returns(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    head = [line for line in text.splitlines() if line.startswith("--")]
    assert text.startswith("-- ")
    for word in ("-- KEYS ", "-- ARGV ", "-- Returns "):
        assert any(line.startswith(word) for line in head), f"{word.strip('- ')} is not named"


@pytest.mark.parametrize("path", LUA, ids=name_of)
def test_a_script_makes_no_key_names_and_lists_none(path: Path) -> None:
    code = re.sub(r"--.*", "", path.read_text(encoding="utf-8"))
    assert not re.search(r"call\(\s*'(KEYS|SCAN|RANDOMKEY)'", code, re.IGNORECASE)
    assert "bm:" not in code
    assert "arq:" not in code
    for touched in re.findall(r"redis\.call\('\w+',\s*([^,)]+)", code):
        assert ".." not in touched, f"a key is built of parts: {touched}"
        assert not touched.strip().startswith("'"), f"a key is named: {touched}"
        assert not touched.strip().startswith("ARGV"), f"a key comes as an argument: {touched}"


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_every_script_is_called_by_a_module_of_its_room(path: Path) -> None:
    called = re.compile(rf'Script\("{path.stem}"[,)]')
    assert len([other for other in (ROOT / "store").glob("*.py") if called.search(other.read_text())]) == 1


@pytest.mark.parametrize("name", sorted(PRELUDES))
def test_every_prelude_goes_before_a_script(name: str) -> None:
    assert any(f', "{name}"' in other.read_text() for other in (ROOT / "store").glob("*.py"))


def test_nobody_lists_all_keys() -> None:
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"""\.keys\(["']|["']KEYS["']|scan_iter""", text), name_of(path)


@pytest.mark.parametrize("made", [made for made in KEYS if made.__name__ not in NO_KEY], ids=lambda made: made.__name__)
def test_a_key_tells_its_type_and_its_life(made: object) -> None:
    told = inspect.getdoc(made) or ""
    assert told.startswith(TYPES), told
    assert told.startswith("Channel") or LIVES.search(told), told


def test_keys_are_all_of_ours_and_those_of_a_batch_share_a_tag() -> None:
    batch_id, shard = "batch_1", "batch_1.0.3"
    for made in (keys.batch, keys.done, keys.results, keys.air, keys.open_shards):
        assert made(batch_id).startswith("bm:{batch_1}:")
    assert keys.shard(shard).startswith("bm:{batch_1}:")
    assert keys.reference(batch_id, 0, 3) == shard
    assert keys.batch_of(shard) == batch_id
    for fleet_wide in (keys.lanes, keys.wake, keys.workers, keys.pulse, keys.maintenance):
        assert fleet_wide("one") != fleet_wide("two")


def test_no_two_functions_make_the_same_key() -> None:
    """Each is called with as many different words as it wants."""
    words = ("batch_1.0.3", "two", 3, 4)
    made: dict[str, str] = {}
    for make in KEYS:
        if make.__name__ not in NO_KEY:
            name = make(*words[: len(inspect.signature(make).parameters)])
            assert name not in made, f"{make.__name__} and {made.get(name)}"
            assert name.startswith(("bm:", "arq:")), make.__name__
            made[name] = make.__name__
