"""Archive formats: detect, read and bound them."""
