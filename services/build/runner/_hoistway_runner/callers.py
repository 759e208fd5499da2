"""Invokes whose clients have disconnected."""

import select
import sys
import threading

from .errors import DETAIL_LINES, Mask, leave
from .errors import HERE as OURS

GIVEN_UP_SECONDS = 5  # between the loss of callers and the end of an agent whose threads do not end
PATIENCE_SECONDS = 60  # for invokes whose callers still wait
HELD_SECONDS = 60  # the longest time that the event loop may spend on an invoke whose caller is gone while others wait
MOST_STACKS = 10

HERE = threading.local()  # `peer`: the connection of the invoke that this thread answers; `log` logs an error of it


class PeerGone(Exception):
    """The client no longer waits for the answer."""


def is_gone(peer):
    """Whether a connection was closed, or half of it: a forwarder between the gateway and the runner passes its end on
    so."""
    poll = select.poll()
    try:
        poll.register(peer, select.POLLRDHUP)
        return bool(poll.poll(0))
    except (OSError, ValueError):
        return True


class Slots:
    """The slots of concurrent invokes. The agent is ended if its threads or event loop keep slots for lost callers."""

    loop = None  # the event loop, as soon as there is one

    def __init__(self, most, mask):
        self.most, self.mask, self.running, self.leaving, self.watched = most, mask, {}, False, False
        self.changed = threading.Condition()

    def take(self, peer):
        """Takes a slot for a connection; returns False if none is free."""
        with self.changed:
            taken = len(self.running) < self.most and not self.leaving
            lost = self.lost() if taken and self.loop else []
            if taken:
                self.running[peer] = [threading.get_ident(), "?"]
            if self.watched or taken and not lost:
                return taken
            self.watched = True
        watch = (self.watch_loop, lost) if taken else (self.watch,)
        threading.Thread(target=watch[0], args=watch[1:], name="slots", daemon=True).start()
        return taken

    def name(self, peer, request_id):
        """Sets the id of the request that a connection's invoke answers."""
        self.running[peer][1] = request_id

    def give_back(self, peer):
        with self.changed:
            del self.running[peer]
            self.changed.notify_all()

    def lost(self):
        """Returns the connections whose callers are gone while their invokes still run."""
        return [peer for peer in self.running if is_gone(peer)]

    def watch(self):
        """Ends the agent if most of its slots are kept by invokes without callers: threads cannot be ended."""
        with self.changed:
            self.changed.wait_for(lambda: len(self.running) < self.most, GIVEN_UP_SECONDS)
            few = lambda: len(self.lost()) < self.most // 2
            if len(self.running) < self.most or few():
                self.watched = False
                return
            self.leaving = True  # invokes whose callers still wait are answered first
            self.changed.wait_for(lambda: few() or len(self.running) <= len(self.lost()), PATIENCE_SECONDS)
            if few():  # they were slow, and have ended after all
                self.leaving = self.watched = False
                return
            lost = [self.running[peer] for peer in self.lost()]
        print(self.mask(stacks(lost)), end="", file=sys.__stderr__, flush=True)
        leave(f"{len(lost)} invokes still run whose callers have given up; a loop or a call without a time limit is in them")

    def watch_loop(self, lost):
        """Ends the agent if its event loop is kept by an invoke whose caller is one of these `lost` ones: cancellation
        cannot reach it, and no other invoke is answered meanwhile."""
        free = threading.Event()
        self.loop.soon(free.set)
        held = not free.wait(HELD_SECONDS) and self.loop.held_for()
        with self.changed:
            if not held or any(peer in self.running and peer not in lost for peer in held):
                self.watched = False
                return
            thread = self.loop.thread_id()
            ids = [(thread, self.running.get(peer, (None, "?"))[1]) for peer in held]
        print(self.mask(stacks(ids)), end="", file=sys.__stderr__, flush=True)
        leave("its event loop stays with an invoke whose caller has given up; a loop or a call without a time limit is in it")


def stacks(invokes):
    """Returns the stacks of the threads of some invokes: each stack once, without the frames of the runner."""
    frames, places = sys._current_frames(), {}
    for thread, request_id in invokes:
        places.setdefault(shown(frames.get(thread)), []).append(request_id)
    if "" in places:  # they wait for the event loop or for a pool of threads, which run the agent's code
        others = {shown(frames[thread]) for thread in frames.keys() - {thread for thread, _ in invokes}}
        places["".join(sorted(others)[:MOST_STACKS])] = places.pop("")
    text = ""
    for stack, ids in list(places.items())[:MOST_STACKS]:
        more = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
        text += f"request {ascii(ids[0])[1:-1][:128]}{more} was given up and still runs:\n{stack}"
    return text


def shown(frame):
    """Returns the stack of a thread that runs the agent's code; empty for others."""
    import traceback

    app = Mask.places[0][0] if Mask.places else ""
    own = [one for one in traceback.extract_stack(frame) if not one.filename.startswith((OURS, threading.__file__))] if frame else []
    return "".join(traceback.format_list(own)) if any(one.filename.startswith(f"{app}/") for one in own) else ""


def standing(slots, request_id):
    """Returns the stack of a request's invoke: of its thread, or of its task. A long one is cut in the middle, so that
    it has the agent's frames and the place of the wait. Empty for a script, which is a separate process, and for
    answered requests."""
    running = reversed(list(slots.running.items()))  # clients choose ids: of equal ones the newest, earlier ones were given up
    peer, thread = next(((peer, thread) for peer, (thread, named) in running if named == request_id), (None, None))
    text = shown(sys._current_frames().get(thread))
    if not text and peer:  # its thread waits for a task
        from .loop import LOOP

        try:
            text = LOOP.standing(peer)
        except Exception:  # the task has continued meanwhile
            pass
    lines, half = slots.mask(text).splitlines(), DETAIL_LINES // 2
    return lines if len(lines) <= DETAIL_LINES else [*lines[:half], "  …", *lines[1 - half:]]
