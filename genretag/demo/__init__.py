"""Draw synthetic posters and run a local S3 server, for the demo, the benchmarks and the tests."""
