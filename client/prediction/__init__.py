"""A shared model on one hospital's own images: what it says of each, in words that can be relied on."""
