"""A bounded storm against the real services, and what honest callers notice of it: ``python -m tests.abuse``."""
