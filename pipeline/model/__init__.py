"""The VAE: its networks, training objectives, and the file of a trained model."""
