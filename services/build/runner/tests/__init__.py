"""Tests of the runner's modules, and of what needs a running agent but has outgrown test_runner.py."""
