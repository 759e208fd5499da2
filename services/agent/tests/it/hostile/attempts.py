"""What a hostile agent tries. Each function answers whether it got what it wanted; an exception means that it did not.

What is there to be attacked stands in FACTS: see `victims.rs`.
"""
import ctypes
import errno
import json
import mmap
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time

FACTS = json.loads(os.environ["FACTS"])
LIBC = ctypes.CDLL(None, use_errno=True)
HOME, TMP = os.environ["HOME"], os.environ["TMPDIR"]
RUNNER = sys.argv[0]
X86 = os.uname().machine == "x86_64"


def call(function, *arguments):
    result = function(*arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def syscall(number, *arguments):
    return call(LIBC.syscall, ctypes.c_long(number), *arguments)


def read(path):
    with open(path, "rb") as file:
        return FACTS["secret"].encode() in file.read()


def write(path):
    try:
        with open(path, "a") as file: return file.write("#") > 0
    except OSError:
        return False


# Files.
def read_secret(): return read(FACTS["private"])
def read_shadow():
    with open("/etc/shadow") as file: return bool(file.read())
def read_master_key(): return read(FACTS["data"] + "/master.key")
def list_data(): return bool(os.listdir(FACTS["data"]))
def stat_data(): return bool(os.stat(FACTS["data"] + "/master.key"))
def write_data():
    with open(FACTS["data"] + "/planted", "w") as file: return file.write("x")
def read_other_logs(): return read(FACTS["other_log"])
def list_runs(): return len(os.listdir(FACTS["data"] + "/run")) > 0
def read_other_memory_file(): return read(FACTS["shm"])
def truncate_outside():
    os.truncate(FACTS["truncated"], 0)
    return True
def truncate_readable():
    os.close(os.open(OPTIONS["--site"][0] + "/data.txt", os.O_RDONLY | os.O_TRUNC))
    return os.path.getsize(OPTIONS["--site"][0] + "/data.txt") == 0
def chmod_outside():
    os.chmod(FACTS["private"], 0o600)
    return True
def touch_outside():
    os.utime(FACTS["data"] + "/master.key", (1, 1))
    return os.stat(FACTS["data"] + "/master.key").st_mtime == 1
def label_outside():
    os.setxattr(FACTS["data"] + "/master.key", "user.planted", b"x")
    return True
def watch_outside():
    fd = call(LIBC.inotify_init)
    try: return call(LIBC.inotify_add_watch, fd, FACTS["data"].encode(), 0x100) > 0
    finally: os.close(fd)
def run_outside(): return subprocess.run([FACTS["tool"]], capture_output=True).stdout == b"ran\n"
def hard_link():
    os.link(FACTS["private"], HOME + "/linked")
    return read(HOME + "/linked")
def symlink_read():
    os.symlink(FACTS["private"], HOME + "/link")
    return read(HOME + "/link")
def climb_out():
    return read(OPTIONS["--app"][0] + "/../" * 12 + FACTS["private"].lstrip("/"))
def change_image():
    with open(FACTS["image"] + "/agent.py", "a") as file: return file.write("#")
def plant_in_image():
    os.mkdir(FACTS["image"] + "/__pycache__")
    return True
def plant_package():
    with open(OPTIONS["--site"][0] + "/planted.py", "w") as file: return file.write("x")
def change_runner():
    beside = os.path.join(os.path.dirname(RUNNER), "planted.py")
    return any([write(RUNNER), write(beside)])
def change_kernel_settings():
    with open("/proc/sys/kernel/core_pattern", "w") as file: return file.write("x")
def replace_own_directories():
    os.rename(TMP, TMP + "-moved")
    os.symlink(FACTS["data"], TMP)
    return True


# Processes.
def see_processes(): return os.path.exists("/proc/%d" % FACTS["stranger"])
def read_environment(): return read("/proc/%d/environ" % FACTS["stranger"])
def read_other_environment(): return read("/proc/%d/environ" % FACTS["other_agent"])
def read_memory():
    os.close(os.open("/proc/%d/mem" % FACTS["stranger"], os.O_RDONLY))
    return True
def read_parent_memory():
    os.close(os.open("/proc/%d/mem" % os.getppid(), os.O_RDONLY))
    return True
def open_files_of_others(): return bool(os.readlink("/proc/%d/fd/1" % FACTS["stranger"]))
def trace():
    PTRACE_SEIZE = 0x4206
    return call(LIBC.ptrace, PTRACE_SEIZE, FACTS["stranger"], None, None) == 0
def read_with_a_call():
    buffer = ctypes.create_string_buffer(8)
    class Vector(ctypes.Structure): _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
    local, remote = Vector(ctypes.addressof(buffer), 8), Vector(ctypes.addressof(buffer), 8)
    # The same address may hold nothing over there: then the kernel has looked, and that is what counts.
    try: return call(LIBC.process_vm_readv, FACTS["stranger"], ctypes.byref(local), 1, ctypes.byref(remote), 1, 0) >= 0
    except OSError as error: return error.errno == errno.EFAULT
def signal_supervisor():
    os.kill(FACTS["supervisor"], 0)
    return True
def signal_other_agent():
    os.kill(FACTS["other_agent"], 0)
    return True
def signal_stranger():
    os.kill(FACTS["stranger"], 0)
    return True
def slow_stranger():
    os.setpriority(os.PRIO_PROCESS, FACTS["stranger"], 19)
    return True
def starve_stranger():
    PROCESS, IDLE = 1, 3 << 13
    return syscall(251 if X86 else 30, PROCESS, FACTS["stranger"], IDLE) == 0
def pin_stranger():
    os.sched_setaffinity(FACTS["stranger"], os.sched_getaffinity(0))
    return True
def limit_stranger():
    resource.prlimit(FACTS["stranger"], resource.RLIMIT_CORE, (0, 0))
    return True
def limit_supervisor():
    # What it has: as processor time of a second would be granted, too, this is granted or refused.
    limits = resource.prlimit(FACTS["supervisor"], resource.RLIMIT_CPU)
    resource.prlimit(FACTS["supervisor"], resource.RLIMIT_CPU, limits)
    return True
def inherited_descriptors():
    known = {"0", "1", "2", OPTIONS["--listen-fd"][0]}
    names = {}
    for fd in set(os.listdir("/proc/self/fd")) - known:
        try: names[fd] = os.readlink("/proc/self/fd/" + fd)
        except FileNotFoundError: pass
    # The one is the connection that this question came through.
    found = sorted(name for name in names.values() if not name.startswith("/proc/"))
    return "reached: %s" % found if len(found) > 1 else False
def dump_core():
    resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))
    return True
def type_into_terminal():
    import fcntl
    fcntl.ioctl(os.open("/dev/tty", os.O_RDWR), 0x5412, b"x")
    return True


# Privileges and the kernel.
def gain_privileges(): return subprocess.run([FACTS["setuid"], "-u"], capture_output=True).stdout == b"0\n"
def new_user_namespace(): return call(LIBC.unshare, 0x10000000) == 0
def key_rings(): return syscall(250 if X86 else 219, 0, -3, 1) != 0
def io_uring():
    try: return syscall(425, 1, None) >= 0
    except OSError as error: return error.errno == errno.EFAULT
def second_numbering():
    # getpid of the x32 numbering.
    return X86 and syscall(0x40000000 + 39) > 0


# Other ways to speak.
def unix_socket():
    s = socket.socket(socket.AF_UNIX)
    s.connect(FACTS["unix"])
    return s.recv(5) == b"hello"
def abstract_socket():
    s = socket.socket(socket.AF_UNIX)
    s.connect("\0" + FACTS["abstract"])
    return s.recv(5) == b"hello"
def raw_socket(): return bool(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
def packet_socket(): return bool(socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
def kernel_crypto_socket(): return bool(socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET))
def system_v_memory():
    LIBC.shmat.restype = ctypes.c_void_p
    address = LIBC.shmat(FACTS["segment"], None, 0o10000)
    if address == ctypes.c_void_p(-1).value: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return ctypes.string_at(address, len(FACTS["secret"])) == FACTS["secret"].encode()


# The closed network.
def other_agents_listener():
    host, port = FACTS["other_address"].rsplit(":", 1)
    return bool(socket.create_connection((host, int(port)), 2))
def strangers_port(): return socket.create_connection(("127.0.0.1", FACTS["tcp"]), 2).recv(5) == b"hello"
def strangers_port_v6(): return socket.create_connection(("::1", FACTS["tcp6"]), 2).recv(5) == b"hello"
def udp():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(2)
    s.sendto(b"hello", ("127.0.0.1", FACTS["udp"]))
    return s.recv(5) == b"hello"
def fast_open():
    MSG_FASTOPEN = 0x20000000
    s = socket.socket()
    s.settimeout(2)
    s.sendto(b"", MSG_FASTOPEN, ("127.0.0.1", FACTS["tcp"]))
    return s.recv(5) == b"hello"
def multipath():
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
    s.settimeout(2)
    s.connect(("127.0.0.1", FACTS["tcp"]))
    return s.recv(5) == b"hello"
KEPT = []
def reuse_connection():
    """Connects a connection of a caller, which is not of the agent's own network, to somebody else."""
    if not KEPT:
        for fd in map(int, os.listdir("/proc/self/fd")):
            try: s = socket.socket(fileno=os.dup(fd))
            except OSError: continue
            if not s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN): KEPT.append(s)
        return "again"
    errors = []
    for s in KEPT:
        address = ctypes.create_string_buffer(16)  # AF_UNSPEC: the end of the connection, and not of the socket
        LIBC.connect(s.fileno(), address, 16)
        s.settimeout(2)
        try:
            s.connect(("127.0.0.1", FACTS["tcp"]))
            if s.recv(5) == b"hello": return True
        except (OSError, TypeError) as error: errors.append(error)
    raise OSError(errors)
def await_caller(s):
    s.listen(5)
    def answer():
        caller, _ = s.accept()
        caller.sendall(FACTS["marker"].encode())
        caller.close()
    threading.Thread(target=answer, daemon=True).start()
    # Whether somebody outside reaches it is found out there.
    return "listening %d" % s.getsockname()[1]
def listen_bound():
    s = socket.socket()
    s.bind(("0.0.0.0", 0))
    return await_caller(s)
def listen_unbound(): return await_caller(socket.socket())


# Using it all up.
def fork_bomb():
    children = []
    try:
        for _ in range(200):
            pid = os.fork()
            if pid == 0:
                time.sleep(60)
                os._exit(0)
            children.append(pid)
        return True
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
def memory_hog():
    held = [b"x" * (8 << 20) for _ in range(100)]
    return len(held) == 100
def shared_memory_hog():
    # More than twice what the agent may have, which is the limit of private memory.
    held = mmap.mmap(-1, 640 << 20)
    for _ in range(80): held.write(b"x" * (8 << 20))
    return held.tell() == 640 << 20
def nameless_file_hog():
    # Each of them as large as a file may be.
    files = [os.memfd_create("hog") for _ in range(40)]
    try: return all(os.write(fd, b"x" * (16 << 20)) == 16 << 20 for fd in files)
    finally:
        for fd in files: os.close(fd)
def memory_hogs():
    # Each of them keeps to what one process may have.
    children = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            held = [b"x" * (8 << 20) for _ in range(20)]
            os._exit(0 if len(held) == 20 and not time.sleep(2) else 1)
        children.append(pid)
    return all(os.waitpid(pid, 0)[1] == 0 for pid in children)
def fill_disk():
    try:
        for n in range(4):
            with open("%s/fill-%d" % (HOME, n), "wb") as file: file.write(b"x" * (12 << 20))
        return True
    finally:
        for n in range(4):
            if os.path.exists("%s/fill-%d" % (HOME, n)): os.unlink("%s/fill-%d" % (HOME, n))
def huge_file():
    with open(HOME + "/huge", "wb") as file: file.truncate(1 << 30)
    return True
def open_many():
    held = [open("/dev/null") for _ in range(1000)]
    return len(held) == 1000


# Staying behind. Processes that are left are seen by their command line.
def daemon():
    ready, starting = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for fd in set(range(256)) - {starting}:
                try: os.close(fd)
                except OSError: pass
            os.execve(sys.executable, [sys.executable, "-c", "import time; time.sleep(600)", FACTS["marker"]], {})
        os._exit(0)
    os.wait()
    os.close(starting)
    # The last one closes as the daemon's program begins: from then on it has another environment.
    os.read(ready, 1)
    os.close(ready)
def stay_behind():
    daemon()
    return "started"
def stay_behind_and_kill_launcher():
    daemon()
    os.kill(os.getppid(), signal.SIGKILL)
    return "started"
def leave_system_v_memory():
    call(LIBC.shmget, FACTS["key"], 4096, 0o1600)
    return "started"
def leave_message_queue():
    LIBRARY = LIBC if hasattr(LIBC, "mq_open") else ctypes.CDLL("librt.so.1", use_errno=True)
    call(LIBRARY.mq_open, ("/" + FACTS["left"]).encode(), os.O_CREAT | os.O_RDWR, 0o600, None)
    return "started"
def leave_memory_file():
    with open("/dev/shm/" + FACTS["left"], "w") as file: file.write("x")
    return "started"


def handle(line):
    try:
        result = globals()[line]()
        return result if isinstance(result, str) else "reached" if result else "stopped: for nothing"
    except BaseException as error:
        return "stopped: %s" % str(error)
