"""Pushes the image that agents run on to the build service's registry.

It is this container's own image, which Docker has already, so that nothing is pulled for it. Docker itself pushes it, at
the address at which it pulls the images of agents.
"""

import base64
import http.client
import json
import os
import socket
import sys
from urllib.parse import quote


class DockerConnection(http.client.HTTPConnection):
    """Docker's API behind its Unix socket."""

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        try:
            self.sock.connect("/var/run/docker.sock")
        except OSError as e:
            sys.exit(f"Docker does not answer at its socket ({e}): set DOCKER_SOCKET, or see deploy/processes.env")

    def post(self, path, headers={}):
        self.request("POST", path, headers={"Content-Length": "0", **headers})
        answer = self.getresponse()
        body = answer.read().decode(errors="replace")
        # A push that fails says so in the last lines of an answer that began well.
        errors = [line for line in body.splitlines() if '"error"' in line]
        if answer.status >= 400 or errors:
            sys.exit(f"Docker failed {path.split('?')[0]}: {answer.status} {errors or body}")


image, registry, base = os.environ["IMAGE"], os.environ["REGISTRY"], os.environ["BASE_IMAGE"]
# Another base is the operator's, who has pushed it.
if os.environ["RUNTIME"] != "docker" or not base.startswith("hoistway/python:"):
    sys.exit(0)
repository, tag = base.rsplit(":", 1)
with open("/keys/api/api-key") as file:
    login = {"username": "hoistway", "password": file.read().strip(), "serveraddress": registry}
name = quote(f"{registry}/{repository}", safe="")
DockerConnection("docker").post(f"/images/{quote(image, safe='')}/tag?repo={name}&tag={tag}")
auth = base64.urlsafe_b64encode(json.dumps(login).encode()).decode()
DockerConnection("docker").post(f"/images/{registry}/{repository}/push?tag={tag}", {"X-Registry-Auth": auth})
print(f"the base image of agents is {base}")
