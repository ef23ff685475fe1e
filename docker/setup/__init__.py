"""What the recipes of the Makefile need before .venv exists: Python 3.9 and its standard library."""
