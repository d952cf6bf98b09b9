"""The report: plots, the pictures made from them, and the pages that show them."""
