"""Alternative methods of choosing scales, for `benchmarks/compare_scales.py`: none was measurably better."""
