"""Results a person looks at

tables.py    the comparison of a study as plain data
present.py   the files that MLflow and the study's folder receive; drawn by tracking/figures.py
"""
