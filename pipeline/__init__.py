"""The VAE experiment: data, model, training, evaluation, report, tracking."""
