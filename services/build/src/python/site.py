"""Compiles one share of a directory of packages to bytecode that is not checked against its source when it is loaded.

The bytes depend on nothing but the sources and the interpreter: the hash seed, the order of files and their share are
fixed, and the file name in the code is the one in the image. A file that does not compile is left as it is.

Arguments: the directory, its path in the image, this share's number, the number of shares."""

import importlib.util
import marshal
import os
import sys
import warnings

HASH_BASED = (1).to_bytes(4, "little")


def sources(root):
    for directory, directories, files in os.walk(root):
        directories.sort()
        for name in sorted(files):
            path = os.path.join(directory, name)
            if name.endswith(".py") and not os.path.islink(path):
                yield path


def has_unordered_set(code):
    """Before 3.11 the members of a constant set were written in the order of their hashes, and some hash by address."""
    return any(
        hasattr(constant, "co_consts") and has_unordered_set(constant)
        or isinstance(constant, frozenset) and any(type(m) not in (str, bytes, int, float) for m in constant)
        for constant in code.co_consts
    )


def compile_file(path, name):
    with open(path, "rb") as file:
        source = file.read()
    code = compile(source, name, "exec", dont_inherit=True, optimize=0)
    if sys.version_info < (3, 11) and has_unordered_set(code):
        return
    # An object is written as one that may be referred to if anything else holds it. Whether another module happens to
    # hold a name is no business of this file's bytes, so make sure that every name is held twice.
    twin = marshal.loads(marshal.dumps(code))
    target = importlib.util.cache_from_source(path, optimization="")
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(target, "wb") as file:
        file.write(importlib.util.MAGIC_NUMBER + HASH_BASED + importlib.util.source_hash(source))
        file.write(marshal.dumps(code))
    del twin


def main(root, image, share, shares):
    warnings.simplefilter("ignore")
    for number, path in enumerate(sources(root)):
        if number % int(shares) == int(share):
            try:
                compile_file(path, image + path[len(root) :])
            except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
                pass


main(*sys.argv[1:])
