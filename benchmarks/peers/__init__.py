"""Applications that the benchmarks compare with."""
