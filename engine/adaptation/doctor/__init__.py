"""The pair doctor: finds what would teach a network wrong, in pairs, bursts and stacks of noisy shots."""
