"""Tests of the runner's modules, and tests with a running agent that would make test_runner.py too long."""
