"""Other ways to scales than `quantize.ranges`, for `scripts/compare_scales.py`: none was measured to be better."""
