"""DICOM listener daemon: brain MR series in, anomaly SEG and heatmaps out. Research use only."""

__version__ = "0.1.0"
