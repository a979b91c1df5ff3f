"""Commands that print figures: how fast, how soon, how surely. None of them asserts a time.

python -m benchmarks.throughput    operations per second, against a plain psycopg loop
python -m benchmarks.startup       seconds to the first operation, cold and warm
python -m benchmarks.schema        what the hardening costs, and the plans of the read paths
python -m benchmarks.findings      what each of several seeds finds, and how soon
"""
