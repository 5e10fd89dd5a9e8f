"""Settings that must hold before the first test module imports MXNet."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: threads cost more than they bring
os.environ.setdefault("MPLBACKEND", "Agg")
