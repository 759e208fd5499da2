"""Compiles packages to bytecode that is not checked against its source when it is loaded.

A package's bytes depend on nothing but its own sources and the interpreter: the hash seed and the order of files are
fixed, the file name in the code is the one in the image, and each piece of a package is compiled in a fork of its own,
so that nothing that was compiled before can show. A file that does not compile has no bytes in place of its bytecode:
Python passes over an empty file and reads the source, and does not find another package's bytecode there.

Arguments: the directory in the image, that of the sources, that of the bytecode, how many processes. Standard input:
the names of the files, ended by NUL each, and each piece by one more. The bytecode of a piece goes into the file with its
number, in the order of its files, each after its length in eight bytes, little-endian."""

import _imp
import marshal
import os
import resource
import sys
import warnings
from importlib._bootstrap_external import MAGIC_NUMBER  # importlib.util imports much more

HASH_BASED = (1).to_bytes(4, "little")
HASH_KEY = int.from_bytes(MAGIC_NUMBER, "little")
MAX_SOURCE = 2 << 20  # a larger file is read by whoever imports it: parsing takes hundreds of times its size
MEMORY = 1 << 30  # of each piece
CPU_SECONDS = 120  # of each piece
MAX_FILE = 256 << 20


def has_unordered_set(code):
    """Before 3.11 the members of a constant set were written in the order of their hashes, and some hash by address."""
    return any(
        hasattr(constant, "co_consts") and has_unordered_set(constant)
        or isinstance(constant, frozenset) and any(type(m) not in (str, bytes, int, float) for m in constant)
        for constant in code.co_consts
    )


def bytecode(path, name):
    if os.path.getsize(path) > MAX_SOURCE:
        return b""
    with open(path, "rb") as file:
        source = file.read()
    try:
        code = compile(source, name, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return b""
    if sys.version_info < (3, 11) and has_unordered_set(code):
        return b""
    # An object is written as one that may be referred to if anything else holds it. Whether another module happens to
    # hold a name is no business of this file's bytes, so make sure that every name is held twice.
    twin = marshal.loads(marshal.dumps(code))
    data = MAGIC_NUMBER + HASH_BASED + _imp.source_hash(HASH_KEY, source) + marshal.dumps(code)
    del twin
    return data


def confine():
    """What is compiled may be made to take all that there is. Beyond the memory a file has no bytecode."""
    for what, most in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_FSIZE, MAX_FILE)):
        resource.setrlimit(what, (most, most))
    # At the second limit it is killed, and looks as if it had taken too much memory.
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))


def compile_piece(image, root, out, names):
    with open(out, "wb") as file:
        for name in names:
            data = bytecode(os.path.join(root, name), f"{image}/{name}")
            file.write(len(data).to_bytes(8, "little") + data)


def main(image, root, out, processes):
    warnings.simplefilter("ignore")
    pieces = [piece.split("\0") for piece in sys.stdin.buffer.read().decode().split("\0\0")[:-1]]
    running, failed = 0, False
    for number, names in enumerate([*pieces, *[None] * int(processes)]):
        if running == int(processes) or names is None and running:
            ended = os.wait()[1]
            failed |= ended != 0
            if os.WIFSIGNALED(ended):
                os.kill(os.getpid(), os.WTERMSIG(ended))  # whoever waits knows the limits
            running -= 1
        if names is None:
            continue
        if os.fork() == 0:
            status = 1
            try:
                confine()
                compile_piece(image, root, os.path.join(out, str(number)), names)
                status = 0
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            finally:
                os._exit(status)
        running += 1
    sys.exit(failed)


main(*sys.argv[1:])
