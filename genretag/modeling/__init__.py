"""Networks, calibration, thresholds and metrics: plain functions, no Ray."""
