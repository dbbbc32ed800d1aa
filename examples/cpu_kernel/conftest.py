"""Keep NumPy's BLAS to one thread: the kernel has one, and that BLAS is what it is held against."""

import os

# Read once, when NumPy is first imported, and conftest files come before tests.
for variable in (
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
):
    os.environ[variable] = "1"
