"""Scripts: a process for each invoke, and the code that runs in it."""

import os
import select
import signal
import sys
import threading
from types import ModuleType

from .callers import HERE, PeerGone
from .capture import NoMoreInput, Taker, install, take
from .errors import DETAIL_LINES, ScriptError
from .paths import module_of, package_of
from .results import DECODER, as_text, resolve

OUTPUT_LIMIT = 8 << 20
LINE_LIMIT = 64 << 10
RAISED = 70  # the exit status of a script that an exception ended: others may have logged one, and ended by themselves
STATEMENT = "HOISTWAY_END_USER"  # passed to the process, which removes it


def run_script(command, message, user):
    """Runs a script once and yields its output, without the final newline. A failed run raises ScriptError."""
    import collections
    import subprocess
    import tempfile

    from .end_users import END_USER

    with tempfile.TemporaryFile() as stdin:  # no pipe: a script need not read it, and a message may be large
        stdin.write(message.encode("utf-8", "replace"))
        stdin.seek(0)
        process = subprocess.Popen(
            command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            env={**os.environ, "AGENT_USER_ID": user, STATEMENT: END_USER.get()})
    tail = collections.deque(maxlen=DETAIL_LINES)

    def follow_stderr():
        while line := process.stderr.readline(LINE_LIMIT):
            sys.__stderr__.buffer.write(line)
            sys.__stderr__.buffer.flush()
            tail.append(line.decode("utf-8", "replace").rstrip("\r\n"))

    follower = threading.Thread(target=follow_stderr, daemon=True)
    follower.start()
    ended = False
    try:
        size, newline, decoder = 0, "", DECODER("replace")
        for data in chunks_of(process.stdout, getattr(HERE, "peer", None)):
            size += len(data)
            if size > OUTPUT_LIMIT:
                raise ScriptError(f"the script printed more than {OUTPUT_LIMIT >> 20} MiB", list(tail))
            for number, line in enumerate(decoder.decode(data, not data).split("\n")):
                if number:  # the newline before it, of which the last one is not part of the answer
                    if newline:
                        yield newline
                    newline = "\n"
                if line:
                    yield newline + line
                    newline = ""
        status = process.wait()
        ended = True
        follower.join(1)  # it ends with the script, unless a child of the script keeps stderr open
        if status != 0:
            how = f"exit status {1 if status == RAISED else status}" if status > 0 else f"signal {-status}"
            if status == -signal.SIGKILL:  # only the kernel sends it
                how += ": out of memory (setting HOISTWAY_AGENT_LIMITS__MEMORY)"
            details = [line for line in tail if line.strip()]
            cause = raised(details) if status == RAISED else None
            headline = cause or (details[-1] if details and status > 0 else f"the script ended with {how}")
            if details and not cause:
                details.append(f"the script ended with {how}")
            if status == 2 and any(line.lower().startswith("usage:") for line in details):  # of argparse, click and typer
                details.append("the script gets the message as its one argument: let it take that, or define handler(message)")
            raise ScriptError(headline, details)
    finally:
        process.stdout.close()
        if not ended:  # the reader is gone: the script and the processes that it has started are ended
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()


def raised(lines):
    """Returns the exception that ended a script: the text after its last traceback, even if more was written since.
    None without one."""
    begun = [at for at, line in enumerate(lines) if line.startswith("Traceback (most recent call last):")]
    after = lines[begun[-1] + 1:] if begun else []
    return next((line for line in after if not line.startswith(" ")), None)


def chunks_of(stdout, peer):
    """Yields the output of a process as it comes, and an empty piece at its end. Raises PeerGone if the connection ends
    first."""
    poll = select.poll()
    poll.register(stdout, select.POLLIN)
    if peer is not None:
        poll.register(peer, select.POLLRDHUP)
    while True:
        ready = [fd for fd, _ in poll.poll()]
        if stdout.fileno() not in ready:
            raise PeerGone
        data = os.read(stdout.fileno(), LINE_LIMIT)
        yield data
        if not data:
            return


def show(result):
    """Prints the result of a script's function, if it is an answer."""
    if result is not None and not (type(result) is int and result == 0):
        print(as_text(result))


def read_input_by_default():
    """Lets fileinput read the message: without arguments it would take the command line for names of files."""
    import fileinput

    init = fileinput.FileInput.__init__
    fileinput.FileInput.__init__ = lambda self, files=None, *more, **options: init(self, "-" if files is None else files, *more, **options)


def be_script(app, entry, call, closed_network):
    """Runs the script in its own process, as `python3 ENTRY MESSAGE < MESSAGE` would. `call` is a function of the
    script that is called at its end, if the file itself does not call it."""
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
    main.__file__, main.__package__ = path, package_of(*module_of(app, entry)) or None
    try:
        with open(path, "rb") as file:
            source = file.read()
        if b"fileinput" in source:
            read_input_by_default()
        code = compile(source, path, "exec", dont_inherit=True)
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
        sys.exit(RAISED)
