"""The sources of the agents; every version of one has another number in it."""

import os

HERE = os.path.dirname(__file__)
PACKAGES = "openai\nrequests\n"
LANGGRAPH = "openai\nlangchain-openai\nlanggraph\nrequests\n"


def source(name, version):
    with open(os.path.join(HERE, name + ".py")) as file:
        return file.read().replace("VERSION = 0", f"VERSION = {version}")


def write(directory, name, version, requirements=""):
    """Writes what the alternatives build and run: agent.py, serve.py and requirements.txt."""
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(HERE, "serve.py")) as file:
        texts = {"agent.py": source(name, version), "serve.py": file.read(), "requirements.txt": requirements}
    for path, text in texts.items():
        with open(os.path.join(directory, path), "w") as file:
            file.write(text)
