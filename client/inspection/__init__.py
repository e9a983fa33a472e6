"""A hospital's data looked at before any budget is spent: a verdict with reasons, and a page. Local only."""
