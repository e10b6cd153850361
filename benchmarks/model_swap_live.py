"""Does anybody at the doors notice a swap? Twenty of each of two models of a real service, under clients and jobs.

A `freeroam serve` process has a model that speaks and one that looks. 64 connections of a client process ask all the
time, half of them `/infer` and half `/infer_stream`, a quarter of the former the model that looks; eight jobs on
`demo:` ask as well, half of them each model, half of them with the policy `block` and half with `latest`, and the
client follows the results of all. Meanwhile the models are swapped in turn by `POST /api/v1/models`. The client tries
nothing again, so whatever is refused counts as a fault; afterwards the stored results of every job are read.

    python benchmarks/model_swap_live.py [--swaps 20] [--unload-first]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.doors import KEY, RAISED, Server, say_settings
from benchmarks.service import free_port, memory_bytes, write_json

from freeroam.client import AsyncClient, Client, Retries
from freeroam.vocabulary.errors import FreeroamError
from freeroam.vocabulary.model import ModelInfo, ModelState
from freeroam.vocabulary.model_calls import InferDone, InferToken

LOOKER, SPEAKER = "fake", "speaker"
LOOKS = {"latency_ms": 50.0, "load_ms": 200.0}
TOKENS = 40
SPEAKS = {"tokens": TOKENS, "token_latency_ms": 20.0, "load_ms": 200.0}
TEXT = "".join(f"word{number} " for number in range(TOKENS))
FPS = {LOOKER: 5.0, SPEAKER: 1.0}
"""How often jobs ask: what a model answers in time, so that a dropped frame is a fault."""

PICTURE_S = 1.0 / 25.0
"""Between two pictures of the demo: a sample is the first picture that is due, so its time is up to this much late."""
BAR = 0.05
SETTINGS = {**RAISED, "MODEL_TYPE": "fake", "MAX_CONNECTIONS": "256", "MAX_CONCURRENT_STREAMS": "8"}


class Askers:
    """The connections of the client process.

    Attributes:
        answered: Answers by model and version.
        faults: What was wrong, by kind.
        waits_ms: From the question to its whole answer, by model.
    """

    def __init__(self, client: AsyncClient) -> None:
        self.answered: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.waits_ms: dict[str, list[float]] = {LOOKER: [], SPEAKER: []}
        self.is_over = False
        self._client = client

    async def ask_on(self, number: int) -> None:
        """Ask, read, check and ask again."""
        asked = LOOKER if number % 8 == 0 else SPEAKER
        while not self.is_over:
            begun_s = time.monotonic()
            try:
                text, version = await (self._listen() if number % 2 else self._ask(asked, number))
            except Exception as error:  # every failure is what this is looking for
                self.faults[f"{type(error).__name__}: {error}"] += 1
                continue
            if text != (TEXT if asked == SPEAKER else f"0 frames, asked: {number}"):
                self.faults["text not whole"] += 1
            self.answered[f"{asked}@{version}"] += 1
            self.waits_ms[asked].append((time.monotonic() - begun_s) * 1000.0)

    async def _ask(self, model: str, number: int) -> tuple[str, str]:
        answer = await self._client.infer(str(number), model)
        tokens = TOKENS if model == SPEAKER else 1
        if len(answer.tokens) != tokens or "".join(answer.tokens) != answer.text:
            self.faults["tokens not whole"] += 1
        return answer.text or "", answer.version

    async def _listen(self) -> tuple[str, str]:
        """Return what was spoken; the client raises where an index is not the next one."""
        texts, count = [], 0
        async with self._client.infer_stream("go on", SPEAKER) as stream:
            async for item in stream:
                if isinstance(item, InferToken):
                    texts.append(item.token)
                    count += item.count
                elif isinstance(item, InferDone):
                    if not count == item.usage.completion_tokens == TOKENS:
                        self.faults["stream not whole"] += 1
                    return "".join(texts), item.version
        raise RuntimeError("a stream ended without its end")

    async def follow(self, job_id: str) -> None:
        """Follow the results of a job; each must have the number after the one before."""
        last: int | None = None
        try:
            async with self._client.stream_results(job_id) as results:
                async for result in results:
                    if last is not None and result.id != last + 1:
                        self.faults["result out of place"] += 1
                    last = result.id
        except FreeroamError as error:
            self.faults[f"following: {error}"] += 1


async def ask_all(url: str, connections: int, jobs: list[str]) -> None:
    """Be the client process: ask until a line comes in, then print what was seen as JSON."""
    async with AsyncClient(url, key=KEY, retries=Retries(attempts=1, stream_attempts=1)) as client:
        askers = Askers(client)
        following = [asyncio.create_task(askers.follow(job)) for job in jobs]
        asking = [asyncio.create_task(askers.ask_on(number)) for number in range(connections)]
        await asyncio.to_thread(sys.stdin.readline)
        cpu_s = psutil.Process().cpu_times()
        askers.is_over = True
        await asyncio.gather(*asking)
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
    told = {"answered": askers.answered, "faults": askers.faults, "waits_ms": askers.waits_ms}
    print(json.dumps({**told, "cpu_s": cpu_s.user + cpu_s.system}))


class Load:
    """The client process, from here."""

    def __init__(self, server: Server, connections: int, jobs: list[str]) -> None:
        command = [sys.executable, __file__, "--ask", server.url, "--connections", str(connections), "--jobs", *jobs]
        self._begun_s = time.monotonic()
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def end(self) -> dict[str, Any]:
        """Let it finish what it asked, and return what it saw."""
        took_s = time.monotonic() - self._begun_s
        told, _ = self._process.communicate("end\n", timeout=120)
        seen: dict[str, Any] = json.loads(told)
        return {**seen, "client_cores": round(seen["cpu_s"] / took_s, 2)}


def begin_jobs(client: Client) -> list[str]:
    """Start eight jobs: two models, two policies, twice."""
    jobs = []
    for _, model, policy in itertools.product(range(2), (LOOKER, SPEAKER), ("block", "latest")):
        started = client.start_job("demo:", "what is there", fps=FPS[model], model=model, policy=policy)  # type: ignore[arg-type]
        jobs.append(started.job_id)
    wait_until(lambda: all(client.job_status(job).results_count >= 3 for job in jobs))
    return jobs


def look_at(client: Client, job_id: str) -> tuple[int, Counter[str]]:
    """Return how many results a job has and what is wrong with them."""
    faults: Counter[str] = Counter()
    status = client.job_status(job_id)
    faults.update({f"job dropped: {reason}": frames for reason, frames in status.frames_dropped.items()})
    faults["job in trouble"] += status.error is not None
    faults["source opened again"] += status.source.reconnects
    longest_s = 1.0 / status.fps + 1.5 * PICTURE_S
    results = list(client.iterate_results(job_id))
    faults["result failed"] += sum(result.error is not None for result in results)
    if status.model == SPEAKER:
        faults["result not whole"] += sum(result.text != TEXT for result in results)
    for before, after in itertools.pairwise(results):
        faults["result number not the next"] += after.id != before.id + 1
        step_s = after.metadata.stream_time - before.metadata.stream_time
        faults["frame without an answer"] += step_s > longest_s
        faults["frame answered twice"] += step_s <= 0.0
    frames = len({result.metadata.frame_ids[0] for result in results})
    # The job goes on while it is looked at.
    faults["frame count wrong"] += not status.frames_processed <= frames <= client.job_status(job_id).frames_processed
    return len(results), faults


def replicas_of(server: Server) -> set[int]:
    """Return the processes that run models."""
    found = set()
    for child in psutil.Process(server.process.pid).children(recursive=True):
        try:
            if "freeroam.engines.replica" in " ".join(child.cmdline()):
                found.add(child.pid)
        except psutil.NoSuchProcess:
            continue
    return found


def versions_of(client: Client) -> list[ModelInfo]:
    """Return every version of every model."""
    return [info for model in client.list_models().models.values() for info in model.versions.values()]


def at_rest(client: Client) -> bool:
    """Tell whether one version of each model is left."""
    versions = versions_of(client)
    return len(versions) == 2 and all(info.state is ModelState.READY for info in versions)


def wait_until(condition: Any, limit_s: float = 60.0) -> None:
    """Wait for a condition."""
    end_s = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end_s:
            raise RuntimeError("the service did not come to rest")
        time.sleep(0.1)


def memory_mib(server: Server, seconds: int = 45) -> dict[str, float]:
    """Return the memory of the service and its children while only the jobs run: the medians of so many looks.

    Decoders take up to a fifth more while one run of the demo's loop follows another, so looks go over several loops.

    It is what they have of their own and share among themselves. Pages of files are left out: the proportional share
    of them grows whenever another program that maps the same libraries ends.
    """
    time.sleep(2.0)
    looks: list[Counter[str]] = []
    for _ in range(seconds):
        time.sleep(1.0)
        look: Counter[str] = Counter({"service": own_bytes(server.process.pid)})
        for child in psutil.Process(server.process.pid).children(recursive=True):
            line = " ".join(child.cmdline())
            look["models" if "engines.replica" in line else "decoders"] += own_bytes(child.pid)
        looks.append(look)
    told = {name: statistics.median(look[name] for look in looks) / 2**20 for name in looks[0]}
    return {**told, "all": statistics.median(look.total() for look in looks) / 2**20}


def own_bytes(pid: int) -> int:
    """Return the memory of a process that is not of files, its part of what it shares with others."""
    memory = memory_bytes(pid)
    return memory["Pss_Anon"] + memory["Pss_Shmem"]


def swap_all(client: Client, server: Server, chosen: argparse.Namespace) -> tuple[list[float], set[int]]:
    """Swap both models in turn; return how long each swap took, in milliseconds, and every process there was."""
    swaps_ms, pids = [], replicas_of(server)
    for version, (name, options) in itertools.product(range(2, chosen.swaps + 2), ((SPEAKER, SPEAKS), (LOOKER, LOOKS))):
        time.sleep(chosen.between_s)
        begun_s = time.monotonic()
        client.load_model(
            name, str(version), model_type="fake", options=options, max_batch_size=64, unload_first=chosen.unload_first
        )
        swaps_ms.append((time.monotonic() - begun_s) * 1000.0)
        pids |= replicas_of(server)
    time.sleep(chosen.between_s)
    return swaps_ms, pids


def measure(server: Server, chosen: argparse.Namespace) -> dict[str, Any]:
    """Return everything that was seen."""
    with Client(server.url, key=KEY, retries=Retries(attempts=1)) as client:
        for name, options in ((SPEAKER, SPEAKS), (LOOKER, LOOKS)):
            client.load_model(name, "1.0", model_type="fake", options=options, max_batch_size=64)
        jobs = begin_jobs(client)
        load = Load(server, chosen.connections, jobs)
        time.sleep(chosen.calm_s)
        calm = load.end()
        before_mib = memory_mib(server)
        load = Load(server, chosen.connections, jobs)
        time.sleep(chosen.between_s)
        swaps_ms, pids = swap_all(client, server, chosen)
        seen = load.end()
        wait_until(lambda: at_rest(client))
        after_mib = memory_mib(server)
        looks = [look_at(client, job) for job in jobs]
        wait_until(lambda: len(replicas_of(server)) == 2)
        left = sorted(pid for pid in pids - replicas_of(server) if psutil.pid_exists(pid))
        states = client.server_status()
    faults = Counter(calm["faults"]) + Counter(seen["faults"]) + sum((one for _, one in looks), Counter())
    faults["errors in the log"] += server.log().count('"level":"error"')
    faults["questions that never end"] += states.calls + states.streams
    return {
        "settings": vars(chosen),
        "swaps": len(swaps_ms),
        "swap_ms": {"median": statistics.median(swaps_ms), "longest": max(swaps_ms)},
        "answers": sum(seen["answered"].values()),
        "versions_that_answered": len(seen["answered"]),
        "results": sum(count for count, _ in looks),
        "faults": {kind: count for kind, count in faults.items() if count},
        "answer_ms": {
            f"{name}, {kind}": spread(load["waits_ms"][name])
            for name in (SPEAKER, LOOKER)
            for kind, load in (("calm", calm), ("swapping", seen))
        },
        "memory_mib": {"before": before_mib, "after": after_mib},
        "memory_change": after_mib["all"] / before_mib["all"] - 1.0,
        "processes_left": left,
        "client_cores": seen["client_cores"],
    }


def spread(waits_ms: list[float]) -> dict[str, float]:
    """Return median, 99th percentile and the longest."""
    cuts = statistics.quantiles(waits_ms, n=100)
    return {"p50": round(cuts[49], 1), "p99": round(cuts[98], 1), "longest": round(max(waits_ms), 1)}


def main() -> None:
    """Run, print, write JSON, fail if anything was noticed or is left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--swaps", type=int, default=20, help="of each model")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--between-s", type=float, default=0.5)
    parser.add_argument("--calm-s", type=float, default=15.0)
    parser.add_argument("--unload-first", action="store_true", help="end the old version before the new one is loaded")
    parser.add_argument("--ask", default="", help=argparse.SUPPRESS)
    parser.add_argument("--jobs", nargs="*", default=[], help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.ask:
        asyncio.run(ask_all(chosen.ask, chosen.connections, chosen.jobs))
        return
    say_settings(SETTINGS)
    server = Server("freeroam", ["-m", "freeroam", "serve"], free_port(), SETTINGS)
    try:
        server.wait("/infer")
        told = measure(server, chosen)
    finally:
        server.end()
    print(json.dumps(told, indent=2))
    write_json("model_swap_live", told)
    if told["faults"] or told["processes_left"] or told["memory_change"] > BAR:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
