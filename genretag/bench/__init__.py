"""How fast a night is on this machine or cluster, beside what the machine could do at most, and what bounds it."""
