"""A stage for istio/ and k8s/ without a cluster: pods are processes, each on a loopback address of
its own, with the arguments, probes, preStop and grace of the manifests; Envoy takes its routes from
istio/ (scripts/envoy-bootstrap.py); this script says who is an endpoint, as the control plane would,
to Envoy by a file and to edge by DNS.
"""

import json
import os
import re
import resource
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
NAMESPACE = "krakend-test"
BINARY = {"edge": "edge", "echo": "echo-server"}
# With a sidecar in REDIRECT mode this is the peer that edge sees; a private address, as in ambient
# mode, cannot be had on loopback. Both are in the manifest's trusted_proxies.
GATEWAY = "127.0.0.6"
# What the control plane takes from "a pod is to end" to "every proxy has heard of it".
PROPAGATION = 1.0


class Failure(Exception):
    """What ends a run before there is anything to judge."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        return probe.getsockname()[1]


def wait_until(done, limit, what):
    end = time.monotonic() + limit
    while not (result := done()):
        if time.monotonic() > end:
            raise Failure(f"{what}: not within {limit:g} s")
        time.sleep(0.02)
    return result


def get(url, timeout=2.0):
    """The status and the body; 0 where nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def milliseconds(duration):
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h)", duration).groups()
    return int(number) * {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}[unit]


class Manifest:
    """What k8s/base says of one Deployment."""

    def __init__(self, name):
        text = (ROOT / f"k8s/base/40-{name}.yaml").read_text()
        [deployment] = yaml.safe_load_all(text)
        self.name, spec = name, deployment["spec"]
        self.ready_for = spec["minReadySeconds"]
        pod = spec["template"]["spec"]
        self.grace = pod["terminationGracePeriodSeconds"]
        [self.container] = pod["containers"]
        self.ports = {port["name"]: port["containerPort"] for port in self.container["ports"]}
        self.sleep = self.container["lifecycle"]["preStop"]["sleep"]["seconds"]
        self.environment = {one["name"]: one.get("value") for one in self.container.get("env", [])}

    def probe(self, kind):
        probe = self.container[f"{kind}Probe"]
        return {
            "path": probe["httpGet"]["path"],
            "port": self.ports[probe["httpGet"]["port"]],
            "period": probe.get("periodSeconds", 10),
            "timeout": probe.get("timeoutSeconds", 1),
            "failures": probe.get("failureThreshold", 3),
        }


class Configuration:
    """edge.toml as text, of which single values are replaced."""

    def __init__(self):
        self.text = (ROOT / "k8s/base/edge.toml").read_text()

    def value(self, table, key):
        found = re.search(self.pattern(table, key), self.text, re.M | re.S)
        if not found:
            raise Failure(f"edge.toml: no {key} in [{table}]")
        return found[2]

    def put(self, table, key, value):
        text = json.dumps(value)
        if re.search(self.pattern(table, key), self.text, re.M | re.S):
            self.text = re.sub(
                self.pattern(table, key), rf"\g<1>{text}", self.text, count=1, flags=re.M | re.S
            )
        else:
            self.text = self.text.replace(f"[{table}]\n", f"[{table}]\n{key} = {text}\n", 1)

    def scale(self, table, key, factor):
        duration = json.loads(self.value(table, key))
        self.put(table, key, f"{max(1, round(milliseconds(duration) * factor))}ms")

    @staticmethod
    def pattern(table, key):
        return (
            rf"(^\[{re.escape(table)}\]$(?:\n(?!\[)[^\n]*)*?\n{key} = )(\"[^\"]*\"|\[[^\]]*\]|\S+)"
        )


class Stage:
    """All that runs. Times of the manifests are multiplied by `factor`."""

    def __init__(self, binaries, out, factor=1.0):
        self.binaries, self.out, self.factor = binaries, out, factor
        self.pods, self.numbers, self.lock = {"edge": [], "echo": []}, {}, threading.Lock()
        self.ports = {8080: free_port(), 9090: free_port()}
        self.configuration, self.version, self.faults = Configuration(), 0, []
        out.mkdir(parents=True, exist_ok=True)
        for old in out.glob("*.*"):
            old.unlink()
        self.names = Names()
        self.endpoints = out / "endpoints"
        self.endpoints.mkdir(exist_ok=True)
        self.exits = ExitStack()
        # A thousand WebSockets are some thousand descriptors.
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        self.publish()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.exits.close()
        self.names.close()

    def process(self, name, command, **more):
        """One that is killed at the end, if it still runs."""
        with (self.out / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, **more)

        def end():
            process.kill()
            process.wait()

        self.exits.callback(end)
        return process

    def start(self, kind):
        """A new pod, as soon as it is ready, and an endpoint."""
        with self.lock:
            self.numbers[kind] = number = self.numbers.get(kind, 0) + 1
        pod = Pod(self, Manifest(kind), number)
        pod.become_ready()
        with self.lock:
            self.pods[kind].append(pod)
        self.publish()
        return pod

    def publish(self):
        """Tells Envoy and edge who is an endpoint."""
        with self.lock:
            self.version += 1
            for kind, pods in self.pods.items():
                addresses = [pod.address for pod in pods]
                self.write_endpoints(kind, addresses)
                self.names.known[f"{kind}-headless"] = addresses

    def write_endpoints(self, kind, addresses):
        hosts = [
            {"endpoint": {"address": {"socket_address": {"address": a, "port_value": p}}}}
            for a in addresses
            for p in [self.ports[8080]]
        ]
        response = {
            "version_info": str(self.version),
            "resources": [
                {
                    "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
                    "cluster_name": f"{kind}.{NAMESPACE}",
                    "endpoints": [{"lb_endpoints": hosts}],
                }
            ],
        }
        # Moved into place: Envoy reads what is moved there, and whole.
        new = self.endpoints / f"{kind}.new"
        new.write_text(json.dumps(response))
        new.replace(self.endpoints / f"{kind}.{NAMESPACE}.json")

    def envoy(self, name, *files, jwks=()):
        """An Envoy with the routes of these files. Returns its address."""
        bootstrap = bootstrapped(self.endpoints, *files, jwks=jwks)
        config, told = self.out / f"{name}.json", self.out / f"{name}.admin"
        config.write_text(bootstrap)
        envoy = Path(sys.executable).parent / "envoy"
        command = [
            envoy, "--disable-hot-restart", "--concurrency", "1", "-l", "warning",
            "--admin-address-path", told, "-c", config,
        ]  # fmt: skip
        process = self.process(name, command)

        def listening():
            if process.poll() is not None:
                raise Failure(f"envoy ended:\n{(self.out / f'{name}.log').read_text()}")
            if not told.exists() or not (admin := told.read_text()):
                return None
            if get(f"http://{admin}/ready")[0] != 200:
                return None
            _, listeners = get(f"http://{admin}/listeners?format=json")
            where = json.loads(listeners)["listener_statuses"][0]["local_address"]["socket_address"]
            return Gateway(where["port_value"], admin, process)

        return wait_until(listening, 20, name)

    def scaled(self, seconds):
        return seconds * self.factor


class Gateway:
    """An Envoy that listens."""

    def __init__(self, port, admin, process):
        self.port, self.admin, self.pid = port, admin, process.pid


def bootstrapped(endpoints, *files, jwks=()):
    command = [
        sys.executable, ROOT / "scripts/envoy-bootstrap.py", "--listen", "127.0.0.1:0",
        "--admin", "127.0.0.1:0", "--source", GATEWAY, "--endpoints", endpoints,
        *(f"--jwks={one}" for one in jwks), *(ROOT / file for file in files),
    ]  # fmt: skip
    made = subprocess.run(command, capture_output=True, text=True, timeout=20)
    if made.returncode:
        raise Failure(made.stderr)
    return made.stdout


class Pod:
    """One process, and what the kubelet does with it."""

    def __init__(self, stage, manifest, number):
        self.stage, self.manifest = stage, manifest
        kind = manifest.name
        self.name = f"{kind}-{number}"
        self.address = f"127.{1 if kind == 'edge' else 2}.0.{number}"
        self.going = threading.Event()
        command = [stage.binaries / BINARY[kind], *self.arguments()]
        self.process = stage.process(self.name, command, env=self.environment())
        self.log = stage.out / f"{self.name}.log"
        self.began = time.monotonic()

    def listen(self, port):
        return f"{self.address}:{self.stage.ports[port]}"

    def arguments(self):
        """The manifest's own; edge's with its configuration's place here."""
        given = self.manifest.container.get("args", [])
        if self.manifest.name == "echo":
            return given
        mounted, here = "/etc/edge/edge.toml", self.stage.out / f"{self.name}.toml"
        if mounted not in given:
            raise Failure(f"edge is not started with {mounted}: {given}")
        here.write_text(self.adapted())
        return [str(here) if one == mounted else one for one in given]

    def adapted(self):
        """The manifest's edge.toml, with this stage's addresses and times."""
        stage, own = self.stage, Configuration()
        own.text = stage.configuration.text
        own.put("server", "listen", self.listen(self.manifest.ports["http"]))
        own.put("admin", "listen", self.listen(self.manifest.ports["admin"]))
        own.put("dns", "servers", [stage.names.address])
        own.put("upstream.echo", "peers", [f"echo-headless:{stage.ports[8080]}"])
        for table, key in (("server", "drain"), ("server", "drain_delay"), ("dns", "ttl_max")):
            own.scale(table, key, stage.factor)
        if stage.factor < 1:
            own.put("dns", "ttl_min", "100ms")
        return own.text

    def environment(self):
        made = {"PATH": os.environ["PATH"]}
        for name, value in self.manifest.environment.items():
            if value is None:
                continue
            if name.endswith("_LISTEN"):
                value = self.listen(int(value.rpartition(":")[2]))
            elif name.endswith("_DRAIN"):
                value = f"{round(milliseconds(value) * self.stage.factor)}ms"
            made[name] = value
        return made

    def asked(self, probe):
        url = f"http://{self.listen(probe['port'])}{probe['path']}"
        # A debug build on a busy machine is not what a probe is scaled for.
        return get(url, max(1.0, self.stage.scaled(probe["timeout"])))[0] == 200

    def become_ready(self):
        for kind in ("startup", "readiness"):
            probe = self.manifest.probe(kind)
            period = self.stage.scaled(probe["period"])
            limit = max(10.0, period * probe["failures"])
            end = time.monotonic() + limit
            while not self.asked(probe):
                if self.process.poll() is not None or time.monotonic() > end:
                    raise Failure(
                        f"{self.name} did not become ready:\n{self.log.read_text()[-2000:]}"
                    )
                time.sleep(min(period, 0.1))
        self.ready_after = time.monotonic() - self.began
        for kind in ("readiness", "liveness"):
            threading.Thread(target=self.watch, args=(kind,), daemon=True).start()

    def watch(self, kind):
        """Probes on and on: a pod that fails them in service is a fault."""
        probe, failed = self.manifest.probe(kind), 0
        while not self.going.wait(self.stage.scaled(probe["period"])):
            failed = 0 if self.asked(probe) or self.going.is_set() else failed + 1
            if failed == probe["failures"]:
                self.stage.faults.append(f"{self.name}: {kind} failed {failed} times in service")

    def delete(self):
        """As the API server, the endpoints' controller and the kubelet do it, in their order."""
        stage, manifest = self.stage, self.manifest
        began = time.monotonic()
        self.going.set()
        time.sleep(stage.scaled(PROPAGATION))
        with stage.lock:
            stage.pods[manifest.name].remove(self)
        stage.publish()
        time.sleep(max(0.0, began + stage.scaled(manifest.sleep) - time.monotonic()))
        told = time.monotonic()
        self.process.terminate()
        try:
            code = self.process.wait(max(0.0, began + stage.scaled(manifest.grace) - told))
        except subprocess.TimeoutExpired:
            self.process.kill()
            stage.faults.append(f"{self.name}: killed, its grace of {manifest.grace} s was over")
            return
        self.drained_in = time.monotonic() - told
        if code:
            stage.faults.append(f"{self.name}: ended with code {code}")

    def kill(self):
        """A pod that dies and is still an endpoint."""
        self.going.set()
        self.process.kill()
        self.process.wait()

    def lines(self, name):
        """The labels and the value of each line of this name."""
        port = self.manifest.ports.get("admin", self.manifest.ports["http"])
        _, text = get(f"http://{self.listen(port)}/metrics")
        for line in text.splitlines():
            key, _, value = line.rpartition(" ")
            if key.partition("{")[0] == name:
                yield dict(re.findall(r'(\w+)="([^"]*)"', key)), float(value)

    def metric(self, name, **wanted):
        """The sum of all lines of this name with these labels."""
        return sum(value for labels, value in self.lines(name) if wanted.items() <= labels.items())

    def labels(self, name, label):
        """The value of each line of this name by one of its labels."""
        return {labels[label]: value for labels, value in self.lines(name)}

    def events(self, event):
        """The lines of its log about this event."""
        found = []
        for line in self.log.read_text().splitlines():
            if f'"{event}"' in line and line.startswith("{"):
                found.append(json.loads(line))
        return found


class Names:
    """The cluster's DNS: names of headless services, by their first label."""

    def __init__(self):
        self.known = {}
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self.socket.getsockname())
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                query, client = self.socket.recvfrom(4096)
                self.socket.sendto(self.answer(query), client)
            except OSError:
                return

    def answer(self, query):
        end, labels = 12, []
        while size := query[end]:
            labels.append(query[end + 1 : end + 1 + size].decode().lower())
            end += 1 + size
        question = query[12 : end + 5]
        kind = int.from_bytes(query[end + 1 : end + 3])
        known = labels and labels[0] in self.known
        addresses = self.known[labels[0]] if known and kind == 1 else []
        # One second to live: CoreDNS says five, and the stage may run five times as fast.
        records = b"".join(
            b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4" + socket.inet_aton(address) for address in addresses
        )
        flags = b"\x85\x80" if known else b"\x85\x83"
        counts = b"\0\1" + len(addresses).to_bytes(2) + b"\0\0\0\0"
        return query[:2] + flags + counts + question + records

    def close(self):
        self.socket.close()
