"""What a forked process does to itself before it is an agent: it joins the agent's namespaces, becomes the agent's user,
and gives up everything that no agent may do. Linux has no function for most of it in Python's library.
"""

import ctypes
import os
import platform
import resource
import struct

LIBC = ctypes.CDLL(None, use_errno=True)
# Of capset(2) and landlock_restrict_self(2).
CAPSET = {"x86_64": 126, "aarch64": 91}
LANDLOCK_RESTRICT_SELF = 446
PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 4, 22, 24, 38
SECCOMP_MODE_FILTER = 2
CAPABILITY_VERSION_3 = 0x20080522
EINVAL = 22


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


def join(namespaces):
    """Joins namespaces, by descriptors of which the user namespace's is the first: it gives the right to join the others.
    That of processes counts from the next fork on."""
    for fd in namespaces:
        check(LIBC.setns(ctypes.c_int(fd), ctypes.c_int(0)), "joining a namespace")
        os.close(fd)


def confine(request, fds):
    """Applies a request: `user` ([uid, gid] or none), `limits` ({name of a resource: number}), `oom_score`, and
    `filters` (seccomp programs, lists of [code, jt, jf, k]). The one descriptor is a Landlock ruleset, if any."""
    os.setsid()
    os.umask(0o077)
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(request["oom_score"]))
    for capability in range(64):
        if prctl(PR_CAPBSET_DROP, capability) < 0 and ctypes.get_errno() == EINVAL:
            break  # beyond the last one
    if request["user"]:
        uid, gid = request["user"]
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    no_capabilities()
    check(prctl(PR_SET_NO_NEW_PRIVS, 1), "no_new_privs")
    for name, limit in request["limits"].items():
        number = getattr(resource, f"RLIMIT_{name}")
        limit = min(limit, highest) if (highest := resource.getrlimit(number)[1]) != resource.RLIM_INFINITY else limit
        resource.setrlimit(number, (limit, limit))
    # A change of the user takes the right to look at oneself in /proc, which a new program would get back.
    check(prctl(PR_SET_DUMPABLE, 1), "dumpable")
    for ruleset in fds:
        check(LIBC.syscall(ctypes.c_long(LANDLOCK_RESTRICT_SELF), ctypes.c_int(ruleset), ctypes.c_uint(0)), "Landlock")
        os.close(ruleset)
    for instructions in request["filters"]:
        program = Program(len(instructions), (Instruction * len(instructions))(*map(tuple, instructions)))
        check(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program)), "seccomp")


def no_capabilities():
    header = struct.pack("II", CAPABILITY_VERSION_3, 0)
    sets = struct.pack("6I", *[0] * 6)
    check(LIBC.syscall(ctypes.c_long(CAPSET[platform.machine()]), header, sets), "capset")
