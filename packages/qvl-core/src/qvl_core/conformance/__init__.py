"""A self-check of the kernels for the MindSpore and the device at hand: `python -m qvl_core.conformance`.

MindSpore has operations that run and are silently wrong; run this before you trust a version or a device that our
tests do not cover. Each kernel is compared with its definition in float64 numpy: values, gradients (with cotangents
that are contiguous, transposed, offset, broadcast), compiled against plain execution, inputs left alone, and once
more after everything else has run.

    cases         the inputs, with the call and its definition
    truth         the definitions
    checks        how one case is measured
    bad_kernels   kernels that are wrong on purpose
    suite         the run and the report
"""
