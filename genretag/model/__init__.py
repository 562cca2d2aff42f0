"""Model bundle (a trained model's files), its networks, the engines that run them, calibration, thresholds, metrics."""
