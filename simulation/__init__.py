"""The same two apps for many hospitals on one machine."""
