"""Results a person looks at: the tables of the terminal, and the report of a study

data.py       the numbers of every figure, from the ledger and the run folders; tested as numbers
words.py      names and units of metrics
chart.py      a chart as plain data: panels of marks
charts.py     numbers -> charts, with titles that say what was found
web.py        charts -> what plotly.js draws in the page
png.py        charts -> pictures
tables.py     tables as plain data
sections.py   what the report says, in order
page.py       the page and all its files, written whole (page.html is its template)
"""
