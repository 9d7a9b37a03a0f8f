"""The manifests as they stand in the tree, read as strictly as kubectl reads them."""

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = ("local", "dev", "staging", "prod")


class Strict(yaml.CSafeLoader):
    """A key twice is a fault, as it is for kubectl."""


def mapping(loader, node, deep=False):
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    twice = {key for key in keys if keys.count(key) > 1}
    if twice:
        raise yaml.constructor.ConstructorError(None, None, f"{twice} twice", node.start_mark)
    return yaml.CSafeLoader.construct_mapping(loader, node, deep)


Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)


def read(text):
    return [document for document in yaml.load_all(text, Strict) if document is not None]


def documents(file):
    return read((ROOT / file).read_text())


def environment(name):
    """All documents of an environment; `base` is k8s/ itself."""
    folder = "k8s" if name == "base" else f"k8s/{name}"
    return documents(f"{folder}/krakend-test.yaml")


def files():
    """Every manifest of the tree, as paths from its root."""
    found = [
        path.relative_to(ROOT)
        for folder in ("k8s", "istio")
        for ending in ("yaml", "yml", "json")
        for path in (ROOT / folder).rglob(f"*.{ending}")
        if path.name != "dashboard.json"  # comes into a ConfigMap
    ]
    return sorted(found)
