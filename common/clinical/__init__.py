"""A model as clinicians read it, from exact scores: for whoever holds the patients."""
