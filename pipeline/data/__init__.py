"""Data sets: their sources, download, dequantisation, and images unlike them."""
