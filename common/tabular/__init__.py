"""Records of patients, one row each or several, as a study protocol describes and encodes them."""
