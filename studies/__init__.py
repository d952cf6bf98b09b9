"""Studies: grids of experiments over one parameter, and a page for each."""
