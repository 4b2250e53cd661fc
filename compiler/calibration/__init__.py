"""What is measured on calibration data, and the thresholds that are chosen from it."""
