"""Whether whoever has sent an invoke still waits for its answer."""

import select
import sys
import threading

from .errors import DETAIL_LINES, Mask, leave
from .errors import HERE as OURS

GIVEN_UP_SECONDS = 5  # between the loss of callers and the end of an agent whose threads do not end
PATIENCE_SECONDS = 60  # for the invokes of others that still wait
HELD_SECONDS = 60  # for which the event loop may stay with an invoke whose caller is gone while others wait for it
MOST_STACKS = 10

HERE = threading.local()  # `peer`: the connection of the invoke that this thread answers; `log` tells the logs an error of it


class PeerGone(Exception):
    """The client does not wait for the answer any more."""


def is_gone(peer):
    """Whether a connection was closed, or half of it: a forwarder between us and the gateway passes its end on so."""
    poll = select.poll()
    try:
        poll.register(peer, select.POLLRDHUP)
        return bool(poll.poll(0))
    except (OSError, ValueError):
        return True


class Slots:
    """The invokes that may run at once, and what becomes of an agent whose threads or event loop hold them for nobody."""

    loop = None  # the event loop, as soon as there is one

    def __init__(self, most, mask):
        self.most, self.mask, self.running, self.leaving, self.watched = most, mask, {}, False, False
        self.changed = threading.Condition()

    def take(self, peer):
        """Takes one for a connection; False if there is none."""
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
        """The id of the request that a connection's invoke answers."""
        self.running[peer][1] = request_id

    def give_back(self, peer):
        with self.changed:
            del self.running[peer]
            self.changed.notify_all()

    def lost(self):
        """The connections whose callers are gone while their invokes go on."""
        return [peer for peer in self.running if is_gone(peer)]

    def watch(self):
        """Ends the agent if most of its slots stay with invokes that nobody waits for: threads cannot be ended."""
        with self.changed:
            self.changed.wait_for(lambda: len(self.running) < self.most, GIVEN_UP_SECONDS)
            few = lambda: len(self.lost()) < self.most // 2
            if len(self.running) < self.most or few():
                self.watched = False
                return
            self.leaving = True  # others that still wait are answered first
            self.changed.wait_for(lambda: few() or len(self.running) <= len(self.lost()), PATIENCE_SECONDS)
            if few():  # they were slow, and have ended after all
                self.leaving = self.watched = False
                return
            lost = [self.running[peer] for peer in self.lost()]
        print(self.mask(stacks(lost)), end="", file=sys.__stderr__, flush=True)
        leave(f"{len(lost)} invokes still run whose callers have given up; a loop or a call without a time limit is in them")

    def watch_loop(self, lost):
        """Ends the agent if its event loop stays with an invoke whose caller is one of these `lost` ones: no cancellation
        reaches it, and no other invoke is answered meanwhile."""
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
    """Where the threads of some invokes are: each place once, without the frames of the runner."""
    frames, places = sys._current_frames(), {}
    for thread, request_id in invokes:
        places.setdefault(shown(frames.get(thread)), []).append(request_id)
    if "" in places:  # they wait for the event loop or for a pool of threads: those are where the agent's code stands
        others = {shown(frames[thread]) for thread in frames.keys() - {thread for thread, _ in invokes}}
        places["".join(sorted(others)[:MOST_STACKS])] = places.pop("")
    text = ""
    for stack, ids in list(places.items())[:MOST_STACKS]:
        more = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
        text += f"request {ascii(ids[0])[1:-1][:128]}{more} was given up and still runs:\n{stack}"
    return text


def shown(frame):
    """The stack of a thread that runs the agent's code; empty for others."""
    import traceback

    app = Mask.places[0][0] if Mask.places else ""
    own = [one for one in traceback.extract_stack(frame) if not one.filename.startswith((OURS, threading.__file__))] if frame else []
    return "".join(traceback.format_list(own)) if any(one.filename.startswith(f"{app}/") for one in own) else ""


def standing(slots, request_id):
    """Where the invoke of a request stands: the stack of its thread, or of its task; of a long one both ends, which are the
    agent's and where it waits. Empty for a script, which is a process of its own, and for what has been answered."""
    running = reversed(list(slots.running.items()))  # ids are the clients' own: of several the newest, others have been given up
    peer, thread = next(((peer, thread) for peer, (thread, named) in running if named == request_id), (None, None))
    text = shown(sys._current_frames().get(thread))
    if not text and peer:  # its thread waits for a task
        from .loop import LOOP

        try:
            text = LOOP.standing(peer)
        except Exception:  # the task has gone on while it was looked at
            pass
    lines, half = slots.mask(text).splitlines(), DETAIL_LINES // 2
    return lines if len(lines) <= DETAIL_LINES else [*lines[:half], "  …", *lines[1 - half:]]
