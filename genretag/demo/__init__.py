"""What the demo, the benchmarks and the tests need when there are no posters and no bucket around."""
