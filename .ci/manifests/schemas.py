"""Every manifest against the API of the oldest and the newest Kubernetes, and against Istio's, the
Gateway API's and the Prometheus operator's kinds. Unknown fields are faults. First, documents with
one mistake each prove that these checks find such mistakes."""

import copy
import json
import re
import subprocess
import sys

import kubernetes_validate
import yaml
from documents import files, documents, environment, read

# The kubelet's own sleep before the end came with 1.30; the newest that the validator knows.
VERSIONS = ("1.30", "1.37")
NODE, KINDS = sys.argv[1:3]

# What the schemas say as text alone, and a real API server refuses.
QUANTITY = re.compile(r"\d+(\.\d+)?(m|k|Ki|M|Mi|G|Gi)?$")
AMOUNTS = ("requests", "limits", "hard", "default", "defaultRequest", "max")
LABEL = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?$")
NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")
PORT_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?$")
NO_DURATION = re.compile(r"0+(ns|us|ms|s|m|h)?$")


def core(document):
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{'/'.join(map(str, error.path))}: {error.message[:200]} ({version})"
        except kubernetes_validate.SchemaNotFoundError as error:
            yield f"{error.message}"


def walk(value, path=()):
    yield path, value
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from walk(inner, (*path, str(key)))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from walk(inner, (*path, str(index)))


def beyond_schemas(document):
    if not NAME.match(document.get("metadata", {}).get("name", "")):
        yield "metadata/name is none"
    istio = document["apiVersion"].startswith("networking.istio.io/")
    for path, value in walk(document):
        where = "/".join(path)
        inside = path[-2:-1]
        if inside[:1] and inside[0] in AMOUNTS and not isinstance(value, dict | list):
            if not QUANTITY.match(str(value)):
                yield f"{where}: {value} is no quantity"
        if inside in (("labels",), ("matchLabels",)) and not LABEL.match(str(value)):
            yield f"{where}: {value} is no label"
        if path[-3:-2] == ("ports",) and path[-1] == "name" and document["kind"] != "Gateway":
            if not PORT_NAME.match(value):
                yield f"{where}: {value} is no port's name"
        # Istio's own rule, in CEL: at least a millisecond.
        if istio and path[-1:] in (("timeout",), ("perTryTimeout",)) and NO_DURATION.match(value):
            yield f"{where}: no time at all; leave it out"


def faults(listed):
    """The faults of each of these documents."""
    answer = subprocess.run(
        [NODE, KINDS], input=json.dumps(listed), capture_output=True, text=True, timeout=120
    )
    if answer.returncode:
        sys.exit(answer.stderr)
    found = []
    for document, known in zip(listed, json.loads(answer.stdout), strict=True):
        try:
            schema = list(core(document)) if known is None else known
            found.append(schema + list(beyond_schemas(document)))
        except (KeyError, TypeError, AttributeError) as error:
            found.append([f"no manifest: {error!r}"])
    return found


# One mistake each, of the kind that people make: where, and what stands there.
MISTAKES = [
    ("Deployment", "spec/template/spec/containers/0/livenesProbe", {}),
    ("Deployment", "spec/template/spec/containers/0/ports/0/containerPort", "http"),
    ("Deployment", "spec/template/spec/containers/0/ports/0/name", "the-port-of-the-traffic"),
    ("Deployment", "spec/template/spec/containers/0/lifecycle/preStop/sleep/seconds", "10s"),
    ("Deployment", "spec/template/spec/containers/0/resources/limits/memory", "256MB"),
    ("Deployment", "spec/template/spec/terminationGracePeriod", 45),
    ("Deployment", "spec/template/spec/securityContext/readOnlyRootFilesystem", True),
    ("Deployment", "spec/template/metadata/labels/version", "of today"),
    ("Deployment", "spec/selector", None),
    ("Deployment", "apiVersion", "apps/v1beta1"),
    ("Deployment", "kind", "Deploymnet"),
    ("Service", "spec/ports/0/port", "8080"),
    ("Service", "spec/port", 8080),
    ("HorizontalPodAutoscaler", "apiVersion", "autoscaling/v2beta2"),
    ("HorizontalPodAutoscaler", "spec/scaleTargetRef/name", None),
    ("HorizontalPodAutoscaler", "spec/metrics/0/resource/target/averageUtilisation", 70),
    ("PodDisruptionBudget", "spec/minAvailabel", 1),
    ("NetworkPolicy", "spec/ingress", {"from": []}),
    ("NetworkPolicy", "spec/policyTypes", "Ingress"),
    ("ResourceQuota", "spec/hard/requests.cpu", "four"),
    ("Role", "rules/0/resource", ["pods"]),
    ("ConfigMap", "data/edge.toml", {"server": {}}),
    ("Namespace", "metadata/name", "Krakend_Test"),
    ("PodMonitor", "spec/podMetricsEndpoints/0/pth", "/metrics"),
    ("PodMonitor", "spec/podMetricsEndpoints/0/interval", 15),
    ("PrometheusRule", "spec/groups/0/rules/0/severity", "page"),
    ("PrometheusRule", "spec/groups/0/name", None),
    ("VirtualService", "spec/http/0/match/0/uri/prefx", "/ws"),
    ("VirtualService", "spec/http/0/rout", []),
    ("VirtualService", "spec/http/0/timeout", "0s"),
    ("VirtualService", "spec/http/0/retries/attempts", "two"),
    ("VirtualService", "apiVersion", "networking.istio.io/v2"),
    ("DestinationRule", "spec/trafficPolicy/loadBalancer/simple", "LEAST_REQUESTS"),
    ("DestinationRule", "spec/trafficPolicy/loadBalancer/consistentHash/useSourceIp", True),
    ("DestinationRule", "spec/hosts", ["echo"]),
    ("AuthorizationPolicy", "spec/action", "ALOW"),
    ("AuthorizationPolicy", "spec/rules/0/to/0/operation/path", ["/ws"]),
    ("PeerAuthentication", "spec/mtls/mode", "STRICTLY"),
    ("RequestAuthentication", "spec/jwtRules/0/jwksURI", "https://issuer.example/jwks"),
    ("Telemetry", "spec/accessLoging", []),
    ("HTTPRoute", "spec/rules/0/backendRef", {}),
    ("HTTPRoute", "spec/rules/0/backendRefs/0/port", "8080"),
    ("HTTPRoute", "spec/rules/0/matches/0/path/type", "Prefix"),
    ("HTTPRoute", "spec/rules/0/timeouts/request", "never"),
]

# Istio's kinds as they ought to be, so that the mistakes do not depend on what istio/ happens to be.
WELL = read("""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: well }
spec:
  hosts: ["*"]
  http:
    - match: [{ uri: { exact: /ws } }]
      retries: { attempts: 2 }
      timeout: 5s
      route: [{ destination: { host: echo, port: { number: 8080 } } }]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: { name: well }
spec:
  host: echo
  trafficPolicy: { loadBalancer: { simple: LEAST_REQUEST } }
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: well }
spec:
  action: ALLOW
  rules: [{ to: [{ operation: { paths: [/ws] } }] }]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: well }
spec: { mtls: { mode: STRICT } }
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: { name: well }
spec:
  jwtRules: [{ issuer: "https://issuer.example", jwksUri: "https://issuer.example/jwks" }]
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: { name: well }
spec: { accessLogging: [{ providers: [{ name: envoy }] }] }
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: well }
spec:
  parentRefs: [{ name: public }]
  rules:
    - matches: [{ path: { type: Exact, value: /ws } }]
      backendRefs: [{ name: echo, port: 8080 }]
      timeouts: { request: 5s }
""")


def mistaken(document, path, value):
    document = copy.deepcopy(document)
    *way, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    at = document
    for part in way:
        if isinstance(at, dict):
            at.setdefault(part, {})
        at = at[part]
    if value is None:
        del at[last]
    else:
        at[last] = value
    return document


def prove():
    """Refuses to judge where the checks would let a mistake pass, or refuse what is well."""
    well = environment("base") + documents("k8s/optional/monitoring.yaml") + WELL
    made = []
    for kind, path, value in MISTAKES:
        whole = next((document for document in well if document["kind"] == kind), None)
        if whole is None:
            sys.exit(f"no {kind} to make a mistake in")
        made.append(mistaken(whole, path, value))
    unfound = [m[:2] for m, found in zip(MISTAKES, faults(made), strict=True) if not found]
    wronged = [(d["kind"], found) for d, found in zip(WELL, faults(WELL), strict=True) if found]
    try:
        read("kind: Service\nkind: Deployment")
        unfound.append("a key twice")
    except yaml.YAMLError:
        pass
    if unfound or wronged:
        sys.exit(f"mistakes that nobody finds: {unfound}; faults that are none: {wronged}")
    print(f"{len(MISTAKES) + 1} documents with a mistake: each is found")


def main():
    prove()
    listed = [(file, document) for file in files() for document in documents(file)]
    if not listed:
        sys.exit("no manifests")
    found = faults([document for _, document in listed])
    bad = 0
    for (file, document), its in zip(listed, found, strict=True):
        bad += bool(its)
        for fault in its:
            print(f"{file}: {document.get('kind')} {document['metadata']['name']}: {fault}")
    print(f"{len(listed)} documents of {len({file for file, _ in listed})} files: {bad} at fault")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
