"""`report.html` at a hospital: its own part in its studies, for its own people, exact figures included."""
