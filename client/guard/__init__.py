"""What keeps code that a bundle brings from being imported in the relay's processes.

Flower puts the folder of a bundle first on Python's path. `FOLDER` goes first on the PYTHONPATH of
those processes, and the bundle folder into their environment as `BUNDLES`: Python then imports
`sitecustomize.py` of here before anything else, whichever program is started.
"""

from pathlib import Path

FOLDER = Path(__file__).resolve().parent
BUNDLES = "INTRAMURAL_BUNDLES"
REFUSED = "a bundle may not bring code"
