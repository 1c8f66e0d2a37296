"""Edge Deploy: a trained ResNet goes in, a proven container image comes out, or nothing does."""

__version__ = "0.1.0"
