"""Studies: search several methods with the same number of trials each, and compare their best configurations

study.py          the steps of a study: search, choose, replicate, compare
scheduler.py      which task is next
study_file.py     reading and checking a study file
search_space.py   dimensions -> hyperparameters of a trial -> a run configuration
search.py         the trials of one method in Optuna's storage
tasks.py          executing trials and replicates with Ray Tune
results.py        compares methods: outcomes.py per seed and test clip, comparison.py as data, sentences.py as text
combinations.py   families, parts of combinations, and planned comparisons
fairness.py       what the methods are not given alike
status.py         the status of a study, for any process
extent.py         runs and hours of a study, the same for run, plan and status
lease.py          which of several drivers runs a study
"""
