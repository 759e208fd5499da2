"""The output of an invoke, for a function that returns nothing, and its input through input()."""

import builtins
import io
import sys
from codecs import getincrementaldecoder

from .errors import Explained

MOST = 8 << 20  # characters
# Modules that write log lines, to the standard output if configured so.
LOGGERS = frozenset(("logging", "loguru._simple_sinks", "structlog._output"))


class NoMoreInput(EOFError):
    """The message has been read to its end by code that has printed something since: it is an input loop, and has
    answered."""


class Taker:
    """The captured output of one invoke, if it is kept, and the lines of its message."""

    def __init__(self, lines, keep=True):
        self.parts, self.size, self.lines, self.printed = [] if keep else None, 0, iter(lines), False
        self.decoder, self.logged, self.asked = None, [], False

    def add(self, text, is_log=False):
        """Adds printed text. It is kept until the invoke ends: the later output of a task goes to the logs only."""
        self.printed = self.printed or not is_log
        if self.parts is not None and self.size <= MOST:
            self.size += len(text)
            (self.logged if is_log else self.parts).append(text)

    def add_bytes(self, data):
        """Adds printed bytes: a character may be split across two writes."""
        self.decoder = self.decoder or getincrementaldecoder("utf-8")("replace")
        self.add(self.decoder.decode(data))

    def text(self):
        """Returns the output, without the last newline; log lines only if there is nothing else. None if there was no
        output. A replacement of the standard output by the agent may still buffer some of it."""
        if not isinstance(sys.stdout, (Output, type(None))):
            try:
                sys.stdout.flush()
            except (OSError, ValueError):  # it was closed
                pass
        if self.size > MOST:
            raise Explained(f"the agent printed more than {MOST >> 20} MiB", "return the answer, or a part of it")
        return "".join(self.parts or self.logged).removesuffix("\n") if self.parts or self.logged else None

    def end(self):
        """Stops capturing: later output belongs to no answer."""
        self.parts = None

    def next_line(self, prompt):
        """Returns the next line for input(). Prompts go to the logs: they are not part of the answer."""
        self.asked = True
        if prompt:
            print(prompt, file=sys.stderr)
        for line in self.lines:
            self.printed = False
            return line.removesuffix("\n")
        raise (NoMoreInput if self.printed else EOFError)("the message has no more lines for input()")


class Output(io.TextIOWrapper):
    """The standard output, which also passes an invoke's output to its taker. Threads that the agent starts, its child
    processes and its logging belong to no invoke."""

    takers = None  # a ContextVar, as soon as there are invokes: its module takes 0.2 ms of the start

    def write(self, text):
        count = super().write(text)
        if self.takers and (taker := self.takers.get()):
            taker.add(text, is_log=sys._getframe(1).f_globals.get("__name__") in LOGGERS)
        return count

    @property
    def buffer(self):
        return Bytes(super().buffer, self)


class Bytes:
    """The standard output's bytes."""

    def __init__(self, raw, output):
        self.raw, self.output = raw, output

    def write(self, data):
        count = self.raw.write(data)
        if self.output.takers and (taker := self.output.takers.get()):
            taker.add_bytes(bytes(data))
        return count

    def __getattr__(self, name):
        return getattr(self.raw, name)


def install(line_buffering):
    """Replaces the standard output and input() before the agent's code can keep references to the original ones. A forked
    process has them already."""
    if isinstance(sys.__stdout__, Output):
        return
    old = sys.stdout
    if old is not None:
        through = old.write_through  # of PYTHONUNBUFFERED, which every agent has
        sys.stdout = sys.__stdout__ = Output(
            old.detach(), encoding="utf-8", errors="backslashreplace", line_buffering=line_buffering, write_through=through)
        sys.stdout.mode = "w"
    read = builtins.input

    def input(prompt="", /):
        taker = Output.takers and Output.takers.get()
        return taker.next_line(prompt) if taker and sys.stdin is sys.__stdin__ else read(prompt)  # the agent may have replaced it

    builtins.input = input


def begin():
    """Prepares for invokes."""
    from _contextvars import ContextVar

    Output.takers = ContextVar("hoistway_taker", default=None)


def take(taker):
    """Passes output of this context to a taker from now on."""
    if Output.takers is None:
        begin()
    Output.takers.set(taker)
    return taker
