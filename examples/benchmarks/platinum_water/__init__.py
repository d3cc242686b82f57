"""The parts of `platinum_water.py`."""
