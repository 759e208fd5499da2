"""Runs the document's Python samples unchanged against a stack. See scripts/fuzz-api.sh."""

import contextlib
import io
import traceback

import requests

# The address of the API in the samples.
ENDPOINT = "http://localhost:8092"
# Create first, then read and change, and remove at the end.
ORDER = ["post", "get", "put", "patch", "delete"]
# Statuses that depend on the state of the stack: there is no second revision to roll back to, a tool is in use, and so
# on.
MAY_BE_REFUSED = (400, 404, 409)


def endless(operation):
    return any("text/event-stream" in answer.get("content", {}) for answer in operation["responses"].values())


def addressed(source, path, operation, known, address):
    """Returns the sample with this stack's address, and with names of existing resources."""
    url = path
    for before, segment in zip(path.split("/"), path.split("/")[1:]):
        if segment.startswith("{"):
            parameter = next(p for p in operation["parameters"] if p["name"] == segment[1:-1])
            url = url.replace(segment, str(parameter["example"]), 1)
            if known.get(before):
                source = source.replace(f"/{before}/{parameter['example']}", f"/{before}/{known[before][0]}")
    assert f'"{ENDPOINT}/' in source, f"no address in {source}"
    return source.replace(ENDPOINT, address)


def run(document, known, address):
    """Returns whether all samples work; failures are printed."""
    operations = [
        (method, path, item[method]) for method in ORDER for path, item in document["paths"].items() if method in item
    ]
    right, refused = 0, []
    for method, path, operation in operations:
        if method == "get" and endless(operation):
            continue
        [source] = [sample["source"] for sample in operation["x-codeSamples"] if sample["lang"] == "Python"]
        source = addressed(source, path, operation, known, address)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(source, f"{method} {path}", "exec"), {})
            right += 1
        except requests.HTTPError as error:
            refused.append(f"{method} {path}: {error.response.status_code} {error.response.text}")
            if method == "get" or error.response.status_code not in MAY_BE_REFUSED:
                print(f"the sample fails: {refused[-1]}\n{source}")
                return False
        except Exception:
            traceback.print_exc()
            print(f"the sample of {method} {path} does not run:\n{source}")
            return False
    print(f"{right} samples work, {len(refused)} are refused in this state:", *refused, sep="\n  ")
    return right > 0
