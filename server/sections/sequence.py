"""Risk from series of measurements in the report: two classes."""

from server.sections.binary import Binary

PART = Binary()
