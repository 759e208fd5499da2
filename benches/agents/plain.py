"""The agent without packages."""

VERSION = 0


def handler(message):
    return f"{VERSION}"
