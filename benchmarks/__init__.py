"""Speed and size beside other tools, measured in one run: `make bench`, `make bench-build`."""
