"""Istio's routes for real: Envoy with what istio/ says, before edge and echo as k8s/ starts them.

Each function whose name begins with a claim is one; it gets the stage and fails by AssertionError.
"""

import base64
import hashlib
import hmac
import http.client
import json
import re
import signal
import sys
import time
import tomllib
import traceback
from contextlib import contextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path

import yaml
from istio_stage import GATEWAY, NAMESPACE, ROOT, Failure, Stage, bootstrapped, get, wait_until
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

ISSUER = "https://issuer.example"
VARIANT = "istio/variants/ws-through-edge"
CLAIMS = []


def claim(function):
    CLAIMS.append(function)
    return function


# What clients do ----------------------------------------------------------------------------------


class Client:
    """One address. What stands in a header is what it says of itself."""

    used = 0

    def __init__(self, gateway, address=None):
        if address is None:
            Client.used += 1
            address = f"127.3.{Client.used // 250}.{Client.used % 250 + 1}"
        self.gateway, self.address = gateway, address

    def ask(self, path, method="GET", **headers):
        source = (self.address, 0)
        asking = http.client.HTTPConnection(
            "127.0.0.1", self.gateway.port, timeout=10, source_address=source
        )
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            asking.request(method, path, headers=named)
            answer = asking.getresponse()
            answer.text = answer.read().decode()
            return answer
        finally:
            asking.close()

    def status(self, path, method="GET", **headers):
        return self.ask(path, method, **headers).status

    def socket(self, **headers):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return connect(
            f"ws://127.0.0.1:{self.gateway.port}/ws",
            source_address=(self.address, 0),
            additional_headers=named,
            compression=None,
            open_timeout=10,
            # Envoy passes the Close on at once, the end of the connection a second later.
            close_timeout=0.1,
        )


def refused(client, **headers):
    """The status with which a WebSocket is refused, or 101."""
    try:
        with client.socket(**headers):
            return 101
    except InvalidStatus as error:
        return error.response.status_code


def echoes(websocket, text="hello"):
    websocket.send(text)
    return websocket.recv(timeout=5) == text


def served(stage, client):
    """What each pod of edge has logged of this client's requests."""
    return [
        [line for line in pod.events("request") if line["client"] == client.address]
        for pod in stage.pods["edge"]
    ]


def asked_of_edge(stage, client, number):
    """edge logs a request when it has been answered, so maybe after the answer was read."""

    def count():
        return sum(map(len, served(stage, client)))

    wait_until(lambda: count() >= number, 3, f"{number} requests in edge's log")
    assert count() == number, count()


def limit(stage):
    """How many requests a client may send a second, and at once."""
    rate = json.loads(stage.configuration.value("limit", "per_client"))
    number, per = re.fullmatch(r"(\d+)/(s)", rate).groups()
    return int(number)


def spoofing(*names):
    """What a client says of itself in each of its requests, one name after the other."""
    return lambda at: {"X-Forwarded-For": names[at % len(names)].format(at)}


def within_limit(stage, client, headers=lambda at: {}, pods=1):
    """Asks until it is refused, and on: no more is let through than one client may have."""
    number, statuses, began = limit(stage) * pods, [], time.monotonic()
    while len(statuses) < 4 * number or 429 not in statuses and len(statuses) < 40 * number:
        statuses.append(client.status("/health", **headers(len(statuses))))
    took = time.monotonic() - began
    assert set(statuses) == {200, 429}, set(statuses)
    through = statuses.count(200)
    assert number <= through <= number + took * number + 1, f"{through} passed in {took:.2f} s"


# Where requests go --------------------------------------------------------------------------------


@claim
def health_is_answered_through_edge(stage):
    client = Client(stage.gateway)
    answer = client.ask("/health")
    assert answer.status == 200 and json.loads(answer.text)["status"] == "ok"
    assert answer.headers["via"] == "1.1 edge"
    asked_of_edge(stage, client, 1)


@claim
def the_api_is_answered_through_edge_and_cached(stage):
    client = Client(stage.gateway)
    states = [client.ask("/api/info").headers["cache-status"] for _ in range(2)]
    assert "fwd=uri-miss" in states[0] and "edge; hit" in states[1], states
    answer = client.ask("/api/echo", "POST")
    assert answer.status == 200 and answer.headers["via"] == "1.1 edge"


@claim
def websockets_reach_echo_and_not_edge(stage):
    client = Client(stage.gateway)
    opened = sum(pod.metric("echo_connections_opened_total") for pod in stage.pods["echo"])
    with client.socket() as websocket:
        assert websocket.response.status_code == 101
        assert echoes(websocket)
    after = sum(pod.metric("echo_connections_opened_total") for pod in stage.pods["echo"])
    assert after == opened + 1
    asked_of_edge(stage, client, 0)


@claim
def a_websocket_comes_back_to_the_pod_that_it_was_with(stage):
    def counts():
        return [pod.metric("echo_connections_opened_total") for pod in stage.pods["echo"]]

    with Client(stage.gateway).socket() as websocket:
        cookie = websocket.response.headers["set-cookie"].split(";")[0]
    assert cookie.startswith("ws-affinity=")
    before = counts()
    for _ in range(8):
        assert refused(Client(stage.gateway), Cookie=cookie) == 101
    assert sorted(now - then for now, then in zip(counts(), before)) == [0, 8]


@claim
def an_unknown_path_is_404_at_the_gateway(stage):
    client = Client(stage.gateway)
    paths = ("/", "/wsx", "/ws/x", "/healthz", "/health/x", "/api", "/metrics", "/livez", "/cache")
    for path in paths:
        answer = client.ask(path)
        assert answer.status == 404 and answer.headers["server"] == "istio-envoy", path
    asked_of_edge(stage, client, 0)


@claim
def methods_that_are_nobodys_are_403(stage):
    client = Client(stage.gateway)
    assert client.status("/ws", "POST") == 403
    assert client.status("/health", "DELETE") == 403
    assert client.status("/api/info", "TRACE") == 403
    assert client.status("/health", "HEAD") in (200, 405)


# Who asks -----------------------------------------------------------------------------------------


@claim
def each_client_has_its_own_limit(stage):
    first, second = Client(stage.gateway), Client(stage.gateway)
    within_limit(stage, first)
    statuses = [second.status("/health") for _ in range(limit(stage))]
    assert set(statuses) == {200}, statuses


@claim
def a_spoofed_header_counts_for_nothing(stage):
    victim, spoofer = Client(stage.gateway), Client(stage.gateway)
    names = (victim.address, "203.0.113.{}", "10.0.0.{}, " + victim.address, "junk{}", "127.0.0.6")
    within_limit(stage, spoofer, spoofing(*names))
    assert victim.status("/health") == 200, "the client that was named paid for it"
    said = {line["client"] for pod in stage.pods["edge"] for line in pod.events("request")}
    assert spoofer.address in said
    assert all(client.startswith("127.") for client in said), said


@claim
def nor_does_one_from_an_address_that_edge_trusts(stage):
    trusted = json.loads(stage.configuration.value("server", "trusted_proxies"))
    # The peer is a sidecar's 127.0.0.6, or the gateway's pod, of a network that is private.
    for peer in (GATEWAY, "10.244.1.7", "100.64.1.7", "172.20.1.7", "192.168.1.7", "fd00::7"):
        assert any(ip_address(peer) in ip_network(network) for network in trusted), peer
    spoofer = Client(stage.gateway, GATEWAY)
    within_limit(stage, spoofer, spoofing("203.0.113.{}"))


@claim
def behind_a_load_balancer_its_own_entry_counts_and_none_before(stage):
    """It appends to X-Forwarded-For, and numTrustedProxies is 1."""
    balancer = Client(stage.behind_balancer)
    within_limit(stage, balancer, spoofing("198.51.100.{}, 203.0.113.7"))
    assert balancer.status("/health", X_Forwarded_For="203.0.113.7, 203.0.113.8") == 200


@claim
def a_client_stays_with_one_pod_of_edge(stage):
    """Or each pod would let it have its share."""
    both = set()
    for _ in range(12):
        client = Client(stage.gateway)
        assert [client.status("/health") for _ in range(3)] == [200] * 3
        asked_of_edge(stage, client, 3)
        shares = tuple(map(len, served(stage, client)))
        assert sorted(shares) == [0, 3], shares
        both.add(shares)
    assert len(both) == 2, "one pod had all of them"


# When something fails ----------------------------------------------------------------------------


def ejected(stage, service):
    _, text = get(f"http://{stage.gateway.admin}/stats?filter=outlier_detection.ejections_active")
    [line] = [line for line in text.splitlines() if f"{service}.{NAMESPACE}" in line]
    return int(line.rpartition(" ")[2])


@contextmanager
def dead(stage, kind):
    """A pod that has died and is still an endpoint; afterwards there is another in its place."""
    pod = stage.pods[kind][0]
    pod.kill()
    try:
        yield
    finally:
        stage.pods[kind].remove(pod)
        stage.start(kind)
        settled(stage)


@claim
def a_pod_of_edge_that_dies_costs_no_request_that_reads(stage):
    with dead(stage, "edge"):
        statuses = [Client(stage.gateway).status("/health") for _ in range(40)]
        assert statuses == [200] * 40, statuses
        assert ejected(stage, "edge") == 1


@claim
def who_was_with_a_pod_of_echo_that_dies_comes_back_at_once(stage):
    cookies = []
    for _ in range(12):
        with Client(stage.gateway).socket() as websocket:
            cookies.append(websocket.response.headers["set-cookie"].split(";")[0])
    with dead(stage, "echo"):
        for cookie in cookies:
            assert refused(Client(stage.gateway), Cookie=cookie) == 101
        assert ejected(stage, "echo") == 1


# Tokens ------------------------------------------------------------------------------------------

SECRET = hashlib.sha256(b"of this test alone").digest()


def coded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(secret=SECRET, **claims):
    """Signed with HS256, for which the standard library suffices. An issuer would have a key pair."""
    head = {"alg": "HS256", "kid": "test"}
    body = {"iss": ISSUER, "sub": "ann", "exp": int(time.time()) + 600} | claims
    signed = ".".join(coded(json.dumps(part).encode()) for part in (head, body))
    return f"{signed}.{coded(hmac.digest(secret, signed.encode(), 'sha256'))}"


@claim
def a_bad_token_is_401_and_none_is_fine(stage):
    gateway = stage.with_tokens
    client = Client(gateway)
    good, bad = token(), token(secret=b"x" * 32)
    assert client.status("/health", Authorization=f"Bearer {good}") == 200
    assert client.status("/health") == 200
    for wrong in (bad, token(exp=1), token(iss="https://somebody.else"), "junk", good[:-2]):
        answer = client.ask("/api/info", Authorization=f"Bearer {wrong}")
        assert answer.status == 401 and answer.headers["server"] == "istio-envoy", wrong
    assert refused(client, Authorization=f"Bearer {bad}") == 401
    with client.socket(Authorization=f"Bearer {good}") as websocket:
        assert echoes(websocket)


@claim
def where_a_token_is_required_none_is_403(stage):
    client = Client(stage.with_tokens_required)
    bearer = {"Authorization": f"Bearer {token()}"}
    assert client.status("/api/info") == 403
    assert refused(client) == 403
    assert client.status("/health") == 200
    assert client.status("/api/info", "OPTIONS") != 403
    assert client.status("/api/info", **bearer) == 200
    assert client.status(f"/api/info?access_token={token()}") == 200
    assert refused(client, **bearer) == 101
    assert client.status("/api/info", Authorization="Bearer junk") == 401


# The variants -------------------------------------------------------------------------------------


@claim
def in_the_variant_websockets_pass_through_edge(stage):
    client = Client(stage.through_edge)
    with client.socket(X_Forwarded_For="203.0.113.9") as websocket:
        assert echoes(websocket)
        assert sum(pod.metric("edge_websockets") for pod in stage.pods["edge"]) == 1
    lines = [line for pod in stage.pods["edge"] for line in pod.events("request")]
    [line] = [line for line in lines if line["path"] == "/ws" and line["status"] == 101]
    assert line["client"] == client.address
    assert client.status("/health") == 200 and client.status("/wsx") == 404


@claim
def in_the_variant_a_page_of_another_site_opens_no_websocket(stage):
    client = Client(stage.through_edge)
    assert refused(client, Origin="https://elsewhere.example") == 403


@claim
def the_gateway_api_routes_alike(stage):
    # Without Istio's own API nothing keeps a client to one pod, and each lets it have its share.
    for gateway, pods in ((stage.gateway_api, 1), (stage.gateway_api_alone, 2)):
        client = Client(gateway)
        assert client.ask("/health").headers["via"] == "1.1 edge"
        assert client.status("/api/info") == 200
        for path in ("/", "/wsx", "/healthz", "/apix"):
            assert client.status(path) == 404, path
        with client.socket() as websocket:
            assert echoes(websocket)
        within_limit(stage, Client(gateway), spoofing("203.0.113.{}"), pods)


# Answers of 5xx: last, for edge ejects the pods of echo that gave them ------------------------------


@claim
def edge_says_that_an_answer_took_too_long_and_is_not_asked_again(stage):
    client, began = Client(stage.gateway), time.monotonic()
    answer = client.ask("/api/delay/4000")
    took = time.monotonic() - began
    assert answer.status == 504 and json.loads(answer.text)["reason"] == "response_timeout"
    assert took < 4, took
    asked_of_edge(stage, client, 1)


@claim
def answers_of_5xx_neither_repeat_nor_eject_a_pod_of_edge(stage):
    client, number = Client(stage.gateway), limit(stage)
    assert [client.status("/api/status/503") for _ in range(number)] == [503] * number
    asked_of_edge(stage, client, number)
    assert ejected(stage, "edge") == 0


# The files themselves -----------------------------------------------------------------------------


def documents(*patterns):
    files = [file for pattern in patterns for file in sorted(ROOT.glob(pattern))]
    assert files, patterns
    return [one for file in files for one in yaml.safe_load_all(file.read_text()) if one]


@claim
def what_the_translation_does_not_understand_it_refuses(stage):
    whole = (ROOT / "istio/30-virtualservice.yaml").read_text()
    for old, new, word in (
        ("      timeout: 5s", "      timeout: 5s\n      mirror: { host: echo }", "mirror"),
        ("      timeout: 5s", "      fault: { abort: { httpStatus: 500 } }", "fault"),
        ("      timeout: 5s", "      timeout: 0s", "0s"),
        ("uri: { exact: /ws }", "uri: { regex: /ws }", "exact, prefix"),
        ("kind: VirtualService", "kind: EnvoyFilter", "EnvoyFilter"),
    ):
        assert old in whole
        file = stage.out / "changed.yaml"
        file.write_text(whole.replace(old, new, 1))
        try:
            bootstrapped(stage.endpoints, "istio", file)
        except Failure as failure:
            assert word in str(failure), failure
        else:
            raise AssertionError(f"{new.strip()} was let pass")


@claim
def the_gateway_waits_longer_than_edge_and_its_connections_end_sooner(stage):
    edge = tomllib.loads(stage.configuration.text)
    answer = int(edge["timeout"]["response"].removesuffix("s"))
    keepalive = int(edge["timeout"].get("keepalive", "75s").removesuffix("s"))
    for rule in [
        rule
        for one in documents("istio/*.yaml", f"{VARIANT}/*.yaml")
        if one["kind"] == "VirtualService"
        for rule in one["spec"]["http"]
    ]:
        if rule["name"] == "ws":
            assert "timeout" not in rule
        else:
            assert int(rule["timeout"].removesuffix("s")) > answer
        assert "503" not in rule["retries"]["retryOn"]
    [policy] = [
        one["spec"]["trafficPolicy"]
        for one in documents("istio/*.yaml")
        if one["kind"] == "DestinationRule" and one["metadata"]["name"] == "edge"
    ]
    assert int(policy["connectionPool"]["http"]["idleTimeout"].removesuffix("s")) < keepalive


@claim
def the_variant_differs_in_its_route_of_websockets_alone(stage):
    def rules(folder):
        [one] = documents(f"{folder}/30-virtualservice.yaml")
        return one["spec"]["http"]

    assert rules("istio")[1:] == rules(VARIANT)[1:]


@claim
def no_file_says_istio_mutual_and_none_bounds_connections(stage):
    for one in documents("istio/**/*.yaml"):
        text = json.dumps(one)
        for never in ("ISTIO_MUTUAL", "http2MaxRequests", "maxConnections", '"timeout": "0s"'):
            assert never not in text, (never, one["metadata"]["name"])


@claim
def every_name_in_istio_is_one_of_k8s(stage):
    k8s = documents("k8s/base/[0-9]*.yaml")
    services = {
        one["metadata"]["name"]: [port["port"] for port in one["spec"]["ports"]]
        for one in k8s
        if one["kind"] == "Service"
    }
    accounts = {one["metadata"]["name"] for one in k8s if one["kind"] == "ServiceAccount"}
    pods = {
        one["metadata"]["name"]: one["spec"]["template"]
        for one in k8s
        if one["kind"] == "Deployment"
    }
    ours = f".{NAMESPACE}.svc.cluster.local"
    seen = 0
    for one in documents("istio/**/*.yaml"):
        spec, kind = one.get("spec", {}), one["kind"]
        if kind == "VirtualService":
            for rule in spec["http"]:
                to = rule["route"][0]["destination"]
                assert to["port"]["number"] in services[to["host"].removesuffix(ours)]
                seen += 1
        if kind == "HTTPRoute":
            for rule in spec["rules"]:
                [to] = rule["backendRefs"]
                assert to["port"] in services[to["name"]]
                seen += 1
        if kind == "DestinationRule":
            assert spec["host"].removesuffix(ours) in services
            seen += 1
        if kind == "AuthorizationPolicy" and one["metadata"]["namespace"] == NAMESPACE:
            [pod] = [
                pod
                for pod in pods.values()
                if spec["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
            ]
            ports = {
                str(port["containerPort"])
                for container in pod["spec"]["containers"]
                for port in container["ports"]
            }
            for rule in spec["rules"]:
                for to in rule["to"]:
                    assert set(to["operation"]["ports"]) <= ports
                for source in rule["from"]:
                    for principal in source["source"].get("principals", []):
                        _, _, namespace, _, account = principal.split("/")
                        assert namespace != NAMESPACE or account in accounts
            seen += 1
    assert seen > 10
    paths = {route["path"] for route in tomllib.loads(stage.configuration.text)["route"]}
    assert {"/health", "/ws", "/api/*"} <= paths


# --------------------------------------------------------------------------------------------------


def gateways(stage):
    """All Envoys that a claim needs, before the same pods."""
    key_set = stage.out / "keys.json"
    key = {"kty": "oct", "kid": "test", "alg": "HS256", "k": coded(SECRET)}
    key_set.write_text(json.dumps({"keys": [key]}))
    jwks = [f"{ISSUER}={key_set}"]
    required = ["istio", "istio/optional/jwt.yaml", "istio/optional/jwt-required.yaml"]
    shared = [f"istio/{name}" for name in sorted(
        file.name for file in (ROOT / "istio").glob("[456]*.yaml")
    )]  # fmt: skip
    stage.gateway = stage.envoy("gateway", "istio")
    stage.with_tokens = stage.envoy("tokens", *required[:2], jwks=jwks)
    stage.with_tokens_required = stage.envoy("required", *required, jwks=jwks)
    stage.through_edge = stage.envoy("variant", "istio", VARIANT)
    balanced = stage.out / "balanced.yaml"
    whole = (ROOT / "istio/10-ingressgateway.yaml").read_text()
    assert "numTrustedProxies: 0" in whole
    balanced.write_text(whole.replace("numTrustedProxies: 0", "numTrustedProxies: 1"))
    stage.behind_balancer = stage.envoy("balanced", "istio", balanced)
    stage.gateway_api = stage.envoy("gateway-api", "istio/gateway-api", *shared)
    stage.gateway_api_alone = stage.envoy("gateway-api-alone", "istio/gateway-api")


def settled(stage):
    """Waits until each pod of edge knows the pods of echo that there are."""
    there = {pod.listen(8080) for pod in stage.pods["echo"]}

    def known():
        for pod in stage.pods["edge"]:
            up = pod.labels("edge_upstream_up", "peer")
            if {peer for peer, value in up.items() if value == 1} != there:
                return False
        return True

    wait_until(known, 15, "edge's peers")


def judge(stage):
    failed = 0
    for function in CLAIMS:
        name, began = function.__name__.replace("_", " "), time.monotonic()
        try:
            function(stage)
        except Exception as error:
            failed += 1
            print(f"FAILED  {name}: {type(error).__name__} {error}")
            if not isinstance(error, AssertionError) or not str(error):
                traceback.print_exc(file=sys.stdout)
        else:
            print(f"ok      {name} ({time.monotonic() - began:.1f} s)")
    return failed


def main():
    binaries, out = (Path(argument).resolve() for argument in sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        with Stage(binaries, out / "routes") as stage:
            for kind in ("echo", "echo", "edge", "edge"):
                stage.start(kind)
            gateways(stage)
            settled(stage)
            failed = judge(stage)
    except (Failure, OSError) as failure:
        sys.exit(f"The routes could not be tried: {failure}")
    if failed:
        sys.exit(f"{failed} of {len(CLAIMS)} claims failed; logs: {out / 'routes'}")
    print(f"{len(CLAIMS)} claims hold.")


if __name__ == "__main__":
    main()
