"""The version of this package, and the number of the semantics of its settings

A module of its own, so that others can import it without importing the package's public names.
"""

__version__ = "0.2.0.dev0"

SEMANTICS = 2
"""Raised whenever equal settings begin to give other results on purpose; see config/identity.py.

1: version 0.1.0.
2: version 0.2.0. Samples are ordered by one random number each; shares of three or more modalities are met at the
   lowest cost; BatchNorm trains on the feature maps of a single sample; heads and fusion are float32 under bfloat16;
   seeds of replicates follow from the seed of the study.
"""
