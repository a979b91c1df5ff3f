"""Property-based invariant fuzzer for multi-tenant PostgreSQL."""
