"""Commands that print figures: how fast, how soon, how surely. None of them asserts a time.

python -m benchmarks.throughput    operations per second, against a plain psycopg loop
python -m benchmarks.concurrency   sessions side by side, against threads
python -m benchmarks.startup       seconds to the first operation, cold and warm
python -m benchmarks.schema        what the hardening costs, and the plans of the read paths
python -m benchmarks.findings      what each of several seeds finds, and how soon

With --brief each runs in seconds, to see that it works; the tests run all of them so.
"""
