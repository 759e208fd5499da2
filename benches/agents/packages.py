"""The agent with two packages, `openai` and `requests`."""

import openai
import requests

VERSION = 0


def handler(message):
    return f"{VERSION} {openai.__name__} {requests.__name__}"
