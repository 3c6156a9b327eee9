"""Subword understanding: tasks about the letters of words, asked of models after fine-tuning."""
