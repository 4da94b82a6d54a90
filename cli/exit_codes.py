"""What the exit status of every command means."""

from typing import Final

OK: Final = 0
LINES_FAILED: Final = 1
UNUSABLE: Final = 2
BUDGET: Final = 3
REFUSED: Final = 4
DETACHED: Final = 130

EPILOG: Final = """\b
Exit codes:
  0    all lines succeeded, or the command did what it was asked
  1    finished, but some lines failed
  2    wrong usage, configuration or input
  3    a budget is full: the rest of the batch waits for its window, or for more
  4    the upstream refuses the account (key, credits)
  130  interrupted or detached: the batch is kept
"""
