"""What scripts/deploy.sh does with a cluster that fails in every way, what scripts/smoke.py lets
pass, and that the workflows run what is there. The arguments are kubectl, which renders here and asks
no cluster, and the folder of edge and echo-server."""

import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / ".ci" / "manifests"))
import programs  # noqa: E402

KUBECTL, BINARIES = Path(sys.argv.pop(1)), Path(sys.argv.pop(1))
OLD, NEW = "before", "1.2.3"

# A cluster that is a file: what runs, which configuration is there, and what is to fail.
CLUSTER = """
import json, os, subprocess, sys
def read(file):
    return [open(file).read(), oct(os.stat(file).st_mode & 0o777)]
at = os.environ["CLUSTER"]
cluster = json.load(open(at))
words = sys.argv[1:]
options = {}
for option in ("--namespace", "--request-timeout", "--timeout", "--output", "--kustomize", "--to-revision",
               "--patch-file", "--type"):
    if option in words:
        place = words.index(option)
        options[option] = words[place + 1]
        del words[place:place + 2]
words = [word for word in words if word != "--ignore-not-found"]
told = " ".join(words)
if "KUBECONFIG" in os.environ:
    cluster["kubeconfig"] = read(os.environ["KUBECONFIG"])
cluster["calls"].append(told)
code = cluster["fails"].get(told, 0)
if told in cluster["fails"]:
    pass
elif told.startswith("get deployment ") and options["--output"] == "jsonpath={.spec.template}":
    print(cluster["templates"][words[2]] if cluster["revisions"] else "", end="")
elif told.startswith("get deployment "):
    print(cluster["revisions"].get(words[2], ""), end="")
elif told == "get configmap edge-config":
    print(json.dumps(cluster["config"]) if cluster["config"] else "", end="")
elif told in ("diff", "apply"):
    rendered = subprocess.run([os.environ["KUBECTL"], "kustomize", options["--kustomize"]],
                              check=True, capture_output=True, text=True).stdout
    if told == "diff":
        code = 1
    else:
        cluster["rendered"] = rendered
        cluster["config"] = {"edge.toml": "new"}
        for name in ("edge", "echo"):
            if not cluster["config_alone"]:
                cluster["runs"][name] = cluster["templates"][name] = "new"
elif told.startswith("rollout undo deployment/"):
    name = words[2].partition("/")[2]
    assert options["--to-revision"] == cluster["revisions"][name]
    cluster["runs"][name] = cluster["templates"][name] = "old"
elif told == "rollout restart deployment/edge":
    # They start with the configuration that is there.
    cluster["runs"]["edge"] = "new" if cluster["config"] == {"edge.toml": "new"} else "old"
    cluster["templates"]["edge"] += " restarted"
elif told.startswith("patch configmap edge-config"):
    assert options["--type"] == "merge"
    cluster["config"] = json.load(open(options["--patch-file"]))["data"]
elif told.startswith("rollout status deployment/"):
    name = words[2].partition("/")[2]
    code = int([name, cluster["runs"][name]] in cluster["broken"])
elif told == "get pods":
    pass
else:
    sys.exit("no such call: " + told)
json.dump(cluster, open(at, "w"))
sys.exit(code)
"""

# smoke.py, as the cluster has it; all else is Python.
SMOKE = """
import json, os, sys
if sys.argv[1].endswith("/smoke.py"):
    cluster = json.load(open(os.environ["CLUSTER"]))
    cluster["calls"].append("smoke " + sys.argv[2])
    if file := os.environ.get("SMOKE_API_KEY_FILE"):
        cluster["key"] = [open(file).read(), oct(os.stat(file).st_mode & 0o777)]
    json.dump(cluster, open(os.environ["CLUSTER"], "w"))
    sys.exit(int(["smoke", cluster["runs"]["edge"]] in cluster["broken"]))
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


class Deploy(unittest.TestCase):
    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        for name, text in (("kubectl", CLUSTER), ("python3", SMOKE)):
            file = self.folder / name
            file.write_text(f"#!{sys.executable}\n{text}")
            file.chmod(0o755)

    def deploy(
        self,
        *arguments,
        broken=(),
        fails=None,
        revisions=None,
        config_alone=False,
        script="scripts/deploy.sh",
        **variables,
    ):
        at = self.folder / "cluster.json"
        config = {"edge.toml": 'old = "\\"'}
        if revisions is None:
            revisions = {"edge": "7", "echo": "3"}
        cluster = {
            "revisions": revisions,
            "config": config if revisions else None,
            "runs": {"edge": "old", "echo": "old"},
            "templates": {"edge": "old", "echo": "old"},
            "config_alone": config_alone,
            "broken": broken,
            "fails": fails or {},
            "calls": [],
        }
        at.write_text(json.dumps(cluster))
        known = {
            "PATH": f"{self.folder}:{os.environ['PATH']}",
            "CLUSTER": str(at),
            "KUBECTL": str(KUBECTL),
            "IMAGE_PREFIX": "registry.example/group",
            "SMOKE_URL": "https://system.example",
            "TMPDIR": str(self.folder),
        }
        done = subprocess.run(
            [ROOT / script, *arguments],
            env=known | variables,
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual([file.name for file in self.folder.iterdir() if file.name.startswith("tmp.")], [])
        return done.returncode, json.loads(at.read_text()), done.stderr

    def test_what_runs_and_answers_is_left_running(self):
        for environment in ("dev", "staging", "prod"):
            code, cluster, told = self.deploy(environment, NEW)
            self.assertEqual(code, 0, told)
            self.assertEqual(cluster["runs"], {"edge": "new", "echo": "new"})
            calls = [call for call in cluster["calls"] if not call.startswith("get ")]
            status = "rollout status deployment/"
            smoke = "smoke https://system.example"
            self.assertEqual(calls, ["diff", "apply", f"{status}echo", f"{status}edge", smoke])

    def test_the_images_are_those_of_the_tag_and_all_else_is_the_environment_s(self):
        code, cluster, told = self.deploy("staging", NEW)
        self.assertEqual(code, 0, told)
        rendered = list(yaml.safe_load_all(cluster["rendered"]))
        deployments = [one for one in rendered if one["kind"] == "Deployment"]
        images = {one["spec"]["template"]["spec"]["containers"][0]["image"] for one in deployments}
        self.assertEqual(images, {f"registry.example/group/{name}:{NEW}" for name in ("edge", "echo")})
        own = subprocess.run([KUBECTL, "kustomize", ROOT / "k8s" / "staging"], capture_output=True, check=True)
        for one in (own := list(yaml.safe_load_all(own.stdout))):
            if one["kind"] == "Deployment":
                container = one["spec"]["template"]["spec"]["containers"][0]
                container["image"] = f"registry.example/group/{one['metadata']['name']}:{NEW}"
        self.assertEqual(rendered, own)

    def test_what_fails_goes_back_with_its_configuration(self):
        for broken in (["echo", "new"], ["edge", "new"], ["smoke", "new"]):
            code, cluster, told = self.deploy("prod", NEW, broken=[broken])
            self.assertEqual(code, 1, told)
            self.assertEqual(cluster["runs"], {"edge": "old", "echo": "old"}, broken)
            self.assertEqual(cluster["config"], {"edge.toml": 'old = "\\"'}, broken)
            self.assertEqual(cluster["calls"][-1], "smoke https://system.example", "tried again")

    def test_a_configuration_that_changes_alone_is_tried_by_pods_that_start_with_it(self):
        code, cluster, told = self.deploy("prod", NEW, config_alone=True)
        self.assertEqual(code, 0, told)
        self.assertEqual(cluster["runs"], {"edge": "new", "echo": "old"})
        calls = [call for call in cluster["calls"] if not call.startswith("get ")]
        self.assertEqual(calls[1:4], ["apply", "rollout restart deployment/edge", "rollout status deployment/echo"])

    def test_and_where_it_fails_they_start_with_the_former_one(self):
        restart = "rollout restart deployment/edge"
        ways = ({"broken": [["edge", "new"]]}, {"broken": [["smoke", "new"]]}, {"fails": {"apply": 1}})
        for more in ways:
            code, cluster, told = self.deploy("prod", NEW, config_alone=True, **more)
            self.assertEqual(code, 1, told)
            self.assertEqual(cluster["runs"], {"edge": "old", "echo": "old"}, more)
            self.assertEqual(cluster["config"], {"edge.toml": 'old = "\\"'}, more)
            if "broken" in more:
                calls = cluster["calls"]
                self.assertEqual(calls.count(restart), 2, more)
                last = len(calls) - 1 - calls[::-1].index(restart)
                self.assertLess(calls.index("patch configmap edge-config"), last)
                self.assertLess(calls.index("rollout undo deployment/edge"), last)
        # One that cannot be restarted has not been tried.
        code, cluster, told = self.deploy("prod", NEW, config_alone=True, fails={restart: 1})
        self.assertEqual(code, 3, told)

    def test_an_apply_that_fails_halfway_goes_back(self):
        code, cluster, told = self.deploy("prod", NEW, fails={"apply": 1})
        self.assertEqual(code, 1, told)
        self.assertIn("rollout undo deployment/edge", cluster["calls"])

    def test_a_way_back_that_fails_calls_for_somebody(self):
        for more in (
            {"fails": {"rollout undo deployment/edge": 1}},
            {"fails": {"patch configmap edge-config": 1}},
            {"broken": [["smoke", "new"], ["smoke", "old"]]},
            {"revisions": {}},
        ):
            more = {"broken": [["edge", "new"]]} | more
            code, cluster, told = self.deploy("prod", NEW, **more)
            self.assertEqual(code, 3, told)
            self.assertRegex(told, "FAILED|NOT ROLLED BACK")

    def test_the_first_time_there_is_nothing_to_compare_with(self):
        code, cluster, told = self.deploy("dev", NEW, revisions={})
        self.assertEqual(code, 0, told)
        self.assertNotIn("diff", cluster["calls"])

    def test_a_cluster_that_cannot_be_asked_is_left_as_it_is(self):
        for call in ("get deployment edge", "get deployment echo", "get configmap edge-config", "diff"):
            code, cluster, told = self.deploy("prod", NEW, fails={call: 2})
            self.assertEqual(code, 1, told)
            self.assertNotIn("apply", cluster["calls"])
            self.assertIn("nothing was changed", told)

    def test_wrong_arguments_are_refused_before_anything_is_asked(self):
        tags = [["prod", tag] for tag in ("-x", "a\nb", 'a"', "")]
        for arguments in ([], ["prod"], ["production", NEW], ["../x", NEW], *tags):
            code, cluster, told = self.deploy(*arguments)
            self.assertEqual((code, cluster["calls"]), (2, []), arguments)
        for variables in ({"IMAGE_PREFIX": 'a"'}, {"SMOKE_URL": "file:///x"}, {"SMOKE_URL": ""}):
            code, cluster, told = self.deploy("prod", NEW, **variables)
            self.assertEqual((code, cluster["calls"]), (2, []), variables)

    def test_the_pipeline_hands_over_what_it_has_and_leaves_nothing_behind(self):
        given = {"KUBECONFIG_DATA": "{}", "PREFIX": "ghcr.io/Owner/Name", "GITHUB_SHA": "0a1b", "SMOKE_API_KEY": "k"}
        code, cluster, told = self.deploy("prod", script=".ci/rollout", **given)
        self.assertEqual(code, 0, told)
        self.assertIn("image: ghcr.io/owner/name/edge:0a1b", cluster["rendered"])
        self.assertEqual(cluster["kubeconfig"], ["{}", "0o600"])
        self.assertEqual(cluster["key"], ["k", "0o600"])
        code, cluster, told = self.deploy("prod", script=".ci/rollout", broken=[["edge", "new"]], **given)
        self.assertEqual(code, 1, told)
        code, cluster, told = self.deploy("prod", script=".ci/rollout", **(given | {"KUBECONFIG_DATA": ""}))
        self.assertEqual((code, cluster["calls"]), (2, []), told)


class Smoke(unittest.TestCase):
    """smoke.py, on edge and echo themselves."""

    def start(self, more=""):
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        secrets = programs.write_secrets(folder / "secrets")
        variables = {"ECHO_LISTEN": "127.0.0.1:0"}
        if more:
            variables |= {"ECHO_API_KEY_FILE": str(secrets / "api-key")}
        echo = programs.Program([BINARIES / "echo-server"], variables)
        self.addCleanup(echo.end)
        toml = (ROOT / "k8s" / "local" / "edge.toml").read_text()
        file = folder / "edge.toml"
        file.write_text(programs.on_free_ports(toml, echo.said["address"]))
        edge = programs.Program([BINARIES / "edge", "-c", file])
        self.addCleanup(edge.end)
        return f"http://{edge.said['address']}", secrets / "api-key"

    def smoke(self, *arguments, **variables):
        done = subprocess.run(
            [sys.executable, ROOT / "scripts" / "smoke.py", *arguments],
            env={"PATH": os.environ["PATH"], "SMOKE_SECONDS": "1"} | variables,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stdout + done.stderr

    def test_a_system_that_works_passes(self):
        url, _ = self.start()
        self.assertEqual(self.smoke(url), (0, f"{url}: /health is 200, /ws echoes\n"))

    def test_one_that_asks_for_a_key_passes_with_it_alone(self):
        url, key = self.start("a key")
        self.assertEqual(self.smoke(url, SMOKE_API_KEY_FILE=str(key))[0], 0)
        code, told = self.smoke(url)
        self.assertEqual(code, 1)
        self.assertIn("/ws: 401", told)

    def test_what_is_not_there_fails(self):
        self.assertEqual(self.smoke("http://127.0.0.1:1")[0], 1)
        for url in ("127.0.0.1:1", "ftp://127.0.0.1"):
            self.assertEqual(self.smoke(url)[0], 2)


class Workflows(unittest.TestCase):
    texts = {file.name: file.read_text() for file in sorted((ROOT / ".github/workflows").iterdir())}

    def test_they_run_what_is_there(self):
        for name, text in self.texts.items():
            for path in re.findall(r"(?<=\s)(?:\./)?(?:\.ci|scripts|istio|k8s)/[\w./-]*", text):
                self.assertTrue(os.access(ROOT / path, os.X_OK if "run" in path else os.R_OK), f"{name}: {path}")

    def test_the_tests_pass_before_an_image_and_staging_before_production(self):
        jobs = yaml.safe_load(self.texts["deploy.yml"])["jobs"]
        way = [(name, job.get("needs")) for name, job in jobs.items()]
        expected = [("test", None), ("images", "test"), ("staging", "images"), ("production", "staging")]
        self.assertEqual(way, expected)
        # The approval is the environment's.
        self.assertEqual(jobs["production"]["environment"], "production")

    def test_the_operations_page_names_what_the_pipeline_asks_for(self):
        page = (ROOT / "docs" / "operations.md").read_text()
        for name in re.findall(r"(?:secrets|vars)\.(\w+)", self.texts["deploy.yml"]):
            if name != "GITHUB_TOKEN":
                self.assertIn(f"`{name}`", page)


if __name__ == "__main__":
    unittest.main()
