"""The verb `diff`: what changed between two builds."""
