"""Everything in our dependencies that would phone home, switched off before they are imported."""

import os

# FLOWER.md section 7. Flower reads its first one at import, so this comes before any flwr import.
SWITCHES = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def switch_off() -> None:
    """Set the switches for this process and every process that it starts."""
    os.environ.update(SWITCHES)
