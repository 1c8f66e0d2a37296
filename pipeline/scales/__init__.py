"""Other ways to scales than `pipeline.ranges`, for `scripts/compare_scales.py`: none was measured to be better."""
