"""The version of this package, and the number of the semantics of its settings

A module of its own, so that others can import it without importing the package's public names.
"""

__version__ = "0.2.0.dev0"

SEMANTICS = 1
"""Raised whenever equal settings begin to give other results on purpose; see config/identity.py.

1: version 0.1.0.
"""
