"""The reviewer pack: one zip for a data-protection officer, with no patient data in it."""
