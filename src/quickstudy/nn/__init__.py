"""The few networks that Equinox lacks, and what dresses them as a learner needs."""
