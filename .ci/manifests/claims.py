"""What no schema knows: that the manifests agree with each other, and with what edge and echo
really have. Each test is a claim. The argument is the folder of the two binaries."""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
import unittest
from functools import cache
from ipaddress import ip_address, ip_network
from pathlib import Path

import promql_parser
from documents import ENVIRONMENTS, ROOT, documents, environment, files
from environments import ROWS, erased, table
from programs import SECRETS, UPGRADE, Program, at_home, on_free_ports, status, token, write_secrets

BINARIES = Path(sys.argv.pop(1)).resolve()
EDGE, ECHO = BINARIES / "edge", BINARIES / "echo-server"
ALL = ("base", *ENVIRONMENTS)
NAMESPACE = "krakend-test"


def of(name, kind):
    """The objects of a kind in an environment, by name."""
    return {d["metadata"]["name"]: d for d in environment(name) if d["kind"] == kind}


def pod(deployment):
    return deployment["spec"]["template"]["spec"]


def container(deployment):
    (only,) = pod(deployment)["containers"]
    return only


def labels(deployment):
    return deployment["spec"]["template"]["metadata"]["labels"]


def ports(deployment):
    return {port["name"]: port["containerPort"] for port in container(deployment)["ports"]}


def env(deployment):
    return {one["name"]: one["value"] for one in container(deployment).get("env", [])}


def selects(selector, its):
    return all(its.get(key) == value for key, value in selector.items())


def edge_toml(name):
    (config,) = of(name, "ConfigMap").values()
    return config["data"]["edge.toml"]


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h)", text).groups()
    return int(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit]


def millis(cpu):
    return int(cpu[:-1]) if str(cpu).endswith("m") else int(cpu) * 1000


def mebibytes(memory):
    return int(re.fullmatch(r"(\d+)Mi", memory)[1])


def istio(*kinds):
    """(file, document) for these kinds under istio/."""
    for file in files():
        if file.parts[0] == "istio":
            for document in documents(file):
                if document["kind"] in kinds:
                    yield file, document


@cache
def told(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout


class Folders(unittest.TestCase):
    def test_the_clients_door_is_one(self):
        for name in ALL:
            outside = [s for s in of(name, "Service").values() if s["spec"].get("type") != "ClusterIP"]
            doors = [s["metadata"]["name"] for s in outside if s["spec"].get("clusterIP") != "None"]
            self.assertEqual(doors, ["edge"] if name == "local" else [])

    def test_apply_of_a_folder_finds_objects_alone_the_namespace_first(self):
        folders = [ROOT / "k8s", *(ROOT / "k8s" / name for name in ENVIRONMENTS)]
        for folder in folders:
            with self.subTest(folder=folder.name):
                found = [p.name for p in folder.iterdir() if p.suffix in (".yaml", ".yml", ".json")]
                self.assertEqual(found, ["krakend-test.yaml"])
        for name in ALL:
            kinds = [document["kind"] for document in environment(name)]
            self.assertEqual(kinds[0], "Namespace")
            self.assertNotIn("Kustomization", kinds)

    def test_all_objects_are_in_the_one_namespace(self):
        for name in ALL:
            for document in environment(name):
                meta = document["metadata"]
                at = meta["name"] if document["kind"] == "Namespace" else meta["namespace"]
                self.assertEqual(at, NAMESPACE, (name, document["kind"], meta["name"]))

    def test_an_empty_cluster_knows_every_kind(self):
        for name in ALL:
            for document in environment(name):
                group = document["apiVersion"].partition("/")[0]
                self.assertTrue("." not in group or group.endswith(".k8s.io"), document["kind"])


class Agreement(unittest.TestCase):
    def test_selectors_find_the_pods_of_their_deployment_alone(self):
        for name in ALL:
            deployments = of(name, "Deployment")
            self.assertEqual(set(deployments), {"edge", "echo"})
            for which, deployment in deployments.items():
                selector = deployment["spec"]["selector"]["matchLabels"]
                found = [n for n, d in deployments.items() if selects(selector, labels(d))]
                self.assertEqual(found, [which])
                for spread in pod(deployment)["topologySpreadConstraints"]:
                    self.assertEqual(spread["labelSelector"]["matchLabels"], selector)
            for kind, where in (("Service", "selector"), ("PodDisruptionBudget", "selector")):
                for which, one in of(name, kind).items():
                    selector = one["spec"][where]
                    selector = selector.get("matchLabels", selector)
                    found = [n for n, d in deployments.items() if selects(selector, labels(d))]
                    self.assertEqual(found, [which.removesuffix("-headless")])

    def test_services_name_ports_that_their_pods_have(self):
        for name in ALL:
            for which, service in of(name, "Service").items():
                deployment = of(name, "Deployment")[which.removesuffix("-headless")]
                for port in service["spec"]["ports"]:
                    self.assertEqual(port["port"], ports(deployment)[port["targetPort"]])

    def test_who_comes_from_outside_keeps_his_address(self):
        services = [s for name in ALL for s in of(name, "Service").values()]
        services += [document for _, document in istio("Service")]
        for spec in (service["spec"] for service in services):
            if spec.get("type") in ("NodePort", "LoadBalancer"):
                self.assertEqual(spec["externalTrafficPolicy"], "Local")

    def test_the_headless_service_has_an_address_for_each_pod(self):
        for name in ALL:
            self.assertEqual(of(name, "Service")["echo-headless"]["spec"]["clusterIP"], "None")

    def test_autoscalers_scale_what_is_there_and_own_its_number(self):
        for name in ALL:
            for which, scaler in of(name, "HorizontalPodAutoscaler").items():
                target = scaler["spec"]["scaleTargetRef"]
                self.assertEqual((target["kind"], target["name"]), ("Deployment", which))
                self.assertNotIn("replicas", of(name, "Deployment")[which]["spec"])
                (metric,) = scaler["spec"]["metrics"]
                self.assertEqual(metric["resource"]["name"], "cpu")
                self.assertEqual(metric["resource"]["target"]["averageUtilization"], 70)
        for name in ("base", "prod"):
            for scaler in of(name, "HorizontalPodAutoscaler").values():
                bounds = (scaler["spec"]["minReplicas"], scaler["spec"]["maxReplicas"])
                self.assertEqual(bounds, (2, 10))

    def test_pods_mount_and_run_as_what_is_there(self):
        for name in ALL:
            for which, deployment in of(name, "Deployment").items():
                spec = pod(deployment)
                account = of(name, "ServiceAccount")[spec["serviceAccountName"]]
                self.assertIs(account["automountServiceAccountToken"], False)
                self.assertIs(spec["automountServiceAccountToken"], False)
                volumes = {volume["name"]: volume for volume in spec["volumes"]}
                mounts = {mount["name"] for mount in container(deployment)["volumeMounts"]}
                self.assertEqual(mounts, set(volumes))
                for volume in volumes.values():
                    if "configMap" in volume:
                        self.assertIn(volume["configMap"]["name"], of(name, "ConfigMap"))
                    else:
                        self.assertEqual(volume["secret"]["secretName"], "app-secrets")
                        self.assertEqual(volume["secret"]["defaultMode"], 0o440)

    def test_the_quota_has_room_for_a_rollout_of_everything(self):
        for name in ALL:
            (quota,) = of(name, "ResourceQuota").values()
            hard = quota["spec"]["hard"]
            scalers = of(name, "HorizontalPodAutoscaler")
            wanted = {"pods": 0, "requests.cpu": 0, "limits.cpu": 0}
            wanted |= {"requests.memory": 0, "limits.memory": 0}
            for which, deployment in of(name, "Deployment").items():
                most = (
                    scalers[which]["spec"]["maxReplicas"]
                    if which in scalers
                    else deployment["spec"]["replicas"]
                )
                # All pods anew, while all old ones drain, and one more.
                pods = 2 * most + 1
                wanted["pods"] += pods
                for side in ("requests", "limits"):
                    its = container(deployment)["resources"][side]
                    wanted[f"{side}.cpu"] += pods * millis(its["cpu"])
                    wanted[f"{side}.memory"] += pods * mebibytes(its["memory"])
            self.assertGreaterEqual(int(hard["pods"]), wanted["pods"], name)
            for side in ("requests", "limits"):
                self.assertGreaterEqual(millis(hard[f"{side}.cpu"]), wanted[f"{side}.cpu"])
                self.assertGreaterEqual(mebibytes(hard[f"{side}.memory"]), wanted[f"{side}.memory"])
            # A quota of anything but pods could refuse what follows it in the same file, until the
            # controller has counted.
            self.assertEqual(set(hard), set(wanted))

    def test_a_pod_is_restricted_and_small(self):
        for name in ALL:
            for deployment in of(name, "Deployment").values():
                whole, own = pod(deployment)["securityContext"], container(deployment)["securityContext"]
                self.assertIs(whole["runAsNonRoot"], True)
                self.assertEqual((whole["runAsUser"], whole["runAsGroup"]), (65532, 65532))
                self.assertEqual(whole["seccompProfile"], {"type": "RuntimeDefault"})
                self.assertIs(own["readOnlyRootFilesystem"], True)
                self.assertIs(own["allowPrivilegeEscalation"], False)
                self.assertEqual(own["capabilities"], {"drop": ["ALL"]})
                resources = container(deployment)["resources"]
                self.assertEqual(resources["requests"], {"cpu": "100m", "memory": "128Mi"})
                self.assertEqual(resources["limits"], {"cpu": "200m", "memory": "256Mi"})
            (namespace,) = of(name, "Namespace").values()
            self.assertEqual(
                namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted"
            )

    def test_a_pod_is_not_killed_before_it_has_drained(self):
        for name in ALL:
            for which, deployment in of(name, "Deployment").items():
                before = container(deployment)["lifecycle"]["preStop"]["sleep"]["seconds"]
                if which == "edge":
                    server = tomllib.loads(edge_toml(name))["server"]
                    drain = seconds(server["drain_delay"]) + seconds(server["drain"])
                else:
                    drain = seconds(env(deployment)["ECHO_DRAIN"])
                grace = pod(deployment)["terminationGracePeriodSeconds"]
                self.assertLessEqual(before + drain + 5, grace, (name, which))
                # Every proxy must have heard of it before.
                self.assertGreaterEqual(before, 5)

    def test_no_pod_goes_before_another_is_ready(self):
        for name in ALL:
            for deployment in of(name, "Deployment").values():
                rolling = deployment["spec"]["strategy"]["rollingUpdate"]
                self.assertEqual(rolling, {"maxUnavailable": 0, "maxSurge": 1})

    def test_the_deployer_reaches_no_secret_and_no_shell(self):
        for name in ALL:
            (role,) = of(name, "Role").values()
            resources = {one for rule in role["rules"] for one in rule["resources"]}
            self.assertFalse(resources & {"secrets", "pods/exec", "pods/attach", "*"})
            for rule in role["rules"]:
                self.assertNotIn("*", rule["verbs"])
                if "roles" in rule["resources"]:
                    self.assertEqual(rule["verbs"], ["get"])


class Network(unittest.TestCase):
    """The policies, asked as a cluster asks them."""

    GATEWAY = {"namespace": "istio-ingress", "labels": {"istio": "ingressgateway"}}
    PROMETHEUS = {"namespace": "monitoring", "labels": {"app": "prometheus"}}
    DNS = {"namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}}
    STRANGER = {"namespace": "default", "labels": {"app": "edge"}}
    WORLD = {"address": "198.51.100.7"}
    AMBIENT_PROBE = {"address": "169.254.7.127"}

    def ours(self, name, which):
        return {"namespace": NAMESPACE, "labels": labels(of(name, "Deployment")[which])}

    def matches(self, peer, one):
        if "ipBlock" in peer:
            return "address" in one and ip_address(one["address"]) in ip_network(
                peer["ipBlock"]["cidr"]
            )
        if "address" in one:
            return False
        if "namespaceSelector" in peer:
            space = {"kubernetes.io/metadata.name": one["namespace"]}
            if not selects(peer["namespaceSelector"]["matchLabels"], space):
                return False
        elif one["namespace"] != NAMESPACE:
            return False
        return selects(peer.get("podSelector", {}).get("matchLabels", {}), one["labels"])

    def side(self, name, way, own, other, port, protocol):
        if own.get("namespace") != NAMESPACE:
            return True
        ingress = way == "Ingress"
        policies = [
            policy["spec"]
            for policy in of(name, "NetworkPolicy").values()
            if way in policy["spec"]["policyTypes"]
            and selects(policy["spec"]["podSelector"].get("matchLabels", {}), own["labels"])
        ]
        self.assertTrue(policies, "no policy, and so everything passes")
        return any(
            any(p["port"] == port and p["protocol"] == protocol for p in rule["ports"])
            and (
                ("from" if ingress else "to") not in rule
                or any(self.matches(p, other) for p in rule["from" if ingress else "to"])
            )
            for spec in policies
            for rule in spec.get("ingress" if ingress else "egress", [])
        )

    def passes(self, name, source, target, port, protocol="TCP"):
        return self.side(name, "Egress", source, target, port, protocol) and self.side(
            name, "Ingress", target, source, port, protocol
        )

    def test_what_must_pass_passes_and_nothing_else(self):
        for name in ALL:
            edge, echo = self.ours(name, "edge"), self.ours(name, "echo")
            may = [
                (self.GATEWAY, edge, 8080),
                (self.GATEWAY, edge, 15008),
                (self.GATEWAY, echo, 8080),
                (self.GATEWAY, echo, 15008),
                (edge, echo, 8080),
                (edge, echo, 15008),
                (self.PROMETHEUS, edge, 9090),
                (self.PROMETHEUS, echo, 8080),
                (self.AMBIENT_PROBE, edge, 9090),
                (self.AMBIENT_PROBE, echo, 8080),
                (edge, self.DNS, 53, "UDP"),
                (edge, self.DNS, 53, "TCP"),
            ]
            may_not = [
                (self.STRANGER, echo, 8080),
                (self.STRANGER, edge, 9090),
                (self.GATEWAY, edge, 9090),
                (self.WORLD, echo, 8080),
                (self.WORLD, edge, 9090),
                (echo, edge, 8080),
                (echo, echo, 8080),
                (echo, self.DNS, 53, "UDP"),
                (echo, self.WORLD, 443),
                (edge, edge, 8080),
                (edge, self.WORLD, 443),
                (edge, self.STRANGER, 8080),
                (edge, {"namespace": "kube-system", "labels": {}}, 53, "UDP"),
            ]
            from_anywhere = [(self.STRANGER, edge, 8080), (self.WORLD, edge, 8080)]
            if name == "local":
                # The NodePort; the rest stays as it is, but for edge itself.
                may += from_anywhere
                may_not.remove((echo, edge, 8080))
                may_not.remove((edge, edge, 8080))
            else:
                may_not += [*from_anywhere, (self.PROMETHEUS, edge, 8080)]
            for flow in may:
                self.assertTrue(self.passes(name, *flow), (name, "must pass", flow))
            for flow in may_not:
                # echo has no way out at all, wherever it is let in.
                self.assertFalse(self.passes(name, *flow), (name, "must not pass", flow))

    def test_the_policies_speak_of_ports_that_are_there(self):
        for name in ALL:
            known = {15008, 53}
            for deployment in of(name, "Deployment").values():
                known |= set(ports(deployment).values())
            for policy in of(name, "NetworkPolicy").values():
                for way in ("ingress", "egress"):
                    for rule in policy["spec"].get(way, []):
                        for port in rule["ports"]:
                            self.assertIn(port["port"], known)


class Secrets(unittest.TestCase):
    KEYS = set(SECRETS)

    def test_no_secret_is_in_the_tree_but_as_an_example(self):
        for file in files():
            for document in documents(file):
                if document["kind"] == "Secret":
                    self.assertEqual(file.parts[:2], ("k8s", "secrets"))
                    for value in document["stringData"].values():
                        self.assertRegex(value, "^<.*>$")
                    self.assertNotIn("data", document)

    def test_nothing_in_the_tree_looks_like_a_secret(self):
        like = re.compile(
            r"-----BEGIN [A-Z ]*PRIVATE KEY|\beyJ[\w-]{10,}\.|\bAKIA[A-Z0-9]{16}|\bgh[pousr]_\w{30,}"
            r"|(?=[\w+]*\d)(?=[\w+]*[a-z])(?=[\w+]*[A-Z])[\w+]{40,}"
        )
        read = 0
        for folder in ("k8s", "istio", "scripts"):
            for path in (ROOT / folder).rglob("*"):
                if path.is_file():
                    read += 1
                    self.assertIsNone(like.search(path.read_text()), path)
        self.assertGreater(read, 20)
        for name in ALL:
            for deployment in of(name, "Deployment").values():
                for variable, value in env(deployment).items():
                    if re.search("SECRET|KEY|TOKEN|PASSWORD", variable):
                        self.assertTrue(variable.endswith("_FILE") and value.startswith("/"))

    def test_the_files_named_are_keys_of_the_secret(self):
        (example,) = documents("k8s/secrets/app-secrets.example.yaml")
        self.assertEqual(set(example["stringData"]), self.KEYS)
        made = (ROOT / "scripts/create-secrets.sh").read_text()
        self.assertEqual(set(re.findall(r"^  ([a-z-]+): \"\$\(random", made, re.M)), self.KEYS)
        for name in ALL:
            text = edge_toml(name) + json.dumps([env(d) for d in of(name, "Deployment").values()])
            for key in re.findall(r"/etc/edge-secrets/([\w-]+)", text):
                self.assertIn(key, self.KEYS)

    def test_whoever_reads_the_secret_waits_for_it_and_nobody_else_does(self):
        for name in ALL:
            for which, deployment in of(name, "Deployment").items():
                text = json.dumps(env(deployment)) + (edge_toml(name) if which == "edge" else "")
                (volume,) = [v for v in pod(deployment)["volumes"] if "secret" in v]
                asked = "/etc/edge-secrets/" in text
                self.assertEqual(volume["secret"]["optional"], not asked, (name, which))


class Programs(unittest.TestCase):
    """The manifests against the programs themselves."""

    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.secrets = write_secrets(self.folder / "secrets")

    def start(self, name):
        """echo and edge as this environment has them, edge with echo behind it."""
        deployments = of(name, "Deployment")
        variables = {key: at_home(value, self.secrets) for key, value in env(deployments["echo"]).items()}
        variables["ECHO_LISTEN"] = "127.0.0.1:0"
        echo = Program([ECHO, *container(deployments["echo"]).get("args", [])], variables)
        self.addCleanup(echo.end)
        file = self.folder / name / "edge.toml"
        file.parent.mkdir()
        file.write_text(on_free_ports(at_home(edge_toml(name), self.secrets), echo.said["address"]))
        arguments = [
            str(file) if argument == "/etc/edge/edge.toml" else argument
            for argument in container(deployments["edge"])["args"]
        ]
        self.assertIn(str(file), arguments)
        edge = Program([EDGE, *arguments], env(deployments["edge"]))
        self.addCleanup(edge.end)
        return {
            "echo": {"http": echo.said["address"]},
            "edge": {"http": edge.said["address"], "admin": edge.said["admin"]},
        }

    def test_they_start_as_the_manifests_say_and_answer_probes_scrapes_and_clients(self):
        scraped = {
            one["metadata"]["name"]: one["spec"]["podMetricsEndpoints"]
            for one in documents("k8s/optional/monitoring.yaml")
            if one["kind"] == "PodMonitor"
        }
        for name in ALL:
            with self.subTest(environment=name):
                at = self.start(name)
                for which, deployment in of(name, "Deployment").items():
                    self.assertEqual(set(ports(deployment)), set(at[which]))
                    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                        asked = container(deployment)[probe]["httpGet"]
                        self.assertEqual(status(at[which][asked["port"]], asked["path"]), 200, probe)
                    by_number = {number: port for port, number in ports(deployment).items()}
                    notes = deployment["spec"]["template"]["metadata"]["annotations"]
                    port = by_number[int(notes["prometheus.io/port"])]
                    self.assertEqual(status(at[which][port], notes["prometheus.io/path"]), 200)
                    for one in scraped[which]:
                        self.assertEqual((one["port"], one["path"]), (port, "/metrics"))
                self.assertEqual(status(at["edge"]["http"], "/health"), 200)
                asks = "[auth." in edge_toml(name)
                self.assertEqual(status(at["edge"]["http"], "/api/info"), 401 if asks else 200)
                # echo has them beside its traffic, and edge leads there but for this.
                for path in ("/api/metrics", "/api/metrics?all", "/api/metric%73"):
                    self.assertEqual(status(at["edge"]["http"], path), 403, path)
                for way in ("echo", "edge"):
                    opened = status(at[way]["http"], "/ws", UPGRADE)
                    self.assertEqual(opened, 401 if asks else 101, way)

    def test_production_lets_in_who_knows_the_secret_and_nobody_else(self):
        at = self.start("prod")["edge"]["http"]
        good, bad = ({"Authorization": f"Bearer {token(s)}"} for s in (SECRETS["jwt-secret"], "x" * 48))
        key, wrong = {"X-API-Key": SECRETS["api-key"]}, {"X-API-Key": "x" * 32}
        self.assertEqual(status(at, "/api/info", good), 200)
        self.assertEqual(status(at, "/api/info", bad), 401)
        self.assertEqual(status(at, "/ws", UPGRADE | good), 101)
        self.assertEqual(status(at, "/ws", UPGRADE | key), 101)
        for no in (bad, wrong):
            self.assertEqual(status(at, "/ws", UPGRADE | no), 401)

    def test_limits_count_the_client_that_a_proxy_names_and_nobody_else_s_word(self):
        at = self.start("base")["edge"]["http"]

        def answers(source, clients):
            # Three times what one client may send at once.
            return {
                status(at, "/health", {"X-Forwarded-For": clients[number % len(clients)]}, source)
                for number in range(30)
            }

        # A sidecar's peer is 127.0.0.6, and what the gateway wrote stands in the field.
        self.assertEqual(answers("127.0.0.6", ["198.51.100.7"]), {200, 429})
        self.assertEqual(answers("127.0.0.6", ["10.1.2.3", "198.51.100.8", "2001:db8::9"]), {200})
        # Nobody's proxy: it is one client, whatever it says.
        self.assertEqual(answers("127.0.0.1", ["198.51.100.10", "198.51.100.11"]), {200, 429})

    def test_edge_check_takes_every_configuration(self):
        for name in ALL:
            file = self.folder / f"{name}.toml"
            file.write_text(at_home(edge_toml(name), self.secrets))
            done = subprocess.run([EDGE, "check", file], capture_output=True, text=True, timeout=30)
            self.assertEqual(done.returncode, 0, done.stderr)

    def test_the_ports_are_those_that_the_programs_are_told(self):
        for name in ALL:
            deployments = of(name, "Deployment")
            config = tomllib.loads(edge_toml(name))
            listen = [config["server"]["listen"], config["admin"]["listen"]]
            expected = [f"0.0.0.0:{ports(deployments['edge'])[port]}" for port in ("http", "admin")]
            self.assertEqual(listen, expected)
            told_echo = env(deployments["echo"])["ECHO_LISTEN"]
            self.assertEqual(told_echo, f"0.0.0.0:{ports(deployments['echo'])['http']}")

    def test_arguments_and_variables_are_known_to_the_programs(self):
        for name in ALL:
            for which, deployment in of(name, "Deployment").items():
                knows = told(EDGE if which == "edge" else ECHO, "--help")
                for argument in container(deployment).get("args", []):
                    if argument.startswith("-"):
                        self.assertRegex(knows, rf"(?m)[\s]{re.escape(argument)}\b", which)
                for variable in env(deployment):
                    self.assertIn(f"[env: {variable}=]", knows, which)

    def test_the_configuration_lies_where_edge_is_told_to_look(self):
        for name in ALL:
            deployment = of(name, "Deployment")["edge"]
            (mount,) = [m for m in container(deployment)["volumeMounts"] if m["name"] == "config"]
            args = container(deployment)["args"]
            self.assertIn(f"{mount['mountPath']}/edge.toml", args)
            # A file mounted by subPath is never brought up to date.
            self.assertNotIn("subPath", mount)

    def test_a_changed_configuration_takes_effect_without_a_restart(self):
        for name in ALL:
            self.assertIn("--follow", container(of(name, "Deployment")["edge"])["args"])
            # A name with a digest would be another ConfigMap with each change.
            self.assertEqual(set(of(name, "ConfigMap")), {"edge-config"})

    def test_the_upstream_is_a_service_of_these_manifests(self):
        for name in ALL:
            for upstream in tomllib.loads(edge_toml(name))["upstream"].values():
                for peer in upstream["peers"]:
                    host, _, port = peer.partition(":")
                    service = of(name, "Service")[host]
                    self.assertIn(int(port), [p["port"] for p in service["spec"]["ports"]])

    def test_the_promised_limits_stand_in_every_configuration(self):
        for name in ALL:
            config = tomllib.loads(edge_toml(name))
            self.assertEqual(config["limit"], {"per_client": "10/s", "global": "100/s"})
            self.assertEqual(config["timeout"]["response"], "3s")
            routes = {route["path"]: route for route in config["route"]}
            self.assertEqual(routes["/api/*"]["cache"]["ttl"], "1h")
            self.assertNotIn("cache", routes["/health"])
            self.assertIn("websocket", routes["/ws"])

    def test_edge_believes_its_proxies_and_where_there_is_none_nobody(self):
        for name in ALL:
            trusted = [ip_network(one) for one in tomllib.loads(edge_toml(name))["server"]["trusted_proxies"]]
            believed = [
                address
                for address in ("10.244.1.7", "172.20.3.4", "192.168.9.9", "100.64.0.9", "fd00::7", "127.0.0.6")
                if any(ip_address(address) in network for network in trusted)
            ]
            self.assertEqual(len(believed), 0 if name == "local" else 6, name)
            for stranger in ("198.51.100.7", "127.0.0.1", "2001:db8::1"):
                self.assertFalse(any(ip_address(stranger) in network for network in trusted))


class Figures(unittest.TestCase):
    """Alerts and dashboard ask for what edge and echo count, and for nothing else."""

    FAMILY = re.compile(
        r"\b(counters?|gauges?|histograms)\(\s*(?:&registry,\s*)?"
        r'"((?:edge|echo)_\w+)",\s*"[^"]*",?\s*(?:(&\[[^\]]*\]|peer|[A-Z]+),?\s*)?\)'
    )
    # What Prometheus itself adds to every series.
    OF_THE_SCRAPE = {"namespace", "pod", "container", "job", "instance", "endpoint"}

    @classmethod
    @cache
    def families(cls):
        found = {"up": set()}
        for program in ("edge", "echo"):
            text = "\n".join(
                path.read_text() for path in sorted((ROOT / program / "src").rglob("metrics*"))
                if path.is_file()
            ) + "\n".join(
                path.read_text() for path in sorted((ROOT / program / "src" / "metrics").rglob("*.rs"))
            )
            named = set(re.findall(rf'"({program}_\w+)"', text))
            for kind, name, said in cls.FAMILY.findall(text):
                labels = set(re.findall(r'"(\w+)"', said))
                if said == "peer":
                    labels = {"upstream", "peer"}
                if kind == "histograms":
                    labels = {"route"}
                    for part in ("bucket", "sum", "count"):
                        found[f"{name}_{part}"] = labels | ({"le"} if part == "bucket" else set())
                found[name] = labels
            missed = named - set(found)
            assert not missed, f"these metrics are declared in a way that this test cannot read: {missed}"
        return found

    def queries(self):
        for document in documents("k8s/optional/monitoring.yaml"):
            if document["kind"] == "PrometheusRule":
                for group in document["spec"]["groups"]:
                    for rule in group["rules"]:
                        yield rule["alert"], rule["expr"]
            elif document["kind"] == "ConfigMap":
                for panel in json.loads(document["data"]["dashboard.json"])["panels"]:
                    for target in panel.get("targets", []):
                        yield panel["title"], target["expr"].replace("$namespace", NAMESPACE)

    def selectors(self, query):
        """Every selector in a query, and the labels that the aggregations above it name."""

        def walk(part, by):
            kind = type(part).__name__
            if kind == "AggregateExpr":
                yield from walk(part.expr, by | set(part.modifier.labels if part.modifier else []))
            elif kind == "Call":
                for argument in part.args:
                    yield from walk(argument, by)
            elif kind == "BinaryExpr":
                yield from walk(part.lhs, by)
                yield from walk(part.rhs, by)
            elif kind == "MatrixSelector":
                yield part.vector_selector, by
            elif kind == "VectorSelector":
                yield part, by
            elif kind in ("ParenExpr", "UnaryExpr", "SubqueryExpr"):
                yield from walk(part.expr, by)
            else:
                self.assertIn(kind, ("NumberLiteral", "StringLiteral"))

        return list(walk(promql_parser.parse(query), set()))

    def faults(self, query):
        for selector, by in self.selectors(query):
            if selector.name not in self.families():
                yield f"no metric {selector.name}"
                continue
            known = self.families()[selector.name] | self.OF_THE_SCRAPE
            matchers = selector.matchers.matchers
            for label in by | {matcher.name for matcher in matchers}:
                if label not in known:
                    yield f"{selector.name} has no label {label}"
            program = selector.name.partition("_")[0]
            for matcher in matchers:
                if matcher.name in self.families()[selector.name] and matcher.op in (
                    promql_parser.MatchOp.Equal,
                    promql_parser.MatchOp.NotEqual,
                ):
                    if matcher.value and f'"{matcher.value}"' not in sources(program):
                        yield f"{selector.name} never has {matcher.name}={matcher.value}"

    def test_queries_name_only_metrics_labels_and_values_that_exist(self):
        listed = list(self.queries())
        self.assertGreater(len(listed), 30)
        for where, query in listed:
            self.assertEqual(list(self.faults(query)), [], where)

    def test_a_query_of_something_else_is_found(self):
        for wrong in (
            "edge_request_total",
            "sum by (path) (rate(edge_requests_total[5m]))",
            'edge_requests_total{code="200"}',
            'edge_limit_decisions_total{decision="denied"}',
            "rate(edge_request_duration_seconds_total[5m])",
            'echo_refused_total{reason="crowded"}',
            "http_requests_total",
        ):
            self.assertTrue(list(self.faults(wrong)), wrong)

    def test_summaries_name_only_labels_that_their_alert_has(self):
        for document in documents("k8s/optional/monitoring.yaml"):
            if document["kind"] != "PrometheusRule":
                continue
            for group in document["spec"]["groups"]:
                for rule in group["rules"]:
                    has = set(self.OF_THE_SCRAPE) if " by (" not in rule["expr"] else set()
                    for selector, by in self.selectors(rule["expr"]):
                        has |= by
                    for label in re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]):
                        self.assertIn(label, has, rule["alert"])


@cache
def sources(program):
    return "\n".join(path.read_text() for path in (ROOT / program / "src").rglob("*.rs"))


class Environments(unittest.TestCase):
    def test_they_differ_only_where_the_table_says(self):
        base = erased("base")
        for name in ENVIRONMENTS:
            its = erased(name)
            self.assertEqual(set(its), set(base), name)
            for key in base:
                self.assertEqual(its[key], base[key], (name, key))

    def test_the_table_of_the_operations_page_is_what_the_manifests_say(self):
        page = ROOT / "docs/operations.md"
        if not page.exists():
            self.skipTest("docs/operations.md is not there yet")
        text = page.read_text()
        for line in table().splitlines():
            self.assertIn(line, text, "python .ci/manifests/environments.py prints the table")

    def test_every_row_of_the_table_tells_of_a_difference(self):
        for row, read, _ in ROWS:
            values = {read(environment(name)) for name in ALL}
            self.assertGreater(len(values), 1, row)


class Istio(unittest.TestCase):
    """What istio/ says of edge and echo."""

    def setUp(self):
        if not (ROOT / "istio").is_dir():
            self.skipTest("istio/ is not there yet")

    def test_routes_lead_to_ports_that_are_there(self):
        services, led = of("base", "Service"), 0
        for file, document in istio("VirtualService", "HTTPRoute"):
            for rule in document["spec"].get("http") or document["spec"].get("rules", []):
                for target in rule.get("route") or rule.get("backendRefs", []):
                    if "destination" in target:
                        host = target["destination"]["host"].split(".")[0]
                        port = target["destination"]["port"]["number"]
                    else:
                        host, port = target["name"], target["port"]
                    self.assertIn(host, services, file)
                    self.assertIn(port, [p["port"] for p in services[host]["spec"]["ports"]], file)
                    led += 1
        self.assertGreater(led, 1)
        for file, document in istio("DestinationRule"):
            self.assertIn(document["spec"]["host"].split(".")[0], services, file)

    def test_edge_may_take_its_time_and_a_websocket_all_of_it(self):
        own = seconds(tomllib.loads(edge_toml("base"))["timeout"]["response"])
        for file, document in istio("VirtualService", "HTTPRoute"):
            for rule in document["spec"].get("http") or document["spec"].get("rules", []):
                text = json.dumps(rule)
                limit = rule.get("timeout") or rule.get("timeouts", {}).get("request")
                if '"/ws"' in text:
                    self.assertIn(limit, (None, "0s"), file)
                elif limit:
                    self.assertGreater(seconds(limit), own, file)

    def test_the_gateway_writes_the_client_s_address_anew_for_edge(self):
        for file, document in istio("VirtualService", "HTTPRoute"):
            for rule in document["spec"].get("http") or document["spec"].get("rules", []):
                targets = json.dumps(rule.get("route") or rule.get("backendRefs") or [])
                if '"edge' in targets:
                    self.assertRegex(
                        json.dumps(rule).lower(), "x-forwarded-for.*downstream_remote_address", file
                    )

    def test_who_may_not_be_root_has_a_number(self):
        # The image's own user may be root or a name, and the kubelet would refuse the pod.
        for file, document in istio("Deployment"):
            whole = pod(document).get("securityContext", {})
            for one in pod(document)["containers"]:
                holds = whole | one.get("securityContext", {})
                if holds.get("runAsNonRoot"):
                    self.assertGreater(holds.get("runAsUser", 0), 0, file)

    def test_policies_name_accounts_and_pods_that_are_there(self):
        accounts = {f"ns/{NAMESPACE}/sa/{name}" for name in of("base", "ServiceAccount")}
        for _, document in istio("ServiceAccount"):
            meta = document["metadata"]
            accounts.add(f"ns/{meta['namespace']}/sa/{meta['name']}")
        # istiod makes this one for the Gateway API's Gateway.
        for _, document in istio("Gateway"):
            if document["apiVersion"].startswith("gateway.networking.k8s.io/"):
                meta = document["metadata"]
                name = f"{meta['name']}-{document['spec']['gatewayClassName']}"
                accounts.add(f"ns/{meta['namespace']}/sa/{name}")
        for file, document in istio("AuthorizationPolicy"):
            for principal in re.findall(r"cluster\.local/(ns/[\w-]+/sa/[\w-]+)", json.dumps(document)):
                self.assertIn(principal, accounts, file)
            selector = document["spec"].get("selector", {}).get("matchLabels", {})
            if selector and document["metadata"].get("namespace") == NAMESPACE:
                found = [d for d in of("base", "Deployment").values() if selects(selector, labels(d))]
                self.assertTrue(found, file)


class Images(unittest.TestCase):
    def test_the_dockerfiles_make_what_the_manifests_run(self):
        for which, deployment in of("base", "Deployment").items():
            file = ROOT / f"Dockerfile.{which}"
            if not file.exists():
                self.skipTest(f"{file.name} is not there yet")
            text = file.read_text()
            self.assertRegex(text, r"(?m)^USER 65532:65532$")
            self.assertIn(f'ENTRYPOINT ["/usr/local/bin/{which}"', text)
            self.assertNotRegex(text, r"(?m)^HEALTHCHECK")
            exposed = {int(port) for line in re.findall(r"(?m)^EXPOSE (.*)$", text) for port in line.split()}
            self.assertEqual(exposed, set(ports(deployment).values()), file.name)

    def test_their_tag_is_the_version(self):
        cargo = tomllib.loads((ROOT / "Cargo.toml").read_text())
        version = cargo["workspace"]["package"]["version"]
        for which, deployment in of("base", "Deployment").items():
            self.assertEqual(container(deployment)["image"], f"{which}:{version}")


if __name__ == "__main__":
    unittest.main()
