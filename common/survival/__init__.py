"""How a survival model is judged: exact figures of patients, and a table that may be released."""
