"""Synthetic posters and a local S3 server, for the demo, the benchmarks and the tests."""
