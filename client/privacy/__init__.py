"""The privacy engine: sampling, per-patient clipping, noise, accounting. The only importer of opacus."""
