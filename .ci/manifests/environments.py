"""Where the environments differ: the table of docs/operations.md, printed when run as a program."""

import copy
import tomllib

from documents import ENVIRONMENTS, environment


def one(found, kind, name=None):
    return next(
        (d for d in found if d["kind"] == kind and name in (None, d["metadata"]["name"])), None
    )


def deployments(found):
    return [d for d in found if d["kind"] == "Deployment"]


def pod(deployment):
    return deployment["spec"]["template"]["spec"]


def config(found):
    return tomllib.loads(one(found, "ConfigMap")["data"]["edge.toml"])


def same(values):
    (value,) = set(values)
    return value


def images(found):
    tags = same(pod(d)["containers"][0]["image"].split(":")[1] for d in deployments(found))
    return f"`{tags}`"


def erase_images(found):
    for deployment in deployments(found):
        del pod(deployment)["containers"][0]["image"]


def replicas(found):
    scalers = [d["spec"] for d in found if d["kind"] == "HorizontalPodAutoscaler"]
    if scalers:
        return same(f"{scaler['minReplicas']} to {scaler['maxReplicas']}" for scaler in scalers)
    return same(str(d["spec"]["replicas"]) for d in deployments(found))


def erase_replicas(found):
    found[:] = [d for d in found if d["kind"] != "HorizontalPodAutoscaler"]
    for deployment in deployments(found):
        deployment["spec"].pop("replicas", None)


def budgets(found):
    budgets = [d["spec"]["maxUnavailable"] for d in found if d["kind"] == "PodDisruptionBudget"]
    return f"{same(budgets)} of each" if budgets else "all"


def erase_budgets(found):
    found[:] = [d for d in found if d["kind"] != "PodDisruptionBudget"]


def quota(found):
    return one(found, "ResourceQuota")["spec"]["hard"]["pods"]


def erase_quota(found):
    del one(found, "ResourceQuota")["spec"]["hard"]


def door(found):
    spec = one(found, "Service", "edge")["spec"]
    if spec["type"] == "NodePort":
        return f"NodePort {spec['ports'][0]['nodePort']} of edge, from anywhere"
    return "Istio's gateway"


def erase_door(found):
    spec = one(found, "Service", "edge")["spec"]
    del spec["type"]
    spec.pop("externalTrafficPolicy", None)
    spec["ports"][0].pop("nodePort", None)
    rules = one(found, "NetworkPolicy", "edge")["spec"]["ingress"]
    rules[:] = [rule for rule in rules if "from" in rule]


def trusted(found):
    return "private networks, 127.0.0.6" if config(found)["server"]["trusted_proxies"] else "nobody"


def credentials(found):
    asked = [f"`{route['path']}`" for route in config(found)["route"] if "auth" in route]
    variables = pod(one(found, "Deployment", "echo"))["containers"][0]["env"]
    if any(variable["name"] == "ECHO_JWT_SECRET_FILE" for variable in variables):
        asked.append("`/ws`")
    return " and ".join(asked) or "none"


def erase_credentials(found):
    variables = pod(one(found, "Deployment", "echo"))["containers"][0]["env"]
    variables[:] = [v for v in variables if not v["name"].endswith("_FILE")]


def secret(found):
    optional = same(
        volume["secret"]["optional"]
        for d in deployments(found)
        for volume in pod(d)["volumes"]
        if "secret" in volume
    )
    return "may be missing" if optional else "is waited for"


def erase_secret(found):
    for deployment in deployments(found):
        for volume in pod(deployment)["volumes"]:
            volume.get("secret", {}).pop("optional", None)


def spread(found):
    rules = {pod(d)["topologySpreadConstraints"][0]["whenUnsatisfiable"] for d in deployments(found)}
    return {"ScheduleAnyway": "if they can be", "DoNotSchedule": "or wait"}[same(rules)]


def erase_spread(found):
    for deployment in deployments(found):
        del pod(deployment)["topologySpreadConstraints"][0]["whenUnsatisfiable"]


def log_of_echo(found):
    variables = pod(one(found, "Deployment", "echo"))["containers"][0]["env"]
    return same(f"`{v['value']}`" for v in variables if v["name"] == "ECHO_LOG")


def erase_log_of_echo(found):
    for variable in pod(one(found, "Deployment", "echo"))["containers"][0]["env"]:
        if variable["name"] == "ECHO_LOG":
            del variable["value"]


def erase_config(found):
    """What the rows above read in edge.toml; all else of it has to be the same."""
    settings = config(found)
    del settings["server"]["trusted_proxies"]
    settings.pop("auth", None)
    for route in settings["route"]:
        # Without it a kept answer of one who has proven something would be given to nobody.
        if route.pop("auth", None):
            assert route["cache"].pop("private_by") == "identity"
    one(found, "ConfigMap")["data"]["edge.toml"] = settings


# What differs, how it is read off the manifests, and how it is struck out of them.
ROWS = [
    ("tag of the images, where the pipeline sets none", images, erase_images),
    ("pods of edge, and of echo", replicas, erase_replicas),
    ("pods that may be evicted at once", budgets, erase_budgets),
    ("quota of pods", quota, erase_quota),
    ("clients come through", door, erase_door),
    ("edge believes `X-Forwarded-For` of", trusted, erase_config),
    ("credentials are asked for", credentials, erase_credentials),
    ("the Secret `app-secrets`", secret, erase_secret),
    ("pods are spread over nodes", spread, erase_spread),
    ("log of echo", log_of_echo, erase_log_of_echo),
]
COLUMNS = {"base": "`k8s/`"} | {name: f"`k8s/{name}/`" for name in ENVIRONMENTS}


def erased(name):
    """The documents of an environment, by kind and name, without what may differ."""
    found = copy.deepcopy(environment(name))
    for _, _, erase in ROWS:
        erase(found)
    return {(d["kind"], d["metadata"]["name"]): d for d in found}


def table():
    lines = ["| | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for row, read, _ in ROWS:
        cells = [read(environment(name)) for name in COLUMNS]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
