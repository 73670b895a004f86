"""Report of an adaptation, to put beside the data: one HTML file with everything in it, and the same as JSON."""

from engine.adaptation.report.page import to_html, write_html
from engine.adaptation.report.report import Report, make_report, to_json

__all__ = ["Report", "make_report", "to_html", "to_json", "write_html"]
