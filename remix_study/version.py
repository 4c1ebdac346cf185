"""The version of this package; a file of its own, so that modules need not import the package's front door"""

__version__ = "0.1.0"
