"""What runs in a process of its own: the user's env.py and revisions, led to one database.

`serving` is that process's loop, `work` what it does with Alembic, `doors` and `variables` see to
it that whatever connects from there reaches our database or none. `invariants.schema.runner` is
its only caller.
"""

KILLED = 86
"""How an order ends that was to be killed between two statements."""
