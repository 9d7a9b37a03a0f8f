"""A rolling restart of edge and of echo under load, as a Deployment makes it: with the manifests'
surge, probes, preStop and grace, behind Envoy with istio/'s routes. No request may fail, and every
WebSocket is kept or told to come back (1012, 1001), and comes back.

    istio_rollout.py BINARIES OUT              a fifth of the manifests' times, a small load: for CI
    istio_rollout.py BINARIES OUT --real       their times, 1,000 requests/s, 2,000 WebSockets

Half of the WebSockets go straight to echo (istio/), half through edge (the variant). --real lifts
edge's limit of all clients together, which is 100/s; a client's own stays.
"""

import argparse
import asyncio
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from istio_stage import Failure, Stage, get
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

# Three of four are asked of echo each time, the fourth is kept.
PATHS = ("/health", "/health", "/health", "/api/info")
COME_BACK = {1001, 1012}
PODS = 2
VARIANT = "istio/variants/ws-through-edge"


# The load, in a process of its own ----------------------------------------------------------------


class Load:
    """Requests at a fixed rate and WebSockets that talk, until standard input ends."""

    def __init__(self, options):
        self.options, self.going = options, True
        self.statuses, self.slow, self.faults = Counter(), [], Counter()
        self.closes, self.opened, self.echoed, self.lost = Counter(), 0, 0, 0
        self.open = 0

    async def run(self):
        clients = max(1, self.options.rate // 5)
        tasks = [asyncio.create_task(self.client(at, clients)) for at in range(clients)]
        for at in range(self.options.sockets):
            tasks.append(asyncio.create_task(self.socket(at)))
            if at % 20 == 19:
                await asyncio.sleep(0.1)
        await asyncio.get_running_loop().run_in_executor(None, self.commands)
        self.going = False
        _, late = await asyncio.wait(tasks, timeout=15)
        for task in late:
            self.faults["did not end"] += 1
            task.cancel()

    def commands(self):
        """Each line asks how it goes."""
        for _ in sys.stdin:
            print(json.dumps(self.figures()), flush=True)

    def figures(self):
        slow = sorted(self.slow) or [0]
        self.slow = []
        return {
            "requests": dict(self.statuses),
            "p50_ms": round(slow[len(slow) // 2] * 1000, 1),
            "p99_ms": round(slow[len(slow) * 99 // 100] * 1000, 1),
            "open": self.open,
            "opened": self.opened,
            "echoed": self.echoed,
            "lost": self.lost,
            "closes": {str(code): number for code, number in self.closes.items()},
            "faults": dict(self.faults),
        }

    async def client(self, at, clients):
        """One address with one connection: five requests a second."""
        local, stream = (f"127.4.{at // 250}.{at % 250 + 1}", 0), None
        paths = itertools.cycle(PATHS)
        await asyncio.sleep(random.random() / 5)
        due = time.monotonic()
        while self.going:
            path, began = next(paths), time.monotonic()
            try:
                if stream is None:
                    stream = await asyncio.open_connection(
                        "127.0.0.1", self.options.http, local_addr=local
                    )
                status, stays = await asyncio.wait_for(request(*stream, path), 10)
                self.statuses[str(status)] += 1
                if status != 200:
                    self.faults[f"{status} for {path}"] += 1
                self.slow.append(time.monotonic() - began)
            except (OSError, ValueError, EOFError, TimeoutError) as error:
                self.faults[f"{type(error).__name__} at {path}"] += 1
                stays = False
            if not stays and stream is not None:
                stream[1].close()
                stream = None
            due = max(due + clients / self.options.rate, time.monotonic() - 1)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        if stream is not None:
            stream[1].close()

    async def socket(self, at):
        """A client that keeps its cookie and comes back when it is told to."""
        local = (f"127.5.{at // 250}.{at % 250 + 1}", 0)
        port = (self.options.direct, self.options.through)[at % 2]
        cookie, pause = None, self.options.pause
        while self.going:
            headers = {"Cookie": cookie} if cookie else {}
            try:
                async with connect(
                    f"ws://127.0.0.1:{port}/ws", local_addr=local, additional_headers=headers,
                    compression=None, ping_interval=None, open_timeout=10, close_timeout=2,
                ) as websocket:  # fmt: skip
                    given = websocket.response.headers.get("set-cookie")
                    cookie = given.split(";")[0] if given else cookie
                    self.opened += 1
                    self.open += 1
                    try:
                        await self.talk(websocket, pause)
                    finally:
                        self.open -= 1
            except ConnectionClosed as closed:
                code = closed.rcvd.code if closed.rcvd else 1006
                self.closes[code] += 1
                if code not in COME_BACK:
                    self.faults[f"close {code} {'direct' if at % 2 == 0 else 'through edge'}"] += 1
            except Exception as error:
                self.faults[f"handshake: {type(error).__name__} {error}"] += 1
            await asyncio.sleep(random.random() * 0.2)

    async def talk(self, websocket, pause):
        await asyncio.sleep(random.random() * pause)
        while self.going:
            await websocket.send("hello")
            try:
                answer = await asyncio.wait_for(websocket.recv(), 10)
            except ConnectionClosed:
                # Sent when the Close was already on its way.
                self.lost += 1
                raise
            if answer != "hello":
                raise ValueError(f"not what was said: {answer!r}")
            self.echoed += 1
            # A Close is heard while nothing is said, too.
            try:
                await asyncio.wait_for(websocket.recv(), pause)
            except TimeoutError:
                pass


async def request(reader, writer, path):
    """One request on a connection that stays: the status, and whether it does."""
    writer.write(f"GET {path} HTTP/1.1\r\nHost: load\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    fields = {}
    for line in head[1:-2]:
        name, _, value = line.partition(":")
        fields[name.lower()] = value.strip()
    if "content-length" in fields:
        await reader.readexactly(int(fields["content-length"]))
    elif fields.get("transfer-encoding") == "chunked":
        while size := int(await reader.readuntil(b"\r\n"), 16):
            await reader.readexactly(size + 2)
        await reader.readuntil(b"\r\n")
    else:
        raise ValueError("an answer without a length")
    return int(head[0].split()[1]), fields.get("connection") != "close"


# The stage ----------------------------------------------------------------------------------------


class Loading:
    """The load's process, asked now and then."""

    def __init__(self, stage, options):
        gateway = stage.envoy("gateway", "istio")
        variant = stage.envoy("variant", "istio", VARIANT)
        self.gateways = (gateway, variant)
        command = [
            sys.executable, __file__, "load", "--http", str(gateway.port),
            "--direct", str(gateway.port), "--through", str(variant.port),
            "--rate", str(options.rate), "--sockets", str(options.sockets),
            "--pause", str(options.pause),
        ]  # fmt: skip
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        stage.exits.callback(self.process.kill)

    def figures(self):
        self.process.stdin.write("?\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self):
        """The last figures, once all is closed."""
        self.process.stdin.close()
        last = json.loads(self.process.stdout.readline())
        self.process.wait(30)
        return last


def used(pid):
    """Seconds of CPU, and the memory in MiB: now and at most."""
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    status = Path(f"/proc/{pid}/status").read_text()
    kib = {line.split()[0]: int(line.split()[1]) for line in status.splitlines() if "kB" in line}
    ticks = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
    return ticks, kib["VmRSS:"] / 1024, kib["VmHWM:"] / 1024


def measure(stage, loading, seconds, what):
    """What each process costs under the load as it is; returns it by pod."""
    pids = {pod.name: pod.process.pid for kind in stage.pods.values() for pod in kind}
    pids |= {"envoy": loading.gateways[0].pid, "load": loading.process.pid}
    loading.figures()
    served = {pod.name: served_by(pod) for pod in stage.pods["edge"]}
    before = {name: used(pid)[0] for name, pid in pids.items()}
    began = time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    figures, found = loading.figures(), {}
    print(
        f"{what}, {took:.0f} s; the machine's load is {os.getloadavg()[0]:.1f} of "
        f"{os.cpu_count()} cores: p50 {figures['p50_ms']} ms, p99 {figures['p99_ms']} ms, "
        f"{figures['open']} WebSockets open"
    )
    for name, pid in pids.items():
        ticks, now, most = used(pid)
        found[name] = (1000 * (ticks - before[name]) / took, most)
        line = f"  {name:<8} {found[name][0]:>5.0f} m CPU  {now:>4.0f} MiB, at most {most:.0f}"
        for pod in stage.pods["edge"]:
            if pod.name == name:
                rate = (served_by(pod) - served[name]) / took
                line += f"  {rate:.0f} requests/s, {pod.metric('edge_websockets'):.0f} WebSockets"
        print(line)
    return found


def served_by(pod):
    return pod.metric("edge_requests_total")


def roll(stage, kind):
    """maxSurge 1, maxUnavailable 0: a new one is ready for a while, then an old one goes."""
    began, going = time.monotonic(), []
    for old in list(stage.pods[kind]):
        new = stage.start(kind)
        time.sleep(stage.scaled(new.manifest.ready_for))
        thread = threading.Thread(target=old.delete)
        thread.start()
        going.append((old, thread))
    for old, thread in going:
        thread.join()
        print(f"  {old.name} drained in {getattr(old, 'drained_in', -1):.1f} s")
    ready = max(pod.ready_after for pod in stage.pods[kind])
    took = time.monotonic() - began
    print(f"  {kind} rolled in {took:.0f} s; a new pod was ready after {ready:.1f} s")


def run(options, binaries, out):
    with Stage(binaries, out / "rollout", options.factor) as stage:
        if options.real:
            stage.configuration.put("limit", "global", "off")
        for kind in ("echo", "edge"):
            for _ in range(PODS):
                stage.start(kind)
        loading = Loading(stage, options)
        time.sleep(options.settle)
        measure(stage, loading, options.window, "before")
        for kind in ("edge", "echo"):
            print(f"rolling {kind}")
            roll(stage, kind)
            time.sleep(options.settle / 2)
            measure(stage, loading, options.window, "after")
        alone = None
        if options.alone:
            alone = stand_alone(stage, loading, options)
        last = loading.end()
        envoys = [line for one in loading.gateways for line in told_by(one)]
        return judge(options, stage, last, envoys, alone)


def stand_alone(stage, loading, options):
    """All of it on one pod of edge."""
    old = stage.pods["edge"][0]
    old.delete()
    time.sleep(options.settle)
    name = stage.pods["edge"][0].name
    return measure(stage, loading, options.window, "one pod of edge alone")[name]


def told_by(gateway):
    """What Envoy did about failures."""
    wanted = "upstream_rq_retry$|ejections_enforced_total|upstream_rq_5xx"
    _, text = get(f"http://{gateway.admin}/stats?filter={wanted}")
    return [line for line in text.splitlines() if not line.endswith(" 0")]


def judge(options, stage, last, envoys, alone):
    print(json.dumps(last))
    print("envoy:", "; ".join(envoys) or "nothing was repeated")
    faults = [f"{number} x {what}" for what, number in last["faults"].items()]
    faults += stage.faults
    total = sum(last["requests"].values())
    if last["requests"].keys() - {"200"}:
        faults.append(f"requests failed: {last['requests']}")
    if not total or not last["echoed"]:
        faults.append("there was no load")
    told = sum(number for code, number in last["closes"].items() if int(code) in COME_BACK)
    # Each socket was with an edge or an echo that went, so each was told at least once.
    if told < options.sockets:
        faults.append(f"only {told} closes for {options.sockets} WebSockets")
    if alone:
        millicores, most = alone
        if most > 128 or millicores > 200:
            faults.append(f"one pod of edge took {millicores:.0f} m and {most:.0f} MiB")
    failed = total - last["requests"].get("200", 0)
    print(
        f"{total} requests, {failed} failed; {last['opened']} WebSockets opened, {told} told to "
        f"come back; {last['echoed']} messages echoed, {last['lost']} sent when the Close was "
        "already on its way."
    )
    return faults


def main():
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("binaries", type=lambda text: Path(text).resolve())
    words.add_argument("out", type=lambda text: Path(text).resolve())
    words.add_argument("--real", action="store_true")
    words.add_argument("--rate", type=int)
    words.add_argument("--sockets", type=int)
    options = words.parse_args()
    options.alone = options.real
    options.factor = 1.0 if options.real else 0.2
    options.rate = options.rate or (1000 if options.real else 100)
    options.sockets = options.sockets or (2000 if options.real else 60)
    options.pause = 5.0 if options.real else 1.0
    options.settle, options.window = (15, 30) if options.real else (2, 2)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        faults = run(options, options.binaries, options.out)
    except (Failure, OSError) as failure:
        sys.exit(f"The restart could not be tried: {failure}")
    if faults:
        sys.exit("\n".join([*faults, f"{len(faults)} faults; logs: {options.out / 'rollout'}"]))


def load():
    words = argparse.ArgumentParser()
    for name in ("http", "direct", "through", "rate", "sockets"):
        words.add_argument(f"--{name}", type=int)
    words.add_argument("--pause", type=float)
    one = Load(words.parse_args(sys.argv[2:]))
    asyncio.run(one.run())
    print(json.dumps(one.figures()), flush=True)


if __name__ == "__main__":
    load() if sys.argv[1:2] == ["load"] else main()
