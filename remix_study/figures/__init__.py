"""Figures of runs and reports

chart.py        a chart as plain data
png.py          charts as PNG, with matplotlib
web.py          charts as JSON for plotly.js
run.py          the figures of a run, and the comparison of methods
quantities.py   the metrics of added methods, `method/...`, and of targets, `targets/...`
"""
