"""What both sides must agree on: protocol, messages, arrays, models, metrics. Knows neither side."""
