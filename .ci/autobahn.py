"""Runs the Autobahn cases against echo, and through edge with echo behind it.

edge must change no verdict and no close code, and no case may fail. Nothing is run a second
time, because no verdict depends on the time: see PARALLEL.

To look at one case: BINARIES and OUT are this script's arguments, as .ci/autobahn gives them.

    OUT/venv/bin/kosoku 127.0.0.1:PORT/ws -i 6.4.3 -o FOLDER

FOLDER then has the frames that went to and fro, as HTML and as JSON.
"""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

CASES = 517
PASSED = {"OK", "NON-STRICT", "INFORMATIONAL"}
# These are about compression, which echo does not offer.
MAY_LACK = {"12", "13"}
# Group 9 goes to 16 MiB, so echo takes just that, and edge whatever comes.
LARGEST = "16MiB"
WEBSOCKET = '{ message = "off", frame = "off", messages_per_client = "off", per_client = "off" }'
# With 4 cases at once a side takes 5 s, with one 14 s, most of it in the few cases that wait. In 37
# runs of each side, 11 of them with 8 at once beside 8 busy loops on two cores, no verdict and no
# close code was another than in the first run: what differs, differs because of edge.
PARALLEL = "4"
SECONDS = 150


class Failure(Exception):
    """What ends the run before there are verdicts to compare."""


class Server:
    """A process that says in its log where it listens."""

    def __init__(self, command, log):
        self.name, self.log = command[0].name, log
        with log.open("wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)

    def address(self):
        for _ in range(100):
            for line in self.log.read_text().splitlines(keepends=True):
                if '"address":' in line and line.endswith("\n"):
                    return json.loads(line)["address"]
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise Failure(f"{self.name} did not start:\n{self.log.read_text()}")

    def end(self):
        """Returns what was wrong with its end. It does not end while a connection is open."""
        if self.process.poll() is not None:
            return f"{self.name} ended too early, with code {self.process.returncode}"
        self.process.terminate()
        try:
            code = self.process.wait(10)
        except subprocess.TimeoutExpired:
            return f"{self.name} did not end within 10 s: is a connection still open?"
        return f"{self.name} ended with code {code}" if code else None


class Outcome:
    def __init__(self, found, out):
        self.verdict, self.close = found["behavior"], found["behaviorClose"]
        self.code, self.report = found["remoteCloseCode"], out / found["reportfile"]

    def same(self, other):
        mine, others = ((o.verdict, o.close, o.code) for o in (self, other))
        return mine == others

    def passed(self, group):
        lacks = group in MAY_LACK and self.verdict == "UNIMPLEMENTED"
        return (lacks or self.verdict in PASSED) and self.close in PASSED

    def short(self):
        odd = self.close not in ("OK", self.verdict)
        return f"{self.verdict} (close: {self.close})" if odd else self.verdict

    def long(self):
        report = json.loads(self.report.read_text())
        return (
            f"{self.verdict}, close {self.close}, code {self.code}: "
            f"{report['result']} {report['resultClose']}"
        )


def drive(kosoku, address, out):
    """Runs all cases; returns what each of them came to."""
    command = [kosoku, f"{address}/ws", "-p", PARALLEL, "-o", out]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        hint = "a group alone (-i '9.*') tells which case hangs"
        raise Failure(f"{out.name}: no end after {SECONDS} s; {hint}") from None
    if not (out / "index.json").exists():
        raise Failure(f"{out.name}: no report\n{run.stdout}{run.stderr}")
    [cases] = json.loads((out / "index.json").read_text()).values()
    return {case: Outcome(found, out) for case, found in cases.items()}


def order(case):
    return [int(part) for part in case.split(".")]


def judge(direct, through):
    """Prints a line for each group; returns what is wrong, a text for each case."""
    faults, groups = [], {}
    for case in sorted(direct.keys() | through.keys(), key=order):
        group = case.split(".")[0]
        if case not in direct or case not in through:
            side = "through edge" if case in direct else "directly"
            faults.append(f"{case}: not run {side}")
            continue
        here, there = direct[case], through[case]
        groups.setdefault(group, []).append((here.short(), there.short()))
        wrong = []
        if not here.same(there):
            wrong.append("edge makes a difference")
        if not (here.passed(group) and there.passed(group)):
            wrong.append("failed")
        if wrong:
            faults.append(
                f"{case}: {' and '.join(wrong)}\n"
                f"    directly: {here.long()}\n    through edge: {there.long()}"
            )

    print(f"{'group':>5}  {'cases':>5}  {'directly':<35}  through edge")
    for group, pairs in groups.items():
        counts = [
            ", ".join(f"{count} {verdict}" for verdict, count in Counter(side).most_common())
            for side in zip(*pairs)
        ]
        print(f"{group:>5}  {len(pairs):>5}  {counts[0]:<35}  {counts[1]}")
    for side, cases in (("directly", direct), ("through edge", through)):
        if len(cases) != CASES:
            faults.append(f"{len(cases)} cases ran {side}, not {CASES}")
    return faults


def upgrades(log):
    """How many handshakes edge has let through: proof that the cases took that way."""
    lines = log.read_text().splitlines()
    return sum('"event":"request"' in line and '"status":101' in line for line in lines)


def run(binaries, out):
    kosoku = out / "venv/bin/kosoku"
    for old in [path for side in ("direct", "edge") for path in (out / side).glob("*")]:
        old.unlink()
    servers = []

    def start(name, *arguments):
        servers.append(Server([binaries / name, *arguments], out / f"{name}.log"))
        return servers[-1].address()

    try:
        echo = start("echo-server", "--listen", "127.0.0.1:0", "--max-message", LARGEST)
        (out / "edge.toml").write_text(
            '[server]\nlisten = "127.0.0.1:0"\ndrain_delay = "off"\n\n'
            '[admin]\nlisten = "127.0.0.1:0"\n\n'
            f'[upstream.echo]\npeers = ["{echo}"]\n\n'
            f'[[route]]\npath = "/ws"\nupstream = "echo"\nwebsocket = {WEBSOCKET}\n'
        )
        edge = start("edge", "-c", out / "edge.toml")
        faults = judge(drive(kosoku, echo, out / "direct"), drive(kosoku, edge, out / "edge"))
        faults += filter(None, (server.end() for server in reversed(servers)))
        passed = upgrades(servers[-1].log)
        if passed != CASES:
            faults.append(f"edge has let {passed} handshakes through, not {CASES}")
    finally:
        for server in servers:
            server.process.kill()
            server.process.wait()
    return faults


def main():
    binaries, out = (Path(argument) for argument in sys.argv[1:])
    # So that the servers end with this script.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        faults = run(binaries, out)
    except (Failure, OSError) as failure:
        sys.exit(f"The Autobahn cases could not be run: {failure}")
    if faults:
        sys.exit("\n".join([*faults, f"{len(faults)} faults; all reports and logs: {out}"]))
    print(f"{CASES} cases, each with the same verdict and close code both ways, and none failed.")


if __name__ == "__main__":
    main()
