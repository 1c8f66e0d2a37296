"""Other ways to scales than ours, for `benchmarks/compare_scales.py`: none was measured to be better."""
