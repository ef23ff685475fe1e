"""What docker and compose cannot do: compare, prove and measure the variants and images."""
