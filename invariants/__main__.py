"""`python -m invariants` is the command `invariants`."""

from invariants.cli import main

raise SystemExit(main())
