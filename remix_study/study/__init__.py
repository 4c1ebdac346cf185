"""A study: several methods, the same budget for each, and the comparison of their best

search_space.py   dimensions -> parameters of a trial -> a run configuration
tasks.py          one piece of work for Tune, and the Tune searcher that hands them out
study.py          the spine: search every method, choose on validation, replicate with new seeds, compare
results.py        what came out: means, paired differences, sufficiency, and an honest sentence
"""
