// Reads a JSON list of documents, writes for each the list of its faults. null: the kind is none of
// Istio's, the Gateway API's or the Prometheus operator's.

import { readFileSync } from "node:fs";

const packages = {
  "networking.istio.io": "istio",
  "security.istio.io": "istio",
  "telemetry.istio.io": "istio",
  "extensions.istio.io": "istio",
  "gateway.networking.k8s.io": "gateway-api",
  "monitoring.coreos.com": "prometheus-operator",
};

// The validators let unknown fields pass. But they read every field that they know, and no other:
// what was not read, nobody knows.
function watch(value, path, fields) {
  if (typeof value !== "object" || value === null) return value;
  const watched = Array.isArray(value) ? [] : {};
  const unread = new Set();
  for (const [key, inner] of Object.entries(value)) {
    watched[key] = watch(inner, `${path}/${key}`, fields);
    if (!Array.isArray(value)) unread.add(key);
  }
  fields.push({ path, unread });
  return new Proxy(watched, {
    get(target, key) {
      unread.delete(key);
      return target[key];
    },
  });
}

async function faults(document) {
  const [group, version] = document.apiVersion.split("/");
  if (!(group in packages)) return null;
  let kind;
  try {
    ({ [document.kind]: kind } = await import(`@kubernetes-models/${packages[group]}/${group}/${version}`));
  } catch {}
  if (!kind) return [`${document.apiVersion} has no kind ${document.kind}`];
  const fields = [];
  try {
    kind.prototype.validate.call(watch(document, "", fields));
  } catch (error) {
    return [error.message];
  }
  return fields.flatMap(({ path, unread }) => [...unread].map((key) => `unknown field ${path}/${key}`));
}

const documents = JSON.parse(readFileSync(0, "utf8"));
console.log(JSON.stringify(await Promise.all(documents.map(faults))));
