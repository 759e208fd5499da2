"""Scripts: a process for each invoke, and what is done in it."""

import os
import sys
import threading
from types import ModuleType

from .capture import NoMoreInput, Taker, install, take
from .errors import DETAIL_LINES, ScriptError
from .results import as_text, resolve

OUTPUT_LIMIT = 8 << 20
LINE_LIMIT = 64 << 10
STATEMENT = "HOISTWAY_END_USER"  # to the process, which does not keep it


def run_script(command, message, user):
    """Runs a script once and yields what it prints, but for its final newline. A failed run raises ScriptError."""
    import collections
    import io
    import subprocess
    import tempfile

    from .end_users import END_USER

    with tempfile.TemporaryFile() as stdin:  # no pipe: a script need not read it, and a message may be large
        stdin.write(message.encode("utf-8", "replace"))
        stdin.seek(0)
        process = subprocess.Popen(
            command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "AGENT_USER_ID": user, STATEMENT: END_USER.get()})
    tail = collections.deque(maxlen=DETAIL_LINES)

    def follow_stderr():
        while line := process.stderr.readline(LINE_LIMIT):
            sys.__stderr__.buffer.write(line)
            sys.__stderr__.buffer.flush()
            tail.append(line.decode("utf-8", "replace").rstrip("\r\n"))

    follower = threading.Thread(target=follow_stderr, daemon=True)
    follower.start()
    try:
        size, newline = 0, ""
        with io.TextIOWrapper(process.stdout, "utf-8", "replace", newline="\n") as stdout:
            while line := stdout.readline(LINE_LIMIT):
                size += len(line)
                if size > OUTPUT_LIMIT:
                    raise ScriptError(f"the script printed more than {OUTPUT_LIMIT >> 20} MiB", list(tail))
                text = newline + line.removesuffix("\n")
                newline = "\n" if line.endswith("\n") else ""
                yield text
        status = process.wait()
        follower.join(1)  # it ends with the script, unless a child of the script keeps stderr open
        if status != 0:
            how = f"exit status {status}" if status > 0 else f"signal {-status}"
            details = [line for line in tail if line.strip()]
            headline = details[-1] if details else f"the script ended with {how}"
            if status == 2 and any(line.lower().startswith("usage:") for line in details):  # of argparse, click and typer
                details.append("the script gets the message as its one argument: let it take that, or define handler(message)")
            raise ScriptError(headline, details)
    finally:
        if process.poll() is None:  # nobody listens any more
            process.kill()
            process.wait()


def show(result):
    """Prints what the function of a script returned, if it is an answer."""
    if result is not None and not (type(result) is int and result == 0):
        print(as_text(result))


def be_script(app, entry, call, closed_network):
    """In a process of its own: is the script, as `python3 ENTRY MESSAGE < MESSAGE` would be. `call` is a function of it
    that is called at its end, where the file itself does not."""
    if statement := os.environ.pop(STATEMENT, ""):
        from .end_users import belongs_to

        belongs_to(statement, closed_network)
    with open(0, "rb", closefd=False) as stdin:
        message = stdin.read().decode("utf-8", "replace")
        stdin.seek(0)
    path = os.path.join(app, entry)
    sys.argv[:] = [path, message]  # set here, not by the parent: an argument to exec is limited to 128 KiB
    if "\0" not in message:
        os.environ["AGENT_MESSAGE"] = message
    install(line_buffering=False)
    take(Taker(iter(sys.stdin.readline, ""), keep=False))
    main = sys.modules["__main__"] = ModuleType("__main__")
    main.__file__ = path
    try:
        with open(path, "rb") as file:
            code = compile(file.read(), path, "exec", dont_inherit=True)
        exec(code, main.__dict__)
        if call:
            show(resolve(main.__dict__[call]()))
    except SystemExit:
        raise
    except NoMoreInput:
        return
    except BaseException as error:
        error.with_traceback(error.__traceback__.tb_next)  # the first frame is this one
        sys.excepthook(type(error), error, error.__traceback__)
        sys.exit(1)
