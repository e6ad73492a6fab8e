"""Concepts that no standard scheme has a code for: scores of ours (PS3.16 section 8: private schemes begin with 99)."""

from typing import Final

from pydicom.sr.coding import Code

SCHEME: Final = "99ANOMALYD"
ANOMALY_SCORE: Final = Code("anomaly_score", SCHEME, "Anomaly score")
SCAN_SCORE: Final = Code("scan_score", SCHEME, "Anomaly score of the scan")
THRESHOLD: Final = Code("threshold", SCHEME, "Threshold of the anomaly score")
CANDIDATES: Final = Code("candidates", SCHEME, "Number of candidates above threshold")
CENTROID: Final = tuple(Code(f"centroid_{axis}", SCHEME, f"Centroid {axis} (LPS)") for axis in "xyz")
NOTHING_FOUND: Final = Code("no_candidate", SCHEME, "No candidate above threshold")
