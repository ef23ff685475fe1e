"""What `make new-task` writes: real modules, so that the linters check them."""
