"""The command line: serve, demo, run, probe, bench, models, migrate, backup, restore, openapi."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import freeroam
from freeroam.clock import SystemClock
from freeroam.load.command import add_bench
from freeroam.observability.logs import configure_logs, get_logger
from freeroam.runtime import Runtime
from freeroam.security.redaction import redact_text
from freeroam.settings import LATER_SETTINGS, Settings, load_settings, set_but_unused
from freeroam.vocabulary.errors import FreeroamError, InvalidInput, NotFound
from freeroam.vocabulary.job import ACTIVE_STATUSES, Job, StartRequest
from freeroam.vocabulary.probe import ProbeReport
from freeroam.vocabulary.result import Result

DEMO_JOB = StartRequest(
    stream_ref="demo:", prompt="Detect all people, animals and vehicles", job_id="demo", tags={"made_by": "demo"}
)

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

log = get_logger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0 done, 1 failed, 2 wrong usage or setting, 130 interrupted."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options) or 0)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has what it wanted; Python must not complain about the pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except FreeroamError as error:
        print(f"freeroam: {redact_text(error.message)}", file=sys.stderr)
        return EXIT_USAGE if error.code in {"configuration", "invalid_input", "forbidden"} else EXIT_FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="freeroam",
        description="Questions to live video, answered while the stream runs. Settings are environment variables.",
    )
    parser.add_argument("--version", action="version", version=freeroam.__version__)
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, text, is_demo in (
        ("serve", "start the service", False),
        ("demo", "start the service with a demo job running", True),
    ):
        serve = commands.add_parser(name, help=text)
        serve.add_argument("--host", help="address to listen on (HOST)")
        serve.add_argument("--port", type=int, help="port to listen on (PORT)")
        serve.set_defaults(command=_serve, is_demo=is_demo)
    run = commands.add_parser("run", help="put a question to a stream, here in the terminal")
    run.add_argument("stream_ref")
    run.add_argument("--prompt", required=True, help="the question")
    run.add_argument("--fps", type=float, help="frames a second that are asked about (DEFAULT_FPS)")
    run.add_argument("--model", help="a built-in name, or package.module:Class (MODEL_TYPE)")
    run.add_argument("--json", action="store_true", help="one JSON object a result")
    run.add_argument("--seconds", type=float, help="stop after so many seconds")
    run.add_argument("--frames", type=int, help="stop after so many frames")
    run.set_defaults(command=_run)
    probe = commands.add_parser("probe", help="say what a stream is")
    probe.add_argument("stream_ref")
    probe.add_argument("--json", action="store_true", help="as JSON")
    probe.set_defaults(command=_probe)
    add_bench(commands)
    models = commands.add_parser("models", help="list what MODEL_TYPE may name")
    models.add_argument("--json", action="store_true", help="as JSON")
    models.set_defaults(command=_models)
    commands.add_parser("migrate", help="bring the database up to date").set_defaults(command=_migrate)
    backup = commands.add_parser("backup", help="write a consistent copy of the database, also while serving")
    backup.add_argument("file", type=Path)
    backup.set_defaults(command=_backup)
    restore = commands.add_parser("restore", help="put a copy back; the service must not run")
    restore.add_argument("file", type=Path)
    restore.set_defaults(command=_restore)
    commands.add_parser("openapi", help="print the description of the HTTP interface").set_defaults(command=_openapi)
    return parser


# serve and demo


def _serve(options: argparse.Namespace) -> int:
    from freeroam.asgi import build_application
    from freeroam.http_server import HttpServer, address_of, bind, check_certificate

    given = {name: value for name in ("host", "port") if (value := getattr(options, name)) is not None}
    settings = load_settings(**given)
    configure_logs(settings.log_level, settings.log_format)
    for name in set_but_unused():
        log.warning("setting_not_used_yet", setting=name, belongs_to=LATER_SETTINGS[name])
    check_certificate(settings)
    listener = bind(settings)
    failures: list[FreeroamError] = []

    def keep_failure(error: FreeroamError) -> None:
        failures.append(error)
        logging.getLogger("uvicorn.error").disabled = True  # it would add its traceback to what is said below

    started = _start_demo if options.is_demo else None
    app = build_application(settings, started, failed=keep_failure, force=_end_at_once)
    address = address_of(settings, listener)
    server = HttpServer(app, settings, lambda: _say_where(settings, address, is_demo=options.is_demo))
    server.run(sockets=[listener])
    if failures:
        raise failures[0]
    return 0 if server.started else EXIT_FAILED


def _say_where(settings: Settings, address: str, *, is_demo: bool) -> None:
    lines = [f"Freeroam {freeroam.__version__} listens on {address}", f"  try it out   {address}/docs"]
    if is_demo:
        lines.append(f"  demo job     {address}/api/v1/inference/results/{DEMO_JOB.job_id}?limit=1")
        lines.append(f"  as it runs   curl -N {address}/api/v1/inference/stream/{DEMO_JOB.job_id}")
    else:
        lines.append(f"  health       {address}/health/ready")
    if not (settings.key_list() or settings.allow_anonymous):
        lines.append("  only this machine is served; set API_KEY to let others in")
    print("\n".join(lines), flush=True)


def _end_at_once() -> None:
    """Leave without waiting for anything; children end when their lifeline closes."""
    sys.stderr.flush()
    os._exit(EXIT_FAILED)


async def _start_demo(runtime: Runtime) -> None:
    """See to it that exactly one demo job runs: one that was taken up from the last time is kept."""
    job_id = str(DEMO_JOB.job_id)
    try:
        job = await runtime.desk.status(job_id)
    except NotFound:
        await runtime.desk.start(DEMO_JOB)
        return
    if job.status not in ACTIVE_STATUSES:
        await runtime.desk.erase(job_id)
        await runtime.desk.start(DEMO_JOB)


# run


def _run(options: argparse.Namespace) -> int:
    settings = load_settings(**({"model_type": options.model} if options.model else {}))
    configure_logs("WARNING" if settings.log_level == "INFO" else settings.log_level, settings.log_format)
    try:
        wish = StartRequest(
            stream_ref=options.stream_ref,
            prompt=options.prompt,
            fps=options.fps,
            max_seconds=options.seconds,
            max_frames=options.frames,
        )
    except ValueError as error:
        raise InvalidInput(_first_line_of(error)) from None
    return asyncio.run(_run_job(wish, settings, as_json=options.json))


def _first_line_of(error: ValueError) -> str:
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_input=False)[0]
    option = {"max_seconds": "seconds", "max_frames": "frames"}.get(str(first["loc"][0]), str(first["loc"][0]))
    return f"{option}: {first['msg'][:1].lower()}{first['msg'][1:]}"


async def _run_job(wish: StartRequest, settings: Settings, *, as_json: bool) -> int:
    from freeroam.watching import open_watch

    async with open_watch(wish, settings) as watch:
        progress = asyncio.create_task(_show_progress(watch)) if sys.stderr.isatty() else None
        try:
            async for result in watch:
                _clear_progress()
                print(result.model_dump_json() if as_json else in_one_line(result), flush=True)
        finally:
            if progress is not None:
                progress.cancel()
                await asyncio.gather(progress, return_exceptions=True)
                _clear_progress()
    return 0


async def _show_progress(watch: Any) -> None:
    clock = SystemClock()
    while True:
        text = describe_progress(await watch.status())
        print(f"\r\x1b[K{text[:110]}", end="", file=sys.stderr, flush=True)
        await clock.sleep(0.5)


def _clear_progress() -> None:
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def describe_progress(job: Job) -> str:
    """Return a job's progress in one line, for people."""
    dropped = sum(job.frames_dropped.values())
    words = [job.source.state.value, f"{job.frames_processed} frames", f"{job.results_count} results"]
    if dropped:
        words.append(f"{dropped} dropped")
    if job.source.size:
        words.append(f"{job.source.codec or 'pictures'} {job.source.size[1]}x{job.source.size[0]}")
    if job.error:
        words.append(job.error)
    return ", ".join(words)


def in_one_line(result: Result) -> str:
    """Return a result in one line, for people."""
    time_s = result.metadata.stream_time
    if result.error is not None:
        return f"{time_s:10.3f}s  error: {result.error.get('message')}"
    seen = ", ".join(f"{item.label} {item.confidence:.2f}" for item in result.predictions)
    text = " ".join((result.text or "").split())
    return f"{time_s:10.3f}s  {text}{f'  [{seen}]' if seen else ''}".rstrip()


# the others


def _probe(options: argparse.Namespace) -> int:
    settings = load_settings()
    configure_logs("WARNING" if settings.log_level == "INFO" else settings.log_level, settings.log_format)
    report = asyncio.run(Runtime(settings).probe(options.stream_ref))
    print(report.model_dump_json(indent=2) if options.json else describe_probe(report))
    return 0 if report.is_usable else EXIT_FAILED


def describe_probe(report: ProbeReport) -> str:
    """Return what a look at a video showed, for people."""
    rows: list[tuple[str, Any]] = [
        ("kind", report.kind),
        ("live", None if report.is_live is None else "yes" if report.is_live else "no"),
        ("codec", report.codec),
        ("size", f"{report.size[1]}x{report.size[0]}" if report.size else None),
        ("fps", f"{report.fps:g}" if report.fps else None),
        ("variant", report.variant),
        ("offered", "; ".join(report.variants) or None),
        ("first frame", f"after {report.first_frame_ms:g} ms" if report.first_frame_ms is not None else None),
        ("error", f"{report.error_code}: {report.error}" if report.error_code else None),
    ]
    lines = [f"  {name:12} {value}" for name, value in rows if value is not None]
    return redact_text("\n".join([report.stream_ref, *lines]))


def _models(options: argparse.Namespace) -> int:
    from freeroam.models.loading import BUILT_IN, GROUP

    chosen = load_settings().model_type
    rows = [{"name": name, "from": "built in"} for name in BUILT_IN]
    rows += [{"name": entry.name, "from": entry.value} for entry in entry_points(group=GROUP)]
    if options.json:
        print(json.dumps({"model_type": chosen, "models": rows}, indent=2))
        return 0
    for row in rows:
        print(f"{'*' if row['name'] == chosen else ' '} {row['name']:20} {row['from']}")
    print(f"MODEL_TYPE={chosen}; package.module:Class names a class of your own")
    return 0


def _migrate(_: argparse.Namespace) -> int:
    from freeroam.store.migrating import migrate

    print(f"the database is at revision {asyncio.run(migrate(load_settings().full_database_url))}")
    return 0


def _backup(options: argparse.Namespace) -> int:
    from freeroam.store.backup import back_up

    back_up(load_settings().full_database_url, options.file)
    print(f"written to {options.file}")
    return 0


def _restore(options: argparse.Namespace) -> int:
    from freeroam.store.backup import restore

    before = restore(load_settings().full_database_url, options.file)
    print(f"restored from {options.file}" + (f"; what was there before is in {before}" if before else ""))
    return 0


def _openapi(_: argparse.Namespace) -> int:
    from freeroam.api.application import create_application, describe
    from freeroam.api.parts import ApiConfig
    from freeroam.observability.metrics import Metrics

    print(json.dumps(describe(create_application(ApiConfig(), SystemClock(), Metrics())), indent=2, ensure_ascii=False))
    return 0
