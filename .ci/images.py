"""Whether the Dockerfiles agree with Cargo.toml, .dockerignore and k8s/base. Each test is a claim,
and the last ones seed a mistake each, which must be found."""

import json
import re
import shlex
import sys
import tomllib
import unittest
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
MANIFESTS = ROOT / "k8s" / "base"
# Deployment and image, cargo's binary in the package of that name.
BINARY = {"edge": "edge", "echo": "echo-server"}
USER = "65532"
CONFIG = "/etc/edge/edge.toml"


def read(path):
    return (ROOT / path).read_text()


class Dockerfile:
    """The instructions of a Dockerfile, stage by stage."""

    def __init__(self, text):
        text = re.sub(r"^#.*\n", "", text, flags=re.M).replace("\\\n", " ")
        self.args = {}
        self.stages = []
        for line in filter(str.strip, text.splitlines()):
            word, rest = line.split(maxsplit=1)
            if word == "FROM":
                self.stages.append([])
            elif word == "ARG" and not self.stages:
                name, value = rest.split("=", 1)
                self.args[name] = value
            if self.stages:
                self.stages[-1].append((word, rest.strip()))

    def final(self, word):
        return [rest for name, rest in self.stages[-1] if name == word]

    def runs(self):
        return [rest for stage in self.stages for name, rest in stage if name == "RUN"]


def one(name, what, found):
    if len(found) != 1:
        raise ValueError(f"{name}: {len(found)} times {what} in the last stage, not once")
    return found[0]


def same(name, what, here, there):
    if here != there:
        raise ValueError(f"{name}: {what}: {here!r} here, {there!r} there")


def exec_form(name, what, text):
    if not text.startswith("["):
        raise ValueError(f"{name}: {what} is not in exec form")
    return json.loads(text)


def entrypoint(name, image):
    return exec_form(name, "ENTRYPOINT", one(name, "ENTRYPOINT", image.final("ENTRYPOINT")))


def exposed(image):
    return {int(port) for ports in image.final("EXPOSE") for port in ports.split()}


def check_cargo(name, image, package, workspace):
    """The build makes a binary that the package has, with a Rust that is new enough, locked."""
    binary = BINARY[name]
    same(name, "package", package["package"]["name"], name)
    binaries = [b["name"] for b in package.get("bin", [])] or [package["package"]["name"]]
    if binary not in binaries:
        raise ValueError(f"{name}: package has {binaries}, not {binary}")
    for verb in "chef cook", "build":
        (run,) = [r for r in image.runs() if r.startswith(f"cargo {verb} ")]
        words = shlex.split(run)
        if "--locked" not in words or "--release" not in words:
            raise ValueError(f"{name}: cargo {verb} without --locked or --release")
        same(name, f"cargo {verb} -p", words[words.index("-p") + 1], name)
        same(name, f"cargo {verb} --bin", words[words.index("--bin") + 1], binary)
        features = words[words.index("--features") + 1] if "--features" in words else None
        # Else both make the dependencies, each with other features.
        if verb == "chef cook":
            cooked = (features, "--no-default-features" in words)
        else:
            same(name, "features", (features, "--no-default-features" in words), cooked)
        for feature in filter(None, (features or "").split(",")):
            if feature not in package["features"]:
                raise ValueError(f"{name}: package has no feature {feature}")
    oldest = int(workspace["workspace"]["package"]["rust-version"].split(".")[1])
    rust, release = re.search(r"rust:1\.(\d+)-(?:slim-)?(\w+)$", image.args["RUST_IMAGE"]).groups()
    if int(rust) < oldest:
        raise ValueError(f"{name}: Rust 1.{rust}, but rust-version is 1.{oldest}")
    debian = {"bookworm": "12", "trixie": "13"}[release]
    same(name, "runtime's Debian", re.search(r"debian(\d+):nonroot$", image.args["RUNTIME_IMAGE"])[1], debian)


def check_last_stage(name, image):
    """The image runs the binary that was built, as a user in figures, and ends it with SIGTERM."""
    copy = shlex.split(one(name, "COPY", image.final("COPY")))
    target = f"/usr/local/bin/{name}"
    same(name, "COPY", copy[-2:], [f"/src/target/release/{BINARY[name]}", target])
    if "--chown=0:0" not in copy:
        raise ValueError(f"{name}: the binary is not root's")
    same(name, "ENTRYPOINT", entrypoint(name, image), [target])
    same(name, "USER", one(name, "USER", image.final("USER")), f"{USER}:{USER}")
    same(name, "STOPSIGNAL", one(name, "STOPSIGNAL", image.final("STOPSIGNAL")), "SIGTERM")
    if image.final("HEALTHCHECK"):
        raise ValueError(f"{name}: HEALTHCHECK, where Kubernetes asks")


def check_manifest(name, image, deployment):
    """The Deployment starts the image as that user, on those ports, with that configuration."""
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    same(name, "image", container["image"].rsplit(":", 1)[0], name)
    if container.get("command", entrypoint(name, image)) != entrypoint(name, image):
        raise ValueError(f"{name}: command is not the ENTRYPOINT")
    security = pod["securityContext"] | container["securityContext"]
    uid, gid = one(name, "USER", image.final("USER")).split(":")
    same(name, "runAsUser", str(security["runAsUser"]), uid)
    same(name, "runAsGroup", str(security["runAsGroup"]), gid)
    same(name, "ports", {port["containerPort"] for port in container["ports"]}, exposed(image))
    if name == "echo":
        listen = {e["name"]: e.get("value") for e in container["env"]}["ECHO_LISTEN"]
        if f"ECHO_LISTEN={listen}" not in image.final("ENV"):
            raise ValueError(f"{name}: ECHO_LISTEN is not the manifest's {listen}")
        same(name, "port of ECHO_LISTEN", {int(listen.rsplit(":", 1)[1])}, exposed(image))
        return
    command = exec_form(name, "CMD", one(name, "CMD", image.final("CMD")))
    for arguments in command, container.get("args", command):
        flag = next((f for f in ("-c", "--config") if f in arguments), None)
        if flag is None:
            raise ValueError(f"{name}: {arguments} names no configuration")
        same(name, "configuration", arguments[arguments.index(flag) + 1], CONFIG)
    if str(Path(CONFIG).parent) not in [m["mountPath"] for m in container["volumeMounts"]]:
        raise ValueError(f"{name}: nothing is mounted at {CONFIG}")


def check_configuration(text):
    """edge listens where the image says: on all addresses, on the ports it exposes."""
    config = tomllib.loads(text)
    listens = {config["server"]["listen"], config["admin"]["listen"]}
    same("edge", "listen", listens, {f"0.0.0.0:{port}" for port in exposed(load("edge"))})


def check_ignored(text, workspace):
    """What cargo reads reaches the build, and nothing else does."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    same(".dockerignore", "first line", lines[0], "*")
    let_in = {line[1:] for line in lines if line.startswith("!")}
    members = workspace["workspace"]["members"]
    within = {one for one in members if any(one.startswith(f"{other}/") for other in members)}
    needed = {"Cargo.toml", "Cargo.lock", ".cargo", *members} - within
    same(".dockerignore", "let in", let_in, needed)


def load(name):
    return Dockerfile(read(f"Dockerfile.{name}"))


def cargo(path="."):
    return tomllib.loads(read(f"{path}/Cargo.toml"))


def deployments():
    found = (d for file in sorted(MANIFESTS.glob("*.yaml")) for d in yaml.safe_load_all(file.read_text()))
    return {d["metadata"]["name"]: d for d in found if d and d["kind"] == "Deployment"}


WITH_MANIFESTS = unittest.skipUnless((ROOT / "k8s").exists(), "k8s/ is not in this tree")


class Images(unittest.TestCase):
    def test_each_image_is_built_from_what_cargo_has(self):
        for name in BINARY:
            check_cargo(name, load(name), cargo(name), cargo())

    def test_each_image_runs_the_built_binary_without_privileges(self):
        for name in BINARY:
            check_last_stage(name, load(name))

    def test_what_cargo_reads_and_nothing_else_reaches_the_build(self):
        check_ignored(read(".dockerignore"), cargo())

    def test_both_dockerfiles_share_their_first_stages(self):
        edge, echo = load("edge"), load("echo")
        self.assertEqual((edge.args, edge.stages[:2]), (echo.args, echo.stages[:2]))

    @WITH_MANIFESTS
    def test_each_deployment_starts_its_image_as_the_image_says(self):
        for name in BINARY:
            check_manifest(name, load(name), deployments()[name])

    @WITH_MANIFESTS
    def test_edge_listens_on_the_ports_that_its_image_exposes(self):
        check_configuration((MANIFESTS / "edge.toml").read_text())


class Mistakes(unittest.TestCase):
    """A mistake seeded into a text is found."""

    def change(self, path, old, new):
        text = read(path)
        self.assertIn(old, text, f"{path}: the mistake cannot be seeded")
        return text.replace(old, new)

    def refused(self, check, *arguments):
        with self.assertRaises(ValueError):
            check(*arguments)

    def test_in_the_last_stage_are_found(self):
        for name, binary in BINARY.items():
            for old, new in (
                (f"release/{binary} ", "release/other "),
                ("USER 65532:65532", "USER nonroot"),
                ("USER 65532:65532\n", ""),
                (f'["/usr/local/bin/{name}"]', f"/usr/local/bin/{name}"),
                (f'["/usr/local/bin/{name}"]', '["/bin/other"]'),
                ("--chown=0:0 ", ""),
                ("SIGTERM", "SIGINT"),
                ("STOPSIGNAL", "HEALTHCHECK NONE\nSTOPSIGNAL"),
            ):
                with self.subTest(image=name, old=old, new=new):
                    text = self.change(f"Dockerfile.{name}", old, new)
                    self.refused(check_last_stage, name, Dockerfile(text))

    def test_in_the_build_are_found(self):
        for name, binary in BINARY.items():
            for old, new in (
                (f"--bin {binary}", "--bin other"),
                (f"-p {name} ", "-p other "),
                ("cargo build --release --locked", "cargo build --release"),
                ("rust:1.95", "rust:1.60"),
                ("debian12", "debian13"),
            ):
                with self.subTest(image=name, old=old, new=new):
                    image = Dockerfile(self.change(f"Dockerfile.{name}", old, new))
                    self.refused(check_cargo, name, image, cargo(name), cargo())
        renamed = tomllib.loads(self.change("echo/Cargo.toml", '"echo-server"', '"server"'))
        self.refused(check_cargo, "echo", load("echo"), renamed, cargo())

    def test_in_dockerignore_are_found(self):
        for old, new in (("!Cargo.lock\n", ""), ("!echo\n", ""), ("!echo\n", "!echo\n!.git\n"), ("*\n", "\n")):
            with self.subTest(old=old, new=new):
                self.refused(check_ignored, self.change(".dockerignore", old, new), cargo())

    @WITH_MANIFESTS
    def test_between_image_and_deployment_are_found(self):
        for name, old, new in (
            ("edge", "EXPOSE 8080 9090", "EXPOSE 8080"),
            ("edge", "USER 65532:65532", "USER 1000:1000"),
            ("edge", "/etc/edge/edge.toml\"]", "/etc/edge.toml\"]"),
            ("echo", "EXPOSE 8080", "EXPOSE 8081"),
            ("echo", "ECHO_LISTEN=0.0.0.0:8080", "ECHO_LISTEN=0.0.0.0:8081"),
        ):
            with self.subTest(image=name, old=old, new=new):
                image = Dockerfile(self.change(f"Dockerfile.{name}", old, new))
                self.refused(check_manifest, name, image, deployments()[name])

    @WITH_MANIFESTS
    def test_in_the_deployment_are_found(self):
        for name, path, old, new in (
            ("edge", "40-edge.yaml", "runAsUser: 65532", "runAsUser: 65534"),
            ("edge", "40-edge.yaml", "containerPort: 9090", "containerPort: 9091"),
            ("edge", "40-edge.yaml", "--config, /etc/edge/edge.toml", "--config, /etc/edge.toml"),
            ("edge", "40-edge.yaml", "mountPath: /etc/edge,", "mountPath: /etc/other,"),
            ("edge", "40-edge.yaml", "image: edge:", "image: echo:"),
            ("echo", "40-echo.yaml", "containerPort: 8080", "containerPort: 8081"),
            ("echo", "40-echo.yaml", "0.0.0.0:8080", "0.0.0.0:8081"),
        ):
            with self.subTest(path=path, old=old, new=new):
                deployment = yaml.safe_load(self.change(f"k8s/base/{path}", old, new))
                self.refused(check_manifest, name, load(name), deployment)

    @WITH_MANIFESTS
    def test_in_edges_configuration_are_found(self):
        for new in "127.0.0.1:9090", "0.0.0.0:9091":
            self.refused(check_configuration, self.change("k8s/base/edge.toml", "0.0.0.0:9090", new))


if __name__ == "__main__":
    sys.exit(not unittest.main(exit=False).result.wasSuccessful())
