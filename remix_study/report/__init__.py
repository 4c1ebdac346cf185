"""Results for people: the tables of the terminal, and the report of a study

search_data.py, run_data.py       the numbers of every chart, from the ledger and the run folders
human_ratings.py                  assignments of Remix compared with human ratings (CREMA-D)
words.py                          names and units of metrics
styles.py                         colours and symbols of the methods
search_charts.py, run_charts.py   numbers -> charts, with titles that state the finding
table.py                          a table as plain data
tables.py, search_tables.py       tables of the results and of the search
blocks.py                         the parts of a section
sections.py, reproduce.py         the content of the report, in order
page.py                           the page and its files (page.html is its template)
"""
