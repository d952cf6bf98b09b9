"""Observation models p(x | z). This folder imports nothing else of logpx."""
