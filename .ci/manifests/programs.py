"""edge and echo, started as a manifest says: with its configuration, arguments and environment, on
free ports of this machine."""

import base64
import hmac
import http.client
import json
import os
import re
import select
import signal
import subprocess
import time

PATIENCE = 20  # seconds, for a program to say where it listens, or to end
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}
SECRETS = {"jwt-secret": "j" * 48, "api-key": "k" * 32}  # what the pods would find mounted


def token(secret, seconds=60):
    """A JSON Web Token that ends so soon, signed with HS256."""

    def coded(part):
        return base64.urlsafe_b64encode(part).rstrip(b"=")

    claims = {"sub": "somebody", "exp": int(time.time()) + seconds}
    signed = b".".join(coded(json.dumps(part).encode()) for part in ({"alg": "HS256"}, claims))
    proof = hmac.digest(secret.encode(), signed, "sha256")
    return (signed + b"." + coded(proof)).decode()


class Program:
    """Runs until `end`; `said` is the line of its log that has an address."""

    def __init__(self, arguments, environment=None):
        self.process = subprocess.Popen(
            arguments,
            env={"PATH": os.environ["PATH"], **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.said = self._first_with_address()

    def _first_with_address(self):
        told, until = b"", time.monotonic() + PATIENCE
        out = self.process.stdout
        while time.monotonic() < until:
            if not select.select([out], [], [], 1)[0]:
                continue
            piece = os.read(out.fileno(), 65536)
            told += piece
            for line in told.splitlines():
                if line.startswith(b"{") and b'"address"' in line and line.endswith(b"}"):
                    return json.loads(line)
            if not piece:
                break
        self.end()
        raise AssertionError(f"{self.process.args} did not start:\n{told.decode()}")

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()


def status(address, path, fields=None, source="127.0.0.1"):
    """What a GET there is answered with, sent from another address of this machine."""
    connection = http.client.HTTPConnection(address, timeout=10, source_address=(source, 0))
    try:
        connection.request("GET", path, headers=fields or {})
        return connection.getresponse().status
    finally:
        connection.close()


def write_secrets(folder):
    folder.mkdir(parents=True)
    for name, value in SECRETS.items():
        (folder / name).write_text(value)
    return folder


def at_home(text, folder):
    """A text of the manifests, with the mounted secrets where `write_secrets` has put them."""
    return text.replace("/etc/edge-secrets", str(folder))


def on_free_ports(toml, echo):
    """A configuration of the cluster that can be served here, with echo as the upstream's peer."""
    toml = re.sub(r'^(listen = )"[^"]*"', r'\1"127.0.0.1:0"', toml, flags=re.MULTILINE)
    return toml.replace("echo-headless:8080", f"localhost:{echo.rpartition(':')[2]}")
