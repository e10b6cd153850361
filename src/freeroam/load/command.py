"""The command ``freeroam bench``: its options, its live table, its exit code."""

from __future__ import annotations

import argparse
import asyncio
import base64
import mimetypes
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freeroam.vocabulary.errors import InvalidInput

if TYPE_CHECKING:
    from freeroam.load.display import Display
    from freeroam.load.plan import Plan, Wording

DEFAULT_PROMPT = "Describe what you see in one sentence."
DEFAULT_DURATION_S = 10.0
CLOSED_CONCURRENCY, OPEN_CONCURRENCY = 32, 1024

EXIT_TOO_MANY_ERRORS = 1


def add_bench(commands: Any) -> None:
    """Add ``bench`` to the subcommands of a parser."""
    bench = commands.add_parser("bench", help="put a server under load and measure first token, gaps, end to end")
    bench.add_argument("--url", default="http://127.0.0.1:8000", help="the server (%(default)s)")
    bench.add_argument("--model", help="name or name@version; the server's default if left out")
    bench.add_argument("--door", choices=("infer", "openai"), default="infer", help="/infer(_stream), or /v1/chat")
    bench.add_argument("--key", help="API key (FREEROAM_API_KEY)")
    bench.add_argument("--insecure", action="store_true", help="do not check the server's certificate")
    bench.add_argument("-c", "--concurrency", type=int, help="questions in flight (32; with --rate at most, 1024)")
    bench.add_argument("-r", "--rate", type=float, help="questions sent a second, whatever comes back (open loop)")
    bench.add_argument("--pace", choices=("poisson", "even"), default="poisson", help="how --rate is spread")
    bench.add_argument("-d", "--duration", type=float, help=f"seconds of load ({DEFAULT_DURATION_S:g})")
    bench.add_argument("-n", "--requests", type=int, help="questions to send, instead of --duration")
    bench.add_argument("--warmup", type=float, default=0.0, help="seconds before measuring begins")
    bench.add_argument("--prompt", help="the question")
    bench.add_argument("--prompts", type=Path, metavar="FILE", help="a question a line; .jsonl: prompt, max_tokens")
    bench.add_argument("--max-tokens", type=int, help="greatest length of an answer")
    bench.add_argument("--temperature", type=float, help="0 is greedy")
    bench.add_argument("--image", type=Path, action="append", metavar="FILE", help="a picture to send; repeatable")
    bench.add_argument("--priority", help="a level, or a mix by weight: HIGH=1,NORMAL=8,LOW=1")
    bench.add_argument("--no-stream", action="store_true", help="whole answers instead of pieces")
    bench.add_argument("--timeout", type=float, default=60.0, help="seconds a question may take (%(default)s)")
    bench.add_argument("--seed", type=int, default=0, help="of what is drawn at random (%(default)s)")
    bench.add_argument("--json", metavar="FILE", help="write the report as JSON; - is standard output")
    bench.add_argument("--interval", type=float, default=1.0, help="seconds between lines (%(default)s); 0: none")
    bench.add_argument(
        "--max-error-rate", type=float, default=0.0, help="share of failed questions from 0 to 1 above which it exits 1"
    )
    bench.set_defaults(command=bench_command)


def bench_command(options: argparse.Namespace) -> int:
    """Carry out ``freeroam bench``; return 0, or 1 if too many failed (``--max-error-rate``) or none was answered.

    Raises:
        InvalidInput: An option cannot be what it is.
    """
    from freeroam.clock import SystemClock
    from freeroam.load.display import Display
    from freeroam.load.report import lines_of

    plan = plan_of(options)
    screen = sys.stderr if options.json == "-" else sys.stdout
    report = _carry_out(plan, options, Display(screen, options.interval, SystemClock()))
    screen.write("\n".join(["", *lines_of(report)]) + "\n")
    screen.flush()
    if options.json:
        _write_json(options.json, report)
    requests = report["requests"]
    is_well = requests["answered"] > 0 and requests["error_share"] <= options.max_error_rate
    return 0 if is_well else EXIT_TOO_MANY_ERRORS


def plan_of(options: argparse.Namespace) -> Plan:
    """Return the plan that the options of the command say.

    Raises:
        InvalidInput: One cannot be what it is, or two exclude each other; the message names it.
    """
    from freeroam.load.plan import Plan, read_priorities

    for name in ("concurrency", "rate", "duration", "requests", "max_tokens", "timeout"):
        value = getattr(options, name)
        if value is not None and not 0 < value < 1e9:
            raise InvalidInput(f"--{name.replace('_', '-')}: must be above 0, not {value:g}")
    if options.duration is not None and options.requests is not None:
        raise InvalidInput("--duration and --requests: give one of them")
    if options.warmup < 0 or not 0 <= options.max_error_rate <= 1:
        raise InvalidInput("--warmup must not be negative, and --max-error-rate from 0 to 1")
    if options.door == "openai" and not options.model:
        raise InvalidInput("--model: this API wants one; GET /v1/models lists them")
    is_timed = options.requests is None
    concurrency = options.concurrency or (CLOSED_CONCURRENCY if options.rate is None else OPEN_CONCURRENCY)
    return Plan(
        url=options.url,
        wordings=_wordings(options),
        door=options.door,
        model=options.model,
        concurrency=concurrency,
        rate_per_s=options.rate,
        pace=options.pace,
        duration_s=(options.duration or DEFAULT_DURATION_S) if is_timed else None,
        requests=options.requests,
        warmup_s=options.warmup,
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        images=[_data_url(path) for path in options.image or ()],
        priorities=read_priorities(options.priority) if options.priority else None,
        is_streamed=not options.no_stream,
        timeout_s=options.timeout,
        seed=options.seed,
    )


def _wordings(options: argparse.Namespace) -> list[Wording]:
    from freeroam.load.plan import Wording, read_wordings

    if options.prompts is None:
        return [Wording(options.prompt or DEFAULT_PROMPT)]
    if options.prompt is not None:
        raise InvalidInput("--prompt and --prompts: give one of them")
    return read_wordings(options.prompts)


def _data_url(path: Path) -> str:
    try:
        body = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"--image {path}: {error.strerror or error}") from None
    return f"data:{mimetypes.guess_type(path.name)[0] or 'image/jpeg'};base64,{base64.b64encode(body).decode()}"


def _carry_out(plan: Plan, options: argparse.Namespace, display: Display) -> dict[str, Any]:
    """Carry out a plan on the fastest loop there is, and return its report."""
    from freeroam.load.measuring import measure

    try:
        import uvloop
    except ImportError:  # it does not exist for Windows
        factory = None
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(measure(plan, key=options.key, verify=not options.insecure, display=display))


def _write_json(name: str, report: dict[str, Any]) -> None:
    import json

    text = json.dumps(report, indent=2) + "\n"
    if name == "-":
        sys.stdout.write(text)
        return
    try:
        Path(name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"--json {name}: {error.strerror or error}") from None
