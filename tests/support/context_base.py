"""A base image that is only described."""

from targets.base_images import BaseImage

BASE = BaseImage(tag="some-base:1", platform="linux/amd64", python="3.11")
