"""Runs inside one hospital: the relay has the network, the vault has the patients."""
