"""The command line: serves an agent, or runs a script once."""

import os
import sys

from .environment import adopt, enter
from .paths import arrange_path, keep_standard
from .serving import serve  # before the path is arranged, so that its modules are the standard library's


def parse(arguments):
    """Returns the command line as {option: values}. (argparse takes 10 ms.)"""
    known = {"--app": [], "--site": [], "--listen-fd": [], "--notify-fd": [], "--config-fd": [], "--closed-network": [],
             "--script": [], "--call": [], "--environment": [], "--parent-fd": []}
    rest = iter(arguments)
    for option in rest:
        value = next(rest, None)
        if option not in known or value is None:
            sys.exit(f"{os.path.basename(sys.argv[0])}: unknown option or missing value: {option}")
        known[option].append(value)
    return known


def main(runner):
    """The main function; `runner` is the main file."""
    options = parse(sys.argv[1:])
    for stream in (sys.__stdin__, sys.__stdout__, sys.__stderr__):
        if stream is not None:
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    app = os.path.abspath((options["--app"] or ["/app"])[-1])
    sites = [os.path.abspath(d) for d in options["--site"] or ["/opt/hoistway/site-packages"]]
    if options["--parent-fd"]:
        from .warm_parent import serve as serve_agents

        return serve_agents(runner, options, sites)
    entry = os.path.normpath((options["--script"] or [os.environ.get("USER_ENTRY_POINT", "")])[-1])
    keep_standard(entry)
    arrange_path(app, sites, entry, hermetic=bool(options["--app"]))  # an app elsewhere: unpacked on a host
    commands = [directory for site in sites if os.path.isdir(directory := os.path.join(site, "bin"))]
    os.environ["PATH"] = os.pathsep.join([*commands, os.environ.get("PATH") or os.defpath])
    if options["--script"]:
        if options["--environment"]:
            adopt(options["--environment"][-1])
        from .scripts import be_script

        return be_script(app, entry, "".join(options["--call"]), bool(options["--closed-network"]))
    interpreter = sys.executable  # for scripts: the environment's would find the agent's modules before the runner's
    environment = enter(app, sites, entry, hermetic=bool(options["--app"]))
    options["--environment"] = [environment] if environment else []
    return serve([interpreter, runner], options, app, sites, entry)
