"""Irregular series of measurements, such as vital signs, as a study protocol describes and encodes them."""
