"""The rules of the house that a machine can check: ceilings, homes of heavy libraries, who reads time and settings."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "freeroam"
MODULES = sorted(SOURCE.rglob("*.py"))
MODULE_LINES = 400
FUNCTION_LINES = 60
POSITIONAL_PARAMETERS = 6
EMPTY_WORDS = {"manager", "helper", "handler", "service", "util", "utils", "impl", "core", "common", "misc"}

HOMES = {
    "av": {"sources/decoding"},
    "onnxruntime": {"models"},
    "redis": {"sources/redis_stream.py", "sources/redis_connection.py", "bus"},
    "fastapi": {"api", "asgi.py"},
    "sqlalchemy": {"store"},
    "alembic": {"store"},
    "httpx": {"client"},
    "httptools": {"load"},
    "grpc": {"api/grpc"},
    "grpc_health": {"api/grpc"},
    "grpc_reflection": {"api/grpc"},
    "torch": {"models"},
    "transformers": {"models"},
    "httpcore": {
        "security/dialing.py",
        "sources/fetching.py",
        "sources/http_answers.py",
        "models/openai_connection.py",
    },
    "m3u8": {"sources"},
    "prometheus_client": {"observability", "api"},
}


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_keeps_under_the_ceilings(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)

    long_functions = [
        f"{function.name} has {(function.end_lineno or 0) - function.lineno + 1} lines"
        for function in functions(tree)
        if (function.end_lineno or 0) - function.lineno + 1 > FUNCTION_LINES
    ]
    wide_functions = [
        f"{function.name} has {len(function.args.args)} positional parameters"
        for function in functions(tree)
        if len([a for a in function.args.args if a.arg not in {"self", "cls"}]) > POSITIONAL_PARAMETERS
    ]

    assert len(text.splitlines()) <= MODULE_LINES
    assert long_functions == []
    assert wide_functions == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_opens_with_one_sentence(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))

    assert docstring, f"{name_of(path)} does not say what it is"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_heavy_library_is_imported_in_its_home_only(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))

    strays = [
        module
        for module in imported(tree)
        if (homes := HOMES.get(module.partition(".")[0])) is not None
        and not any(name_of(path).startswith(home) for home in homes)
    ]

    assert strays == []


def attributes(tree: ast.AST) -> set[str]:
    return {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_clock_reads_the_time_and_only_settings_the_environment(path: Path) -> None:
    used = attributes(ast.parse(path.read_text(encoding="utf-8")))
    # Children are programs of their own: what they measure never meets a FakeClock.
    is_child = any(word in name_of(path) for word in ("worker", "replica", "lifeline", "models/"))

    if name_of(path) not in {"clock.py", "testing.py"} and not is_child:
        assert not used & {"time.time", "time.monotonic", "time.sleep", "asyncio.sleep"}
    # The client runs in programs of others, and takes its key from theirs.
    if name_of(path) not in {"settings.py", "client/access.py"} and not is_child:
        assert not used & {"os.getenv"}
        assert "os.environ" not in used or name_of(path).startswith("processes/")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_names_say_what_a_thing_is(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    classes = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]

    empty_classes = [name for name in classes if any(name.lower().endswith(word) for word in EMPTY_WORDS)]

    assert path.stem.strip("_").lower() not in EMPTY_WORDS
    assert empty_classes == []


def test_no_error_is_left_for_later() -> None:
    words = ("TO" + "DO", "FIX" + "ME", "NotImplemented" + "Error")
    found = [
        f"{name_of(path)}: {word}" for path in MODULES for word in words if word in path.read_text(encoding="utf-8")
    ]

    assert found == []
