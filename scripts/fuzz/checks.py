"""Checks that schemathesis lacks, and a count of the answers. See scripts/fuzz-api.sh."""

import atexit
import collections
import json
import os
import random

import schemathesis

answers = collections.Counter()
# Existing names, by the segment of a path that precedes them: generated names alone would always be answered with 404.
known = json.loads(os.environ.get("HOISTWAY_FUZZ_KNOWN", "{}"))


@schemathesis.hook
def before_call(context, case, kwargs):
    segments = case.operation.path.split("/")
    ends = case.method.upper() == "DELETE" or segments[-1] == "stop"
    for before, segment in zip(segments, segments[1:]):
        names = known.get(before, [])
        key = segment.strip("{}")
        if key == segment or key not in case.path_parameters:
            continue
        if ends and case.path_parameters[key] in names:
            case.path_parameters[key] = "nobody"
        elif not ends and names and random.random() < 0.6:
            case.path_parameters[key] = random.choice(names)
    # Followed logs do not end by themselves.
    follow = (case.query or {}).get("follow", "false")
    if any(str(value).strip().lower() in ("true", "1", "") for value in (follow if isinstance(follow, list) else [follow])):
        case.query["follow"] = "false"


@schemathesis.hook
def filter_failure(context, failure, case, response):
    # A revoked key still exists: its owner is part of the record.
    return not (type(failure).__name__ == "UseAfterFree" and case.operation.path == "/api/keys/{id}")


@schemathesis.hook
def after_call(context, case, response):
    operation = f"{case.operation.method.upper()} {case.operation.path}"
    try:
        code = response.json().get("code", "") if response.status_code >= 400 else ""
    except (ValueError, AttributeError):
        code = "?"
    answers[f"{operation} {response.status_code} {code}".strip()] += 1


@schemathesis.check
def no_defect(ctx, response, case):
    """A failure may be one of the documented kinds (a failed build, an unavailable service), but not a defect."""
    if response.status_code >= 500:
        code = response.json().get("code")
        assert code != "internal", f"a defect: {response.json()}"


@schemathesis.check
def request_id(ctx, response, case):
    """Every answer has a request id, and an error has it in its body too."""
    sent = response.headers.get("x-request-id", [""])[0]
    assert sent, "no X-Request-Id"
    if response.status_code >= 400:
        body = response.json()
        assert body["request_id"] == sent, f"{body['request_id']} is not {sent}"


@atexit.register
def keep_counts():
    path = os.environ.get("HOISTWAY_FUZZ_COUNTS")
    if path and answers:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(answers) + "\n")
