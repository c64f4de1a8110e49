"""The version, from the installed package's metadata."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("sentinv")
except PackageNotFoundError:  # a clone that was not installed
    __version__ = "0+unknown"
