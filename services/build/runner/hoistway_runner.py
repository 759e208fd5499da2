#!/usr/bin/env python3
"""Runs one agent. `_hoistway_runner` describes it; it is a package so that Python loads it from bytecode: a main file
is compiled at each start."""

import sys

sys.dont_write_bytecode = True  # also for multiprocessing's children, which import this file as __mp_main__

if __name__ == "__main__":
    from os.path import abspath, dirname

    sys.path.insert(0, dirname(abspath(__file__)))  # missing with -I
    from _hoistway_runner.start import main

    sys.exit(main(__file__))
