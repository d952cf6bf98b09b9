"""A trained model in use: `python -m pipeline.use --help`, and the same as functions in `pipeline.use.functions`."""
