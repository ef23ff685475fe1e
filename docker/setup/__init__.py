"""The steps of the recipes before .venv exists: Python 3.9 and its standard library."""
