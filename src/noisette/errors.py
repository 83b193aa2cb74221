"""The one exception that is meant for the person at the keyboard."""

from __future__ import annotations

__all__ = ["UserError"]


class UserError(ValueError):
    """Input that cannot be used, told in one line: what was wrong and what to do about it.

    The command line prints the message alone and exits with code 2. Anything else that is raised is a
    mistake of ours and keeps its traceback.
    """
