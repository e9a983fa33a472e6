"""How a model is judged: exactly where the patients are, and from noised releases everywhere else."""
