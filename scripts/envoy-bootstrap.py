#!/usr/bin/env python3
"""Writes what istiod would tell the ingress gateway's Envoy, as a bootstrap for a plain Envoy.

    envoy-bootstrap.py --listen 127.0.0.1:30080 --endpoints FOLDER istio/ [FILE]... >envoy.json
    envoy --disable-hot-restart -c envoy.json

So the routing of istio/ can be tried without a cluster. A later document takes the place of an earlier
one of the same kind and name, as with `kubectl apply`. Of the files every field must be understood;
what is not ends this with exit code 2, rather than with an Envoy that does something else. What is
ztunnel's or Kubernetes' business is named on standard error.

Needs PyYAML. Addresses of a Service stand in FOLDER/NAME.NAMESPACE.json, an EDS response; Envoy reads
it again whenever a file is moved to its place.
"""

import argparse
import json
import re
import sys
from pathlib import Path

import yaml

GATEWAY_CLASS = "istio"
FOREVER = 2**32 - 1
# Not the routes' business; a kind that is neither here nor translated is refused.
OF_KUBERNETES = {
    "ConfigMap", "HorizontalPodAutoscaler", "Namespace", "PodDisruptionBudget", "ServiceAccount",
}  # fmt: skip
OF_ZTUNNEL = {"PeerAuthentication"}
# What istiod gives routes that say nothing of retries.
DEFAULT_RETRIES = {
    "attempts": 2,
    "retryOn": "connect-failure,refused-stream,unavailable,cancelled,503",
}
TYPES = "type.googleapis.com/envoy"
HTTP_FILTERS = f"{TYPES}.extensions.filters.http"


class Refused(Exception):
    """What this script does not understand, and where it stands."""


class Fields:
    """A mapping whose every key must be taken: `with Fields(...) as fields` refuses what is left."""

    def __init__(self, value, where):
        if not isinstance(value, dict):
            raise Refused(f"{where}: expected a mapping, not {value!r}")
        self.left, self.where = dict(value), where

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None and self.left:
            raise Refused(f"{self.where}: not understood: {', '.join(map(str, self.left))}")

    def take(self, key, *default):
        if key in self.left:
            return self.left.pop(key)
        if default:
            return default[0]
        raise Refused(f"{self.where}: {key} is missing")

    def expect(self, key, *allowed, default=None):
        value = self.take(key, default)
        if value not in allowed:
            raise Refused(f"{self.where}.{key}: {value!r} is not understood")
        return value

    def within(self, key, *default):
        return Fields(self.take(key, *default), f"{self.where}.{key}")

    def each(self, key, *default):
        items = self.take(key, *default)
        return [Fields(item, f"{self.where}.{key}[{at}]") for at, item in enumerate(items)]

    def one(self, key):
        items = self.each(key)
        if len(items) != 1:
            raise Refused(f"{self.where}.{key}: {len(items)} of them; just one is understood")
        return items[0]

    def only(self, *keys):
        """The one key there is, which must be of these, and its value."""
        if len(self.left) != 1 or not self.left.keys() <= set(keys):
            raise Refused(f"{self.where}: just one of {', '.join(keys)} is understood")
        return self.left.popitem()


def seconds(text, where):
    """Envoy's JSON knows seconds alone."""
    found = re.fullmatch(r"(\d+)(ms|s|m|h)", str(text))
    if not found or found[1] == "0" and where.startswith("VirtualService"):
        raise Refused(f"{where}: {text!r} is no duration of Istio's")
    number = int(found[1]) * {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}[found[2]]
    return f"{number / 1000:g}s"


class Files:
    """The documents by kind, in the order of the files."""

    def __init__(self, paths):
        self.documents = {}
        for path in paths:
            # A folder as `kubectl apply -f` reads it: not those within.
            files = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
            if not files:
                raise Refused(f"{path}: no manifests")
            for file in files:
                for document in filter(None, yaml.safe_load_all(file.read_text())):
                    self.add(document)

    def add(self, document):
        api, kind, meta = document["apiVersion"], document["kind"], document["metadata"]
        if kind == "Gateway" and api.startswith("gateway.networking.k8s.io/"):
            kind = "KubernetesGateway"
        self.documents[kind, meta.get("namespace"), meta["name"]] = document

    def take(self, kind):
        """Pairs of metadata and spec."""
        keys = [key for key in self.documents if key[0] == kind]
        found = []
        for key in keys:
            document = self.documents.pop(key)
            where = f"{kind} {key[2]}: spec"
            found.append((document["metadata"], Fields(document.get("spec", {}), where)))
        return found

    def one(self, kind):
        found = self.take(kind)
        if len(found) != 1:
            raise Refused(f"{len(found)} of {kind}; just one is understood")
        return found[0]


# The gateway -------------------------------------------------------------------------------------


def gateway(files):
    """Its namespace, name and how many proxies before it are trusted."""
    if any(kind == "KubernetesGateway" for kind, *_ in files.documents):
        return kubernetes_gateway(files)
    meta, spec = files.one("Gateway")
    with spec:
        selector = spec.take("selector")
        with spec.one("servers") as server, server.within("port") as port:
            number = port.take("number")
            port.take("name")
            port.expect("protocol", "HTTP")
            if server.take("hosts") != ["*"]:
                raise Refused(f'{server.where}.hosts: just ["*"] is understood')
    _, service = files.one("Service")
    if number not in [port["port"] for port in service.take("ports")]:
        raise Refused(f"Gateway {meta['name']}: its port {number} is none of the Service's")
    for of, labels in (("Service", service.take("selector")), ("Gateway", selector)):
        if not labels.items() <= (pods := pod_labels(files)).items():
            raise Refused(f"{of}: its selector {labels} is not among the pods' labels {pods}")
    _, deployment = files.one("Deployment")
    annotations = deployment.take("template")["metadata"]["annotations"]
    return meta, hops(annotations)


def pod_labels(files):
    [labels] = [
        document["spec"]["template"]["metadata"]["labels"]
        for (kind, *_), document in files.documents.items()
        if kind == "Deployment"
    ]
    return labels


def hops(annotations):
    config = yaml.safe_load(annotations["proxy.istio.io/config"])
    with Fields(config, "proxy.istio.io/config") as config:
        config.take("proxyMetadata", None)  # of the agent, not of Envoy
        with config.within("gatewayTopology", {}) as topology:
            return topology.take("numTrustedProxies", 0)


def kubernetes_gateway(files):
    meta, spec = files.one("KubernetesGateway")
    with spec:
        spec.expect("gatewayClassName", GATEWAY_CLASS)
        options = spec.within("infrastructure").within("parametersRef").take("name")
        with spec.one("listeners") as listener:
            listener.take("name")
            listener.take("port")
            listener.expect("protocol", "HTTP")
            listener.take("allowedRoutes")
    [options] = [
        document["data"]
        for (kind, _, name), document in files.documents.items()
        if kind == "ConfigMap" and name == options
    ]
    pods = yaml.safe_load(options["deployment"])["spec"]["template"]
    return meta, hops(pods["metadata"]["annotations"])


# Routes ------------------------------------------------------------------------------------------


def routes(files, meta):
    """What of a request decides, and where it goes."""
    found = []
    for route, spec in files.take("VirtualService"):
        with spec:
            if spec.take("gateways") != [f"{meta['namespace']}/{meta['name']}"]:
                raise Refused(f"{spec.where}: not of the gateway {meta['name']}")
            if spec.take("hosts") != ["*"]:
                raise Refused(f'{spec.where}.hosts: just ["*"] is understood')
            for rule in spec.each("http"):
                found += virtual_service_rule(rule, route)
    for route, spec in files.take("HTTPRoute"):
        with spec:
            with spec.one("parentRefs") as parent:
                parent.expect("name", meta["name"])
                parent.expect("namespace", meta["namespace"])
            for rule in spec.each("rules"):
                found += http_route_rule(rule, route)
    if not found:
        raise Refused("no routes")
    return found


def virtual_service_rule(rule, meta):
    with rule:
        name = rule.take("name", meta["name"])
        matches = []
        for match in rule.each("match"):
            with match:
                with match.within("uri") as uri:
                    how, path = uri.only("exact", "prefix")
                matches.append({"path" if how == "exact" else "prefix": path})
                if "method" in match.left:
                    with match.within("method") as method:
                        _, name_of_method = method.only("exact")
                    matches[-1]["headers"] = [method_permission(name_of_method)["header"]]
        with rule.one("route") as route, route.within("destination") as to:
            host, port = to.take("host"), to.within("port").take("number")
        action = {"timeout": "0s"}
        if (timeout := rule.take("timeout", None)) is not None:
            action["timeout"] = seconds(timeout, rule.where)
        retries = rule.within("retries", DEFAULT_RETRIES)
        changes = header_changes(rule.within("headers", {}))
    return made_routes(name, matches, service_of(host, meta), port, action, retries, changes)


def http_route_rule(rule, meta):
    """The Gateway API's way to say the same."""
    with rule:
        matches = []
        for match in rule.each("matches"):
            with match, match.within("path") as path:
                kind = path.expect("type", "Exact", "PathPrefix")
                key = "path" if kind == "Exact" else "path_separated_prefix"
                matches.append({key: path.take("value")})
        with rule.one("backendRefs") as to:
            service, port = f"{to.take('name')}.{meta['namespace']}", to.take("port")
        action = {"timeout": "0s"}
        with rule.within("timeouts", {}) as timeouts:
            if (timeout := timeouts.take("request", None)) is not None:
                action["timeout"] = seconds(timeout, rule.where)
        changes = {}
        for change in rule.each("filters", []):
            with change:
                change.expect("type", "RequestHeaderModifier")
                with change.within("requestHeaderModifier") as modifier:
                    put = {one["name"]: one["value"] for one in modifier.take("set")}
            changes = header_changes(Fields({"request": {"set": put}}, change.where))
        retries = Fields(DEFAULT_RETRIES, "Istio's retries")
    return made_routes(meta["name"], matches, service, port, action, retries, changes)


def service_of(host, meta):
    """NAME.NAMESPACE, of a short or a whole name."""
    parts = host.removesuffix(".svc.cluster.local").split(".")
    if len(parts) == 1:
        parts.append(meta["namespace"])
    if len(parts) != 2:
        raise Refused(f"{host}: no Service of this cluster")
    return ".".join(parts)


def made_routes(name, matches, service, port, action, retries, changes):
    action["cluster"] = cluster_name(service, port)
    with retries:
        attempts, reasons = retries.take("attempts"), retries.take("retryOn").split(",")
        codes = [int(reason) for reason in reasons if reason.isdigit()]
        words = [reason for reason in reasons if not reason.isdigit()]
        if attempts:
            action["retry_policy"] = {
                "num_retries": attempts,
                "retry_on": ",".join(words + ["retriable-status-codes"] * bool(codes)),
                "retriable_status_codes": codes,
                "host_selection_retry_max_attempts": 5,
            }
    return [{"name": name, "match": match, "route": dict(action), **changes} for match in matches]


def header_changes(headers):
    changes = {}
    with headers:
        for side in ("request", "response"):
            with headers.within(side, {}) as change:
                put = []
                for key, action in (
                    ("set", "OVERWRITE_IF_EXISTS_OR_ADD"),
                    ("add", "APPEND_IF_EXISTS_OR_ADD"),
                ):
                    for name, value in change.take(key, {}).items():
                        header = {"key": name, "value": value}
                        put.append({"header": header, "append_action": action})
                if put:
                    changes[f"{side}_headers_to_add"] = put
                if remove := change.take("remove", []):
                    changes[f"{side}_headers_to_remove"] = remove
    return changes


# Services ----------------------------------------------------------------------------------------


def cluster_name(service, port):
    return f"outbound|{port}||{service}.svc.cluster.local"


def clusters(files, routes, folder, source):
    """One for each Service that a route names, with its DestinationRule's policy."""
    policies = {}
    for meta, spec in files.take("DestinationRule"):
        with spec:
            policies[service_of(spec.take("host"), meta)] = spec.within("trafficPolicy")
    made = {}
    for route in routes:
        name = route["route"]["cluster"]
        _, port, _, host = name.split("|")
        service = host.removesuffix(".svc.cluster.local")
        if name not in made:
            made[name] = cluster(name, service, folder, source)
            made[name]["hash"] = policy(made[name], policies.pop(service, None))
        if hashed := made[name]["hash"]:
            # istiod then lets retries go to the same pod.
            route["route"]["hash_policy"] = [hashed]
        elif "retry_policy" in route["route"]:
            predicate = "envoy.retry_host_predicates.previous_hosts"
            config = {
                "@type": f"{TYPES}.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
            }
            route["route"]["retry_policy"]["retry_host_predicate"] = [
                {"name": predicate, "typed_config": config}
            ]
    for one in made.values():
        del one["hash"]
    for service in policies:
        tell(f"DestinationRule of {service}: no route leads there")
    return list(made.values())


def cluster(name, service, folder, source):
    path = {"path": str(folder / f"{service}.json")}
    made = {
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {
            "service_name": service,
            "eds_config": {"path_config_source": path, "resource_api_version": "V3"},
        },
        "connect_timeout": "10s",
        # istiod's: no bounds, and nobody who was ejected, if the rule says nothing else.
        "circuit_breakers": {
            "thresholds": [
                dict.fromkeys(
                    ("max_connections", "max_pending_requests", "max_requests", "max_retries"),
                    FOREVER,
                )
            ]
        },
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
    }
    if source:
        address = {"address": source, "port_value": 0}
        made["upstream_bind_config"] = {"source_address": address}
    return made


def policy(made, rule):
    """Writes a traffic policy into its cluster; returns by what requests are hashed, if they are."""
    if rule is None:
        made["lb_policy"] = "LEAST_REQUEST"
        return None
    with rule:
        with rule.within("loadBalancer", {"simple": "LEAST_REQUEST"}) as balancer:
            how, value = balancer.only("simple", "consistentHash")
        hashed = None
        if how == "simple":
            if value not in ("LEAST_REQUEST", "ROUND_ROBIN", "RANDOM"):
                raise Refused(f"{rule.where}.loadBalancer.simple: {value} is not understood")
            made["lb_policy"] = value
        else:
            with Fields(value, f"{rule.where}.loadBalancer.consistentHash") as consistent:
                if consistent.take("maglev") != {}:
                    raise Refused(f"{consistent.where}.maglev: just {{}} is understood")
                hashed = hash_policy(consistent)
            made["lb_policy"] = "MAGLEV"
        with rule.within("connectionPool", {}) as pool:
            connections(made, pool)
        if "outlierDetection" in rule.left:
            with rule.within("outlierDetection") as outlier:
                made["outlier_detection"] = outlier_detection(outlier)
                share = outlier.take("minHealthPercent", 0)
                made["common_lb_config"]["healthy_panic_threshold"]["value"] = share
    return hashed


def hash_policy(consistent):
    how, value = consistent.only("httpCookie", "useSourceIp")
    if how == "useSourceIp":
        return {"connection_properties": {"source_ip": value}}
    with Fields(value, f"{consistent.where}.httpCookie") as cookie:
        ttl = seconds(cookie.take("ttl"), cookie.where)
        return {"cookie": {"name": cookie.take("name"), "path": cookie.take("path"), "ttl": ttl}}


def connections(made, pool):
    with pool.within("tcp", {}) as tcp:
        if timeout := tcp.take("connectTimeout", None):
            made["connect_timeout"] = seconds(timeout, tcp.where)
        if "tcpKeepalive" in tcp.left:
            with tcp.within("tcpKeepalive") as alive:
                made["upstream_connection_options"] = {
                    "tcp_keepalive": {
                        "keepalive_time": int(seconds(alive.take("time"), alive.where)[:-1]),
                        "keepalive_interval": int(
                            seconds(alive.take("interval"), alive.where)[:-1]
                        ),
                        "keepalive_probes": alive.take("probes"),
                    }
                }
    with pool.within("http", {}) as http:
        if idle := http.take("idleTimeout", None):
            made["typed_extension_protocol_options"] = {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": f"{TYPES}.extensions.upstreams.http.v3.HttpProtocolOptions",
                    "explicit_http_config": {"http_protocol_options": {}},
                    "common_http_protocol_options": {"idle_timeout": seconds(idle, http.where)},
                }
            }


def outlier_detection(outlier):
    made = {"enforcing_success_rate": 0}
    for theirs, ours in (
        ("consecutive5xxErrors", "consecutive_5xx"),
        ("consecutiveGatewayErrors", "consecutive_gateway_failure"),
    ):
        if (number := outlier.take(theirs, None)) is not None:
            made |= {ours: number, f"enforcing_{ours}": 100 if number else 0}
    if outlier.take("splitExternalLocalOriginErrors", False):
        made |= {
            "split_external_local_origin_errors": True,
            "enforcing_local_origin_success_rate": 0,
        }
        if number := outlier.take("consecutiveLocalOriginFailures", 0):
            made |= {
                "consecutive_local_origin_failure": number,
                "enforcing_consecutive_local_origin_failure": 100,
            }
    for theirs, ours in (("interval", "interval"), ("baseEjectionTime", "base_ejection_time")):
        if value := outlier.take(theirs, None):
            made[ours] = seconds(value, outlier.where)
    if (share := outlier.take("maxEjectionPercent", None)) is not None:
        made["max_ejection_percent"] = share
    return made


# Who may -----------------------------------------------------------------------------------------


def of_gateway(files, kind, namespace):
    """The specs that hold for the gateway. Those of other namespaces hold for pods, by ztunnel."""
    for meta, spec in files.take(kind):
        if meta["namespace"] == namespace and "selector" not in spec.left:
            yield meta, spec
        elif meta["namespace"] == namespace:
            raise Refused(f"{spec.where}.selector: not understood at the gateway")
        else:
            tell(f"{kind} {meta['name']}: ztunnel's business, not the gateway's")


def token_filter(files, namespace, key_sets):
    """Tokens: none is fine, a bad one is not."""
    providers = {}
    for meta, spec in of_gateway(files, "RequestAuthentication", namespace):
        with spec:
            for at, rule in enumerate(spec.each("jwtRules")):
                with rule:
                    providers[f"{meta['name']}-{at}"] = provider(rule, key_sets)
    if not providers:
        return []
    known = [{"provider_name": name} for name in providers]
    requirement = {"requires_any": {"requirements": [*known, {"allow_missing": {}}]}}
    return [
        {
            "name": "envoy.filters.http.jwt_authn",
            "typed_config": {
                "@type": f"{HTTP_FILTERS}.jwt_authn.v3.JwtAuthentication",
                "providers": providers,
                "rules": [{"match": {"prefix": "/"}, "requires": requirement}],
                "bypass_cors_preflight": True,
            },
        }
    ]


def provider(rule, key_sets):
    issuer = rule.take("issuer")
    if rule.take("jwksUri") and issuer not in key_sets:
        raise Refused(f"{rule.where}: name the key set of {issuer} with --jwks")
    made = {
        "issuer": issuer,
        "local_jwks": {"filename": str(key_sets[issuer])},
        "payload_in_metadata": "payload",
        "forward": rule.take("forwardOriginalToken", False),
    }
    for header in rule.each("fromHeaders", []):
        with header:
            place = {"name": header.take("name"), "value_prefix": header.take("prefix", "")}
            made.setdefault("from_headers", []).append(place)
    if params := rule.take("fromParams", []):
        made["from_params"] = params
    if audiences := rule.take("audiences", []):
        made["audiences"] = audiences
    return made


def access_filters(files, namespace):
    """Who is denied first, then who is allowed."""
    made = {"DENY": [], "ALLOW": []}
    for meta, spec in of_gateway(files, "AuthorizationPolicy", namespace):
        with spec:
            action = spec.expect("action", "DENY", "ALLOW", default="ALLOW")
            rules = {f"rule-{at}": access_rule(rule) for at, rule in enumerate(spec.each("rules"))}
        made[action].append(
            {
                "name": "envoy.filters.http.rbac",
                "typed_config": {
                    "@type": f"{HTTP_FILTERS}.rbac.v3.RBAC",
                    "rules": {"action": action, "policies": rules},
                    "rules_stat_prefix": f"{meta['name']}.",
                },
            }
        )
    if len(made["ALLOW"]) > 1:
        raise Refused("two AuthorizationPolicies that allow: Istio lets in whom one of them does")
    return made["DENY"] + made["ALLOW"]


def access_rule(rule):
    with rule:
        operations, sources = [], []
        for to in rule.each("to", []):
            with to, to.within("operation") as operation:
                operations.append({"and_rules": {"rules": permissions(operation)}})
        for source in rule.each("from", []):
            with source, source.within("source") as who:
                key, value = who.only("requestPrincipals", "notRequestPrincipals")
                if value != ["*"]:
                    raise Refused(f'{who.where}.{key}: just ["*"] is understood')
                known = {
                    "metadata": {
                        "filter": "envoy.filters.http.jwt_authn",
                        "path": [{"key": "payload"}, {"key": "iss"}],
                        "value": {"present_match": True},
                    }
                }
                sources.append(known if key == "requestPrincipals" else {"not_id": known})
    return {
        "permissions": operations or [{"any": True}],
        "principals": sources or [{"any": True}],
    }


def permissions(operation):
    made = []
    for key, match in (("paths", path_permission), ("methods", method_permission)):
        if values := operation.take(key, []):
            made.append({"or_rules": {"rules": [match(value) for value in values]}})
        if values := operation.take(f"not{key.capitalize()}", []):
            any_of = {"or_rules": {"rules": [match(value) for value in values]}}
            made.append({"not_rule": any_of})
    return made


def path_permission(path):
    if "*" in path[:-1] or "{" in path:
        raise Refused(f"the path {path}: a star is understood at its end alone")
    how = {"prefix": path[:-1]} if path.endswith("*") else {"exact": path}
    return {"url_path": {"path": how}}


def method_permission(method):
    return {"header": {"name": ":method", "string_match": {"exact": method}}}


# All together ------------------------------------------------------------------------------------


def access_log(files, namespace):
    logs = []
    for _, spec in of_gateway(files, "Telemetry", namespace):
        with spec, spec.one("accessLogging") as logging, logging.one("providers") as to:
            to.expect("name", "envoy")
        to_stdout = {"@type": f"{TYPES}.extensions.access_loggers.stream.v3.StdoutAccessLog"}
        logs.append({"name": "envoy.access_loggers.stdout", "typed_config": to_stdout})
    return logs


def bootstrap(files, options):
    meta, trusted_hops = gateway(files)
    routed = routes(files, meta)
    services = clusters(files, routed, options.endpoints.resolve(), options.source)
    router = {"@type": f"{HTTP_FILTERS}.router.v3.Router"}
    # The rest as istiod sets it for gateways.
    manager = {
        "@type": f"{TYPES}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "gateway",
        "server_name": "istio-envoy",
        "use_remote_address": True,
        "xff_num_trusted_hops": trusted_hops,
        "forward_client_cert_details": "SANITIZE_SET",
        "normalize_path": True,
        "stream_idle_timeout": "0s",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "access_log": access_log(files, meta["namespace"]),
        "http_filters": [
            *token_filter(files, meta["namespace"], dict(options.jwks)),
            *access_filters(files, meta["namespace"]),
            {"name": "envoy.filters.http.router", "typed_config": router},
        ],
        "route_config": {
            "name": "http.80",
            "virtual_hosts": [{"name": "*:80", "domains": ["*"], "routes": routed}],
        },
    }
    chain = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    made = {
        "node": {"id": "gateway", "cluster": "istio-ingress"},
        "static_resources": {
            "listeners": [
                {
                    "name": "http",
                    "address": socket_address(options.listen),
                    "filter_chains": [{"filters": [chain]}],
                }
            ],
            "clusters": services,
        },
    }
    if options.admin:
        made["admin"] = {"address": socket_address(options.admin)}
    for kind, _, name in files.documents:
        if kind in OF_ZTUNNEL:
            tell(f"{kind} {name}: ztunnel's business, not the gateway's")
        elif kind not in OF_KUBERNETES:
            raise Refused(f"{kind} {name}: this kind is not understood")
    return made


def socket_address(text):
    host, _, port = text.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}


def tell(text):
    print(text, file=sys.stderr)


def key_set(text):
    issuer, _, file = text.rpartition("=")
    return issuer, Path(file).resolve()


def main():
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("files", nargs="+", type=Path, help="manifests, or folders of them")
    words.add_argument("--listen", required=True, help="where the gateway's port 80 listens")
    words.add_argument("--endpoints", required=True, type=Path, help="the Services' addresses")
    words.add_argument("--admin", help="where Envoy tells about itself")
    words.add_argument("--source", help="from which address Services are connected")
    words.add_argument(
        "--jwks", type=key_set, action="append", default=[], metavar="ISSUER=FILE",
        help="a file in place of jwksUri",
    )  # fmt: skip
    options = words.parse_args()
    try:
        print(json.dumps(bootstrap(Files(options.files), options), indent=2))
    except Refused as refused:
        tell(f"envoy-bootstrap: {refused}")
        sys.exit(2)


if __name__ == "__main__":
    main()
