# /// script
# requires-python = ">=3.9"
# dependencies = ["tabulate"]
# ///
"""Reads words from standard input and prints a table of them."""

import sys
from collections import Counter

from tabulate import tabulate

words = Counter(sys.stdin.read().split())
print(tabulate(sorted(words.items()), headers=["word", "count"]))
