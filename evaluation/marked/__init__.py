"""Marked tasks: questions whose prompts have marks, where META tokens stand: recall, counting, parity, copying."""
