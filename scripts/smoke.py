#!/usr/bin/env python3
"""Tries a running system from outside: GET URL/health is 200, and a WebSocket at URL/ws echoes.

SMOKE_API_KEY_FILE names a file with echo's API key, where it asks for one. Tries again for
SMOKE_SECONDS (30), for a proxy hears of new pods a moment late. Exit code 0: it works, 1: it does
not, 2: wrong arguments.
"""

import base64
import hashlib
import http.client
import os
import struct
import sys
import time
from urllib.parse import urlsplit

TIMEOUT = 5
MESSAGE = b"smoke"


class Broken(Exception):
    pass


def connection(url):
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    return kind(url.hostname, url.port, timeout=TIMEOUT)


def health(url):
    asked = connection(url)
    try:
        asked.request("GET", "/health")
        answer = asked.getresponse()
        body = answer.read(1024)
        if answer.status != 200:
            raise Broken(f"/health: {answer.status} {body[:200]!r}")
    finally:
        asked.close()


def exactly(stream, count):
    read = stream.read(count)
    if len(read) != count:
        raise Broken("/ws: closed before the echo")
    return read


def websocket(url, key):
    nonce = base64.b64encode(os.urandom(16)).decode()
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": nonce,
    }
    if key:
        headers["X-API-Key"] = key
    asked = connection(url)
    try:
        asked.request("GET", "/ws", headers=headers)
        socket = asked.sock
        answer = asked.response_class(socket, method="GET")
        answer.begin()
        if answer.status != 101:
            raise Broken(f"/ws: {answer.status} {answer.read(1024)[:200]!r}")
        digest = hashlib.sha1(nonce.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        if answer.headers["Sec-WebSocket-Accept"] != base64.b64encode(digest).decode():
            raise Broken("/ws: not the Sec-WebSocket-Accept of our key")
        # http.client reads ahead: what came with the head is in its stream.
        stream = answer.fp or socket.makefile("rb")
        socket.sendall(frame(0x1, MESSAGE))
        ends = time.monotonic() + TIMEOUT
        while time.monotonic() < ends:
            opcode, length = exactly(stream, 2)
            if length > 125:
                raise Broken("/ws: a longer frame than was sent")
            payload = exactly(stream, length)
            if opcode == 0x81 and payload == MESSAGE:
                socket.sendall(frame(0x8, struct.pack("!H", 1000)))
                return
            if opcode == 0x88:
                raise Broken(f"/ws: closed: {payload!r}")
        raise Broken("/ws: no echo in time")
    finally:
        asked.close()


def frame(opcode, payload):
    """A client's frame: masked, and never longer than 125 bytes here."""
    mask = os.urandom(4)
    masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    return bytes([0x80 | opcode, 0x80 | len(payload)]) + mask + masked


def main():
    if len(sys.argv) != 2:
        print(f"usage: {sys.argv[0]} URL", file=sys.stderr)
        sys.exit(2)
    url = urlsplit(sys.argv[1])
    if url.scheme not in ("http", "https") or not url.hostname:
        print("the URL has to begin with http:// or https://", file=sys.stderr)
        sys.exit(2)
    key = None
    if file := os.environ.get("SMOKE_API_KEY_FILE"):
        with open(file, encoding="ascii") as opened:
            key = opened.read().strip()
    ends = time.monotonic() + float(os.environ.get("SMOKE_SECONDS", "30"))
    while True:
        try:
            health(url)
            websocket(url, key)
        except (Broken, OSError, http.client.HTTPException) as error:
            if time.monotonic() >= ends:
                sys.exit(f"{sys.argv[1]}: {error}")
            time.sleep(1)
        else:
            print(f"{sys.argv[1]}: /health is 200, /ws echoes")
            return


if __name__ == "__main__":
    main()
