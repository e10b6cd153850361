"""What a run showed, for programs (a document) and for people (lines)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from freeroam.load.run import Run
from freeroam.load.tally import Tally, Times

BUSY_SHARE = 0.8
"""From this share of one core on, the client itself may be what is measured."""

LEAST_RATE_SHARE = 0.95
"""Sending fewer than this of the questions that were due means that the rate was not kept."""

LATE_MS = 50.0
"""A question sent later than this after it was due is late."""

LIVE_HEADINGS = (
    f"{'time':>7} {'in flight':>9} {'req/s':>8} {'tokens/s':>9} {'first p50':>10} {'p99':>8} "
    f"{'gap p50':>8} {'p99':>8} {'e2e p50':>9} {'p99':>8} {'errors':>7}"
)


def live_line(run: Run, window: Tally, elapsed_s: float, window_s: float) -> str:
    """Return the last while in one line under ``LIVE_HEADINGS``; times in milliseconds."""
    times = window.times

    def shown(percentile: float | None) -> str:
        return "-" if percentile is None else f"{percentile:.1f}"

    span_s = max(window_s, 1e-9)
    return (
        f"{elapsed_s:6.0f}s {len(run.in_flight):9d} {window.answered / span_s:8.1f} {window.tokens / span_s:9.0f} "
        f"{shown(times.first_token.percentile_ms(0.5)):>10} {shown(times.first_token.percentile_ms(0.99)):>8} "
        f"{shown(times.token_gap.percentile_ms(0.5)):>8} {shown(times.token_gap.percentile_ms(0.99)):>8} "
        f"{shown(times.end_to_end.percentile_ms(0.5)):>9} {shown(times.end_to_end.percentile_ms(0.99)):>8} "
        f"{window.failed:7d}"
    )


def report_of(run: Run, server_cpu_share: float | None = None) -> dict[str, Any]:
    """Return what a run showed.

    Args:
        run: That is over.
        server_cpu_share: CPU of the server's main process, in cores, where it tells that.

    Returns:
        A document: times in milliseconds under ``first_token_ms``, ``token_gap_ms``, ``time_per_token_ms``,
        ``end_to_end_ms`` and ``behind_ms`` (count, mean, p50, p95, p99, max; None where none came), rates a second.
    """
    run.books.close_window()
    total, plan = run.books.total, run.plan
    span_s = max(run.ended_s - run.began_s, 1e-9)
    at_end = run.at_end or Tally()
    return {
        "target": {"url": plan.url, "door": plan.door, "model": plan.model, "streamed": plan.is_streamed},
        "load": {
            "loop": "closed" if plan.rate_per_s is None else "open",
            "concurrency": plan.concurrency,
            "rate_per_s": plan.rate_per_s,
            "pace": None if plan.rate_per_s is None else plan.pace,
            "prompts": len(plan.wordings),
            "images": len(plan.images),
            "max_tokens": plan.max_tokens,
            "warmup_s": plan.warmup_s,
            "seed": plan.seed,
        },
        "measured_s": round(span_s, 3),
        "requests": {
            "sent": total.sent,
            "answered": total.answered,
            "failed": total.failed,
            "answered_per_s": round(at_end.answered / span_s, 2),
            "error_share": round(total.error_share, 6),
        },
        "tokens": {
            "received": total.tokens,
            "pieces": total.pieces,
            "per_s": round(at_end.tokens / span_s, 2),
            "missing": total.missing,
            "doubled": total.doubled,
            "are_indexed": plan.is_streamed and plan.door == "infer",
        },
        **_times(total.times),
        "by_priority": {level.name: _times(times) for level, times in sorted(total.by_priority.items())},
        "errors": dict(total.errors.most_common()),
        "schedule": _schedule(run, total, at_end, span_s),
        "connections": run.connections_made,
        "client_cpu_share": round(run.cpu_s / span_s, 3),
        "server_cpu_share": None if server_cpu_share is None else round(server_cpu_share, 3),
    }


def _times(times: Times) -> dict[str, Any]:
    return {
        "first_token_ms": times.first_token.summary(),
        "token_gap_ms": times.token_gap.summary(),
        "time_per_token_ms": times.time_per_token.summary(),
        "end_to_end_ms": times.end_to_end.summary(),
    }


def _schedule(run: Run, total: Tally, at_end: Tally, span_s: float) -> dict[str, Any] | None:
    rate_per_s = run.plan.rate_per_s
    if rate_per_s is None:
        return None
    behind = total.times.behind
    late_ms = behind.percentile_ms(0.99)
    return {
        "asked_per_s": rate_per_s,
        "due": at_end.due,
        "sent_per_s": round(at_end.sent / span_s, 2),
        "behind_ms": behind.summary(),
        "is_kept": at_end.sent >= LEAST_RATE_SHARE * at_end.due and (late_ms is None or late_ms <= LATE_MS),
    }


def lines_of(report: Mapping[str, Any]) -> list[str]:
    """Return a report for people."""
    requests, tokens = report["requests"], report["tokens"]
    lines = [
        (
            f"measured {report['measured_s']:.1f} s: {requests['answered']} answered, {requests['failed']} failed, "
            f"{requests['answered_per_s']:.1f} requests/s, {tokens['per_s']:.0f} tokens/s"
        ),
    ]
    rows = [
        ("first token", report["first_token_ms"]),
        ("gap between pieces", report["token_gap_ms"]),
        ("time a token, an answer", report["time_per_token_ms"]),
        ("end to end", report["end_to_end_ms"]),
    ]
    for level, times in report["by_priority"].items():
        rows += [(f"first token, {level}", times["first_token_ms"]), (f"end to end, {level}", times["end_to_end_ms"])]
    headings = f"{'milliseconds':24} {'p50':>9} {'p95':>9} {'p99':>9} {'max':>9}"
    measured = [
        f"{name:24} {row['p50']:9.1f} {row['p95']:9.1f} {row['p99']:9.1f} {row['max']:9.1f}"
        for name, row in rows
        if row["count"]
    ]
    if measured:
        lines += ["", headings, *measured, ""]
    if tokens["are_indexed"]:
        lines.append(
            f"tokens: {tokens['received']} in {tokens['pieces']} pieces; "
            f"{tokens['missing']} indexes missing, {tokens['doubled']} doubled"
        )
    lines += [f"error: {count} x {name}" for name, count in report["errors"].items()]
    lines += _about_schedule(report["schedule"])
    lines += _about_cpu(report)
    return lines


def _about_schedule(schedule: Mapping[str, Any] | None) -> list[str]:
    if schedule is None:
        return []
    behind_ms = schedule["behind_ms"]["p99"] or 0.0
    told = (
        f"rate: {schedule['sent_per_s']:.1f}/s of {schedule['asked_per_s']:g}/s were sent, "
        f"p99 {behind_ms:.1f} ms after they were due"
    )
    if schedule["is_kept"]:
        return [told]
    return [f"{told}: THE RATE WAS NOT KEPT; allow more in flight (--concurrency), or ask for less"]


def _about_cpu(report: Mapping[str, Any]) -> list[str]:
    share, of_server = report["client_cpu_share"], report["server_cpu_share"]
    told = f"CPU: {share:.0%} of a core here"
    if of_server is not None:
        told += f", {of_server:.0%} of a core in the server's main process"
    if share >= BUSY_SHARE:
        told += ": THIS CLIENT MAY BE THE LIMIT; run several, or ask for less"
    return [told]
