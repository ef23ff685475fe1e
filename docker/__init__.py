"""Images, compose files and contracts of the variants, and what make runs for them."""
