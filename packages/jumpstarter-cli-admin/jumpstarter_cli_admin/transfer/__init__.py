"""Taking a whole lab from one place to another: accounts with what their tokens count by, policies, and the keys."""

from __future__ import annotations
