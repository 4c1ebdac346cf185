"""Configurations of runs and studies: their keys, how they are read from YAML, and how problems are reported"""
