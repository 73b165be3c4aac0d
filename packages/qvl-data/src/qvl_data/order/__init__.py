"""Which sample is used when: pure functions of seed, epoch and position."""
