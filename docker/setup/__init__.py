"""What make needs before any environment exists: Python 3.9 and the standard library only."""
