"""What a forked process does to itself before it is an agent: it joins the agent's namespaces, becomes the agent's user,
and gives up everything that no agent may do. Linux has no function for most of it in Python's library.
"""

import ctypes
import os
import platform
import struct

LIBC = ctypes.CDLL(None, use_errno=True)
# Of capset(2) and landlock_restrict_self(2).
CAPSET = {"x86_64": 126, "aarch64": 91}
LANDLOCK_RESTRICT_SELF = 446
PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 4, 22, 24, 38
SECCOMP_MODE_FILTER = 2
CAPABILITY_VERSION_3 = 0x20080522
EINVAL = 22
# The kinds of namespaces, of setns(2), by their names in /proc.
KINDS = {"mnt": 0x00020000, "ipc": 0x08000000, "net": 0x40000000, "user": 0x10000000}
CLONE_NEWPID = 0x20000000
MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8


class Instruction(ctypes.Structure):
    """`struct sock_filter`"""
    _fields_ = [("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32)]


class Program(ctypes.Structure):
    """`struct sock_fprog`"""
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(Instruction))]


def check(result, what):
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def prctl(option, argument, *more):
    words = [ctypes.c_ulong(word) if isinstance(word, int) else word for word in (argument, *more, 0, 0, 0)][:4]
    return LIBC.prctl(ctypes.c_int(option), *words)


def leave_processes():
    """Leaves for a PID namespace with the next fork."""
    check(LIBC.unshare(ctypes.c_int(CLONE_NEWPID)), "a PID namespace")


def enter(kinds, namespaces):
    """Joins namespaces, by their kinds and descriptors, as the first process of a PID namespace. The user namespace comes
    last: the right to all else is lost in it."""
    for kind, fd in zip(kinds, namespaces):
        if kind == "user":
            flags = ctypes.c_ulong(MS_NOSUID | MS_NODEV | MS_NOEXEC)
            check(LIBC.mount(b"proc", b"/proc", b"proc", flags, None), "mounting /proc")
        check(LIBC.setns(ctypes.c_int(fd), ctypes.c_int(KINDS[kind])), f"joining the {kind} namespace")
        os.close(fd)


def confine(request, rulesets):
    """Applies a request: `user` ([uid, gid] or none) and `filters` (seccomp programs, lists of [code, jt, jf, k]), with
    descriptors of Landlock rulesets. Limits are set from outside."""
    os.umask(0o077)
    for capability in range(64):
        if prctl(PR_CAPBSET_DROP, capability) < 0 and ctypes.get_errno() == EINVAL:
            break  # beyond the last one
    if request["user"]:
        uid, gid = request["user"]
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    no_capabilities()
    check(prctl(PR_SET_NO_NEW_PRIVS, 1), "no_new_privs")
    show_memory(True)
    for ruleset in rulesets:
        check(LIBC.syscall(ctypes.c_long(LANDLOCK_RESTRICT_SELF), ctypes.c_int(ruleset), ctypes.c_uint(0)), "Landlock")
        os.close(ruleset)
    for instructions in request["filters"]:
        program = Program(len(instructions), (Instruction * len(instructions))(*map(tuple, instructions)))
        check(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program)), "seccomp")


def show_memory(is_shown):
    """Lets other processes of this user, and this one itself in /proc, at the memory and the descriptors of this one. A
    change of the user takes the right, and a new program gets it back."""
    check(prctl(PR_SET_DUMPABLE, int(is_shown)), "dumpable")


def no_capabilities():
    header = struct.pack("II", CAPABILITY_VERSION_3, 0)
    sets = struct.pack("6I", *[0] * 6)
    check(LIBC.syscall(ctypes.c_long(CAPSET[platform.machine()]), header, sets), "capset")
