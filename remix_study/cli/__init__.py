"""The command line `remix-study`: one module for each group of commands"""
