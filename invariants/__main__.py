"""`python -m invariants` is the command `invariants`."""

from invariants.front.cli import main

raise SystemExit(main())
