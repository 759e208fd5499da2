"""What schemathesis does not check by itself, and a count of what was answered. See scripts/fuzz-api.sh."""

import atexit
import collections
import json
import os

import schemathesis

answers = collections.Counter()


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
    """A failure may be one of the documented kinds (a build that fails, a service that is away), but not a defect."""
    if response.status_code >= 500:
        code = response.json().get("code")
        assert code != "internal", f"a defect: {response.json()}"


@schemathesis.check
def request_id(ctx, response, case):
    """Every answer names its request, and an error names it in its body too."""
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
