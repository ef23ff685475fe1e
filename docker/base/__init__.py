"""Base images from Debian packages, where no image registry answers."""
