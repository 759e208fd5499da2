"""The alternatives with containers: `docker build` with BuildKit and pip or uv, `docker push` to a docker-registry on
loopback, `docker run`."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import uuid

import agents
import tools
from client import first_answer
from measure import Unavailable, milliseconds

BASE = "hoistway-test-base:bookworm"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
# The usual order: requirements first, so that a change of the source leaves their layer alone.
DOCKERFILE = """FROM {base}
WORKDIR /app
COPY requirements.txt .
{install}
COPY agent.py serve.py ./
ENV HOST=0.0.0.0 PORT=8080
CMD ["/venv/bin/python", "serve.py"]
"""
# Its name finds what it leaves in Docker's build cache.
MARK = "hoistway-bench"
OWN_BASE = f"{MARK}-base"
SETTINGS = f"--mount=type=secret,id=settings : {MARK}; . /run/secrets/settings; "
PIP_CONFIGURATION = [sys.executable, "-m", "pip", "config", "list"]
INSTALL = {
    "pip": f"RUN {SETTINGS}[ ! -s requirements.txt ] || /venv/bin/pip install --no-cache-dir -q -r requirements.txt",
    "uv": f"ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy\n"
          f"RUN --mount=type=cache,target=/root/.cache/uv,id={{cache}} {SETTINGS}[ ! -s requirements.txt ] || "
          "uv pip install -q --python /venv/bin/python -r requirements.txt",
}


def package_settings():
    """The machine's own settings of package indexes, proxies and certificates, as lines of a shell: those of pip's
    configuration files and of the environment."""
    pattern = re.compile(r"(PIP|UV)_|(HTTPS?|ALL|NO)_PROXY$|(SSL|REQUESTS|CURL)_", re.IGNORECASE)
    configured = re.findall(r"^(?:global|install)\.([\w-]+)='(.*)'$", tools.run(PIP_CONFIGURATION), re.MULTILINE)
    files = {"PIP_" + name.upper().replace("-", "_"): value for name, value in configured}
    lines = []
    for name, value in {**files, **os.environ}.items():
        if not pattern.match(name) or name.startswith(("UV_CACHE", "UV_PYTHON")):
            continue
        if value.startswith("/"):  # a file of the machine, of which the image has only the certificates
            if value != os.environ.get("SSL_CERT_FILE"):
                continue
            value = CERTIFICATES
        lines.append(f"export {name}={shlex.quote(value)}\n")
    return "".join(lines)


class Docker:
    """Docker with a registry of its own; it ends and removes what it made."""

    def __init__(self, directory, uv):
        self.directory, self.made, self.lock = directory, set(), threading.Lock()
        os.makedirs(directory, exist_ok=True)
        try:
            tools.run(["docker", "info"])
        except (RuntimeError, OSError) as e:
            raise Unavailable("Docker is not installed, or does not run here") from e
        tools.base_image(BASE)
        tools.install_docker_registry()
        self.settings = os.path.join(directory, "settings")
        with open(self.settings, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(package_settings())
        self.environment = {**os.environ, "DOCKER_BUILDKIT": "1", "BUILDKIT_PROGRESS": "plain"}
        self.program = self.find_program(uv)
        self.start_registry()

    def find_program(self, uv):
        """Returns the `docker` that can build with BuildKit; newer ones need a plugin for it."""
        context = os.path.join(self.directory, "base")
        os.makedirs(context)
        shutil.copy(os.environ.get("SSL_CERT_FILE", CERTIFICATES), os.path.join(context, "certificates"))
        shutil.copy(os.path.join(uv, "uv"), context)
        with open(os.path.join(context, "Dockerfile"), "w") as file:
            file.write(f"FROM {BASE}\nCOPY certificates {CERTIFICATES}\nRUN : {MARK}; python3 -m venv /venv\n"
                       "COPY uv /usr/local/bin/uv\n")
        places = [*os.environ["PATH"].split(os.pathsep), "/usr/bin"]
        found = list(dict.fromkeys(path for place in places if os.path.exists(path := os.path.join(place, "docker"))))
        error = "docker is not installed"
        for program in found:
            try:
                tools.run([program, "build", "--tag", OWN_BASE, context], env=self.environment)
                return program
            except RuntimeError as e:
                error = f"docker does not build with BuildKit: {e}"
        raise Unavailable(error)

    def start_registry(self):
        config = os.path.join(self.directory, "registry.yml")
        with open(config, "w") as file:
            file.write("version: 0.1\nlog: {level: info, accesslog: {disabled: true}}\n"
                       f"storage: {{filesystem: {{rootdirectory: {self.directory}/registry}}}}\n"
                       "http: {addr: '127.0.0.1:0', secret: benches}\n")
        command = ["docker-registry", "serve", config]
        self.registry = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for line in self.registry.stderr:
            if found := re.search(r"listening on 127\.0\.0\.1:(\d+)", line):
                self.address = f"127.0.0.1:{found[1]}"
                break
        else:
            raise Unavailable("docker-registry does not start")
        threading.Thread(target=lambda: [None for _ in self.registry.stderr], daemon=True).start()

    def run(self, *arguments):
        return tools.run([self.program, *arguments], env=self.environment)

    def image(self, name):
        return f"{self.address}/{name}"

    def push(self, name, installer, agent, version, requirements="", cold=False, anew=False):
        """Builds and pushes a version of an agent. With `cold` nothing of earlier builds is used, and with `anew` only
        what installers have cached."""
        context = os.path.join(self.directory, "contexts", name)
        agents.write(context, agent, version, requirements)
        cache = f"{MARK}-{uuid.uuid4() if cold else 'kept'}"
        with open(os.path.join(context, "Dockerfile"), "w") as file:
            file.write(DOCKERFILE.format(base=OWN_BASE, install=INSTALL[installer].format(cache=cache)))
        secret = f"id=settings,src={self.settings}"
        options = ["--no-cache"] if cold or anew else []
        self.run("build", *options, "--network", "host", "--secret", secret, "--tag", self.image(name), context)
        with self.lock:
            self.made.add(self.image(name))
        self.run("push", "--quiet", self.image(name))

    def start(self, name, expected):
        """Runs a pushed image until its first answer and returns the container."""
        container = self.run("run", "--detach", "--publish", "127.0.0.1::8080", self.image(name)).split()[-1]
        self.answer(container, expected)
        return container

    def answer(self, container, expected):
        port = int(self.run("port", container, "8080").split(":")[-1])
        first_answer(port, expected)

    def time_to_answer(self, name, installer, agent, version, requirements, **options):
        """The milliseconds from the source to the first answer of its container, which is removed after that."""
        started = []

        def work():
            self.push(name, installer, agent, version, requirements, **options)
            started.append(self.start(name, f"{version} "))

        try:
            return milliseconds(work)
        finally:
            self.remove(*started)

    def remove(self, *containers):
        if containers:
            self.run("rm", "--force", "--volumes", *containers)

    def stop(self):
        self.registry.terminate()
        self.registry.wait(30)
        self.registry.stderr.close()
        # A pushed image keeps its digest when a newer one takes its tag.
        pushed = self.run("images", "--quiet", "--no-trunc", "--filter", f"reference={self.address}/*").split()
        self.run("rmi", "--force", *sorted(set(pushed)), OWN_BASE)
        self.remove_build_cache()

    def remove_build_cache(self):
        """Removes the layers and the caches of these builds, and nobody else's."""
        entries = json.loads(self.run("system", "df", "--verbose", "--format", "{{json .BuildCache}}")) or []
        ours = [entry["ID"] for entry in entries if MARK in entry["Description"]]
        for parent in ours:  # grows by what was built on top
            ours += [entry["ID"] for entry in entries if entry["Parent"] == parent and entry["ID"] not in ours]
        if ours:
            self.run("builder", "prune", "--force", "--all", "--filter", f"id=/^({'|'.join(ours)})$/")
