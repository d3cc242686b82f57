"""Training of hybrid models on labelled frames: checked data, one loop, resumable to the bit."""
