"""A pretend archive export: hospitals with phantom CT series as DICOM, for who has no images at hand."""
