"""Other ways to scales than `quantize.ranges`, for `benchmarks/compare_scales.py`: none was measured to be better."""
