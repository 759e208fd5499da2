"""Runs schemathesis against a stack, in rounds, until enough requests were sent. See scripts/fuzz-api.sh."""

import collections
import json
import os
import pathlib
import subprocess
import sys

import requests
import samples

# The phases of each round: examples and boundary values first, then chains of calls.
PHASES = ["examples,coverage,fuzzing,stateful"] + ["fuzzing,stateful"] * 999
CHECKS = [
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
    "use_after_free",
    "no_defect",
    "request_id",
]
# The agent that the document's examples refer to.
HELLO = {"agent_name": "hello", "source_files": {"agent.py": 'def handler(message):\n    return "Hello, " + message\n'}}
# The lists of resources whose ids cannot be generated.
LISTS = {
    "builds": "/api/builds?limit=20",
    "deployments": "/api/deployments?limit=20",
    "revisions": "/api/agents/hello/revisions",
    "keys": "/api/keys",
}
# The number of requests for each operation in a round.
EXAMPLES = 50


class Api:
    def __init__(self, address):
        self.address = address
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers["Authorization"] = "Bearer " + os.environ["RUNAGENTS_API_KEY"]

    def call(self, method, path, **more):
        return self.session.request(method, self.address + path, timeout=120, **more)

    def prepare(self):
        """Creates the resources that the document's examples refer to: an agent that answers, a tool, a model
        provider."""
        self.call("POST", "/api/starter-kit").raise_for_status()
        self.call("POST", "/api/deploy", json=HELLO).raise_for_status()
        known = {"agents": ["hello"], "tools": ["echo-tool"], "model-providers": ["playground-llm"]}
        for kind, path in LISTS.items():
            known[kind] = [str(entry["id"]) for entry in self.call("GET", path).json()]
        return known

    def sweep(self):
        """Removes the agents that a round has left, so that a run does not depend on the machine's size."""
        for agent in self.call("GET", "/api/agents").json():
            self.call("DELETE", "/api/agents/" + agent["name"])

    def works(self):
        self.prepare()
        answer = self.call("POST", "/api/agents/hello/invoke", json={"message": "world"})
        return answer.status_code == 200 and answer.json()["response"] == "Hello, world"


def round_of(api, known, number, wanted, seed, work):
    """Runs schemathesis once; returns whether all checks passed."""
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", api.address + "/openapi.json",
        "--header", "Authorization: Bearer " + os.environ["RUNAGENTS_API_KEY"],
        "--phases", PHASES[number],
        "--checks", ",".join(CHECKS),
        # Event streams do not end by themselves; each has a test of its own.
        "--exclude-path", "/api/events",
        "--max-examples", str(wanted),
        "--seed", str(seed + number),
        "--request-timeout", "40",
        "--continue-on-failure",
        "--no-color",
    ]
    environment = dict(
        os.environ, SCHEMATHESIS_HOOKS="checks", HOISTWAY_FUZZ_KNOWN=json.dumps(known), NO_PROXY="127.0.0.1"
    )
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=3600)
    if done.returncode != 0:
        print(done.stdout, done.stderr, sep="\n", flush=True)
    return done.returncode == 0


def counted(work):
    total = collections.Counter()
    path = work / "counts"
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        total.update(json.loads(line))
    return total


def main():
    address, wanted, seed, work = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), pathlib.Path(sys.argv[4])
    api = Api(address)
    content, sent = samples.run(api.call("GET", "/openapi.json").json(), api.prepare(), address), 0
    for number, _ in enumerate(PHASES):
        known = api.prepare()
        content &= round_of(api, known, number, min(EXAMPLES, max(1, wanted // 100)), seed, work)
        api.sweep()
        before, sent = sent, counted(work).total()
        print(f"fuzz-api: {sent} requests", file=sys.stderr, flush=True)
        if sent >= wanted or sent == before or not content:
            break
    for answer, count in sorted(counted(work).items()):
        print(f"{count:7} {answer}")
    if not api.works():
        sys.exit("fuzz-api: the stack does not work any more")
    if sent < wanted:
        sys.exit(f"fuzz-api: only {sent} requests of {wanted}")
    sys.exit(0 if content else 1)


main()
