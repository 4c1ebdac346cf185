"""Configurations: what may stand in the YAML of a run or a study, how it is read, and how its problems are reported"""
