"""Programs for the repository: presets, rebuild, chaos, recover; and clones, which they share."""
