"""One short script per stage of dvc.yaml."""
