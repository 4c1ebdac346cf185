"""Figures shared by runs and reports: the data of a chart first, then its drawing as PNG or for the web"""
