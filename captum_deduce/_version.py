"""The version, in the one place that packaging and the files we write read it from."""

__version__ = "0.1.0"
