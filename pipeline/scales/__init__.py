"""Other ways to a scale than `pipeline.ranges`, for `scripts/compare_scales.py`: none of them has been better."""
