"""What an invoke prints, for a function that returns nothing, and what it reads with input()."""

import builtins
import io
import sys
from codecs import getincrementaldecoder

from .errors import Explained

MOST = 8 << 20  # characters
# Modules that write log lines, to the standard output where they are told so.
LOGGERS = frozenset(("logging", "loguru._simple_sinks", "structlog._output"))


class NoMoreInput(EOFError):
    """The message has been read to its end by code that has printed something since: it asks in a loop, and has answered."""


class Taker:
    """What one invoke prints, if it is to be kept, and the lines of its message."""

    def __init__(self, lines, keep=True):
        self.parts, self.size, self.lines, self.printed = [] if keep else None, 0, iter(lines), False
        self.decoder, self.logged, self.asked = None, [], False

    def add(self, text, is_log=False):
        """Something was printed. It is kept until the invoke ends: a task that goes on longer prints to the logs alone."""
        self.printed = self.printed or not is_log
        if self.parts is not None and self.size <= MOST:
            self.size += len(text)
            (self.logged if is_log else self.parts).append(text)

    def add_bytes(self, data):
        """Bytes were written: a character may be split across two of them."""
        self.decoder = self.decoder or getincrementaldecoder("utf-8")("replace")
        self.add(self.decoder.decode(data))

    def text(self):
        """All that was printed, but for the last newline: log lines only where there is nothing else. None if nothing was. What
        the agent has put in the place of the standard output may still hold some of it."""
        if not isinstance(sys.stdout, (Output, type(None))):
            try:
                sys.stdout.flush()
            except (OSError, ValueError):  # it was closed
                pass
        if self.size > MOST:
            raise Explained(f"the agent printed more than {MOST >> 20} MiB", "return the answer, or a part of it")
        return "".join(self.parts or self.logged).removesuffix("\n") if self.parts or self.logged else None

    def end(self):
        """Whatever is printed from now on is nobody's answer."""
        self.parts = None

    def next_line(self, prompt):
        """What input() answers. Prompts are for the logs: they are no part of the answer."""
        self.asked = True
        if prompt:
            print(prompt, file=sys.stderr)
        for line in self.lines:
            self.printed = False
            return line.removesuffix("\n")
        raise (NoMoreInput if self.printed else EOFError)("the message has no more lines for input()")


class Output(io.TextIOWrapper):
    """The standard output, which also gives what an invoke prints to its taker. Threads that the agent starts, its child
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
    """Puts it, and an input() that reads messages, in the place of Python's before the agent's code keeps the other ones."""
    old = sys.stdout
    if old is not None:
        through = old.write_through  # of PYTHONUNBUFFERED, which every agent has
        sys.stdout = sys.__stdout__ = Output(
            old.detach(), encoding="utf-8", errors="backslashreplace", line_buffering=line_buffering, write_through=through)
        sys.stdout.mode = "w"
    read = builtins.input

    def input(prompt="", /):
        taker = Output.takers and Output.takers.get()
        return taker.next_line(prompt) if taker and sys.stdin is sys.__stdin__ else read(prompt)  # the agent may have put in another

    builtins.input = input


def begin():
    """From now on there are invokes."""
    from _contextvars import ContextVar

    Output.takers = ContextVar("hoistway_taker", default=None)


def take(taker):
    """Lets a taker have what is printed here from now on."""
    if Output.takers is None:
        begin()
    Output.takers.set(taker)
    return taker
